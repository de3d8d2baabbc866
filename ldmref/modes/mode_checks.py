"""Which modes a model has."""

from __future__ import annotations

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig

MODE_OF = {"low_resolution": "superres", "segmentation": "seg2img"}  # by `ModelConfig.concat`


def check_mode(config: ModelConfig, mode: str) -> None:
    """Refuse a mode that needs another model."""
    needed = MODE_OF.get(config.concat)
    if mode in MODE_OF.values() and mode != needed:
        kind = next(concat for concat, its_mode in MODE_OF.items() if its_mode == mode)
        raise UsageError(
            f"{mode} needs a model with concat {kind!r}, which {config.name!r} is not",
            code="E-MODE",
            hint=f"use {needed}" if needed else "use txt2img, img2img or inpaint",
        )
    if mode == "interpolate" and config.text_encoder.model_type == "label":
        raise UsageError(
            f"{config.name!r} reads class numbers, between which there is nothing",
            code="E-MODE",
            hint="use txt2img with each class",
        )
    if config.concat == "control" and mode in ("invert", "edit"):
        raise UsageError(
            f"{config.name!r} generates images only with a control image, which {mode} does not "
            "take",
            code="E-MODE",
            hint="use txt2img, img2img or inpaint",
        )
    if mode == "edit" and config.scheduler.prediction_type != "flow":
        raise UsageError(
            f"edit needs a model of flow matching, which {config.name!r} is not",
            code="E-MODE",
            hint="use invert --edit, or img2img",
        )
    if needed and mode != needed:
        raise UsageError(
            f"{config.name!r} generates images only from a given image",
            code="E-MODE",
            hint=f"use {needed}",
        )
