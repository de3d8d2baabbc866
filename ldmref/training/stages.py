"""The stages of a training, each resumed where its checkpoint stands, and the exported model."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Generic, TypeVar

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.errors import Cancelled, NumericError, OutputError
from ldmref.io.classifier import save_classifier
from ldmref.io.diffusers.autoencoder import save_autoencoder
from ldmref.io.native import save_folder
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import ModelConfig, TextConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, tree_map
from ldmref.models.presets import PRESETS
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import parse_word_tokenizer, word_tokenizer
from ldmref.training.autoencoder.features import feature_trainer
from ldmref.training.autoencoder.metrics import measure
from ldmref.training.autoencoder.stage import autoencoder_params, autoencoder_trainer
from ldmref.training.checkpoint import (
    Header,
    Settings,
    Timer,
    checkpoint_path,
    read_checkpoint,
    read_headers,
    write_checkpoint,
)
from ldmref.training.classes import class_labels, class_names
from ldmref.training.classifier import classifier_config, classifier_trainer
from ldmref.training.data import Dataset, DataSummary
from ldmref.training.diffusion import Condition, diffusion_trainer
from ldmref.training.distributed import any_rank, on_first_rank, rank, ranks
from ldmref.training.latents import Latents, NoisyLatents
from ldmref.training.latents_file import stored_latents
from ldmref.training.model_config import with_classes
from ldmref.training.monitor.previews import (
    Preview,
    exported_weights,
    reconstructions,
    sample_prompts,
    samples,
)
from ldmref.training.monitor.stage import StageMonitor
from ldmref.training.progress import Progress, ProgressMeter, with_units
from ldmref.training.recipe import EMOJI, SCENES, Recipe
from ldmref.training.recipe_file import AnyRecipe
from ldmref.training.trainer import Trainer, learning_rate_factor
from ldmref.training.unknown_words import warn_of_unknown_words

RATE_JUMP = 1.5  # a larger factor is worth a line
R = TypeVar("R", bound=AnyRecipe)


@dataclass
class Run(Generic[R]):
    """What all stages of one training share.

    `report` is called now and then with the progress, `say` with a line for the user.
    `rewrite`: settings were changed, which is recorded in the checkpoints of complete stages.
    """

    recipe: R
    folder: Path
    data: Dataset
    summary: DataSummary
    ops: TorchBackend
    report: Callable[[Progress], None]
    say: Callable[[str], None]
    cancel: Event | None
    rewrite: bool
    shown_once: set[str] = field(default_factory=set)

    def warn(self, line: str) -> None:
        """A line for the user, once."""
        if line not in self.shown_once:
            self.shown_once.add(line)
            self.say(line)


def train_stages(run: Run[Recipe]) -> Path:
    """Train the recipe's stages, or the rest of them, and export the model; returns its folder."""
    recipe = run.recipe
    config = run.recipe.model
    prompts = ()
    if "diffusion" in recipe.stages:
        if config.text_encoder.model_type == "class":
            config = with_classes(config, class_names(run.data))
        prompts = sample_prompts(config, recipe.progress, run.data, recipe.seed)
    vae, latents = train_autoencoder(run)
    config = replace(config, vae=replace(config.vae, scaling_factor=latents.scaling_factor))
    if recipe.stages == ("autoencoder",):
        on_first_rank(save_autoencoder, run.folder / "autoencoder", config.vae, vae)
        return run.folder / "autoencoder"
    if recipe.data.source not in (EMOJI, SCENES) and config.name in PRESETS:
        config = replace(config, name=run.folder.resolve().name)

    noisy = NoisyLatents(latents, run.data.weights, config.vae.scaling_factor, run.ops)
    condition = _condition(run, config.text_encoder)
    text = condition.tokenizer.tokenizer.to_str(pretty=True)
    second = diffusion_trainer(
        noisy,
        condition,
        config,
        recipe.diffusion,
        recipe.seed,
        run.ops,
        held_out=run.data.held_out,
    )
    folder = run.folder / "model"

    def with_vae(params: Params) -> Params:
        return Params(params | {"vae": vae})

    def export() -> None:
        params = with_vae(second.ema_params())
        on_first_rank(save_folder, folder, config, params, [condition.tokenizer])

    def model_of(params: Params) -> LatentDiffusion:
        weights = exported_weights(with_vae(params))
        return LatentDiffusion(run.ops, config, weights, condition.tokenizer)

    preview = samples(model_of, prompts, recipe.progress.count, recipe.data.size, run.cancel)
    with exported(export):
        run_stage(run, "diffusion", second, text, preview)
    if "classifier" in recipe.stages:
        _train_classifier(run, noisy, config, folder)
    return folder


def train_autoencoder(run: Run[Recipe]) -> tuple[Params, Latents]:
    """Train the first stage; its averaged weights, and the encoded images."""
    recipe = run.recipe
    config = run.recipe.model.vae
    data = run.data
    objective = recipe.autoencoder.objective
    exact = TorchBackend(run.ops.device, "float32")
    features = None
    if objective.perceptual_weight:
        feature_stage = feature_trainer(data, recipe.features, recipe.seed, run.ops)
        run_stage(run, "features", feature_stage, "")
        features = feature_stage.ema_params()
    trainer = autoencoder_trainer(data, config, recipe.autoencoder, recipe.seed, run.ops, features)
    preview = reconstructions(data, config, objective, recipe.seed, exact)
    trained = run_stage(run, "autoencoder", trainer, "", preview)
    averaged = trainer.ema_params()
    params = tree_map(exact.asarray, averaged)
    if trained:
        metrics = measure(data, params, config, objective, recipe.seed, exact)
        run.say(f"autoencoder: {with_units(metrics)}")
    params = autoencoder_params(params, config)
    latents = stored_latents(run.folder, data, run.summary, params, config, exact, run.cancel)
    return autoencoder_params(averaged, config), latents


