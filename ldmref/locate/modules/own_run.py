"""Run the first step of the original's pipeline, with the port's states from its text encoders.

The pipeline is asked for what the port was asked for, in float64. The port's networks should have
been given what this pipeline gives to its networks: tokens, masks, and the hidden states that it
selects. A text encoder returns what the port's encoder made of the tokens and the mask that the
port gave it, so a wrong mask, or a wrong layer of the encoder, does not change what follows it.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldmref.locate.modules.arrays import read_recorded, to_tensor
from ldmref.locate.modules.exact_run import Widened
from ldmref.locate.modules.formats import default_format
from ldmref.locate.modules.repeated import NetworkCopies
from ldmref.locate.modules.replay import ModuleReplay
from ldmref.locate.replay.points import FollowedRun, Point
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace
from ldmref.trace.recording import recording
from ldmref.trace.selection import Selection
from ldmref.trace.torch_operations import name_arguments
from ldmref.trace.torch_values import find_tensors, replace_tensors

ENCODER = "text_encoder"  # begins the names of those of a pipeline
SEED = 0  # of noise, which is not compared
NO_LAYER = "-"  # a pattern that no layer has

OutputChange = Callable[[Any], Any]


class FirstStepEnded(BaseException):
    """Ends a pipeline's run when its first step begins; no code of a pipeline catches it."""


@dataclass(frozen=True)
class EncoderCall:
    """A call of a text encoder by the original's pipeline, with what the port gave to its own.

    Attributes:
        arguments: The arguments by name, as far as they were recorded those of the port.
        hooks: What the pipeline lets run after layers, by their paths.
    """

    arguments: Mapping[str, Any]
    hooks: tuple[tuple[str, Callable[..., Any]], ...]


