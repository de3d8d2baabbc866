"""Points of a replay: recorded arrays, and what has to be run again to compute them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ldmref.backends.named import LayerCall

OperationChange = Callable[[LayerCall, Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Frame:
    """A layer of several operations, or the whole network, that can be run again."""

    name: str
    compute: Callable[[Mapping[str, np.ndarray]], Any] = field(repr=False)
    inputs: Mapping[str, np.ndarray] = field(repr=False)
    seen: Counter[str] = field(repr=False)
    scope: list[str] = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """The conditions of a repeated run: operations exchanged, and where it ends.

    It ends at the input `role` of the layer `target`, or at its output if the role is "".
    """

    target: str
    role: str
    changes: Mapping[str, OperationChange]
    low: bool
    free: bool


@dataclass(frozen=True)
class Point:
    """A recorded array, and what the replay computed in its place.

    Attributes:
        call: The layer.
        role: The input's role; "" for the output.
        computed: The computed array; NaN where it is not known.
        recorded: The port's.
        inputs: The inputs from which an output was computed.
        frame: What has to be run again to compute it again.
        suspects: Operations in the part between the recorded layers and this array that were not
            recorded; for an operation's own output, the operation.
        after: The layers that were recorded last before it.
        unit: The unit of rounding of the format in which the layer's arrays were stored; 0 for one
            that is not narrow.
        part: Which of several outputs it is, from 0.
    """

    call: LayerCall
    role: str
    computed: np.ndarray
    recorded: np.ndarray
    inputs: Mapping[str, np.ndarray]
    frame: Frame
    suspects: tuple[LayerCall, ...]
    after: tuple[str, ...]
    unit: float = 0.0
    part: int = 0


class PointObserver(Protocol):
    """The judge of a replay; it returns the array to use downstream."""

    def observe(self, replay: Any, point: Point) -> np.ndarray: ...

    def skip(self, call: LayerCall, why: str) -> None:
        """Note that a recorded layer cannot be judged."""
        ...

    def refuse(self, call: LayerCall, inputs: Mapping[str, np.ndarray], why: str) -> None:
        """Blame a layer whose recorded inputs do not fit its weights."""
        ...
