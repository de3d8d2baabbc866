"""A complete training, from pictures to a model folder. It can be interrupted and resumed.

folder/recipe.toml               every setting of the last run
folder/autoencoder.safetensors   checkpoint of the first stage
folder/diffusion.safetensors     checkpoint of the second stage
folder/classifier.safetensors    checkpoint of the third stage, if the recipe has it
folder/model/                    the model: averaged weights in float16, ready for `ldmref.load`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event

from ldmref.io.atomic import atomic_write
from ldmref.training.checkpoint import read_headers
from ldmref.training.classes import class_names, summarize_for, uses_classes
from ldmref.training.data import check_data, load_dataset
from ldmref.training.folder import check_folder, training_folder
from ldmref.training.progress import Progress
from ldmref.training.recipe import Recipe
from ldmref.training.recipe_file import to_toml
from ldmref.training.resume import changed_data, changed_settings, require_unchanged


def train(
    recipe: Recipe,
    folder: Path,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
    cancel: Event | None = None,
    accept_changes: bool = False,
) -> Path:
    """Train what the recipe says, or the rest of it, and export the model; returns its folder.

    Args:
        folder: checkpoints in it are resumed, if nothing that matters has changed.
        report: called with the progress now and then.
        say: called with a line about the data, and about what is resumed.
        cancel: set it to stop after the current step, with a checkpoint.
        accept_changes: resume although the recipe or the pictures have changed.

    Raises:
        UsageError: the folder was trained with other settings.
        InputError: the pictures, captions or checkpoints cannot be read.
        OutputError: the folder cannot be written, or is in use; the last checkpoint is kept.
        NumericError: the loss is not finite; the last checkpoint is kept.
        Cancelled: `cancel` was set; a checkpoint is saved.
    """
    check_folder(folder)
    if not accept_changes:
        require_unchanged(changed_settings(read_headers(folder), recipe), folder)
    check_data(recipe.data)

    from ldmref.backends.torch import TorchBackend  # raises BackendUnavailable without torch
    from ldmref.training.stages import Run, train_stages

    ops = TorchBackend(recipe.device, recipe.dtype)
    data = load_dataset(recipe.data)
    for line in data.warnings:
        say(f"warning: {line}")
    size, summary = recipe.data.size, summarize_for(recipe, data)
    say(f"{summary.pictures} pictures of {size}x{size}")
    if uses_classes(recipe):
        say(f"{len(class_names(data))} classes")
    with training_folder(folder):
        headers = read_headers(folder)
        changes = changed_settings(headers, recipe) or changed_data(headers, recipe, summary)
        if not accept_changes:
            require_unchanged(changes, folder)
        for change in changes:
            say(f"changed: {change}")
        with atomic_write(folder / "recipe.toml", overwrite=True) as file:
            file.write(to_toml(recipe).encode("utf-8", "backslashreplace"))
        run = Run(recipe, folder, data, summary, ops, report, say, cancel, rewrite=bool(changes))
        return train_stages(run)
