"""The classes of the images, such as the sub-folders of a folder, and which stages learn them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from ldmref.datasets import Dataset, summarize
from ldmref.datasets.config import DataSummary
from ldmref.errors import InputError, counted
from ldmref.training.recipes.file import AnyRecipe
from ldmref.training.recipes.schema import Recipe


def class_names(data: Dataset) -> tuple[str, ...]:
    """Return the names of the classes, sorted.

    Raises:
        InputError: There are less than two, or an image does not have a class.
    """
    names = sorted(set(data.classes))
    hint = "the images of a class are in a sub-folder with its name"
    if "" in names:
        number = data.classes.count("")
        raise InputError(f"{counted(number, 'image')} without a class", code="E-DATA", hint=hint)
    if len(names) < 2:
        message = f"at least two classes are needed, but all images are {names[0]!r}"
        raise InputError(message, code="E-DATA", hint=hint)
    return tuple(names)


def class_labels(data: Dataset) -> np.ndarray:
    """Return the index of each image's class in `class_names`, (n,) int64."""
    index = {name: i for i, name in enumerate(class_names(data))}
    return np.asarray([index[name] for name in data.classes], np.int64)


def learns_classes(stage: str, recipe: AnyRecipe) -> bool:
    """Return whether a stage learns classes."""
    conditional = recipe.diffusion.objective.condition == "class"
    return stage == "classifier" or (stage == "diffusion" and conditional)


def uses_classes(recipe: Recipe) -> bool:
    """Return whether a stage of the training, or the denoiser that may follow, learns classes."""
    return any(learns_classes(stage, recipe) for stage in {"diffusion", *recipe.stages})


def summarize_for(recipe: Recipe, data: Dataset) -> DataSummary:
    """Return the summary of the images, with the classes if a stage learns them."""
    summary = summarize(data)
    if not uses_classes(recipe):
        return summary
    digest = hashlib.sha256("\n".join(data.classes).encode()).hexdigest()
    return replace(summary, classes=digest)
