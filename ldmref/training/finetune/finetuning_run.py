"""A complete fine-tuning, from images and a model to a LoRA, a word or a model.

A distillation needs the captions of the images only: a flow map learns runs of the model.

folder/recipe.toml               every setting of the last run
folder/diffusion.safetensors     checkpoint
folder/latents-*.npy             the encoded images
folder/lora.safetensors          the LoRA, or
folder/embedding.safetensors     the word of a textual inversion, or
folder/model/                    the fully fine-tuned model, or the flow map
folder/trajectories-*            of a distillation, the runs of the model
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from ldmref.datasets.loading import summarize
from ldmref.errors import UsageError
from ldmref.models.autoencoder_kind import LatentScale, autoencoder_of
from ldmref.models.config import ModelConfig
from ldmref.models.params import tree_map
from ldmref.models.text_kind import kind_of
from ldmref.training.distill.student import check_teacher
from ldmref.training.finetune.lora_targets import check_targets
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.monitor.progress import TrainingProgress, warn_only
from ldmref.training.observe import StepObserver
from ldmref.training.setup import (
    activation_dtype,
    check_early,
    prepared_folder,
    read_images,
    warn_about_unknown_words,
)

if TYPE_CHECKING:
    from ldmref.models.model import LatentDiffusion
    from ldmref.training.context import TrainingContext
    from ldmref.training.finetune.adapters import Adapter
    from ldmref.training.finetune.stage import RecordingBackend
    from ldmref.training.trainer import Trainer


def fine_tune(
    recipe: FineTuneRecipe,
    folder: Path,
    *,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
    log: Callable[[str], None] = warn_only,
    cancel: Event | None = None,
    accept_changes: bool = False,
    observer: StepObserver | None = None,
) -> Path:
    """Fine-tune a model as a recipe says, and write the result.

    A fine-tuning that was interrupted continues from the checkpoint in its folder.

    Args:
        recipe: The base model, the method, the images and the training; `read_recipe` reads one.
        folder: Where checkpoints, metrics and the result are written. A checkpoint in it is resumed
            if nothing that matters has changed.
        on_progress: Called with the progress about 20 times; `print` shows one line.
        log: Called with lines about the images and about what is resumed, and with warnings, which
            begin with "warning: ". By default warnings are issued with `warnings.warn`, and other
            lines are dropped.
        cancel: Set this event to stop after the current step; a checkpoint is saved. None: it
            cannot be stopped.
        accept_changes: Resume although the recipe or the images have changed.
        observer: Sees every step of a training in a single process, such as
            `ldmref.training.step_trace.TrainingTrace`. None: nothing observes them.

    Returns:
        The file of the LoRA or of the learned word, or the folder of the fully fine-tuned model or
        of the flow map.

    Raises:
        UsageError: The model cannot be fine-tuned with this method, or the folder was trained with
            other settings.
        InputError: The model, images, captions or checkpoint cannot be read.
        OutputError: The folder cannot be written, or is in use; the last checkpoint is kept.
        NumericError: The loss is not finite; the last checkpoint is kept.
        Cancelled: `cancel` was set; a checkpoint is saved.
        BackendUnavailable: PyTorch is not installed, or the device is missing.

    >>> from pathlib import Path
    >>> from ldmref.training import fine_tune, read_recipe
    >>> recipe = read_recipe("lora", {"data": {"source": "photos"}})
    >>> fine_tune(recipe, Path("runs/style"), on_progress=print)  # doctest: +SKIP
    PosixPath('runs/style/lora.safetensors')
    """
    check_early(recipe, folder, accept_changes)
    check_base(recipe.read_base_config(), recipe)

    import ldmref.backends.torch  # noqa: F401 - raises BackendUnavailable without PyTorch
    from ldmref.loading import load
    from ldmref.training.context import TrainingContext
    from ldmref.training.distributed import by_first_rank, on_first_rank, process_group
    from ldmref.training.finetune.adapters import make_adapter
    from ldmref.training.finetune.stage import RecordingBackend
    from ldmref.training.monitor.previews import check_prompts, samples
    from ldmref.training.stage import exported, train_stage

    with process_group(recipe.device) as device:
        on_progress = by_first_rank(on_progress)
        log = by_first_rank(log)
        recipe = replace(recipe, dtype=activation_dtype(recipe.dtype, device))
        distills = recipe.method == "distill"
        ops = RecordingBackend(device, "float32" if distills else recipe.dtype)
        data = read_images(recipe, log, cancel)
        exact = RecordingBackend(device, "float32")
        used = exact if recipe.method == "full" else ops
        model = load(recipe.base, backend=used, config=recipe.base_config or None)
        model.params.read_all()  # once: each step makes a model that shares them
        adapter = make_adapter(recipe, model, data.caption)
        if adapter.caption == data.caption:  # otherwise the prompts are the adapter's
            warn_about_unknown_words(data, model.tokenizer, log)
        preview = None
        if recipe.progress.prompts:
            check_prompts(model.config, recipe.progress.prompts)
            preview = samples(
                lambda params: adapter.adapted(ops, tree_map(ops.asarray, params)),
                recipe.progress.prompts,
                recipe.progress.count,
                recipe.data.size,
                cancel,
            )
        summary = replace(summarize(data), base=model.sha256)
        with prepared_folder(recipe, folder, summary, log, accept_changes) as changed:
            callbacks = on_progress, log, cancel
            context = TrainingContext(
                recipe, folder, data, summary, ops, *callbacks, rewrite=changed, observer=observer
            )
            trainer = make_trainer(context, ops, model, adapter)
            with exported(lambda: on_first_rank(adapter.write, folder, trainer.ema_params())):
                train_stage(context, "diffusion", trainer, "", preview)
            return adapter.file(folder)


def make_trainer(
    context: TrainingContext[FineTuneRecipe],
    ops: RecordingBackend,
    model: LatentDiffusion,
    adapter: Adapter,
) -> Trainer:
    """Return the trainer of a recipe: on runs of the base, or on the encoded images."""
    from ldmref.backends.torch import TorchBackend
    from ldmref.training.diffusion.latents import NoisyLatents, stored_latents
    from ldmref.training.distill.regression import distillation_trainer
    from ldmref.training.distill.student import DistillAdapter
    from ldmref.training.distill.trajectories import stored_trajectories
    from ldmref.training.finetune.stage import fine_tune_trainer

    recipe, images = context.recipe, (context.data, context.summary)
    exact = TorchBackend(ops.device, "float32")
    if isinstance(adapter, DistillAdapter):
        teacher = model.with_params({}, exact)
        rest = context.log, context.cancel
        runs = stored_trajectories(recipe, context.folder, teacher, *images, *rest)
        return distillation_trainer(recipe, adapter, runs, ops, context.observer)
    vae = tree_map(exact.asarray, model.params["vae"])
    config = model.config.vae
    latents = stored_latents(context.folder, *images, vae, config, exact, context.cancel)
    statistics = autoencoder_of(config).select(vae)
    to_state = partial(ops.asarray, dtype=ops.state_dtype)
    scale = LatentScale(ops, config, tree_map(to_state, statistics))
    noisy = NoisyLatents(latents, context.data.weights, scale, ops)
    return fine_tune_trainer(recipe, model.config, adapter, noisy, ops, context.observer)


def check_base(config: ModelConfig, recipe: FineTuneRecipe) -> None:
    """Check that a model can be fine-tuned, before its weights are read.

    Raises:
        UsageError: It does not accept a prompt, needs an image as input, rounds its latents to a
            codebook, has several text encoders for one word, or does not have the size or a target
            of the LoRA.
    """
    size = recipe.data.size
    multiple = config.size_multiple
    problem = ""
    kind = kind_of(config.text_encoder)
    if kind.reads != "text":
        problem = "it reads no text"
    elif not kind.trained and recipe.method != "distill":
        problem = f"text encoders of kind {kind.name!r} are not trained"
    elif config.image_channels or autoencoder_of(config.vae).is_quantized:
        problem = "it needs an image as input, or has a codebook"
    elif recipe.method == "textual_inversion" and config.text_encoder_2 is not None:
        count = len(config.text_encoders)
        problem = f"a word is learned for one text encoder, and it has {count}"
    elif recipe.method == "textual_inversion" and not kind.learns_words:
        problem = f"text encoders of kind {kind.name!r} learn no words"
    if problem:
        message = f"recipe: {config.name!r} cannot be fine-tuned: {problem}"
        raise UsageError(message, code="E-RECIPE")
    if recipe.method == "lora":
        check_targets(config, recipe.lora.targets)
    if recipe.method == "distill":
        check_teacher(config, recipe.distill)
    if size < multiple or size % multiple:
        message = f"size must be a multiple of {multiple}, not {size}"
        raise UsageError(message, code="E-SIZE")
    if config.max_side is not None and size > config.max_side:
        message = f"size must be at most {config.max_side}, not {size}"
        raise UsageError(message, code="E-SIZE")
