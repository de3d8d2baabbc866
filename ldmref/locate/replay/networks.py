"""The network of a recorded call: ldmref's function, its parameters, the recorded arguments."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.families.auxiliary import auxiliary_networks
from ldmref.locate.recorded.arguments import RecordedArguments
from ldmref.locate.recorded.unfit import UNFIT, first_line
from ldmref.models.control import ControlNet
from ldmref.models.declared import HEIGHT, WIDTH, CallSize, DeclaredNetwork, NetworkInput
from ldmref.models.model import LatentDiffusion
from ldmref.models.residuals import weigh_residuals
from ldmref.ports.arguments import first_layers_of, names_of
from ldmref.ports.port import port_of
from ldmref.samplers.predictions import read_steering
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace


@dataclass(frozen=True)
class RecordedNetwork:
    """A network with the arguments of one call.

    Attributes:
        network: Its declaration.
        params: Its parameters.
        arguments: Configurations, and arrays: recorded, or NaN where they were not recorded.
        complete: Whether all arrays were recorded.
        assumed: The arguments that hold tokens or their mask and were not recorded: the former are
            NaN, and the latter hides nothing.
    """

    network: DeclaredNetwork
    params: Mapping[str, Any]
    arguments: Mapping[str, Any]
    complete: bool
    assumed: tuple[str, ...] = ()

    @property
    def function(self) -> Callable[..., Any]:
        """`function(ops, params, **arguments)`."""
        return self.network.function


def try_network(
    model: LatentDiffusion,
    port: Trace,
    call: TraceCall,
    controlnets: Sequence[ControlNet] = (),
    assume: bool = False,
) -> tuple[RecordedNetwork | None, str]:
    """Return the network of a call; or None, and why its recorded inputs do not fit each other.

    Args:
        model, port, call, controlnets, assume: As in `open_network`. What is assumed fits.

    Raises:
        UsageError: The model does not have such a network.
    """
    try:
        return open_network(model, port, call, controlnets, assume), ""
    except UsageError:
        raise
    except UNFIT as error:
        if assume:
            raise
        return None, first_line(error)


def find_wrong_axes(
    model: LatentDiffusion, port: Trace, call: TraceCall, controlnets: Sequence[ControlNet] = ()
) -> str:
    """Return which recorded input of a call has another number of axes than it is declared with.

    Some programs have other axes, so this explains what failed and refuses nothing. "": none has.

    Args:
        model, port, call, controlnets: As in `open_network`.
    """
    whole = port.find(call)
    network, _ = find_definition(model, port, call, controlnets)
    for x in (*network.inputs, *network.optional):
        known = {} if whole is None else whole.inputs
        role = next((name for name in names_of(network, x) if name in known), None)
        if whole is None or role is None:
            continue
        recorded = np.asarray(port.tensors[whole.inputs[role]])
        shape = np.shape(as_batch(x, with_one_width(x, recorded)))
        if len(shape) != len(x.shape) > 1 or len(shape) > len(x.shape):
            return f"its input {role!r} has the shape {shape}, and {len(x.shape)} axes are needed"
    return ""


def as_batch(x: NetworkInput, value: np.ndarray) -> np.ndarray:
    """Return an input with the axis of images, which ports of one image may not have.

    Latents (c, h, w) and those of a video of one image, (c, 1, h, w), become (1, c, h, w), and
    tokens (l, d) become (1, l, d), if their sizes are the declared ones.

    Args:
        x: The declaration of the input.
        value: What was recorded.
    """
    sizes = x.shape[1:]
    frames = value.ndim == len(x.shape) == 4 and value.shape[1] == 1 != sizes[0]
    one = value[:, 0] if frames else value
    known = [(size, n) for size, n in zip(sizes, one.shape, strict=False) if isinstance(size, int)]
    fits = known and one.ndim == len(sizes) and all(size == n for size, n in known)
    return one[None] if fits else value


def with_one_width(x: NetworkInput, value: np.ndarray) -> np.ndarray:
    """Return tokens whose hidden states of k layers have an axis of their own, side by side.

    Of images, tokens (n, l, k, d), (n, k, l, d) or (k, n, l, d) become (n, l, k d), if k d is the
    declared width, and those of one image, (l, k, d) or (k, l, d), become (l, k d).

    Args:
        x: The declaration of the input.
        value: What was recorded.
    """
    width = x.shape[-1]
    if not isinstance(width, int) or len(x.shape) != TOKEN_AXES or not value.size:
        return value
    if value.ndim not in (TOKEN_AXES, TOKEN_AXES + 1):
        return value
    layers, rest = divmod(width, value.shape[-1])
    if rest or layers == 1:
        return value
    for axis in reversed(range(value.ndim - 1)):  # that before the width is the usual one
        if value.shape[axis] == layers:
            moved = np.moveaxis(value, axis, -2)
            return moved.reshape(*moved.shape[:-2], width)
    return value


def passes_tokens(port: Trace, model: LatentDiffusion, call: TraceCall) -> bool:
    """Return whether a denoiser was given tokens (n, l, d) instead of latents (n, c, h, w).

    Pipelines of some families pass them, and so do ports that write the network alone.

    Args:
        port: The trace.
        model: The model that ran.
        call: The call.
    """
    whole = port.find(call)
    denoiser = model.denoiser
    if whole is None or call.network != denoiser.name or port_of(model.family).unpack is None:
        return False
    latents = denoiser.inputs[0]
    roles = [role for role in names_of(denoiser, latents) if role in whole.inputs]
    return any(np.ndim(port.tensors[whole.inputs[role]]) == TOKEN_AXES for role in roles)


def name_unknown_pipeline(port: Trace, model: LatentDiffusion) -> str:
    """Return the class of a recorded pipeline that is not known, if its latents are tokens.

    Other pipelines of the family may join further tokens to them. Those that pass latents as they
    are have known calls, whatever their class.

    Args:
        port: The trace.
        model: The model that ran.

    Returns:
        The name of the class; "" if its calls are known.
    """
    kind = port.manifest.get("pipeline")
    if not isinstance(kind, str) or kind in model.family.folders:
        return ""
    return "" if port_of(model.family).unpack is None else kind


def open_network(
    model: LatentDiffusion,
    port: Trace,
    call: TraceCall,
    controlnets: Sequence[ControlNet] = (),
    assume: bool = False,
) -> RecordedNetwork:
    """Return the network of a recorded call.

    Args:
        model: The model.
        port: The trace.
        call: The call.
        controlnets: The ControlNets of the run.
        assume: Whether all shapes are assumed, because the recorded ones do not fit each other.

    Raises:
        UsageError: The model does not have such a network.
    """
    network, params = find_definition(model, port, call, controlnets)
    whole = port.find(call)
    scale = None if whole is None else whole.attributes.get("conditioning_scale")
    if isinstance(scale, int | float) and scale != 1.0:
        network = replace(network, function=weigh_output(network.function, scale))
    found = RecordedArguments(port, call, model, assume)
    sizes = _CallSizes(network, found)
    arguments = dict(network.settings)
    sizes.note(network)
    for x in network.inputs:
        arguments[x.argument] = sizes.read(x)
    for x in network.optional:
        arguments[x.argument] = sizes.read(x, optional=True)
    if "control" in network.arguments:
        arguments["control"] = found.residuals(controlnets)
    if "skip" in network.arguments:
        arguments["skip"] = _clip_skip(found, network.settings["config"].num_hidden_layers)
    recorded = {} if whole is None else whole.attributes
    steering = tuple(read_steering(recorded))
    if steering and not network.find_unsteerable(steering):
        network = replace(network, function=network.steered)
        arguments["steering"] = steering
    return RecordedNetwork(network, params, arguments, found.complete, tuple(sizes.assumed))


def weigh_output(function: Callable[..., Any], scale: float) -> Callable[..., Any]:
    """Return a ControlNet whose output has a weight, as diffusers' networks apply it."""

    @wraps(function)
    def run(*args: object, **kwargs: object) -> Any:
        return weigh_residuals(scale, function(*args, **kwargs))

    return run


