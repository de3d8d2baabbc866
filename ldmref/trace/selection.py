"""The part of a run that is traced: calls, layers, steps and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from ldmref.errors import UsageError, closest
from ldmref.trace.calls import CONSTRAIN

CODE = "E-TRACE-SELECTION"
# What `ldmref.explore` shows of a run.
STATES = (
    "schedule*",
    "guidance.*",
    "sampler.*",
    "words.*",
    "vae.decode",
    "image",
    "inputs",
    "truth",
)
# What it finds from the rest: x0 from the prediction, and points between two states.
DERIVED = (
    "sampler.*//input.x0",
    "sampler.*//input.prediction.*",
    "sampler.*//input.x_at.*",
    "sampler.*//input.sigma_at.*",
)


@dataclass(frozen=True)
class Selection:
    """The calls, layers and steps to record; an empty tuple selects all of them.

    `Selection.states()` is what `ldmref record` keeps. In a pattern `*` stands for any characters,
    dots included, and `?` for one.

    Attributes:
        layers: Patterns of layer names, `mid_block.*`. The inputs and outputs of whole calls are
            recorded whatever the patterns.
        calls: Patterns of calls, `unet.*`.
        steps: Indices of steps of the sampler, from 0. Calls outside of steps, such as text
            encoders and the decoder, are recorded whatever the steps.
        without: Patterns of names of tensors to leave out, `*.attention/input.*`.
        optional: Whether a pattern may match nothing. Otherwise a run that has no such call or
            layer is refused.

    >>> Selection(layers=("mid_block.*",)).takes_layer("mid_block.resnets.0.conv1")
    True
    """

    layers: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    optional: bool = False

    @classmethod
    def states(cls) -> Selection:
        """Return what `ldmref.explore` shows: each state and prediction, and no network.

        Returns:
            The selection.

        >>> Selection.states().takes_call("unet.000", 0)
        False
        """
        return cls((CONSTRAIN,), STATES, without=DERIVED, optional=True)

    def takes_layer(self, layer: str) -> bool:
        """Return whether a layer is recorded; "" is the whole call."""
        return not layer or not self.layers or _matches(layer, self.layers)

    def takes_call(self, call: str, step: int | None) -> bool:
        """Return whether a call is recorded; `step` is None outside of steps."""
        if step is not None and not self.takes_step(step):
            return False
        return not self.calls or _matches(call, self.calls)

    def takes_step(self, step: int) -> bool:
        """Return whether a step of the sampler is recorded."""
        return not self.steps or step in self.steps

    def takes_tensor(self, name: str) -> bool:
        """Return whether the tensor `name` of a recorded layer is recorded."""
        return not _matches(name, self.without)

    @property
    def record(self) -> Mapping[str, Any]:
        """Return the entry of the manifest; {} if everything is recorded."""
        patterns = {name: value for name, value in vars(self).items() if isinstance(value, tuple)}
        return {name: list(value) for name, value in patterns.items() if value}

    def require_matches(
        self,
        calls: Iterable[str],
        layers: Iterable[str],
        later: Iterable[str] = (),
    ) -> None:
        """Refuse patterns that select nothing of a run, unless they are optional.

        Args:
            calls: The calls of the run.
            layers: The layers of these calls.
            later: Names of calls and layers that the run may still have.

        Raises:
            UsageError: A pattern matches no name.
        """
        if self.optional:
            return
        for what, patterns, names in (
            ("call", self.calls, set(calls)),
            ("layer", self.layers, set(layers)),
        ):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in chain(names, later)):
                    message = f"no {what} of this run matches {pattern!r}"
                    raise UsageError(message, code=CODE, hint=suggest(pattern, names))

    def require_steps(self, steps: Sequence[int]) -> None:
        """Refuse steps that a run does not have.

        Args:
            steps: Indices of its steps, in increasing order.

        Raises:
            UsageError: There is no such step.
        """
        for step in self.steps:
            if step not in steps:
                ends = f"steps {steps[0]} to {steps[-1]}" if steps else "no steps"
                message = f"step {step} does not exist: the run has {ends}"
                raise UsageError(message, code=CODE)


def suggest(pattern: str, names: set[str]) -> str:
    """Return the nearest name, or some names of the run."""
    near = closest(pattern.replace("*", ""), names)
    some = [near] if near else sorted(names)[:: max(1, len(names) // 6)][:6]
    return f"for example {', '.join(some)}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
