"""The networks of a model as graphs with open sizes, and diffusers' names of their arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.backends.arguments import ArraySlot, Template
from ldmref.backends.base import Backend
from ldmref.backends.graph.graph import Graph, GraphInput
from ldmref.backends.graph.layers import trace_layers
from ldmref.backends.graph.tracer import trace
from ldmref.families.auxiliary import (
    describe_controlnet,
    describe_hint,
    describe_tiny,
    unet_residuals,
)
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.controlnet import ControlNetConfig, controlnet, encode_hint
from ldmref.models.declared import CallSize, DeclaredNetwork, NetworkInput
from ldmref.models.family import family_of
from ldmref.models.params import Params
from ldmref.models.taesd import TinyConfig
from ldmref.models.unet import Residuals

EXAMPLE = {"batch": 2, "timesteps": 2, "height": 16, "width": 16, "tokens": 77}  # open sizes


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
    networks = list(family_of(config).networks(config))
    if tiny is not None:
        own = [network for network in networks if network.params != "vae"]
        networks = own + describe_tiny(tiny)
    found = []
    for network in networks:
        if network.params == config.denoiser.network:
            names = name_controlnets(len(controlnets))
            pairs = zip(names, controlnets, strict=True)
            found += [export_controlnet(name, net) for name, net in pairs]
        controlled = network.params == config.denoiser.network and bool(controlnets)
        found.append(export_network(network, ids, controlled))
    return found


def name_controlnets(count: int) -> list[str]:
    """Return the names of the folders of ControlNets: "controlnet", "controlnet_2", ..."""
    return ["controlnet" if i == 1 else f"controlnet_{i}" for i in range(1, count + 1)]


def export_network(
    network: DeclaredNetwork, ids: str = "int64", controlled: bool = False
) -> NetworkExport:
    """Return the export of a network.

    Args:
        network: The network.
        ids: The data type of token ids.
        controlled: Whether it is a U-Net that takes the outputs of ControlNets.
    """
    taken = {x.argument: x for x in network.inputs}
    args: list[Any] = []
    for argument in network.arguments:
        if argument in network.settings:
            args.append(network.settings[argument])
        else:
            args.append(ArraySlot.ARRAY if argument in taken else None)
    parameters = list(inspect.signature(network.function).parameters.values())[2:]
    while args[-1] is None and parameters[len(args) - 1].default is not inspect.Parameter.empty:
        args.pop()
    inputs = list(network.inputs)
    if controlled:
        residuals = unet_residuals(network.settings["config"])
        inputs += residuals
        args += [None] * (network.arguments.index("control") - len(args))
        args.append(Residuals((ArraySlot.ARRAY,) * (len(residuals) - 1), ArraySlot.ARRAY))
    return NetworkExport(
        network.exported,
        network.params,
        network.function,
        Template(tuple(args)),
        tuple(graph_input(x, ids) for x in inputs),
        tuple(output.exported for output in network.outputs),
    )


def graph_input(x: NetworkInput, ids: str = "int64") -> GraphInput:
    """Return an input of a graph; its open sizes have the labels of the declaration."""
    dtype = np.dtype(ids if x.content in ("ids", "labels") else np.float32)
    labels = {i: d.label or d.of for i, d in enumerate(x.shape) if isinstance(d, CallSize)}
    return GraphInput(x.exported or x.role, x.shape_at(EXAMPLE), dtype, labels)


def export_controlnet(name: str, net: ControlNetConfig) -> NetworkExport:
    """Return the export of a ControlNet that takes its image instead of the features of it."""
    network = describe_controlnet(net)
    (image,) = describe_hint(net).inputs
    batch, channels, height, width = image.shape
    assert isinstance(height, CallSize) and isinstance(width, CallSize)
    sides = height._replace(label="image_height"), width._replace(label="image_width")
    image = replace(
        image, argument="image", shape=(batch, channels, *sides), exported="controlnet_cond"
    )
    inputs = tuple(image if x.argument == "hint" else x for x in network.inputs)
    exported = export_network(replace(network, function=run_controlnet, inputs=inputs))
    return replace(exported, name=name, params=name)


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
