"""The networks of a model as graphs with open sizes, and diffusers' names of their arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from ldmref.backends.arguments import ArraySlot, Template
from ldmref.backends.base import Backend
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.layers import trace_layers
from ldmref.backends.graph.tracer import trace
from ldmref.families.auxiliary import describe_tiny
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import LatentScale, autoencoder_of
from ldmref.models.config import ModelConfig
from ldmref.models.control import control_of
from ldmref.models.declared import (
    BATCH,
    HEIGHT,
    WIDTH,
    CallSize,
    DeclaredNetwork,
    NetworkInput,
)
from ldmref.models.family import family_of
from ldmref.models.params import Params
from ldmref.models.residuals import list_arrays, map_residuals
from ldmref.models.taesd import TinyConfig

EXAMPLE = {  # open sizes
    "batch": 2,
    "timesteps": 2,
    "height": 16,
    "width": 16,
    "patches": 64,
    "tokens": 77,
    "references": 64,
}


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
    controlnets: Sequence[Any] = (),
    ids: str = "int64",
) -> list[NetworkExport]:
    """Return the networks of a model in the order in which a program needs them.

    Args:
        config: The model's configuration.
        tiny: The configuration of TAESD, if it replaces the model's autoencoder.
        controlnets: Configurations of ControlNets. With any of them, the denoiser takes their
            outputs.
        ids: The data type of token ids.
    """
    networks = declare_graphs(config)
    if tiny is not None:
        own = [network for network in networks if network.params != "vae"]
        networks = own + describe_tiny(tiny)
    found = []
    for network in networks:
        if network.params == config.denoiser.network:
            names = name_controlnets(len(controlnets))
            pairs = zip(names, controlnets, strict=True)
            found += [export_controlnet(name, net) for name, net in pairs]
        residuals = None
        control = family_of(config).control
        if network.params == config.denoiser.network and controlnets and control is not None:
            residuals = control.inputs(config)
        found.append(export_network(network, ids, residuals))
    return found


def declare_graphs(config: ModelConfig) -> list[DeclaredNetwork]:
    """Return the networks of a model as their graphs compute them."""
    networks = list(family_of(config).networks(config))
    if autoencoder_of(config.vae).scales is None:
        return [with_normalization(network) for network in networks]
    return networks


def with_normalization(network: DeclaredNetwork) -> DeclaredNetwork:
    """Return a decoder or an encoder that reads or returns the latents of the denoiser.

    It is for autoencoders whose latents are not z times one number, so that programs need not know
    how they are normalised. Other networks are returned as they are.
    """
    config = network.settings.get("config")
    if not isinstance(config, BaseAutoencoderConfig):
        return network
    kind = autoencoder_of(config)

    def decode(ops: Backend, p: Params, config: BaseAutoencoderConfig, z: Array) -> Array:
        return kind.decode(ops, p, config, LatentScale(ops, config, p).denormalize(z))

    def encode(
        ops: Backend, p: Params, config: BaseAutoencoderConfig, image: Array
    ) -> tuple[Array, Array]:
        scale = LatentScale(ops, config, p)
        mean, logvar = kind.encode(ops, p, config, image)
        deviation = scale.spread(ops.xp.exp(0.5 * logvar))
        return scale.normalize(mean), 2.0 * ops.xp.log(deviation)

    if network.function is kind.encode:
        return replace(network, function=encode)
    (latents,) = network.inputs
    latents = replace(latents, shape=(BATCH, config.latent_channels, HEIGHT, WIDTH))
    return replace(network, function=decode, inputs=(latents,))


def name_controlnets(count: int) -> list[str]:
    """Return the names of the folders of ControlNets: "controlnet", "controlnet_2", ..."""
    return ["controlnet" if i == 1 else f"controlnet_{i}" for i in range(1, count + 1)]


def export_network(
    network: DeclaredNetwork, ids: str = "int64", residuals: Any | None = None
) -> NetworkExport:
    """Return the export of a network.

    Args:
        network: The network.
        ids: The data type of token ids.
        residuals: The inputs of a denoiser for the outputs of ControlNets. None: it takes none.
    """
    taken = {x.argument: x for x in network.inputs}
    args: list[Any] = []
    needed = 0  # how many arguments have no default, or another value
    parameters = list(inspect.signature(network.function).parameters.values())[2:]
    for number, parameter in enumerate(parameters, 1):
        default = parameter.default
        if parameter.name in network.settings:
            args.append(network.settings[parameter.name])
        elif parameter.name in taken:
            args.append(ArraySlot.ARRAY)
        else:
            args.append(None if default is inspect.Parameter.empty else default)
            needed = number if default is inspect.Parameter.empty else needed
            continue
        needed = number
    args = args[:needed]
    inputs = list(network.inputs)
    if residuals is not None:
        inputs += list_arrays(residuals)
        for parameter in parameters[len(args) : network.arguments.index("control")]:
            args.append(None if parameter.default is parameter.empty else parameter.default)
        args.append(map_residuals(lambda x: ArraySlot.ARRAY, residuals))
    return NetworkExport(
        network.exported,
        network.params,
        network.function,
        Template(tuple(args)),
        tuple(graph_input(x, ids) for x in inputs),
        tuple(output.exported for output in network.outputs),
    )


INTEGERS = ("ids", "labels", "mask")  # the contents of inputs that hold whole numbers


def graph_input(x: NetworkInput, ids: str = "int64") -> GraphInput:
    """Return an input of a graph; its open sizes have the labels of the declaration."""
    dtype = np.dtype(ids if x.content in INTEGERS else np.float32)
    labels = {i: d.label or d.of for i, d in enumerate(x.shape) if isinstance(d, CallSize)}
    return GraphInput(x.exported or x.role, x.shape_at(EXAMPLE), dtype, labels)


def export_controlnet(name: str, net: object) -> NetworkExport:
    """Return the export of a ControlNet that takes its image instead of the features of it.

    One that reads latents of its image takes these.
    """
    *encoders, network = control_of(net).networks(net)
    for encoder in encoders:
        network = with_image(encoder, network)
    inputs = (
        replace(x, exported="controlnet_cond") if x.argument == "hint" else x
        for x in network.inputs
    )
    exported = export_network(replace(network, inputs=tuple(inputs)))
    return replace(exported, name=name, params=name)


def with_image(encoder: DeclaredNetwork, network: DeclaredNetwork) -> DeclaredNetwork:
    """Return a ControlNet whose hint is the image that an encoder reads, with its parameters."""
    signature = inspect.signature(network.function)
    (image,) = encoder.inputs
    sides = (d for d in image.shape[2:] if isinstance(d, CallSize))
    labelled = (side._replace(label=f"image_{side.of}") for side in sides)
    image = replace(image, shape=(*image.shape[:2], *labelled))

    @wraps(network.function)
    def run(*args: object, **kwargs: object) -> Any:
        call = signature.bind(*args, **kwargs)
        ops, p, *_ = call.args
        hint = call.arguments["hint"]
        call.arguments["hint"] = encoder.function(ops, p, hint, **encoder.settings)
        return network.function(*call.args, **call.kwargs)

    inputs = (image if x.argument == "hint" else x for x in network.inputs)
    return replace(network, function=run, inputs=tuple(inputs))
