"""The model configuration that an objective trains: its condition, and a learned variance."""

from __future__ import annotations

from dataclasses import replace

from ldmref.io.adapters.autoencoder import read_vae, require_fit
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.models.taesd import TinyConfig
from ldmref.models.text_kind import kind_of
from ldmref.models.validate import check_config
from ldmref.prompts.words import POOLED_END
from ldmref.samplers.config import LEARNED, SchedulerConfig
from ldmref.samplers.path import FLOW
from ldmref.training.recipes.schema import DiffusionObjective, Recipe, recipe_error

CONDITIONS = {"text": "text", "class": "class", "nothing": "none"}  # by what an encoder reads


def for_objective(config: ModelConfig, objective: DiffusionObjective) -> ModelConfig:
    """Return the configuration with the condition and the variance that the objective trains.

    Raises:
        UsageError: Configuration and objective contradict each other.
        CorruptModelError: The networks do not fit together.
    """
    config = _with_condition(config, objective.condition)
    s = config.scheduler
    z = config.vae.latent_channels
    if s.path is FLOW and objective.loss != "simple":
        message = f"loss = {objective.loss!r} belongs to the variance-preserving diffusion"
        raise recipe_error(message, hint='flow matching has loss = "simple"')
    if s.path is FLOW and s.variance_type == LEARNED:  # of a preset: a velocity has no variance
        s = replace(s, variance_type=SchedulerConfig.variance_type)
        config = replace(config, scheduler=s, denoiser=replace(config.denoiser, out_channels=z))
    if objective.loss == "hybrid":
        s = replace(s, variance_type=LEARNED)
        config = replace(config, scheduler=s, denoiser=replace(config.denoiser, out_channels=2 * z))
    elif s.variance_type == LEARNED and objective.loss != "bound":
        message = f"loss = {objective.loss!r} does not train the variance that the model learns"
        raise recipe_error(message, hint='loss = "hybrid" and loss = "bound" do')
    if s.rescale_betas_zero_snr and s.prediction_type == "eps":
        message = "with zero terminal SNR, eps says nothing about the image at the last timestep"
        raise recipe_error(message, hint='set model.scheduler.prediction_type to "v" or "x0"')
    check_config(config)
    return config


def trained_autoencoder(config: ModelConfig) -> AutoencoderConfig:
    """Return the configuration of the autoencoder, which a recipe trains.

    Raises:
        UsageError: Autoencoders of its kind are not trained.
    """
    if type(config.vae) is not AutoencoderConfig:
        title = autoencoder_of(config.vae).title
        message = f"the {title} of {config.name!r} cannot be trained: only KL and VQ have losses"
        raise recipe_error(message, hint="give a trained one as autoencoder.source")
    return config.vae


def check_given_autoencoder(recipe: Recipe) -> None:
    """Refuse what belongs to the training of an autoencoder where a recipe has a `source`.

    Raises:
        UsageError: Nothing else is trained, or the images are changed for the training.
    """
    if recipe.stages == ("autoencoder",):
        message = "autoencoder.source is not trained, and the recipe has no other stage"
        raise recipe_error(message, hint='set stages = ["autoencoder", "diffusion"]')
    if recipe.data.crop:
        raise recipe_error("data.crop has no effect here: the autoencoder is not trained")


def with_given_autoencoder(recipe: Recipe) -> Recipe:
    """Return the recipe with the configuration of its autoencoder's `source`, if it has one.

    Raises:
        InputError, CorruptModelError: The file cannot be read.
        UsageError: Its latents do not fit the model, or it is TAESD, which is no autoencoder of a
            training.
    """
    if not recipe.autoencoder.source:
        return recipe
    config = recipe.model
    file = read_vae(recipe.autoencoder.source, config.vae)
    require_fit(config, file)
    if isinstance(file.config, TinyConfig):
        message = f"autoencoder.source {file.name!r} is TAESD, which approximates another one"
        raise recipe_error(message, hint="give the autoencoder whose latents it has")
    config = replace(config, vae=file.config)
    check_config(config)
    return replace(recipe, model=config)


def reads_pooled_text(config: ModelConfig) -> bool:
    """Return whether the denoiser reads pooled text, as its family declares it."""
    denoiser = family_of(config).declared(config, config.denoiser.network)
    return denoiser.input_of("pooled") is not None


def _with_condition(config: ModelConfig, condition: str) -> ModelConfig:
    """Return a model that reads what `condition` says.

    A U-Net's text encoders are replaced by class embeddings or by nothing. Other denoisers are made
    for one condition.
    """
    kind = kind_of(config.text_encoder)
    own = CONDITIONS[kind.reads] if kind.trained else None
    if condition != "text" and isinstance(config.denoiser, UNetConfig):
        return _unet_without_text(config, condition)
    if condition == "text" and own is None:
        message = f"condition = 'text' needs a text encoder of CLIP or T5, not {kind.name!r}"
        raise recipe_error(message, hint='condition = "class" and "none" train other models')
    if condition != own:
        message = f"condition = {condition!r} does not fit {config.name!r}"
        raise recipe_error(message, hint=f"it is trained with condition = {own!r}")
    return _with_pooled_end(config) if condition == "text" else config


def _with_pooled_end(config: ModelConfig) -> ModelConfig:
    """Let CLIP's text encoders pool the end token of the words, if the denoiser reads that."""
    if not reads_pooled_text(config):
        return config
    texts = dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))
    pooled = {
        name: replace(text, eos_token_id=POOLED_END)
        for name, text in texts.items()
        if kind_of(text).pooled is not None
    }
    return replace(config, **pooled)


def _unet_without_text(config: ModelConfig, condition: str) -> ModelConfig:
    """Return the configuration of a U-Net that reads a class, or nothing."""
    unet = replace(config.unet, addition_embed_type="")
    defaults = config.defaults
    if condition == "class":
        text = TextConfig(
            model_type="class",
            vocab_size=1,
            hidden_size=unet.cross_attention_dim,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=1,
        )
    else:
        text = TextConfig(model_type="none", num_hidden_layers=1)
        unet = replace(unet, attention="self", cross_attention_dim=0, class_embed_type="")
        defaults = replace(defaults, cfg_scale=1.0)
    return replace(
        config,
        text_encoder=text,
        text_encoder_2=None,
        zero_empty_negative=False,
        denoiser=unet,
        defaults=defaults,
    )
