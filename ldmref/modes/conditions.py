"""What a model can be told: which modes, which prompts, whether guidance means anything."""

from __future__ import annotations

from collections.abc import Iterable

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.prompts.class_labels import check_prompt

MODE_OF = {"low_resolution": "superres", "segmentation": "seg2img"}  # by `ModelConfig.concat`


def check_conditions(
    config: ModelConfig, mode: str, prompts: Iterable[str], cfg_scale: float
) -> None:
    """Refuse what the model cannot follow, before its weights are needed.

    Raises:
        UsageError: the mode needs another model, the prompt is none that it knows, or there is
            nothing that guidance could strengthen.
    """
    needed = MODE_OF.get(config.concat)
    if mode in MODE_OF.values() and mode != needed:
        kind = next(name for name, its in MODE_OF.items() if its == mode)
        raise UsageError(
            f"{mode} needs a model with concat {kind!r}, which {config.name!r} is not",
            code="E-MODE",
            hint=f"use {needed}" if needed else "use txt2img, img2img or inpaint",
        )
    if needed and mode != needed:
        raise UsageError(
            f"{config.name!r} draws only from a given picture", code="E-MODE",
            hint=f"use {needed}",
        )  # fmt: skip
    kind = config.text_encoder.model_type
    if kind in ("class", "none"):
        for prompt in dict.fromkeys(prompts):
            check_prompt(prompt, config.text_encoder.vocab_size if kind == "class" else 0)
    if kind == "none" and cfg_scale != 1.0:
        raise UsageError(
            f"{config.name!r} takes no prompt, so there is nothing to guide",
            code="E-CFG-SCALE",
            hint="leave cfg_scale out, or give 1",
        )