class OwnRun:
    """Runs of the first step of a pipeline, as a port was asked for it.

    Args:
        pipe: The pipeline, which is copied.
        networks: Its networks by name.
        port: The trace of the port.
        request: The arguments of the pipeline's call.

    Attributes:
        encoders: The calls of text encoders by the names of the port's calls.
        settings: By name and number of a call: the arguments of each layer that are not tensors.
        foreign: The encoders that did not answer with the port's states.
    """

    def __init__(
        self,
        pipe: Any,
        networks: Mapping[str, NetworkCopies],
        port: Trace,
        request: Mapping[str, Any],
    ):
        self.pipe = pipe
        self.networks = networks
        self.port = port
        self.request = request
        self.encoders: dict[str, EncoderCall] = {}
        self.foreign: set[str] = set()
        self.settings: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        self._answers: dict[tuple[str, int], Any] = {}
        self._calls: Counter[str] = Counter()
        self._change: OutputChange = lambda output: output
        self._inside = False
        self._hooks: list[tuple[str, Callable[..., Any]]] = []  # those of the recording

    def record(self, change: OutputChange | None = None, layers: Collection[str] = ()) -> Trace:
        """Return the trace of what the networks were given, until the first step ends.

        Args:
            change: Returns another output of a text encoder. None: nothing is changed.
            layers: The layers to record, in addition to what whole networks are given.
        """
        self._change = change or (lambda output: output)
        self._calls.clear()
        if layers:  # of networks that must run again
            kept = {key: x for key, x in self._answers.items() if key[0].startswith(ENCODER)}
            self._answers = kept
        selection = Selection(layers=(*layers, NO_LAYER), optional=True)
        made = copy.copy(self.pipe)
        for name, copies in self.networks.items():
            vars(made)[name] = copies.exact.network
        scheduler = getattr(made, "scheduler", None)
        if scheduler is not None:
            vars(made)["scheduler"] = _ending(scheduler)
        if hasattr(made, "set_progress_bar_config"):
            made.set_progress_bar_config(disable=True)
        request = copy.deepcopy(dict(self.request))  # pipelines change lists
        generator = torch.Generator().manual_seed(SEED)
        dtype = next(iter(self.networks.values())).dtype
        with (
            self._answering(),
            warnings.catch_warnings(action="ignore"),  # that the run was not recorded to its end
            recording(made, selection=selection) as run,
        ):
            networks = [x.exact.network for x in self.networks.values()]
            self._hooks = [pair for network in networks for pair in _hooks_of(network)]
            try:
                with torch.no_grad(), default_format(torch.float32), Widened(dtype):
                    made(**request, generator=generator)
            except FirstStepEnded:
                pass
        return run.trace

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Let networks answer as they did before, and text encoders with the port's states."""
        replaced = []
        try:
            for name, copies in self.networks.items():
                network = copies.exact.network
                replaced.append((network, vars(network).get("forward")))
                network.forward = self._answer(name, copies, network.forward)
            yield
        finally:
            for network, forward in replaced:
                if forward is None:
                    del network.forward
                else:
                    network.forward = forward

    def _answer(
        self, name: str, copies: NetworkCopies, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        def answer(*args: object, **kwargs: object) -> Any:
            if self._inside:
                return forward(*args, **kwargs)
            key = name, self._calls[name]
            self._calls[name] += 1
            is_encoder = name.startswith(ENCODER)
            if key not in self._answers:
                if is_encoder:
                    self._answers[key] = self._port_states(key, copies, forward, args, kwargs)
                else:
                    with self._noting(key, copies.exact.network):
                        self._answers[key] = forward(*args, **kwargs)
            found = self._answers[key]
            return self._change(copy.copy(found)) if is_encoder else found

        return answer

    @contextmanager
    def _noting(self, key: tuple[str, int], network: torch.nn.Module) -> Iterator[None]:
        """Note the arguments of layers that are not tensors, which recordings do not have."""
        found = self.settings[key] = {}

        def note(path: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                named = name_arguments(module, args, kwargs)
                plain = {name: x for name, x in named.items() if x is None or is_plain(x)}
                found.setdefault(path, plain)

            return hook

        with ExitStack() as stack:
            for path, part in network.named_modules():
                if path:
                    handle = part.register_forward_pre_hook(note(path), with_kwargs=True)
                    stack.callback(handle.remove)
            yield

    def _port_states(
        self,
        key: tuple[str, int],
        copies: NetworkCopies,
        forward: Callable[..., Any],
        args: tuple,
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Return the output of a text encoder with the states that the port recorded."""
        call = find_call(self.port, *key)
        entry = None if call is None else self.port.find(call)
        network = copies.exact.network
        arguments = name_arguments(network, args, dict(kwargs))
        if call is None or entry is None:
            self.foreign.add(key[0])
            return forward(*args, **kwargs)
        roles = entry.inputs

        def change(role: str, x: torch.Tensor) -> torch.Tensor:
            if role not in roles:
                return x
            recorded = read_recorded(self.port, roles[role])
            if recorded.shape != tuple(x.shape):
                self.foreign.add(key[0])
                return x
            return to_tensor(recorded, x)

        passed = dict(replace_tensors(arguments, "", change))
        mask = [role for role, _ in find_tensors(arguments, "") if "mask" in role]
        if any(role not in roles for role in mask):  # the port's encoder was given none
            passed |= dict.fromkeys((r for r in mask if r not in roles and r in passed), None)
        hooks = tuple(pair for pair in _hooks_of(network) if pair not in self._hooks)
        self.encoders[call] = EncoderCall(passed, hooks)
        results: list[Any] = []

        def keep(*args: object, **kwargs: object) -> Any:
            results.append(forward(*args, **kwargs))
            return results[-1]

        wrapper, network.forward = network.forward, keep
        self._inside = True
        try:
            # called as a method: the hooks of the recording do not see it
            ModuleReplay(copies, self.port, call, _Accepted()).run("forward", passed)
        finally:
            self._inside = False
            network.forward = wrapper
        return results[-1]


class _Accepted:
    """Takes each recorded array as it is, where it has the right shape."""

    def observe(self, replay: FollowedRun, point: Point) -> np.ndarray:
        fits = point.recorded.shape == np.shape(point.computed)
        return point.recorded if fits else np.asarray(point.computed)

    def skip(self, call: object, why: str) -> None:
        """Nothing is noted: the judge of the call says it."""

    def refuse(self, call: object, inputs: object, why: str) -> None:
        """Nothing is noted: the judge of the call says it."""


def _hooks_of(network: torch.nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield what runs after the layers of a network: the path of the layer, and the function.

    Those with which transformers collects hidden states are installed in the first run of a copy.
    """
    for path, part in network.named_modules():
        for hook in part._forward_hooks.values():
            if not str(getattr(hook, "__module__", "")).startswith("transformers."):
                yield path, hook


def is_plain(x: object) -> bool:
    """Return whether an argument is a number, a text, a format, a device, a slice, or a list."""
    if isinstance(x, list | tuple):
        return all(is_plain(part) for part in x)
    return isinstance(x, bool | int | float | str | slice | torch.dtype | torch.device)


def find_call(port: Trace, name: str, number: int) -> TraceCall | None:
    """Return the call of a network by its number, from 0; None if it was not recorded."""
    return next((c for c in port.calls if c.kind == name and c.number == number), None)


def _ending(scheduler: Any) -> Any:
    """Return a copy of a scheduler whose step ends the run."""

    def step(*args: object, **kwargs: object) -> None:
        raise FirstStepEnded

    made = copy.deepcopy(scheduler)
    made.step = step
    return made
