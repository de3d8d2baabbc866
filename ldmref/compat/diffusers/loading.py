"""The options of `from_pretrained`, and the scheduler of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmref.compat.diffusers.components import Weights
from ldmref.compat.diffusers.schedulers import (
    FILE,
    SCHEDULERS,
    Scheduler,
    native_scheduler,
    read_config,
)
from ldmref.errors import UsageError, did_you_mean, short_repr

# Options of from_pretrained that choose something that ldmref does not have, or does by itself.
LOADING_OPTIONS = {
    "safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder",
    "use_safetensors", "local_files_only", "low_cpu_mem_usage", "add_watermarker",
    "force_zeros_for_empty_prompt",
}  # fmt: skip


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that choose something, except for those that change no image.

    Raises:
        UsageError: The message names the option.
    """
    for name, value in options.items():
        if name not in LOADING_OPTIONS and value is not None:
            message = f"from_pretrained of ldmref.compat.diffusers does not support {name}"
            hint = did_you_mean(name, {*LOADING_OPTIONS, "torch_dtype", "variant", "scheduler"})
            raise UsageError(message, code="E-UNSUPPORTED", hint=hint)


def folder_scheduler(weights: Weights) -> Scheduler:
    """Return the scheduler that a folder names; that of other models is their own."""
    path = Path(weights.path, "scheduler", FILE)
    if not path.is_file():
        return native_scheduler(weights.config.scheduler)
    config = read_config(path)
    index = Path(weights.path, "model_index.json")
    named = read_config(index).get("scheduler", [None, None])[-1] if index.is_file() else None
    kind = named or config.get("_class_name")
    if kind not in SCHEDULERS:
        raise UsageError(
            f"the scheduler of this folder is {short_repr(kind)}, which ldmref does not have",
            code="E-SCHEDULER",
            hint="from_pretrained(folder, scheduler=DDIMScheduler(...)) takes another one",
        )
    return SCHEDULERS[kind].from_config(config)


def wrong_scheduler(value: Any) -> UsageError:
    """Return the error of a scheduler that is not one of ours."""
    return UsageError(
        f"a scheduler of ldmref.compat.diffusers is needed, not {short_repr(value)}",
        code="E-SCHEDULER",
        hint="import EulerDiscreteScheduler and others from ldmref.compat.diffusers",
    )
