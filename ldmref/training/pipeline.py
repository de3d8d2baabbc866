"""The stages of a training in their order, and the exported model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from ldmref.backends.torch import TorchBackend
from ldmref.datasets.config import EMOJI, SCENES
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.classifier import save_classifier
from ldmref.io.native import save_folder
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import LatentScale, autoencoder_of
from ldmref.models.config import TOKENIZERS, ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, tree_map, unflatten
from ldmref.models.text_kind import kind_of
from ldmref.ports.written import save_autoencoder
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import parse_word_tokenizer, word_tokenizer
from ldmref.training.autoencoder.features import feature_trainer
from ldmref.training.autoencoder.stage import autoencoder_params, autoencoder_trainer
from ldmref.training.autoencoder.terms import measure
from ldmref.training.checkpoint import read_headers
from ldmref.training.classes import class_labels, class_names
from ldmref.training.context import TrainingContext
from ldmref.training.diffusion.classifier import classifier_config, classifier_trainer
from ldmref.training.diffusion.latents import Latents, NoisyLatents, known_latents, stored_latents
from ldmref.training.diffusion.stage import Condition, DenoiserTraining, diffusion_trainer
from ldmref.training.distributed import on_first_rank
from ldmref.training.family_rules import training_rules_of
from ldmref.training.monitor.previews import (
    exported_weights,
    reconstructions,
    sample_prompts,
    samples,
)
from ldmref.training.monitor.progress import with_units
from ldmref.training.recipes.model import reads_pooled_text, trained_autoencoder
from ldmref.training.recipes.schema import Recipe
from ldmref.training.setup import warn_about_unknown_words
from ldmref.training.stage import exported, train_stage


def train_stages(context: TrainingContext[Recipe]) -> Path:
    """Train the recipe's stages, or the rest of them, and export the model; return its folder."""
    recipe = context.recipe
    config = context.recipe.model
    prompts = ()
    if "diffusion" in recipe.stages:
        if kind_of(config.text_encoder).reads == "class":
            rules = training_rules_of(family_of(config))
            config = rules.with_classes(config, class_names(context.data))
        prompts = sample_prompts(config, recipe.progress, context.data, recipe.seed)
    if recipe.autoencoder.source:
        vae, latents = encode_by_given(context)
    else:
        vae, latents = train_autoencoder(context)
        config = replace(config, vae=measured_autoencoder(config, latents))
    if recipe.stages == ("autoencoder",):
        autoencoder = trained_autoencoder(config)
        on_first_rank(save_autoencoder, context.folder / "autoencoder", autoencoder, vae)
        return context.folder / "autoencoder"
    if recipe.data.source not in (EMOJI, SCENES) and config.name in family_of(config).presets:
        config = replace(config, name=context.folder.resolve().name)

    to_state = partial(context.ops.asarray, dtype=context.ops.state_dtype)
    statistics = tree_map(to_state, autoencoder_of(config.vae).select(vae))
    scale = LatentScale(context.ops, config.vae, statistics)
    noisy = NoisyLatents(latents, context.data.weights, scale, context.ops)
    condition = _condition(context, config)
    tokenizers = dict(zip(TOKENIZERS, condition.tokenizers, strict=False))
    text = condition.tokenizers[0].tokenizer.to_str(pretty=True)
    processes = recipe.data.processes
    training = DenoiserTraining(
        config, recipe.diffusion, recipe.seed, context.ops, processes, recipe.compile
    )
    second = diffusion_trainer(
        noisy,
        condition,
        training,
        held_out=context.data.held_out,
        observer=context.observer,
    )
    folder = context.folder / "model"

    def with_vae(params: Params) -> Params:
        return Params(params | {"vae": vae})

    def export() -> None:
        params = with_vae(second.ema_params())
        on_first_rank(save_folder, folder, config, params, condition.tokenizers)

    def make_model(params: Params) -> LatentDiffusion:
        weights = exported_weights(with_vae(params))
        return LatentDiffusion(context.ops, config, weights, **tokenizers)

    preview = samples(make_model, prompts, recipe.progress.count, recipe.data.size, context.cancel)
    with exported(export):
        train_stage(context, "diffusion", second, text, preview)
    if "classifier" in recipe.stages:
        _train_classifier(context, noisy, config, folder)
    return folder


