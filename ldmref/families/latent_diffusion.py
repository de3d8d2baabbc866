"""The networks of latent diffusion with a U-Net: Stable Diffusion 1, 2 and XL, LDM, and our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.base import Backend
from ldmref.families.unet import UNET_CONTROL, describe_unet
from ldmref.io.compvis.unet_file import UNET_FILES
from ldmref.io.compvis.whole_file import WHOLE_FILE
from ldmref.io.diffusers.folder import STABLE_DIFFUSION, read_stable_diffusion
from ldmref.io.diffusers.ldm import LDM_PIPELINES, read_ldm_config
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
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
from ldmref.models.family import (
    BLOCK_LAYERS,
    Family,
    LoraRules,
    TextPath,
    Work,
)
from ldmref.models.flops import count_unet_flops
from ldmref.models.memory import count_unet_activations
from ldmref.models.presets import PRESETS
from ldmref.models.rescaler import rescaler, rescaler_spec
from ldmref.models.text import text_encoder, text_encoder_pooled, text_spec
from ldmref.models.text_kind import kind_of
from ldmref.models.validate import broken_latent_diffusion_rules

LORA_TARGETS = BLOCK_LAYERS | {
    "projections": (".proj_in", ".proj_out"),
    "convolutions": (".conv1", ".conv2", ".conv_shortcut", "samplers.0.conv"),
}


def networks_of(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model, in the order in which a program needs them.

    >>> from ldmref.models import preset
    >>> [network.name for network in networks_of(preset("sdxl"))]
    ['text_encoder', 'text_encoder_2', 'unet', 'vae.decode', 'vae.encode']
    """
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    networks = [describe_text_encoder(name, text) for name, text in encoders]
    networks.append(describe_unet(config.unet))
    if config.segmentation_classes:
        networks.append(describe_rescaler(config))
    return networks + describe_autoencoder(config.vae)


def describe_text_encoder(name: str, config: TextConfig) -> DeclaredNetwork:
    """Return the declaration of a text encoder.

    Args:
        name: Its name, "text_encoder", "text_encoder_2" or "text_encoder_3".
        config: Its configuration.

    Returns:
        The network, with a pooled output if the configuration has a projection.

    >>> from ldmref.models import TextConfig
    >>> [x.role for x in describe_text_encoder("text_encoder", TextConfig()).outputs]
    ['']
    """
    pooled = bool(config.projection_dim)
    ids = NetworkInput(
        "ids",
        "input_ids",
        (BATCH, config.max_position_embeddings),
        "ids",
        below=config.vocab_size,
    )
    mask = NetworkInput(
        "mask",
        "attention_mask",
        (BATCH, config.max_position_embeddings),
        "mask",
    )
    states = NetworkOutput("", "hidden_states" if pooled else "last_hidden_state")
    return DeclaredNetwork(
        name,
        name,
        "text encoder with pooled output" if pooled else f"text encoder ({config.model_type})",
        text_encoder_pooled if pooled else text_encoder,
        partial(text_spec, config),
        {"config": config},
        (ids, mask) if config.use_attention_mask else (ids,),
        (states, NetworkOutput("pooled", "text_embeds")) if pooled else (states,),
        name,
        ignored=kind_of(config).ignored,
    )