def _train_classifier(
    run: Run[Recipe], latents: NoisyLatents, config: ModelConfig, folder: Path
) -> None:
    """The classifier of the same latents, exported beside the model."""
    stage = run.recipe.classifier
    names = class_names(run.data)
    network = classifier_config(stage.network, config.vae.latent_channels, names)
    trainer = classifier_trainer(
        latents, class_labels(run.data), network, config.scheduler, stage, run.recipe.seed, run.ops
    )
    with exported(lambda: on_first_rank(save_classifier, folder, network, trainer.ema_params())):
        run_stage(run, "classifier", trainer, "")


@contextmanager
def exported(export: Callable[[], None]) -> Iterator[None]:
    """Export at the end of a stage, and when it is cancelled."""
    try:
        yield
    except Cancelled:
        export()
        raise
    export()


def run_stage(
    run: Run, stage: str, trainer: Trainer, tokenizer: str, preview: Preview | None = None
) -> bool:
    """Train a stage to the end of its budget; returns False if it was there before.

    `preview` is drawn of its averaged weights now and then, and at the end.
    A checkpoint is saved when one is due, and on any interruption: `run.cancel`, Ctrl-C, an error
    in `run.report`. A step that fails, or is interrupted between its updates, leaves the last one.
    """
    gc.collect()  # the trainer before, which is cyclic, and holds the device's memory
    path = checkpoint_path(run.folder, stage)
    timer = Timer(run.recipe.checkpoint)
    settings = Settings(run.recipe, run.summary)
    history: tuple[dict[str, Any], ...] = ()

    def state() -> dict[str, np.ndarray]:
        arrays = {name: tensor.numpy() for name, tensor in trainer.state().items()}
        return arrays | monitor.state()

    def save() -> None:
        start = time.monotonic()
        header = Header(trainer.step, *settings, tokenizer, history)
        on_first_rank(write_checkpoint, path, header, state())
        timer.saved(time.monotonic() - start)

    header: Header | None = None
    arrays: Mapping[str, np.ndarray] = {}
    if path.exists():
        header, arrays = read_checkpoint(path)
        history = header.continued(settings)
        trainer.load_state(header.step, arrays)
        report_learning_rate(run, stage, trainer, header)
    monitor = StageMonitor(trainer, stage, arrays, run.folder, run.recipe, run.warn, preview)
    del arrays  # the file that the next checkpoint replaces
    if header is not None and trainer.step >= trainer.steps:
        if run.rewrite:  # no step was made with these settings
            on_first_rank(write_checkpoint, path, header.accepting(settings), state())
        return False
    if trainer.step:
        run.say(f"{stage} resumed after step {trainer.step} of {trainer.steps}")
    meter = ProgressMeter(stage, trainer.step, trainer.steps, trainer.config.batch_size)
    monitor.begin()
    try:
        for done in trainer.run(run.cancel, stage):
            progress = meter.update(done.step, done.loss, done.metrics)
            if progress is not None:
                run.report(progress)
            recorded = monitor.record(done)
            due = rank() == 0 and timer.due(done.step)
            if done.step == trainer.steps or any_rank(due, run.ops.device):
                save()
            if recorded:
                monitor.draw_if_due()
    except (NumericError, OutputError):
        raise  # the last checkpoint is the good one
    except BaseException as error:
        together = ranks() == 1 or isinstance(error, Cancelled)
        if together and not trainer.updating:
            save()
        raise
    return True


def report_learning_rate(run: Run, stage: str, trainer: Trainer, header: Header) -> None:
    """Say when a raised budget makes the learning rate jump where the training is continued."""
    before = getattr(header.recipe, stage).budget.steps
    if not 0 < trainer.step < trainer.steps or before == trainer.steps:
        return
    old = learning_rate_factor(trainer.config, before, trainer.step - 1)
    new = trainer.lr_factor(trainer.step)
    if new > RATE_JUMP * old:
        run.say(
            f"{stage}: the learning rate rises from {old:.2g} to {new:.2g} of its peak, because "
            f"the budget is {trainer.steps} steps, not {before}; a cooldown below 1 avoids that"
        )


def _condition(run: Run, text: TextConfig) -> Condition:
    """Captions, classes, or nothing."""
    if text.model_type == "clip":
        tokenizer = _tokenizer(run, text)
        warn_of_unknown_words(run.data, tokenizer, run.say)
        return Condition(run.data.caption, tokenizer)
    tokenizer = tokenizer_for(text)
    if text.model_type == "class":
        classes = run.data.classes
        return Condition(lambda i, rng: classes[i], tokenizer)
    return Condition(lambda i, rng: "", tokenizer)


def _tokenizer(run: Run, config: TextConfig) -> PromptTokenizer:
    """That of the second stage's checkpoint; without one, the words of the captions."""
    header = read_headers(run.folder).get("diffusion")
    if header is None:
        tokenizer = word_tokenizer(run.data.vocabulary(), config.vocab_size)
    else:
        tokenizer = parse_word_tokenizer(header.tokenizer, "the tokenizer of the checkpoint")
    return PromptTokenizer(tokenizer, config.max_position_embeddings)
