"""The networks of a model as graphs with open sizes, and diffusers' names of their arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.backends.arguments import ArraySlot, Template
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.tracer import trace
from ldmref.models.autoencoder import decode, encode
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.rescaler import rescaler
from ldmref.models.taesd import TinyConfig, tiny_decode, tiny_encode
from ldmref.models.text import text_encoder, text_encoder_pooled
from ldmref.models.unet import unet

IMAGE = {0: "batch", 2: "height", 3: "width"}
CELLS = 16  # an example of a size that stays open


@dataclass(frozen=True)
class NetworkExport:
    """A network to export: its definition, and its arguments after the parameters.

    Args:
        name: Name of its folder.
        params: Name of its parameters in the model.
        function: Its definition, a function of `(ops, p, ...)`.
        template: Its arguments, with the place of each array.
        inputs: The arrays that it takes.
        outputs: Names of the arrays that it returns.
    """

    name: str
    params: str
    function: Callable
    template: Template
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]

    def trace(self, params: Mapping[str, Any]) -> Graph:
        """Return its graph with these parameters, host arrays."""
        return trace(self.function, params, self.template, self.inputs, self.outputs)


def list_networks(config: ModelConfig, tiny: TinyConfig | None = None) -> list[NetworkExport]:
    """Return the networks of a model in the order in which a program needs them.

    Args:
        config: The model's configuration.
        tiny: The configuration of TAESD, if it replaces the model's autoencoder.
    """
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    networks = [_describe_text_encoder(name, text) for name, text in encoders]
    networks.append(_describe_unet(config))
    if config.segmentation_classes:
        networks.append(_describe_rescaler(config))
    return networks + (_describe_tiny(tiny) if tiny else _describe_autoencoder(config))


def _floats(name: str, shape: tuple[int, ...], open_axes: Mapping[int, str]) -> GraphInput:
    return GraphInput(name, shape, np.dtype(np.float32), open_axes)


def _describe_text_encoder(name: str, config: TextConfig) -> NetworkExport:
    ids = (1, config.max_position_embeddings)
    inputs = (GraphInput("input_ids", ids, np.dtype(np.int64), {0: "batch"}),)
    pooled = bool(config.projection_dim)
    states = "hidden_states" if pooled else "last_hidden_state"
    return NetworkExport(
        name,
        name,
        text_encoder_pooled if pooled else text_encoder,
        Template((config, ArraySlot.ARRAY)),
        inputs,
        (states, "text_embeds") if pooled else (states,),
    )


def _describe_unet(config: ModelConfig) -> NetworkExport:
    unet_config = config.unet
    inputs = [
        _floats("sample", (2, unet_config.in_channels, CELLS, CELLS), IMAGE),
        _floats("timestep", (2,), {0: "timesteps"}),  # one for each image, or one for all
    ]
    args: list[Any] = [unet_config, ArraySlot.ARRAY, ArraySlot.ARRAY, None]
    if unet_config.cross_attention_dim and config.text_encoders:
        shape = (2, config.text_encoder.max_position_embeddings, unet_config.cross_attention_dim)
        axes = {0: "batch", 1: "sequence_length"}
        inputs.append(_floats("encoder_hidden_states", shape, axes))
        args[3] = ArraySlot.ARRAY
    if unet_config.addition_embed_type:
        sizes = 6 * unet_config.addition_time_embed_dim
        width = unet_config.projection_class_embeddings_input_dim - sizes
        inputs.append(_floats("text_embeds", (2, width), {0: "batch"}))
        inputs.append(_floats("time_ids", (2, 6), {0: "batch"}))
        args += [ArraySlot.ARRAY, ArraySlot.ARRAY]
    outputs = ("out_sample",)
    return NetworkExport("unet", "unet", unet, Template(tuple(args)), tuple(inputs), outputs)


def _describe_autoencoder(config: ModelConfig) -> list[NetworkExport]:
    vae = config.vae
    template = Template((vae, ArraySlot.ARRAY))
    latents = _floats("latent_sample", (1, vae.latent_channels, CELLS, CELLS), IMAGE)
    images = _floats("sample", (1, vae.in_channels, CELLS * vae.factor, CELLS * vae.factor), IMAGE)
    moments = ("latent_sample", "latent_logvar")
    return [
        NetworkExport("vae_decoder", "vae", decode, template, (latents,), ("sample",)),
        NetworkExport("vae_encoder", "vae", encode, template, (images,), moments),
    ]


def _describe_tiny(config: TinyConfig) -> list[NetworkExport]:
    template = Template((ArraySlot.ARRAY,))
    latents = _floats("latent_sample", (1, config.latent_channels, CELLS, CELLS), IMAGE)
    size = CELLS * config.factor
    images = _floats("sample", (1, config.in_channels, size, size), IMAGE)
    outputs = ("latent_sample",)
    return [
        NetworkExport("vae_decoder", "tiny", tiny_decode, template, (latents,), ("sample",)),
        NetworkExport("vae_encoder", "tiny", tiny_encode, template, (images,), outputs),
    ]


def _describe_rescaler(config: ModelConfig) -> NetworkExport:
    side = CELLS * config.vae.factor
    maps = _floats("onehot", (1, config.segmentation_classes, side, side), IMAGE)
    template = Template((ArraySlot.ARRAY, config.vae.factor))
    return NetworkExport("cond_stage", "cond_stage", rescaler, template, (maps,), ("sample",))
