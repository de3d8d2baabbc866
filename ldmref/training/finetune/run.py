"""A complete fine-tuning, from images and a model to a file that the model is drawn with.

folder/recipe.toml               every setting of the last run
folder/diffusion.safetensors     checkpoint
folder/latents-*.npy             the encoded images
folder/lora.safetensors          the LoRA, or
folder/embedding.safetensors     the word of a textual inversion, or
folder/model/                    the fully fine-tuned model
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

from ldmref.errors import UsageError
from ldmref.io.locate import find_model, read_model_config
from ldmref.models.config import ModelConfig
from ldmref.models.params import tree_map
from ldmref.training.begin import check_early, prepared_folder, read_images
from ldmref.training.data import summarize
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.progress import Progress, warn_only


def fine_tune(
    recipe: FineTuneRecipe,
    folder: Path,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = warn_only,
    cancel: Event | None = None,
    accept_changes: bool = False,
) -> Path:
    """Learn what the recipe says, or the rest of it; returns the LoRA, the word or the model.

    Arguments and errors are those of `ldmref.training.run.train`.

    Raises:
        UsageError: besides, the model cannot be fine-tuned so.
        InputError: the model cannot be read.
    """
    check_early(recipe, folder, accept_changes)
    check_base(read_model_config(find_model(recipe.base)), recipe)

    from ldmref.loading import load
    from ldmref.training.distributed import by_first_rank, on_first_rank, process_group
    from ldmref.training.finetune.adapters import adapter_of  # raises BackendUnavailable
    from ldmref.training.finetune.stage import RecordingBackend, fine_tune_trainer
    from ldmref.training.latents import NoisyLatents
    from ldmref.training.latents_file import stored_latents
    from ldmref.training.monitor.previews import check_prompts, samples
    from ldmref.training.precision import activation_dtype
    from ldmref.training.stages import Run, exported, run_stage
    from ldmref.training.unknown_words import warn_of_unknown_words

    with process_group(recipe.device) as device:
        report = by_first_rank(report)
        say = by_first_rank(say)
        recipe = replace(recipe, dtype=activation_dtype(recipe.dtype, device))
        ops = RecordingBackend(device, recipe.dtype)
        data = read_images(recipe, say, cancel)
        exact = RecordingBackend(device, "float32")
        model = load(recipe.base, backend=exact if recipe.method == "full" else ops)
        model.params.read_all()  # once: each step makes a model that shares them
        adapter = adapter_of(recipe, model, data.caption)
        if adapter.caption == data.caption:  # and no prompts of its own
            warn_of_unknown_words(data, model.tokenizer, say)
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
        with prepared_folder(recipe, folder, summary, say, accept_changes) as changed:
            vae = tree_map(exact.asarray, model.params["vae"])
            config = model.config.vae
            latents = stored_latents(folder, data, summary, vae, config, exact, cancel)
            noisy = NoisyLatents(latents, data.weights, config.scaling_factor, ops)
            trainer = fine_tune_trainer(recipe, model.config, adapter, noisy, ops)
            run = Run(recipe, folder, data, summary, ops, report, say, cancel, rewrite=changed)
            with exported(lambda: on_first_rank(adapter.write, folder, trainer.ema_params())):
                run_stage(run, "diffusion", trainer, "", preview)
            return adapter.file(folder)


def check_base(config: ModelConfig, recipe: FineTuneRecipe) -> None:
    """Refuse a model that cannot be fine-tuned, before its weights are read.

    Raises:
        UsageError: it takes no prompt, needs more than latents as input, rounds its latents to a
            codebook, has two text encoders for one word, or does not fit the size.
    """
    size = recipe.data.size
    multiple = config.size_multiple
    problem = ""
    if not config.text_encoders or config.text_encoder.model_type != "clip":
        problem = "it has no text transformer"
    elif config.image_channels or config.vae.codebook_size:
        problem = "it needs an image as input, or has a codebook"
    elif recipe.method == "textual_inversion" and config.text_encoder_2 is not None:
        problem = "a word is learned for one text encoder, and it has two"
    if problem:
        message = f"recipe: {config.name!r} cannot be fine-tuned: {problem}"
        raise UsageError(message, code="E-RECIPE")
    if size < multiple or size % multiple:
        message = f"size must be a multiple of {multiple}, not {size}"
        raise UsageError(message, code="E-SIZE")
