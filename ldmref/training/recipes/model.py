"""The model configuration that an objective trains: its condition, and a learned variance."""

from __future__ import annotations

from dataclasses import replace

from ldmref.models.config import ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.validate import check_config
from ldmref.samplers.config import LEARNED
from ldmref.samplers.path import FLOW
from ldmref.training.recipes.schema import DiffusionObjective, recipe_error


def for_objective(config: ModelConfig, objective: DiffusionObjective) -> ModelConfig:
    """Return the configuration with the condition and the variance that the objective trains.

    Raises:
        UsageError: Configuration and objective contradict each other.
        CorruptModelError: The networks do not fit together.
    """
    config = _with_condition(config, objective.condition)
    s = config.scheduler
    z = config.vae.latent_channels
    if objective.loss == "hybrid":
        s = replace(s, variance_type=LEARNED)
        config = replace(config, scheduler=s, denoiser=replace(config.denoiser, out_channels=2 * z))
    elif s.variance_type == LEARNED and objective.loss != "bound":
        message = f"loss = {objective.loss!r} does not train the variance that the model learns"
        raise recipe_error(message, hint='loss = "hybrid" and loss = "bound" do')
    if s.rescale_betas_zero_snr and s.prediction_type == "eps":
        message = "with zero terminal SNR, eps says nothing about the image at the last timestep"
        raise recipe_error(message, hint='set model.scheduler.prediction_type to "v" or "x0"')
    if s.path is FLOW and objective.loss != "simple":
        message = f"loss = {objective.loss!r} belongs to the variance-preserving diffusion"
        raise recipe_error(message, hint='flow matching has loss = "simple"')
    check_config(config)
    return config


def _with_condition(config: ModelConfig, condition: str) -> ModelConfig:
    """Replace the text encoder by class embeddings or by nothing, as `condition` says."""
    text = config.text_encoder
    if not isinstance(config.denoiser, UNetConfig):
        if (condition == "class") != (text.model_type == "label"):
            message = f"condition = {condition!r} does not fit {config.name!r}"
            raise recipe_error(message, hint='a model of class numbers needs condition = "class"')
        return config
    unet = config.unet
    defaults = config.defaults
    if condition == "text":
        if text.model_type != "clip":
            message = f"condition = 'text' needs a CLIP text transformer, not {text.model_type!r}"
            raise recipe_error(message, hint='condition = "class" and "none" train other models')
        return config
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
    return replace(config, text_encoder=text, denoiser=unet, defaults=defaults)
