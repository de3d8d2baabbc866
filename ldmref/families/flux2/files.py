"""The files of FLUX.2 klein: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux2.text import as_text_encoder
from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.io.diffusers.checks import require_plain
from ldmref.models.config import Defaults, ModelConfig

PIPELINES = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline")
STEPS = {True: 4, False: 50}  # distilled, and not
SCALES = {True: 1.0, False: 4.0}
PLAIN: dict[str, tuple[Any, ...]] = {"patch_size": (1,)}
DEFAULTS: dict[str, Any] = {  # of diffusers' class, for fields that a file omits
    "in_channels": 128, "out_channels": None, "num_layers": 8, "num_single_layers": 48,
    "attention_head_dim": 128, "num_attention_heads": 48, "joint_attention_dim": 15360,
    "timestep_guidance_channels": 256, "mlp_ratio": 3.0, "axes_dims_rope": (32, 32, 32, 32),
    "rope_theta": 2000, "eps": 1e-6, "guidance_embeds": True,
}  # fmt: skip


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    scheduler = replace(read_scheduler(folder, index), shift_rule="empirical")
    distilled = index.get("is_distilled") is True
    defaults = Defaults(STEPS[distilled], SCALES[distilled])
    return read_model(folder, convert_transformer_config, as_text_encoder, scheduler, defaults)


def convert_transformer_config(data: Mapping[str, Any]) -> Flux2Config:
    """Convert the configuration of a `Flux2Transformer2DModel`.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    require_plain(data, PLAIN, "the transformer's configuration")
    fields = {name: data.get(name, default) for name, default in DEFAULTS.items()}
    fields["out_channels"] = fields["out_channels"] or fields["in_channels"]
    fields["axes_dims_rope"] = tuple(fields["axes_dims_rope"])
    for name in ("mlp_ratio", "rope_theta", "eps"):
        fields[name] = float(fields[name])
    return Flux2Config(**fields)
