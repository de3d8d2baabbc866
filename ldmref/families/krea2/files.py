"""The files of Krea 2: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.krea2.config import Krea2Config
from ldmref.families.krea2.presets import SCALE, STEPS, as_turbo
from ldmref.families.krea2.text import LAYERS, as_text_encoder
from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.io.diffusers.checks import config_error, require_plain
from ldmref.models.config import Defaults, ModelConfig

PIPELINES = ("Krea2Pipeline",)
PACKED = 4  # cells of a token, which diffusers counts as channels
DEFAULTS: dict[str, Any] = {  # of diffusers' class, for fields that a file omits
    "in_channels": 64, "num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 48,
    "num_key_value_heads": 12, "intermediate_size": 16384, "timestep_embed_dim": 256,
    "text_hidden_dim": 2560, "num_text_layers": 12, "text_num_attention_heads": 20,
    "text_num_key_value_heads": 20, "text_intermediate_size": 6912,
    "num_layerwise_text_blocks": 2, "num_refiner_text_blocks": 2,
    "axes_dims_rope": (32, 48, 48), "rope_theta": 1000.0, "norm_eps": 1e-5,
}  # fmt: skip


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers, Raw's or Turbo's.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    require_plain(index, {"patch_size": (2,)}, "model_index.json")
    layers = tuple(index.get("text_encoder_select_layers") or LAYERS)
    scheduler = read_scheduler(folder, index)
    config = read_model(
        folder,
        convert_transformer_config,
        lambda text: replace(as_text_encoder(text), hidden_layers=layers),
        scheduler,
        Defaults(STEPS, SCALE),
    )
    return as_turbo(config) if index.get("is_distilled") else config


def convert_transformer_config(data: Mapping[str, Any]) -> Krea2Config:
    """Convert the configuration of a `Krea2Transformer2DModel`, whose tokens are packed.

    Raises:
        CorruptModelError: Channels are not those of patches of 2 x 2 cells.
    """
    fields = {name: data.get(name, default) for name, default in DEFAULTS.items()}
    packed = fields.pop("in_channels")
    if not isinstance(packed, int) or packed % PACKED:
        raise config_error(f"the transformer has in_channels = {packed!r}, no multiple of 4")
    fields["axes_dims_rope"] = tuple(fields["axes_dims_rope"])
    channels = packed // PACKED
    return Krea2Config(in_channels=channels, out_channels=channels, **fields)
