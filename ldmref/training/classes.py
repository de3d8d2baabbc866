"""The classes of the images: the sub-folders of a folder, the Unicode subgroups of the emoji."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from ldmref.errors import InputError, counted
from ldmref.training.checkpoint import DataSummary
from ldmref.training.data import Dataset, summarize
from ldmref.training.recipe import Recipe
from ldmref.training.recipe_file import AnyRecipe


def class_names(data: Dataset) -> tuple[str, ...]:
    """The names of the classes, sorted.

    Raises:
        InputError: there are less than two, or an image belongs to none.
    """
    names = sorted(set(data.classes))
    hint = "the images of a class are in a sub-folder with its name"
    if "" in names:
        number = data.classes.count("")
        raise InputError(f"{counted(number, 'image')} without a class", code="E-DATA", hint=hint)
    if len(names) < 2:
        message = f"classes are to be told apart, but all images are {names[0]!r}"
        raise InputError(message, code="E-DATA", hint=hint)
    return tuple(names)


def class_labels(data: Dataset) -> np.ndarray:
    """The index of each image's class in `class_names`, (n,) int64."""
    index = {name: i for i, name in enumerate(class_names(data))}
    return np.asarray([index[name] for name in data.classes], np.int64)


def learns_classes(stage: str, recipe: AnyRecipe) -> bool:
    """Whether that stage learns classes."""
    conditional = recipe.diffusion.objective.condition == "class"
    return stage == "classifier" or (stage == "diffusion" and conditional)


def uses_classes(recipe: Recipe) -> bool:
    """Whether a stage of the training, or the denoiser that may follow, learns classes."""
    return any(learns_classes(stage, recipe) for stage in {"diffusion", *recipe.stages})


def summarize_for(recipe: Recipe, data: Dataset) -> DataSummary:
    """`summarize`, with the classes if a stage learns them."""
    summary = summarize(data)
    if not uses_classes(recipe):
        return summary
    digest = hashlib.sha256("\n".join(data.classes).encode()).hexdigest()
    return replace(summary, classes=digest)