def describe_autoencoder(vae: BaseAutoencoderConfig) -> list[DeclaredNetwork]:
    """Return the decoder and the encoder of an autoencoder.

    Args:
        vae: Its configuration.

    Returns:
        `vae.decode` and `vae.encode`.

    >>> from ldmref.models import AutoencoderConfig
    >>> [network.name for network in describe_autoencoder(AutoencoderConfig())]
    ['vae.decode', 'vae.encode']
    """
    kind = autoencoder_of(vae)
    if kind.networks is not None:
        return list(kind.networks(vae))
    return coder_pair(
        "vae",
        (f"decoder of a {kind.title}", kind.decode),
        (f"encoder of a {kind.title}", kind.encode),
        partial(kind.spec, vae),
        {"config": vae},
        CoderSizes(vae.latent_channels // vae.patch**2, vae.in_channels, vae.factor, vae.patch),
        (NetworkOutput("mean", "latent_sample"), NetworkOutput("logvar", "latent_logvar")),
    )


class CoderSizes(NamedTuple):
    """Sizes of what a pair of coders reads.

    Attributes:
        latent_channels: Channels of what is decoded.
        image_channels: Channels of images.
        factor: Pixels per latent cell, along a side.
        patch: Cells that are decoded for each latent cell, along a side.
        latents: The argument of the decoder.
    """

    latent_channels: int
    image_channels: int
    factor: int
    patch: int = 1
    latents: str = "z"


def coder_pair(
    name: str,
    decoder: tuple[str, Callable[..., Any]],
    encoder: tuple[str, Callable[..., Any]],
    spec: Callable[[], Any],
    settings: dict[str, Any],
    sizes: CoderSizes,
    encoded: Sequence[NetworkOutput],
) -> list[DeclaredNetwork]:
    """Return a decoder and an encoder, each given by its description and its function."""
    rows, columns = (side._replace(times=sizes.patch) for side in (HEIGHT, WIDTH))
    latent_input = NetworkInput(
        sizes.latents,
        "latents",
        (BATCH, sizes.latent_channels, rows, columns),
        exported="latent_sample",
    )
    sides = (CallSize("height", sizes.factor), CallSize("width", sizes.factor))
    image = NetworkInput(
        "image",
        "image",
        (BATCH, sizes.image_channels, *sides),
        "image",
        exported="sample",
    )
    params = "tiny" if name == "taesd" else name
    return [
        DeclaredNetwork(
            f"{name}.decode",
            params,
            *decoder,
            spec,
            settings,
            (latent_input,),
            (NetworkOutput("", "sample"),),
            "vae_decoder",
            layers=("decoder", "post_quant_conv"),
        ),
        DeclaredNetwork(
            f"{name}.encode",
            params,
            *encoder,
            spec,
            settings,
            (image,),
            tuple(encoded),
            "vae_encoder",
            layers=("encoder", "quant_conv"),
        ),
    ]


def describe_rescaler(config: ModelConfig) -> DeclaredNetwork:
    """Return the encoder of a model's segmentation maps."""
    factor = config.vae.factor
    sides = (CallSize("height", factor), CallSize("width", factor))
    onehot = NetworkInput(
        "onehot",
        "onehot",
        (BATCH, config.segmentation_classes, *sides),
        "classes",
    )
    return DeclaredNetwork(
        "cond_stage",
        "cond_stage",
        "encoder of segmentation maps",
        rescaler,
        partial(rescaler_spec, config),
        {"factor": factor},
        (onehot,),
        (NetworkOutput("", "sample"),),
        "cond_stage",
    )


def condition_on_text(
    ops: Backend, config: ModelConfig, states: Array, pooled: Array | None, size: tuple[int, int]
) -> Conditioning:
    """Return the conditioning of a U-Net; SDXL also reads pooled text and the image's size."""
    assert isinstance(config.denoiser, UNetConfig)
    if not config.denoiser.addition_embed_type:
        return Conditioning(states)
    width, height = size
    row = np.asarray([[height, width, 0, 0, height, width]], np.float64)
    sizes = ops.asarray(np.repeat(row, states.shape[0], axis=0), ops.state_dtype)
    return Conditioning(states, pooled, sizes)


PIPELINES: dict[str, Callable[[Path, Mapping[str, Any]], ModelConfig]] = {
    **dict.fromkeys(STABLE_DIFFUSION, read_stable_diffusion),
    **dict.fromkeys(LDM_PIPELINES, read_ldm_config),
}
LATENT_DIFFUSION = Family(
    "latent-diffusion",
    UNetConfig,
    networks_of,
    Work(count_unet_flops, count_unet_activations),
    broken_rules=broken_latent_diffusion_rules,
    text=TextPath(condition=condition_on_text),
    control=UNET_CONTROL,
    presets=PRESETS,
    files=(*UNET_FILES, WHOLE_FILE),
    folders=PIPELINES,
    lora=LoraRules(LORA_TARGETS),
)
"""The family of latent diffusion with a U-Net."""