def find_definition(
    model: LatentDiffusion, port: Trace, call: TraceCall, controlnets: Sequence[ControlNet]
) -> tuple[DeclaredNetwork, Mapping[str, Any]]:
    """Return the declaration of a call's network, and its parameters.

    Raises:
        UsageError: The model does not have such a network.
    """
    kind = call.network
    config = model.config
    tiny = model.tiny_autoencoder
    networks = list(model.family.networks(config))
    owner: Mapping[str, Any] = model.params
    if kind.startswith("controlnet"):
        number = number_controlnet(port, call) % len(controlnets)
        net = controlnets[number].for_denoiser(model.params[config.denoiser.network])
        networks = auxiliary_networks(config, control=net.config)
        owner = {"controlnet": net.params}
    elif tiny is not None:
        networks += auxiliary_networks(config, tiny.config)
        without = {network.params: None for network in networks}
        owner = ChainMap({"tiny": tiny.params}, model.params, without)  # type: ignore[arg-type]
    for network in networks:
        if network.name == kind and network.params in owner:
            return network, owner[network.params]
    name = kind.partition(".")[0]
    message = f"the trace has the call {call!r}, and {config.name!r} has no {name}"
    raise UsageError(message, code="E-TRACE-MODEL", hint="choose the port's model: --model")


def number_controlnet(port: Trace, call: TraceCall) -> int:
    """Return which of several ControlNets a call is of, from 0, or a number that counts on.

    Ports may name them, `controlnet` and `controlnet_2`; otherwise they are called in turn.
    """
    if call.controlnet:
        return call.controlnet - 1
    return 0 if any(other.controlnet for other in port.calls) else call.number


TOKEN_AXES = 3  # images, tokens, channels
WHOLE_NUMBERS = ("ids", "labels", "mask")  # contents
LEAST_AXES = 2  # of what is no number of each image


