"""Defaults of a fine-tuning that depend on its method and on the size of its base.

A small denoiser, such as the embedded model's, has no spare capacity: a LoRA of a few layers cannot
change its style, and it tolerates learning rates as high as in training. Stable Diffusion is
fine-tuned with the usual settings: a LoRA of the attention layers at 1e-4 (kohya's scripts,
diffusers), a word at 5e-3 (Gal et al. 2022, arXiv:2208.01618, section 4), the whole model at 1e-5
(diffusers).
"""

from __future__ import annotations

from typing import Any

from ldmref.models.config import ModelConfig
from ldmref.models.networks import model_spec
from ldmref.models.params import count
from ldmref.samplers import get_sampler
from ldmref.samplers.path import FLOW
from ldmref.training.finetune.lora_targets import list_targets

SMALL_DENOISER = 100_000_000  # parameters; a denoiser with fewer is small


def choose_scale(base: ModelConfig) -> float:
    """Return the guidance scale of the model."""
    return base.defaults.cfg_scale


def choose_sampler(base: ModelConfig) -> str:
    """Return the base's own sampler for the runs of a teacher, or one without fresh noise."""
    own = get_sampler(base.scheduler.sampler)
    return "ddim" if own.draws_noise(None) or own.adaptive else own.name


def choose_schedule(base: ModelConfig) -> str:
    """Return the spacing of a flow; of other models one that begins at the noisiest level."""
    return base.scheduler.spacing if base.scheduler.path is FLOW else "trailing"


# method -> key -> the values for a small base and for a large one, or functions of the base
DEFAULTS: dict[str, dict[str, tuple[Any, Any]]] = {
    "lora": {
        "lora.rank": (32, 8),
        "lora.targets": (list_targets, ["attention"]),
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
    "distill": {
        "distill.cfg_scale": (choose_scale, choose_scale),
        "distill.sampler": (choose_sampler, choose_sampler),
        "distill.schedule": (choose_schedule, choose_schedule),
        "diffusion.objective.caption_dropout": (0.02, 0.02),
        "diffusion.optimizer.batch_size": (16, 32),
        "diffusion.optimizer.learning_rate": (3e-4, 1e-4),
        "diffusion.optimizer.warmup": (20, 100),
        "diffusion.optimizer.weight_decay": (0.0, 0.0),
        "diffusion.optimizer.ema_decay": (0.995, 0.999),
        "diffusion.budget.steps": (3000, 10_000),
    },
}


def is_small(base: ModelConfig) -> bool:
    """Return whether the denoiser has fewer than `SMALL_DENOISER` parameters."""
    return count(model_spec(base)[base.denoiser.network]) < SMALL_DENOISER


def default_tables(method: str, base: ModelConfig) -> dict[str, Any]:
    """Return the defaults of a method for a base, as the tables of a recipe."""
    tables: dict[str, Any] = {}
    column = 0 if is_small(base) else 1
    for key, values in DEFAULTS[method].items():
        *names, last = key.split(".")
        table = tables
        for name in names:
            table = table.setdefault(name, {})
        value = values[column]
        table[last] = value(base) if callable(value) else value
    return tables
