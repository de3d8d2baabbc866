"""Defaults of a fine-tuning that depend on its method and on the size of its base.

A small U-Net, as those that `ldmref train` makes, has no capacity to spare: a LoRA of a few of its
layers cannot change its style, and it bears the rates of its training. Stable Diffusion is trained
with the usual settings: a LoRA of the attention layers at 1e-4 (kohya's scripts, diffusers), a word
at 5e-3 (Gal et al. 2022, arXiv:2208.01618, section 4), the whole model at 1e-5 (diffusers).
"""

from __future__ import annotations

import math
from typing import Any

from ldmref.models.config import ModelConfig
from ldmref.models.params import flatten
from ldmref.models.unet import unet_spec
from ldmref.training.finetune.recipe import TARGETS

SMALL = 100_000_000  # parameters: U-Nets with fewer are small

# method -> key -> the values for a small base and for a large one
DEFAULTS: dict[str, dict[str, tuple[Any, Any]]] = {
    "lora": {
        "lora.rank": (32, 8),
        "lora.targets": (list(TARGETS), ["attention"]),
        "diffusion.objective.caption_dropout": (0.1, 0.0),
        "diffusion.optimizer.learning_rate": (3e-3, 1e-4),
        "diffusion.budget.steps": (400, 1000),
    },
    "textual_inversion": {
        "textual_inversion.initial": ("face", "thing"),
        "diffusion.optimizer.learning_rate": (5e-3, 5e-3),
        "diffusion.optimizer.weight_decay": (0.0, 0.0),
        "diffusion.budget.steps": (300, 1000),
    },
    "full": {
        "diffusion.objective.caption_dropout": (0.1, 0.1),
        "diffusion.optimizer.batch_size": (16, 4),
        "diffusion.optimizer.learning_rate": (2e-4, 1e-5),
        "diffusion.optimizer.warmup": (50, 50),
        "diffusion.optimizer.ema_decay": (0.995, 0.995),
        "diffusion.budget.steps": (500, 1000),
    },
}


def is_small(base: ModelConfig) -> bool:
    """Whether the U-Net has less than `SMALL` parameters."""
    return sum(math.prod(shape) for shape in flatten(unet_spec(base.unet)).values()) < SMALL


def default_tables(method: str, base: ModelConfig) -> dict[str, Any]:
    """The defaults of a method for a base, as the tables of a recipe."""
    tables: dict[str, Any] = {}
    column = 0 if is_small(base) else 1
    for key, values in DEFAULTS[method].items():
        *names, last = key.split(".")
        table = tables
        for name in names:
            table = table.setdefault(name, {})
        table[last] = values[column]
    return tables
