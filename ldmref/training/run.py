"""A complete training, from images to a model folder. It can be interrupted and resumed.

folder/recipe.toml               every setting of the last run
folder/autoencoder.safetensors   checkpoint of the first stage
folder/diffusion.safetensors     checkpoint of the second stage
folder/classifier.safetensors    checkpoint of the third stage, if the recipe has it
folder/model/                    the model: averaged weights in float16, ready for `ldmref.load`
folder/metrics.jsonl, *.png      what it shows while it runs: `ldmref.training.monitor`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

from ldmref.training.begin import check_early, prepared_folder, read_images
from ldmref.training.classes import class_names, summarize_for, uses_classes
from ldmref.training.progress import Progress, warn_only
from ldmref.training.recipe import Recipe


def train(
    recipe: Recipe,
    folder: Path,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = warn_only,
    cancel: Event | None = None,
    accept_changes: bool = False,
) -> Path:
    """Train what the recipe says, or the rest of it, and export the model; returns its folder.

    Args:
        folder: checkpoints in it are resumed, if nothing that matters has changed.
        report: called with the progress now and then; `print` shows it as one line.
        say: called with a line about the data, about what is resumed, and with warnings, which
            begin with "warning: "; by default, these are issued with `warnings.warn`.
        cancel: set it to stop after the current step, with a checkpoint.
        accept_changes: resume although the recipe or the images have changed.

    Raises:
        UsageError: the folder was trained with other settings.
        InputError: the images, captions or checkpoints cannot be read.
        OutputError: the folder cannot be written, or is in use; the last checkpoint is kept.
        NumericError: the loss is not finite; the last checkpoint is kept.
        Cancelled: `cancel` was set; a checkpoint is saved.
    """
    check_early(recipe, folder, accept_changes)

    from ldmref.backends.torch import TorchBackend  # raises BackendUnavailable without torch
    from ldmref.training.distributed import by_first_rank, process_group
    from ldmref.training.precision import activation_dtype
    from ldmref.training.stages import Run, train_stages
    from ldmref.training.trainer import require_shared

    with process_group(recipe.device) as device:
        report = by_first_rank(report)
        say = by_first_rank(say)
        for stage in recipe.stages:
            require_shared(getattr(recipe, stage).optimizer)
        recipe = replace(recipe, dtype=activation_dtype(recipe.dtype, device))
        ops = TorchBackend(device, recipe.dtype)
        data = read_images(recipe, say, cancel)
        summary = summarize_for(recipe, data)
        if uses_classes(recipe):
            say(f"{len(class_names(data))} classes")
        with prepared_folder(recipe, folder, summary, say, accept_changes) as changed:
            run = Run(recipe, folder, data, summary, ops, report, say, cancel, rewrite=changed)
            return train_stages(run)
