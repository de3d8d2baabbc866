"""Cache results that readers recompute for every input although no input changes them.

Only functions of a configuration, a class or the installed packages are cached. The readers
themselves run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from ldmref.errors import InputError
from ldmref.families import unet
from ldmref.io import key_table, single_file
from ldmref.io.adapters import autoencoder, lora_changes
from ldmref.io.checkpoint import read_model_config
from ldmref.io.compvis import whole_file
from ldmref.io.embedded import EMBEDDED
from ldmref.models.config import ModelConfig
from ldmref.training.finetune import recipe as base_recipe

Function = TypeVar("Function", bound=Callable[..., Any])
LIMIT = 256  # results kept of each function


def embedded_config(name: str, config: str | Path | None = None) -> ModelConfig:
    """Read the model of the package alone; other targets read files of any name."""
    if name not in EMBEDDED:
        raise InputError(f"no model {name!r} here", code="E-NOT-FOUND")
    return read_model_config(name, config)


def by_identity(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keep the results of a function of an object that is never changed."""
    results: dict[int, tuple[Any, Any]] = {}

    def cached(argument: Any) -> Any:
        kept = results.get(id(argument))
        if kept is None:
            if len(results) == LIMIT:
                results.clear()
            results[id(argument)] = kept = (argument, function(argument))
        return kept[1]

    return cached


def functions() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Return (module, name, cached function) of each."""
    by_value = [
        (autoencoder, "original_autoencoder_table"),
        (unet, "controlnet_table"),
        (whole_file, "compvis_table"),
        (lora_changes, "lora_names"),
        (autoencoder, "_table"),
    ]
    seen = by_identity(key_table.list_stored_shapes)
    return [
        *((module, name, lru_cache(LIMIT)(getattr(module, name))) for module, name in by_value),
        (autoencoder, "diffusers_table", by_identity(autoencoder.diffusers_table)),
        (whole_file, "ema_table", by_identity(whole_file.ema_table)),
        (key_table, "list_stored_shapes", seen),
        (single_file, "list_stored_shapes", seen),
        (base_recipe, "read_model_config", embedded_config),
        (metadata, "entry_points", cache(metadata.entry_points)),
    ]


FUNCTIONS = functions()


def constants_cached(run: Function) -> Function:
    """Return the function `run` with everything above replaced while it runs."""

    @wraps(run)
    def with_caches(*arguments: Any) -> Any:
        before = [getattr(module, name) for module, name, _ in FUNCTIONS]
        for module, name, function in FUNCTIONS:
            setattr(module, name, function)
        try:
            return run(*arguments)
        finally:
            for (module, name, _), function in zip(FUNCTIONS, before, strict=True):
                setattr(module, name, function)

    return with_caches  # type: ignore[return-value]
