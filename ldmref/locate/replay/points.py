"""Points of a replay: recorded arrays, and what has to be run again to compute them again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.replay.graph import PartGraph
from ldmref.trace.model import Trace

if TYPE_CHECKING:
    from ldmref.locate.replay.beginning import PartBeginning

OperationChange = Callable[[LayerCall, Mapping[str, np.ndarray]], Any]
# By layer, role of an input ("" for outputs) and number of the output: the rows (...,) of an array
# (..., d) that are padding.
PaddingRows = Mapping[tuple[str, str, int], np.ndarray]


@dataclass(frozen=True)
class Frame:
    """A layer of several operations, or the whole network, that can be run again.

    Attributes:
        name: The name of the layer; "" for the network.
        compute: Computes it from inputs by role.
        inputs: Its inputs by role.
        seen, scope: The names that were given before it, and the layers around it.
        outer: The part that computed those of its inputs that were not recorded. None: all were.
        computed: The roles of these, which are as exact as a run in float64.
    """

    name: str
    compute: Callable[[Mapping[str, np.ndarray]], Any] = field(repr=False)
    inputs: Mapping[str, np.ndarray] = field(repr=False)
    seen: Counter[str] = field(repr=False)
    scope: list[Any] = field(repr=False)
    outer: Frame | None = field(default=None, repr=False)
    computed: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Trial:
    """The conditions of a repeated run: operations exchanged, and where it ends.

    It ends at the input `role` of the layer `target`, or at its output if the role is "". If `low`,
    it computes in the port's number format, with `positions` also places and times. A `graph` notes
    all operations, also behind the target, which is the output `part` of a layer. A `beginning`
    knows what is computed before the first operation that is exchanged.
    """

    target: str
    role: str
    changes: Mapping[str, OperationChange]
    low: bool
    free: bool
    positions: bool = False
    graph: PartGraph | None = None
    part: int = 0
    beginning: PartBeginning | None = None


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
        earlier: Operations of the frame before the suspects that were not recorded either, the last
            one first: what they computed may be read here.
        norms: The last norms of the frame that were not recorded, which may share an error.
        padding: The rows (...,) of the array (..., d) that are padding. None: there are none.
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
    earlier: tuple[LayerCall, ...] = ()
    padding: np.ndarray | None = None
    norms: tuple[LayerCall, ...] = ()

    def kept(self, x: np.ndarray) -> np.ndarray:
        """Return an array of the shape of `computed` without its padding, which becomes zero."""
        if self.padding is None or x.shape[:-1] != self.padding.shape:
            return x
        return np.where(self.padding[..., None], 0, x)


class PointObserver(Protocol):
    """The judge of a replay; it returns the array to use downstream."""

    def observe(self, replay: FollowedRun, point: Point) -> np.ndarray: ...

    def skip(self, call: LayerCall, why: str) -> None:
        """Note that a recorded layer cannot be judged."""
        ...

    def refuse(self, call: LayerCall, inputs: Mapping[str, np.ndarray], why: str) -> None:
        """Blame a layer whose recorded inputs do not fit its weights."""
        ...


class FollowedRun(Protocol):
    """A run that is followed from layer to layer, as judges and known faults see it.

    Attributes:
        port: The trace of the port.
        call: The call that is followed, "unet.000".
        recent: The layers that were recorded last before a point, with their outputs.
        streams: The norms that were recorded last before a point, with their inputs.
        skips: Outputs that skip connections may carry, by layer.
        modulations: Linear layers of adaptive norms, and the number of their parts.
        config: The configuration of a text encoder, if it is one.
        ids: A text encoder's tokens, (n, l). None: it is none, or they were not recorded.
    """

    port: Trace
    call: str
    recent: deque[tuple[str, np.ndarray]]
    streams: deque[tuple[str, np.ndarray]]
    skips: dict[str, np.ndarray]
    modulations: dict[str, int]
    config: Any
    ids: np.ndarray | None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments of the whole network by name."""
        ...

    def rerun(
        self,
        point: Point,
        changes: Mapping[str, OperationChange] | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        low: bool = False,
        free: bool = False,
        exact: bool = False,
    ) -> np.ndarray | None:
        """Compute a point again, with changes or in the port's number format."""
        ...

    def graph_of(self, point: Point) -> PartGraph | None:
        """Return the operations of the part that leads to a point; None: they are not known."""
        ...

    def in_format(self, dtype: str) -> AbstractContextManager[None]:
        """Compute repeated runs in another number format than the port's."""
        ...

    def parameters(self, call: LayerCall) -> dict[str, np.ndarray]:
        """Return the parameters of a layer as the port's number format holds them."""
        ...

    def similar_layers(self, call: LayerCall) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the neighbours of a layer whose parameters have the same shapes."""
        ...

    def parameters_of(self, *endings: str) -> np.ndarray | None:
        """Return the first parameter of the first layer whose name has one of the endings."""
        ...
