"""The calls of a recorded run, with which the calls of the same run are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.recorder import CallRecord, Recorder
from ldmref.trace.store import HostCopies

INPUT, OUTPUT = "input", "output"
JUMP = "jump"
SCHEDULE = "schedule"  # the kind of the call that makes the levels
DECODERS = ("vae.decode", "taesd.decode")


class ArrayName(NamedTuple):
    """An array of a recorded run, by which the coverage of a comparison knows it.

    Attributes:
        entry: The name of its entry, `TraceEntry.name`: `unet.000/`, `sampler.000/constrain`.
        side: "input" or "output".
        role: Its role.
    """

    entry: str
    side: str
    role: str

    @property
    def call(self) -> TraceCall:
        """Its call."""
        return TraceCall(self.entry.split("/", 1)[0])

    def entry_in(self, port: Trace) -> TraceEntry | None:
        """Return its entry in a trace; None: it was not recorded."""
        return port.find(*self.entry.split("/", 1))

    def tensor_name_in(self, port: Trace) -> str | None:
        """Return the name of its tensor in a trace; None: it was not recorded."""
        entry = self.entry_in(port)
        return None if entry is None else self.tensor_name_of(entry)

    def tensor_name_of(self, entry: TraceEntry) -> str | None:
        """Return the name of its tensor in its entry; None: it was not recorded."""
        return (entry.inputs if self.side == INPUT else entry.outputs).get(self.role)

    def tensor_in(self, port: Trace) -> np.ndarray | None:
        """Return the array as it was recorded in a trace; None: it was not."""
        name = self.tensor_name_in(port)
        return None if name is None else np.asarray(port.tensors[name])


class NotFollowed(Exception):
    """The run cannot be followed; the message says why."""


class ArrayReached(Exception):
    """The run has computed the array that was asked for."""


Noises = Mapping[ArrayName, np.ndarray]
# Returns whether a run ends with an array, of its name, as it was recorded and as it is computed.
EndsWith = Callable[[ArrayName, np.ndarray, np.ndarray], bool]


def keep_array(name: ArrayName, x: Any) -> Any:
    """Return the array with which a run continues: as it was recorded."""
    return x


def ends_at(last: ArrayName | None) -> EndsWith:
    """Return what ends a run with an array; None: the run goes on to its images."""
    return lambda name, recorded, computed: name == last


TO_ITS_END = ends_at(None)


class FollowedCalls(Recorder):
    """Compares each call of a run with the recorded one, instead of recording it.

    Args:
        port: The recorded run.
        dtype: The number format of the run.
        epsilon: The unit by which each recorded array is rounded another way; 0: it is not.
        seed: Of the roundings.
        change: Returns an array with which the run continues, of its name and the recorded one.
        until: Returns whether the run ends with a recorded array.
        noises: Noises that were not recorded, by name; NaN stands for others.

    Attributes:
        computed: What the run computed, also of arrays that were not recorded.
        unknown: The first call of each network of which not all outputs were recorded, by kind.
        lacking: Noises that are not known, by name, as the run draws them.
    """

    def __init__(
        self,
        port: Trace,
        dtype: str = "float64",
        epsilon: float = 0.0,
        seed: int = 0,
        change: Callable[[ArrayName, Any], Any] = keep_array,
        until: EndsWith = TO_ITS_END,
        noises: Noises | None = None,
    ):
        super().__init__(self, dict)  # type: ignore[arg-type]
        self.port = port
        self.dtype = dtype
        self.epsilon = epsilon
        self.change = change
        self.until = until
        self._random = np.random.default_rng(seed)
        self.computed: dict[ArrayName, np.ndarray] = {}
        self.unknown: dict[str, str] = {}
        self.noises = noises or {}
        self.lacking: dict[ArrayName, np.ndarray] = {}

    def begin(
        self, kind: str, ops: HostCopies, number: int | None = None, network: object = None
    ) -> CallRecord:
        """Begin a call of the run."""
        return FollowedCall(self.count_call(kind), ops, self)

    def end(self, call: CallRecord | None) -> None:
        """End a call of the run."""

    @contextmanager
    def call(
        self, kind: str, ops: HostCopies, number: int | None = None
    ) -> Iterator[CallRecord | None]:
        """Compare a call of the run."""
        yield self.begin(kind, ops)

    def exchange(self, name: ArrayName, computed: Any) -> Any:
        """Return what was recorded instead of an array, which is compared with it.

        An array that was not recorded, or in another shape, is returned as it was computed.

        Raises:
            ArrayReached: It is the array with which the run ends.
        """
        found = self.computed.setdefault(name, np.asarray(computed))
        recorded = name.tensor_in(self.port)
        if recorded is None:
            return self.change(name, computed)
        if self.until(name, recorded, found):
            raise ArrayReached
        same = np.shape(recorded) == np.shape(computed)
        return self.change(name, self.read(recorded) if same else computed)

    def read(self, recorded: np.ndarray) -> np.ndarray:
        """Return a recorded array in the number format of the run, rounded another way."""
        if recorded.dtype.kind != "f":
            return recorded
        x = recorded.astype(np.float64)
        if self.epsilon:
            x = x * (1.0 + self.epsilon * self._random.choice((-1.0, 1.0), x.shape))
        return x.astype(self.dtype)

    def noise_of(self, name: ArrayName, noise: np.ndarray) -> np.ndarray:
        """Return a noise that was not recorded, in the shape in which the run draws one."""
        known = self.noises.get(name)
        if known is None or known.shape != noise.shape:
            self.lacking[name] = noise
            return np.full_like(noise, np.nan)
        return known.astype(noise.dtype)

    def outputs_of(
        self, call: str, rows: int, unknown: Callable[[], Mapping[str, tuple[int, ...]]]
    ) -> dict[str, np.ndarray]:
        """Return what a network returned, by role.

        NaN stands for what was not recorded, in the form of another call's outputs: what is
        computed of it is unknown, up to the next array that was recorded.

        Args:
            call: The call.
            rows: The rows that it was given.
            unknown: Returns the shapes of what it returns if no call of it was recorded.
        """
        entry = self.port.find(call)
        if entry is not None and entry.outputs:
            found = {role: self.read(x) for role, x in self._arrays(entry.outputs).items()}
            return {
                role: self.change(ArrayName(entry.name, OUTPUT, role), x)
                for role, x in found.items()
            }
        kind = TraceCall(call).kind
        of_kind = (e for e in self.port.entries if not e.layer and e.call.kind == kind)
        like = next((e for e in of_kind if e.outputs), None)
        self.unknown.setdefault(kind, call)
        known = {} if like is None else self._arrays(like.outputs)
        shapes = {role: (rows, *x.shape[1:]) for role, x in known.items()} or unknown()
        unread = 0.0 if kind in DECODERS else np.nan  # nothing is computed of images
        return {role: np.full(shape, unread, self.dtype) for role, shape in shapes.items()}

    def _arrays(self, roles: Mapping[str, str]) -> dict[str, np.ndarray]:
        return {role: np.asarray(self.port.tensors[name]) for role, name in roles.items()}


class FollowedCall(CallRecord):
    """A call of the run, whose arrays are compared instead of recorded.

    Args:
        name: Its name.
        host: Copies its arrays to the host.
        calls: The recorded calls.
    """

    def __init__(self, name: str, host: HostCopies, calls: FollowedCalls):
        super().__init__(name, host, None, None)  # type: ignore[arg-type]
        self.calls = calls

    def add(
        self,
        layer: str,
        kind: str = "",
        inputs: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Compare arrays of the call by role."""
        entry = f"{self.name}/{layer}"
        for side, roles in ((INPUT, inputs or {}), (OUTPUT, outputs or {})):
            for i, (role, x) in enumerate(roles.items()):
                name = ArrayName(entry, side, role.replace("/", ".") or side)
                numbered = name._replace(role=str(i))  # as programs without names record it
                known = numbered.tensor_name_in(self.calls.port) is not None
                self.calls.exchange(numbered if known else name, x)
