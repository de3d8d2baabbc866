"""Checks that a training may be resumed: no setting that matters has changed.

Budgets, `device`, `[checkpoint]`, `[progress]` and the folder of the same images may change.
Settings of a later stage may change until that stage has begun. A `dtype` of "auto" is compared
after the device has decided it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ldmref.datasets.config import DataSummary
from ldmref.errors import UsageError, counted
from ldmref.models.params import flatten
from ldmref.training.checkpoint import Header, TrainingSettings
from ldmref.training.classes import learns_classes
from ldmref.training.recipes.file import AnyRecipe

ADAPTER = ("method", "lora.", "textual_inversion.")
FIRST = ("seed", "dtype", "data.size", "data.flips", "data.crop", "features.")
DEPENDS_ON = {
    "features": FIRST,
    "autoencoder": (*FIRST, "model.vae.", "autoencoder."),
    "diffusion": (*FIRST, "model.", "autoencoder.", "diffusion.", *ADAPTER),
    "classifier": (*FIRST, "model.vae.", "model.scheduler.", "autoencoder.", "classifier."),
}
FREE = ("model.name", "model.defaults.")  # derived, or of no effect
DERIVED = ".sample_size"  # of the denoiser, from the size of the images


def changed_settings(headers: Mapping[str, Header], recipe: AnyRecipe) -> list[str]:
    """Return "key was 1, now 2" for each changed setting that a checkpoint depends on."""
    changes = {}
    for stage, header in headers.items():
        old = _settings(stage, header.agreed.recipe)
        new = _settings(stage, recipe)
        changes |= {
            k: f"{k} was {old.get(k)!r}, now {v!r}" for k, v in new.items() if old.get(k) != v
        }
    if changes:  # the images are not read yet, so their folder is compared
        agreed = {stage: header.agreed for stage, header in headers.items()}
        changes |= {stage: _data(s, recipe) for stage, s in agreed.items() if _moved(s, recipe)}
    return list(dict.fromkeys(changes.values()))


def changed_data(headers: Mapping[str, Header], recipe: AnyRecipe, data: DataSummary) -> list[str]:
    """Return the same for images and captions, and for classes if a stage learns them."""
    images = replace(data, base="", classes="")
    agreed = {stage: header.agreed for stage, header in headers.items()}
    changed = [s for s in agreed.values() if replace(s.data, base="", classes="") != images]
    bases = {settings.data.base for settings in agreed.values()} - {data.base}
    lines = [f"base was {_base(base)}, now {_base(data.base)}" for base in sorted(bases)]
    learned = {s.data.classes for stage, s in agreed.items() if learns_classes(stage, s.recipe)}
    if learned - {data.classes}:
        lines.append("the classes of the images have changed")
    return [*lines, *dict.fromkeys(_data(settings, recipe, data) for settings in changed)]


def require_unchanged(changes: list[str], folder: object) -> None:
    """Refuse to continue with other settings.

    Raises:
        UsageError: There are changes; the message names each with both values.
    """
    if changes:
        raise UsageError(
            f"{str(folder)!r} was trained with other settings: {'; '.join(changes)}",
            code="E-RESUME-CHANGED",
            hint="repeat the old settings to resume, give another -o to start anew, or add "
            "--accept-changes to continue with the new ones",
        )


def _settings(stage: str, recipe: AnyRecipe) -> dict[str, Any]:
    free = (*FREE, f"{stage}.budget.", f"{stage}.optimizer.shard")
    settings = flatten(recipe.to_dict())
    return {
        key: value
        for key, value in settings.items()
        if key.startswith(DEPENDS_ON[stage]) and not key.startswith(free)
        if not key.endswith(DERIVED)
        if (key, value) != ("dtype", "auto")
    }


def _base(sha256: str) -> str:
    return f"a model (sha256 {sha256[:8]})"


def _moved(settings: TrainingSettings, recipe: AnyRecipe) -> bool:
    return settings.recipe.data.source != recipe.data.source


def _data(settings: TrainingSettings, recipe: AnyRecipe, data: DataSummary | None = None) -> str:
    old = settings.recipe.data.source
    now = f"now {recipe.data.source!r}"
    if data is not None:
        now += f" with {counted(data.images, 'image')} (sha256 {data.sha256[:8]})"
    return (
        f"data.source was {old!r} with {counted(settings.data.images, 'image')} "
        f"(sha256 {settings.data.sha256[:8]}), {now}"
    )