def measured_autoencoder(config: ModelConfig, latents: Latents) -> AutoencoderConfig:
    """Return the configuration of a trained autoencoder, which scales latents to unit variance."""
    autoencoder = trained_autoencoder(config)
    measured = {"scaling_factor": latents.scaling_factor}
    if autoencoder.shift_factor:  # latents of a family that centres them
        measured["shift_factor"] = latents.shift_factor
    return replace(autoencoder, **measured)


def encode_by_given(context: TrainingContext[Recipe]) -> tuple[Params, Latents]:
    """Return the weights of the autoencoder that a recipe gives, and the images encoded by it."""
    config = context.recipe.model.vae
    file = read_vae(context.recipe.autoencoder.source, config)
    context.log(f"the autoencoder {file.name!r} is given, and not trained")
    exact = TorchBackend(context.ops.device, "float32")
    params = tree_map(exact.asarray, unflatten(file.tensors))
    images = context.folder, context.data, context.summary
    return params, stored_latents(*images, params, config, exact, context.cancel)


def train_autoencoder(context: TrainingContext[Recipe]) -> tuple[Params, Latents]:
    """Train the first stage; return its averaged weights, and the encoded images.

    Raises:
        UsageError: The data set has latents of another shape than the model's.
    """
    recipe = context.recipe
    config = trained_autoencoder(context.recipe.model)
    data = context.data
    objective = recipe.autoencoder.objective
    ops = context.ops
    exact = TorchBackend(ops.device, "float32")
    features = None
    if objective.perceptual_weight:
        feature_stage = feature_trainer(data, recipe.features, recipe.seed, ops)
        train_stage(context, "features", feature_stage, "")
        features = feature_stage.ema_params()
    trainer = autoencoder_trainer(data, config, recipe.autoencoder, recipe.seed, ops, features)
    known = known_latents(data, config, recipe.data.size)
    if known is not None:
        context.log("the data set has latents: the autoencoder is not trained")
        return autoencoder_params(trainer.ema_params(), config), known
    preview = reconstructions(data, config, objective, recipe.seed, exact)
    trained = train_stage(context, "autoencoder", trainer, "", preview)
    averaged = trainer.ema_params()
    params = tree_map(exact.asarray, averaged)
    if trained:
        metrics = measure(data, params, config, objective, recipe.seed, exact)
        context.log(f"autoencoder: {with_units(metrics)}")
    params = autoencoder_params(params, config)
    latents = stored_latents(
        context.folder, data, context.summary, params, config, exact, context.cancel
    )
    return autoencoder_params(averaged, config), latents


def _train_classifier(
    context: TrainingContext[Recipe], latents: NoisyLatents, config: ModelConfig, folder: Path
) -> None:
    """Train a classifier of the same latents, and export it into the model's folder."""
    stage = context.recipe.classifier
    names = class_names(context.data)
    network = classifier_config(stage.network, config.vae.latent_channels, names)
    labels = class_labels(context.data)
    rest = context.recipe.seed, context.ops
    trainer = classifier_trainer(latents, labels, network, config.scheduler, stage, *rest)
    with exported(lambda: on_first_rank(save_classifier, folder, network, trainer.ema_params())):
        train_stage(context, "classifier", trainer, "")


def _condition(context: TrainingContext, config: ModelConfig) -> Condition:
    """Return the prompts of the images: captions, classes, or nothing."""
    text = config.text_encoder
    reads = kind_of(text).reads
    if reads == "text":
        tokenizers = _word_tokenizers(context, config)
        warn_about_unknown_words(context.data, tokenizers[0], context.log)
        return Condition(context.data.caption, tokenizers)
    tokenizers = [tokenizer_for(text)]
    if reads == "nothing":
        return Condition(lambda i, rng: "", tokenizers)
    classes = context.data.classes
    return Condition(lambda i, rng: classes[i], tokenizers)


def _word_tokenizers(context: TrainingContext, config: ModelConfig) -> list[PromptTokenizer]:
    """Return a tokenizer for each text encoder: the same words, each encoder's own length.

    The words are those of the denoiser's checkpoint, otherwise those of the captions.
    """
    header = read_headers(context.folder).get("diffusion")
    texts = config.text_encoders

    def words() -> Tokenizer:
        if header is not None:
            return parse_word_tokenizer(header.tokenizer, "the tokenizer of the checkpoint")
        most = min(text.vocab_size for text in texts)
        return word_tokenizer(context.data.vocabulary(), most, reads_pooled_text(config))

    return [PromptTokenizer(words(), text.max_position_embeddings) for text in texts]
