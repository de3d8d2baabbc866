"""Auxiliary networks, used in addition to a model: TAESD, ControlNets, a classifier."""

from __future__ import annotations

from functools import partial
from typing import Any

from ldmref.families.latent_diffusion import CoderSizes, coder_pair
from ldmref.families.unet import unet_inputs
from ldmref.models.classifier import ClassifierConfig, classifier, classifier_spec
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork, NetworkOutput
from ldmref.models.family import family_of
from ldmref.models.taesd import TinyConfig, tiny_decode, tiny_encode, tiny_spec


def auxiliary_networks(
    config: ModelConfig, tiny: TinyConfig | None = None, control: Any | None = None
) -> list[DeclaredNetwork]:
    """Return the networks that a run may use in addition to its model: TAESD, a ControlNet.

    Args:
        config: The model's configuration.
        tiny, control: Their configurations. None: those that fit the model.
    """
    networks = describe_tiny(tiny or TinyConfig())
    declared = family_of(config).control
    if declared is not None:
        networks += declared.networks(control or declared.default(config))
    return networks


def describe_tiny(config: TinyConfig) -> list[DeclaredNetwork]:
    """Return TAESD's decoder and encoder."""
    return coder_pair(
        "taesd",
        ("TAESD's decoder", tiny_decode),
        ("TAESD's encoder", tiny_encode),
        partial(tiny_spec, config),
        {},
        CoderSizes(config.latent_channels, config.in_channels, config.factor, latents="latents"),
        (NetworkOutput("", "latent_sample"),),
    )


def describe_classifier(config: ClassifierConfig) -> DeclaredNetwork:
    """Return a classifier of noisy latents, which guides a run from outside."""
    return DeclaredNetwork(
        "classifier",
        "classifier",
        "classifier of noisy latents",
        classifier,
        partial(classifier_spec, config),
        {"config": config},
        tuple(unet_inputs(config.unet)),
        (NetworkOutput("", "logits"),),
    )