class _CallSizes:
    """Reads the inputs of a call; the sizes of those that were not recorded follow the others."""

    def __init__(self, network: DeclaredNetwork, found: RecordedArguments):
        self.found = found
        self.network = network
        config = network.settings.get("config")
        config = getattr(config, "unet", config)
        self.levels = len(getattr(config, "block_out_channels", ()))
        self.known: dict[str, int] = {}
        self.assumed: list[str] = []
        self.ids: tuple[int, ...] = ()  # the shape of the tokens

    def note(self, network: DeclaredNetwork) -> None:
        """Note the sizes of all inputs that were recorded, for those that were not."""
        for x in network.inputs:
            value = self._recorded(x)
            if value is None or len(x.shape) == 1:
                continue
            if x.content in WHOLE_NUMBERS:
                self._note_sizes(x, np.asarray(value))
            else:
                self.read(x)
        first = network.inputs[0]
        output = self.found.whole_output() if network.numbered else None
        if output is not None and first.shape[2:] == (HEIGHT, WIDTH) and output.ndim == 4:
            channels_last = output.shape[1] != first.shape[1] == output.shape[3]
            rows, columns = output.shape[1:3] if channels_last else output.shape[2:]
            sizes = {"batch": len(output), "height": rows, "width": columns}
            self.known = sizes | self.known

    def read(self, x: NetworkInput, optional: bool = False) -> np.ndarray | None:
        """Return an input in the order of axes of ldmref; NaN if it was not recorded.

        Optional arrays and those of reference images that were not recorded are None: there were
        none.
        """
        value = self._recorded(x)
        if value is None and (optional or x.of_references):
            return None
        if value is None and x.content in ("ids", "mask"):
            self.assumed.append(x.argument)
        if value is None and x.content == "mask":  # what has no mask reads all tokens
            return np.ones(self.ids or x.shape_at(self._complete(x)), np.int64)
        if value is None:
            ids = x.content == "ids"
            shape = self.found.text_shape() if ids else None
            return self.found.missing(shape or x.shape_at(self._complete(x)))
        if x.content in WHOLE_NUMBERS:
            if x.content == "ids":
                self.ids = np.shape(value)
            return np.asarray(value, np.int64)
        if len(x.shape) == 1:  # a number of each image, or one of all
            value = np.asarray(value, np.float64).ravel()
            batch = self._sizes_of_images()["batch"]
            twice = x.content == "guidance" and value.size == 2 * batch
            if twice:  # a scale for each text of guidance in attention
                return value
            return np.array(np.broadcast_to(value, batch))
        if x.content == "sizes":
            value = np.asarray(value, np.float64)
        if value.ndim < LEAST_AXES:
            raise ValueError(f"its input {x.role!r} has the shape {value.shape}")
        channels = x.shape[1]
        if value.ndim == 4 and value.shape[1] != channels == value.shape[3]:
            value = value.transpose(0, 3, 1, 2)
        self._note_sizes(x, value)
        return value

    def _note_sizes(self, x: NetworkInput, value: np.ndarray) -> None:
        """Note the sizes of a recorded input, unless one before had others."""
        for axis, size in enumerate(x.shape):
            if isinstance(size, CallSize) and axis < value.ndim:
                self.known.setdefault(size.of, value.shape[axis] * size.over // size.times)

    def _recorded(self, x: NetworkInput) -> np.ndarray | None:
        """Return an input under one of its names, or as the first layers read it."""
        value = self.found.read(*names_of(self.network, x))
        for layer, role in first_layers_of(self.network, x):
            if value is None and role == "output":
                value = self.found.layer_output(layer)
            elif value is None:
                value = self.found.layer_input(layer, role)
        return None if value is None else as_batch(x, with_one_width(x, np.asarray(value)))

    def _complete(self, x: NetworkInput) -> Mapping[str, int]:
        """Return all sizes of the call; those that no input has are those of its layers."""
        self._sizes_of_images()
        tokens = self.found.length("attn2.to_k", "attn2.to_v")  # unless a text is read later
        return {"timesteps": self.known["batch"], "tokens": tokens} | self.known

    def _sizes_of_images(self) -> Mapping[str, int]:
        """Return the sizes that are known, with the number of images, their height and width."""
        if not {"batch", "height", "width"} <= self.known.keys():
            side = self.found.model.config.denoiser.side_multiple  # of one token
            n, h, w = self.found.batch_and_size(self.levels) if self.levels else (1, side, side)
            self.known = {"batch": n, "height": h, "width": w} | self.known
        return self.known


def _clip_skip(found: RecordedArguments, layers: int) -> int:
    """Return how many layers the port leaves out of a text encoder with so many."""
    asked = (found.port.manifest.get("params") or {}).get("clip_skip")
    entry = found.port.find(found.call)
    asked = asked if entry is None else entry.attributes.get("clip_skip", asked)
    return asked if isinstance(asked, int) and 0 < asked < layers else 0
