"""A complete training, from images to a model folder. It can be interrupted and resumed.

folder/recipe.toml               every setting of the last run
folder/autoencoder.safetensors   checkpoint of the autoencoder
folder/diffusion.safetensors     checkpoint of the denoiser
folder/classifier.safetensors    checkpoint of the classifier, if the recipe has one
folder/model/                    the model: averaged weights in float16, ready for `ldmref.load`
folder/metrics.jsonl, *.png      metrics, plots and previews: `ldmref.training.monitor`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

from ldmref.training.classes import class_names, summarize_for, uses_classes
from ldmref.training.monitor.progress import TrainingProgress, warn_only
from ldmref.training.observe import StepObserver
from ldmref.training.recipes.model import with_given_autoencoder
from ldmref.training.recipes.schema import Recipe
from ldmref.training.setup import activation_dtype, check_early, prepared_folder, read_images


def train(
    recipe: Recipe,
    folder: Path,
    *,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
    log: Callable[[str], None] = warn_only,
    cancel: Event | None = None,
    accept_changes: bool = False,
    observer: StepObserver | None = None,
) -> Path:
    """Train the stages of a recipe and export the model.

    A training that was interrupted continues from the checkpoints in its folder, and its result is
    that of an uninterrupted one bit for bit.

    Args:
        recipe: The images, the model and the training of each stage; `read_recipe` reads one.
        folder: Where checkpoints, metrics and the model are written. Checkpoints in it are resumed
            if nothing that matters has changed.
        on_progress: Called with the progress about 20 times in a stage; `print` shows one line.
        log: Called with lines about the images and about what is resumed, and with warnings, which
            begin with "warning: ". By default warnings are issued with `warnings.warn`, and other
            lines are dropped.
        cancel: Set this event to stop after the current step; a checkpoint is saved. None: it
            cannot be stopped.
        accept_changes: Resume although the recipe or the images have changed.
        observer: Sees every step of the denoiser's training in a single process, such as
            `ldmref.training.step_trace.TrainingTrace`. None: nothing observes them.

    Returns:
        The folder of the model, for `ldmref.load`; of a recipe that trains the autoencoder only,
        the folder of the autoencoder, in the layout of diffusers.

    Raises:
        UsageError: The folder was trained with other settings.
        InputError: The images, captions or checkpoints cannot be read.
        OutputError: The folder cannot be written, or is in use; the last checkpoint is kept.
        NumericError: The loss is not finite; the last checkpoint is kept.
        Cancelled: `cancel` was set; a checkpoint is saved.
        BackendUnavailable: PyTorch is not installed, or the device is missing.

    >>> from pathlib import Path
    >>> from ldmref.training import read_recipe, train
    >>> recipe = read_recipe("tiny", {"data": {"source": "photos"}})
    >>> train(recipe, Path("runs/photos"), on_progress=print)  # doctest: +SKIP
    PosixPath('runs/photos/model')
    """
    recipe = with_given_autoencoder(recipe)
    check_early(recipe, folder, accept_changes)

    from ldmref.backends.torch import TorchBackend  # raises BackendUnavailable without torch
    from ldmref.training.context import TrainingContext
    from ldmref.training.distributed import by_first_rank, process_group
    from ldmref.training.optimizers import require_shared
    from ldmref.training.pipeline import train_stages

    with process_group(recipe.device) as device:
        on_progress = by_first_rank(on_progress)
        log = by_first_rank(log)
        for stage in recipe.stages:
            require_shared(getattr(recipe, stage).optimizer)
        recipe = replace(recipe, dtype=activation_dtype(recipe.dtype, device))
        ops = TorchBackend(device, recipe.dtype)
        data = read_images(recipe, log, cancel)
        summary = summarize_for(recipe, data)
        if uses_classes(recipe):
            log(f"{len(class_names(data))} classes")
        with prepared_folder(recipe, folder, summary, log, accept_changes) as changed:
            context = TrainingContext(
                recipe, folder, data, summary, ops, on_progress, log, cancel, changed, observer
            )
            return train_stages(context)
