"""The files of FLUX.3: folders of diffusers' modular pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.flux3.config import Flux3Config, transformer_of
from ldmref.families.flux3.presets import DEFAULTS, FLOW
from ldmref.families.flux3.text import LAYERS, as_text_encoder
from ldmref.families.qwen3.files import read_model
from ldmref.io.diffusers.checks import read_json, require_plain
from ldmref.models.config import ModelConfig

PIPELINES = ("Flux3ModularPipeline", "Flux3DistilledModularPipeline")
PLAIN: dict[str, tuple[Any, ...]] = {"eps": (1e-6,)}
FIELDS: dict[str, Any] = {  # of diffusers' class, for fields that a file omits
    "in_channels": 128, "num_layers": 5, "num_single_layers": 28, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 20480, "timestep_channels": 256,
    "mlp_ratio": 3.0, "axes_dims_rope": (32, 32, 32, 32), "rope_theta": 10000, "flow_map": False,
}  # fmt: skip


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Diffusers' program, not its files, says the noise levels and which layers of the text encoder
    are read. A text encoder with fewer layers gives as many states as the transformer has room
    for, from the first layer on.

    Args:
        folder: The folder.
        index: The contents of its modular_model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    data = read_json(folder / "transformer" / "config.json")
    defaults = DEFAULTS[bool(data.get("flow_map"))]
    config = read_model(folder, convert_transformer_config, as_text_encoder, FLOW, defaults)
    text = config.text_encoder
    if max(LAYERS) <= text.num_hidden_layers:
        return config
    # a small model, whose layers are an argument of diffusers' pipeline
    count = transformer_of(config).joint_attention_dim // text.hidden_size
    return replace(config, text_encoder=replace(text, hidden_layers=tuple(range(1, count + 1))))


def convert_transformer_config(data: Mapping[str, Any]) -> Flux3Config:
    """Convert the configuration of a `Flux3Transformer2DModel`.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    fields = {name: data.get(name, default) for name, default in FIELDS.items()}
    channels = {"cond_in_channels": (fields["in_channels"],)}
    require_plain(data, PLAIN | channels, "the transformer's configuration")
    fields["axes_dims_rope"] = tuple(fields["axes_dims_rope"])
    fields["rope_theta"] = float(fields["rope_theta"])
    return Flux3Config(out_channels=fields["in_channels"], **fields)
