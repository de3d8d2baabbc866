"""The networks of a model as graphs with open sizes, and diffusers' names of their arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.backends.arguments import ArraySlot, Template
from ldmref.backends.base import Backend
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.layers import trace_layers
from ldmref.backends.graph.tracer import trace
from ldmref.math.arrays import Array
from ldmref.models.autoencoder import decode, encode
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig, UNetConfig
from ldmref.models.controlnet import ControlNetConfig, controlnet, encode_hint
from ldmref.models.params import Params
from ldmref.models.rescaler import rescaler
from ldmref.models.taesd import TinyConfig, tiny_decode, tiny_encode
from ldmref.models.text import text_encoder, text_encoder_pooled
from ldmref.models.unet import Residuals, unet

IMAGE = {0: "batch", 2: "height", 3: "width"}
CELLS = 16  # an example of a size that stays open
# of the arrays that a ControlNet returns and the U-Net takes, as diffusers calls them
DOWN_OUTPUT = "down_block_res_samples"
MID_OUTPUT = "mid_block_res_sample"
DOWN_INPUT = "down_block_additional_residuals"
MID_INPUT = "mid_block_additional_residual"


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

    def trace(self, params: Mapping[str, Any], layers: bool = False) -> Graph:
        """Return its graph with these parameters, host arrays.

        Args:
            params: The parameters.
            layers: Whether tensors and nodes are called as the layers that compute them.
        """
        run = trace_layers if layers else trace
        return run(self.function, params, self.template, self.inputs, self.outputs)


def list_networks(
    config: ModelConfig,
    tiny: TinyConfig | None = None,
    controlnets: Sequence[ControlNetConfig] = (),
    ids: str = "int64",
) -> list[NetworkExport]:
    """Return the networks of a model in the order in which a program needs them.

    Args:
        config: The model's configuration.
        tiny: The configuration of TAESD, if it replaces the model's autoencoder.
        controlnets: Configurations of ControlNets. With any of them, the U-Net takes their outputs.
        ids: The data type of token ids.
    """
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    networks = [_describe_text_encoder(name, text, ids) for name, text in encoders]
    for name, net in zip(name_controlnets(len(controlnets)), controlnets, strict=True):
        networks.append(_describe_controlnet(name, net, config))
    networks.append(_describe_unet(config, bool(controlnets)))
    if config.segmentation_classes:
        networks.append(_describe_rescaler(config))
    return networks + (_describe_tiny(tiny) if tiny else _describe_autoencoder(config))


def _floats(name: str, shape: tuple[int, ...], open_axes: Mapping[int, str]) -> GraphInput:
    return GraphInput(name, shape, np.dtype(np.float32), open_axes)


def _describe_text_encoder(name: str, config: TextConfig, ids: str) -> NetworkExport:
    shape = (1, config.max_position_embeddings)
    inputs = (GraphInput("input_ids", shape, np.dtype(ids), {0: "batch"}),)
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


def _describe_unet(config: ModelConfig, controlled: bool = False) -> NetworkExport:
    inputs = _list_unet_inputs(config.unet, config)
    args = _slots(inputs)
    if controlled:
        residuals = _list_residuals(config.unet)
        inputs += residuals
        args.append(Residuals((ArraySlot.ARRAY,) * (len(residuals) - 1), ArraySlot.ARRAY))
    template = Template((config.unet, *args))
    return NetworkExport("unet", "unet", unet, template, tuple(inputs), ("out_sample",))


def _list_unet_inputs(unet_config: UNetConfig, config: ModelConfig) -> list[GraphInput]:
    """List the inputs that a U-Net and a ControlNet share."""
    inputs = [
        _floats("sample", (2, unet_config.in_channels, CELLS, CELLS), IMAGE),
        _floats("timestep", (2,), {0: "timesteps"}),  # one for each image, or one for all
    ]
    if unet_config.cross_attention_dim and config.text_encoders:
        shape = (2, config.text_encoder.max_position_embeddings, unet_config.cross_attention_dim)
        axes = {0: "batch", 1: "sequence_length"}
        inputs.append(_floats("encoder_hidden_states", shape, axes))
    if unet_config.addition_embed_type:
        sizes = 6 * unet_config.addition_time_embed_dim
        width = unet_config.projection_class_embeddings_input_dim - sizes
        inputs.append(_floats("text_embeds", (2, width), {0: "batch"}))
        inputs.append(_floats("time_ids", (2, 6), {0: "batch"}))
    return inputs


def _slots(inputs: Sequence[GraphInput]) -> list[Any]:
    """Return the arguments of a U-Net after its configuration, None for those it does not take."""
    order = ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids")
    names = {x.name for x in inputs}
    return [ArraySlot.ARRAY if name in names else None for name in order]


def _list_residuals(config: UNetConfig) -> list[GraphInput]:
    """List the inputs for the outputs of ControlNets: one for each skip connection, and the mid."""
    last = len(config.block_out_channels) - 1
    skips = [(config.block_out_channels[0], 0)]
    for level, channels in enumerate(config.block_out_channels):
        skips += [(channels, level)] * config.layers_per_block
        skips += [(channels, level + 1)] * (level < last)

    def describe(name: str, channels: int, level: int) -> GraphInput:
        side = CELLS >> level
        suffix = f"_{2**level}" if level else ""
        axes = {0: "batch", 2: f"height{suffix}", 3: f"width{suffix}"}
        return _floats(name, (2, channels, side, side), axes)

    down = [describe(f"{DOWN_INPUT}.{i}", *skip) for i, skip in enumerate(skips)]
    return [*down, describe(MID_INPUT, config.block_out_channels[last], last)]


def name_controlnets(count: int) -> list[str]:
    """Return the names of the folders of ControlNets: "controlnet", "controlnet_2", ..."""
    return ["controlnet" if i == 1 else f"controlnet_{i}" for i in range(1, count + 1)]


def _describe_controlnet(name: str, net: ControlNetConfig, config: ModelConfig) -> NetworkExport:
    inputs = _list_unet_inputs(net.unet, config)
    args = _slots(inputs)
    side = CELLS * net.factor
    axes = {0: "batch", 2: "image_height", 3: "image_width"}
    image = _floats("controlnet_cond", (2, net.conditioning_channels, side, side), axes)
    before = 3 if args[2] is not None else 2
    inputs.insert(before, image)
    template = Template((net, *args[:3], ArraySlot.ARRAY, *args[3:]))
    count = len(_list_residuals(net.unet)) - 1
    outputs = (*(f"{DOWN_OUTPUT}.{i}" for i in range(count)), MID_OUTPUT)
    return NetworkExport(name, name, run_controlnet, template, tuple(inputs), outputs)


def run_controlnet(
    ops: Backend,
    p: Params,
    config: ControlNetConfig,
    x: Array,
    t: Array,
    context: Array | None,
    image: Array,
    pooled: Array | None = None,
    sizes: Array | None = None,
) -> Residuals:
    """Compute the outputs of a ControlNet from its image, (n, 3, H, W) in [0, 1]."""
    hint = encode_hint(ops, p, image)
    return controlnet(ops, p, config, x, t, context, hint, pooled, sizes)


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
