"""Auxiliary networks, used in addition to a model: TAESD, ControlNets, a classifier."""

from __future__ import annotations

from functools import partial

from ldmref.families.latent_diffusion import coder_pair, unet_inputs, unet_settings
from ldmref.models.classifier import ClassifierConfig, classifier, classifier_spec
from ldmref.models.config import ModelConfig
from ldmref.models.controlnet import ControlNetConfig, controlnet, controlnet_spec, encode_hint
from ldmref.models.declared import (
    BATCH,
    HEIGHT,
    WIDTH,
    CallSize,
    DeclaredNetwork,
    NetworkInput,
    NetworkOutput,
)
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.taesd import TinyConfig, tiny_decode, tiny_encode, tiny_spec


def auxiliary_networks(
    config: ModelConfig, tiny: TinyConfig | None = None, control: ControlNetConfig | None = None
) -> list[DeclaredNetwork]:
    """Return the networks that a run may use in addition to its model: TAESD, a ControlNet.

    Only a U-Net takes a ControlNet.

    Args:
        config: The model's configuration.
        tiny, control: Their configurations. None: those that fit the model.
    """
    if not isinstance(config.denoiser, UNetConfig):
        return describe_tiny(tiny or TinyConfig())
    net = control or ControlNetConfig(unet=config.unet)
    return [*describe_tiny(tiny or TinyConfig()), describe_hint(net), describe_controlnet(net)]


def unet_residuals(config: UNetConfig) -> list[NetworkInput]:
    """Return what ControlNets add to a U-Net: one array for each skip connection, and the middle.

    >>> from ldmref.models import preset
    >>> [x.role for x in unet_residuals(preset("sd15").unet)][-2:]
    ['control.down.11', 'control.mid']
    """
    last = len(config.block_out_channels) - 1
    skips = [(config.block_out_channels[0], 0)]
    for level, channels in enumerate(config.block_out_channels):
        skips += [(channels, level)] * config.layers_per_block
        skips += [(channels, level + 1)] * (level < last)

    def describe(name: str, exported: str, channels: int, level: int) -> NetworkInput:
        suffix = f"_{2**level}" if level else ""
        height = CallSize("height", over=2**level, label=f"height{suffix}")
        width = CallSize("width", over=2**level, label=f"width{suffix}")
        shape = (BATCH, channels, height, width)
        return NetworkInput("control", name, shape, exported=exported)

    down = "down_block_additional_residuals"
    inputs = [describe(f"control.down.{i}", f"{down}.{i}", *skip) for i, skip in enumerate(skips)]
    mid = "mid_block_additional_residual"
    return [*inputs, describe("control.mid", mid, config.block_out_channels[last], last)]


def describe_controlnet(net: ControlNetConfig) -> DeclaredNetwork:
    """Return a ControlNet, whose image was encoded before."""
    inputs = unet_inputs(net.unet)
    hint = NetworkInput(
        "hint",
        "hint",
        (BATCH, net.unet.block_out_channels[0], HEIGHT, WIDTH),
        case="controlnet_cond",
        layers=(("controlnet_cond_embedding", "output"),),
    )
    before = [x.argument for x in inputs].index("t") + 1
    before += any(x.argument == "context" for x in inputs)
    inputs.insert(before, hint)
    residuals = unet_residuals(net.unet)
    down = [
        NetworkOutput(f"down.{i}", f"down_block_res_samples.{i}") for i in range(len(residuals) - 1)
    ]
    return DeclaredNetwork(
        "controlnet",
        "controlnet",
        "ControlNet",
        controlnet,
        partial(controlnet_spec, net),
        unet_settings(net, net.unet),
        tuple(inputs),
        (*down, NetworkOutput("mid", "mid_block_res_sample")),
        "controlnet",
        numbered=True,
    )


def describe_hint(net: ControlNetConfig) -> DeclaredNetwork:
    """Return the encoder of a ControlNet's image."""
    sides = (CallSize("height", net.factor), CallSize("width", net.factor))
    hint = NetworkInput(
        "hint",
        "hint",
        (BATCH, net.conditioning_channels, *sides),
        "hint",
        case="controlnet_cond",
        also=("input", "0"),
    )
    return DeclaredNetwork(
        "controlnet.hint",
        "controlnet",
        "encoder of a ControlNet's image",
        encode_hint,
        partial(controlnet_spec, net),
        {},
        (hint,),
        (NetworkOutput("", "features"),),
    )


def describe_tiny(config: TinyConfig) -> list[DeclaredNetwork]:
    """Return TAESD's decoder and encoder."""
    return coder_pair(
        "taesd",
        (tiny_decode, tiny_encode),
        ("TAESD's decoder", "TAESD's encoder"),
        partial(tiny_spec, config),
        {},
        (config.latent_channels, config.in_channels, config.factor),
        "latents",
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
