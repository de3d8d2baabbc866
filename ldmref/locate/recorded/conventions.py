"""Conventions: right ways to write the same network, and how each is recognised and undone.

A port may join image and text in either order, keep the halves of its last norms as the makers'
file has them, or pass its time in another unit. Each is declared here once for all families: which
recorded arrays it concerns, and how they become those of ldmref. It is recognised by an array that
only rounding tells from the expected one after that. `ldmref.locate.recorded.terms` chooses the
conventions with which all layers of a network agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ldmref.locate.recorded.derived import Derivation, with_derived
from ldmref.locate.recorded.kept_rows import find_begin, keep_rows
from ldmref.locate.recorded.latents_within import LatentsWithin
from ldmref.locate.recorded.layouts import without_ones
from ldmref.locate.recorded.names import read_array
from ldmref.locate.replay.networks import as_batch, name_unknown_pipeline, passes_tokens
from ldmref.locate.replay.points import FollowedRun, Point
from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.models.model import LatentDiffusion
from ldmref.ports.arguments import names_of
from ldmref.ports.port import port_of
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

TurnArray = Callable[[np.ndarray], np.ndarray]
STEPS = 1000.0  # of ldmref's times, of which 0 is the image
HALVES = "halves of the last norms"
ORDER = "order of the tokens"
SIGN = "sign of the prediction"
OUTPUTS = ("output", "sample", "0")  # roles of a network's output
# How the names of times begin that run from the noise to the image.
DIRECTION = "time from the noise"
IDS = "img_ids"  # the role of the positions of an image's tokens
MOST_RATIO = 4  # of rows to columns, or columns to rows, where nothing says them
MOST_SCALE = 100.0  # of guidance that somebody asks for
LEAST_SCALE = 0.1
TOKEN_AXES = (2, 3, 4)  # numbers of axes of arrays whose last two are tokens and channels
SCALED_WITHIN = "latents scaled within the autoencoder"
TURNED = " as "  # between the name of a tensor and the conventions in which it is read


@dataclass(frozen=True)
class Convention:
    """A convention of a port that ldmref does not have.

    Attributes:
        subject: What it is about. Of each subject, a network has one convention.
        text: The convention in words.
        turn: Returns a recorded array as ldmref has it.
        concerns: Returns whether it concerns an array of an entry, of a side ("input" or "output")
            and role.
        length: The length of the second last axis of all arrays that it concerns. 0: any.
    """

    subject: str
    text: str
    turn: TurnArray
    concerns: Callable[[TraceEntry, str, str], bool]
    length: int = 0

    def turned(self, x: np.ndarray) -> np.ndarray:
        """Return an array that it concerns as ldmref has it; others as they are."""
        if self.length and (x.ndim not in TOKEN_AXES or x.shape[-2] != self.length):
            return x
        return self.turn(x)


class Candidate(NamedTuple):
    """A convention with which a recorded array may be right.

    Attributes:
        convention: The convention.
        recorded: The array in ldmref's terms.
        computed: What it should equal.
        arguments: The arguments of the part, in ldmref's terms, from which that was computed.
    """

    convention: Convention
    recorded: np.ndarray
    computed: np.ndarray
    arguments: Mapping[str, np.ndarray] = MappingProxyType({})


class NetworkConventions:
    """The conventions that ports of a network may have.

    Args:
        model: The model.
        network: The network.
        port: The trace, with the times of all calls.
        kind: The kind of the calls.
    """

    def __init__(self, model: LatentDiffusion, network: DeclaredNetwork, port: Trace, kind: str):
        self.model = model
        self.network = network
        self.port = port
        self.kind = kind

    def find(
        self, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
    ) -> Iterator[Candidate]:
        """Yield the conventions of a recorded array of the expected shape, or with fewer rows.

        Args:
            replay: The replay that computed it.
            point: The array.
            adopted: The conventions of the port that are known, by subject.
        """
        shape = np.shape(point.computed)
        if point.computed.dtype.kind != "f":
            return
        if without_ones(point.recorded.shape) == without_ones(shape):  # an axis of one image
            point = replace(point, recorded=point.recorded.reshape(shape))
        kinds = KINDS if point.recorded.shape == shape else (_order_of_others,)
        for kind in kinds:
            yield from kind(self, replay, point, adopted)

    def find_layouts(self, call: TraceCall) -> Iterator[Convention | None]:
        """Yield the layouts that the latents of a call may have, the likely ones first.

        None is ldmref's own, where another one fits their sizes as well.

        Tokens (n, l, d) have rows and columns that no array need say; latents of a video have an
        axis of frames, (n, c, 1, h, w).

        Args:
            call: One of the calls.
        """
        unpack: Any = port_of(self.model.family).unpack
        whole = self.port.find(call)
        within = LatentsWithin(self.model, self.network)
        if whole is not None and within.is_shown(self.port, whole):
            yield Convention("scale of latents", SCALED_WITHIN, within.turn, within.concerns)
            return
        if not self.network.inputs or name_unknown_pipeline(self.port, self.model):
            return  # such a pipeline may give other tokens, too
        latents = self.network.inputs[0]
        roles = names_of(self.network, latents)
        name = next((role for role in roles if whole is not None and role in whole.inputs), "")
        if whole is None or not name:
            return
        tokens = np.asarray(self.port.tensors[whole.inputs[name]])

        def concerns(entry: TraceEntry, side: str, role: str) -> bool:
            names = roles if side == "input" else OUTPUTS
            return not entry.layer and role in names

        own = latents.shape[1] if len(latents.shape) == 4 else None
        if tokens.ndim == 4 and own == tokens.shape[3]:
            if own == tokens.shape[1]:
                yield None
            turned = partial(_channels_first, *tokens.shape[1:3])
            yield Convention("memory order of latents", "channels last", turned, concerns)
        if len(latents.shape) == 4 and tokens.ndim == 5 and tokens.shape[2] == 1:
            text = "latents of a video of one frame"
            yield Convention("axis of frames", text, _without_frames, concerns)
        if not passes_tokens(self.port, self.model, call):
            return
        length, width = tokens.shape[1:]
        try:
            channels = np.shape(unpack(np.zeros((1, 1, width)), 1, 1))[1]
        except ValueError:  # its patches have another number of channels
            return
        if as_batch(latents, tokens) is not tokens or channels != latents.shape[1]:
            return  # latents of one image, or other tokens
        ids = read_array(self.port, whole.inputs[IDS]) if IDS in whole.inputs else np.zeros((0, 1))

        for rows, columns in _list_grids(length, ids):

            def turn(x: np.ndarray, rows: int = rows, columns: int = columns) -> np.ndarray:
                return np.asarray(unpack(x, rows, columns)) if x.ndim == 3 else x

            text = f"tokens of {rows} rows and {columns} columns for latents"
            yield Convention(f"latents of {length} tokens", text, turn, concerns, length)

    def is_own(self, point: Point) -> str:
        """Return the subject of which a right array shows that the port has ldmref's convention."""
        return HALVES if not point.role and point.call.name in self.halved else ""

    @cached_property
    def halved(self) -> frozenset[str]:
        """Layers whose halves the makers' file has in the other order."""
        if self.network.name != self.model.config.denoiser.network:
            return frozenset()
        tables = (file.table(self.model.config) for file in self.model.family.files)
        return frozenset(
            name.rpartition(".")[0]
            for table in tables
            for name, entry in table.items()
            if getattr(entry, "form", "") == "swapped"
        )

    @cached_property
    def joins(self) -> tuple[str, ...]:
        """The kinds of tokens that attention reads, in ldmref's order."""
        attention = self.network.text_attention
        return () if attention is None else attention.tokens

    def recorded(self, x: NetworkInput) -> np.ndarray:
        """Return what all calls recorded of an argument that is a number of each image."""
        found: list[np.ndarray] = []
        for call in self.port.calls:
            entry = self.port.find(call) if call.kind == self.kind else None
            names = () if entry is None else names_of(self.network, x)
            name = next((n for n in names if entry is not None and n in entry.inputs), None)
            if entry is not None and name is not None:
                found.append(np.ravel(read_array(self.port, entry.inputs[name])))
        return np.concatenate(found) if found else np.zeros(0)


def _of_whole(names: Sequence[str], side: str) -> Callable[[TraceEntry, str, str], bool]:
    return lambda entry, at, role: not entry.layer and at == side and role in names


def _without_frames(x: np.ndarray) -> np.ndarray:
    return x[:, :, 0] if x.ndim == 5 and x.shape[2] == 1 else x


def _list_grids(length: int, ids: np.ndarray) -> list[tuple[int, int]]:
    """Return the rows and columns that tokens of an image may have, the likely ones first.

    Args:
        length: The number of tokens.
        ids: Their positions, (..., axes), which need not be right. (0, axes): they are not known.

    >>> _list_grids(6, np.zeros((0, 3)))
    [(2, 3), (3, 2)]
    >>> _list_grids(6, np.array([[0, 0, k] for k in range(6)]))
    [(1, 6), (2, 3), (3, 2)]
    """
    pairs = [(n, length // n) for n in range(1, length + 1) if length % n == 0]
    usual = [pair for pair in pairs if max(pair) <= MOST_RATIO * min(pair)] or pairs
    usual.sort(key=lambda pair: max(pair) / min(pair))
    counted = ids.reshape(-1, ids.shape[-1])
    spans = [int(np.ptp(axis)) + 1 for axis in counted.T] if len(counted) else []
    said = [pair for pair in combinations(spans, 2) if math.prod(pair) == length]
    return [*dict.fromkeys([*said[-1:], *usual])]


def _of_layers(entry: TraceEntry, side: str, role: str) -> bool:
    return bool(entry.layer)


# -- halves ---------------------------------------------------------------------------------------


def _swap(x: np.ndarray) -> np.ndarray:
    return np.roll(x, x.shape[-1] // 2, axis=-1)


def _halves(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield the makers' order of shift and scale in the last norms."""
    if point.role or point.call.name not in known.halved or point.recorded.shape[-1] % 2:
        return
    layers = known.halved

    def concerns(entry: TraceEntry, side: str, role: str) -> bool:
        return side == "output" and entry.layer in layers

    text = "shift before scale in the last norms, as in the makers' file"
    yield Candidate(
        Convention(HALVES, text, _swap, concerns), _swap(point.recorded), point.computed
    )


# -- tokens ---------------------------------------------------------------------------------------


def _order(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield tokens (..., l, d) of image and text that are joined in the other order."""
    found = _find_order(known, point.recorded, point.computed)
    if found is not None:
        yield Candidate(found, found.turn(point.recorded), point.computed)


def _order_of_others(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield tokens in the other order of which the port has more, or left some out.

    Nothing reads the former, which fill its sequence up, nor the latter.
    """
    recorded, computed = point.recorded, point.computed
    if recorded.ndim == computed.ndim - 1 and len(computed) == 1:
        recorded = recorded[None]
    sizes = [(x.ndim, *x.shape[:-2], x.shape[-1:]) for x in (recorded, computed) if x.ndim > 1]
    if len(sizes) < 2 or sizes[0] != sizes[1]:
        return
    found = _find_order(known, recorded, computed, point.padding)
    if found is None:
        return
    turned, length = found.turn(recorded), computed.shape[-2]
    more = recorded.shape[-2] > length
    yield Candidate(
        found, turned[..., :length, :] if more else keep_rows(turned, computed).array, computed
    )


def _find_order(
    known: NetworkConventions,
    recorded: np.ndarray,
    computed: np.ndarray,
    padding: np.ndarray | None = None,
) -> Convention | None:
    """Return the order of tokens whose first one is a later one of ldmref; None: it is its first.

    Args:
        known: What ports of the network may have.
        recorded: The tokens, (..., l, d).
        computed: Those of ldmref, (..., m, d). If l is greater, others are between or behind those
            of both kinds.
        padding: Those of ldmref that are not compared, (..., m). None: all are.
    """
    if len(known.joins) < 2 or recorded.ndim not in (3, 4) or recorded.shape[-2] < 2:
        return None
    tokens = np.moveaxis(computed, -2, 0).reshape(computed.shape[-2], -1)
    first = recorded[..., 0, :].ravel()
    k = int(np.argmin(np.abs(tokens - first).max(axis=1)))
    moved = computed.shape[-2] - k  # tokens that the port has first
    if not k or moved >= recorded.shape[-2]:
        return None
    begin = moved  # of the tokens that the port has second
    if recorded.shape[-2] > computed.shape[-2]:
        hidden = None if padding is None else padding[..., :k]
        begin += find_begin(recorded[..., moved:, :], computed[..., :k, :], hidden)

    def turn(x: np.ndarray) -> np.ndarray:
        parts = (x[..., begin : begin + k, :], x[..., :begin, :], x[..., begin + k :, :])
        return np.concatenate(parts, axis=-2)

    return Convention(ORDER, f"{known.joins[1]} first", turn, _of_layers, recorded.shape[-2])


# -- numbers of each image ------------------------------------------------------------------------


class _Unit(NamedTuple):
    """Another unit of a number of each image: in words, how it becomes ldmref's, whether it fits.

    Attributes:
        text: In words.
        turn: Returns the number in ldmref's unit.
        fits: Returns whether all recorded numbers may be in this unit.
    """

    text: str
    turn: TurnArray
    fits: Callable[[np.ndarray], bool]


def _is_rising(times: np.ndarray) -> bool:
    """Return whether times begin with the least, as those do that run from the noise."""
    return times[0] == times.min() and (times.max() > times[0] or not times[0])


TIMES = (
    _Unit("time in 0..1", lambda t: STEPS * t, lambda t: t.max() <= 1.0),
    _Unit(
        f"{DIRECTION} at 0 to the image at 1",
        lambda t: STEPS * (1.0 - t),
        lambda t: t.max() <= 1.0 and _is_rising(t),
    ),
    _Unit(
        f"{DIRECTION} at 0 to the image at 1000",
        lambda t: STEPS - t,
        lambda t: t.max() <= STEPS and _is_rising(t),
    ),
)
SCALES = (
    _Unit("guidance multiplied by 1000", lambda g: g / STEPS, lambda g: g.min() > MOST_SCALE),
    _Unit("guidance divided by 1000", lambda g: g * STEPS, lambda g: g.max() < LEAST_SCALE),
)
UNITS = {"timesteps": TIMES, "ends": TIMES, "guidance": SCALES}  # by content


def _units(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield other units of the times and the guidance that a network is given."""
    if point.frame.name:
        return
    for x in known.network.inputs:
        held: Any = point.frame.inputs.get(x.argument)
        units = UNITS.get(x.content, ())
        subject = f"unit of {x.role}"
        if not units or subject in adopted or not isinstance(held, np.ndarray):
            continue
        values = known.recorded(x)
        if not values.size or not np.isfinite(values).all():
            continue
        for unit in units:
            if not unit.fits(values):
                continue
            turned = {x.argument: unit.turn(held)}
            computed = replay.rerun(point, arguments=turned)
            if computed is not None:
                concerns = _of_whole(names_of(known.network, x), "input")
                convention = Convention(subject, unit.text, unit.turn, concerns)
                yield Candidate(convention, point.recorded, computed, turned)


def _layer_units(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield times in 0..1 that a layer is given, which multiplies them."""
    computed, name, role = point.computed, point.call.name, point.role
    if computed.ndim != 1 or not role or not computed.size or np.max(point.recorded) > 1.0:
        return

    def concerns(entry: TraceEntry, side: str, at: str) -> bool:
        return entry.layer == name and side == "input" and at in (role, "input", "0")

    unit = TIMES[0]
    convention = Convention(f"unit of {name}", f"{unit.text} in {name}", unit.turn, concerns)
    yield Candidate(convention, unit.turn(point.recorded), computed)


def _sign(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield the velocity from the noise to the image, of a port whose time runs this way."""
    reverse = any(found.text.startswith(DIRECTION) for found in adopted.values())
    if point.call.name or point.role or not reverse:
        return
    text = "velocity from the noise to the image"
    concerns = _of_whole(OUTPUTS, "output")
    yield Candidate(Convention(SIGN, text, np.negative, concerns), -point.recorded, point.computed)


# -- scores of attention --------------------------------------------------------------------------

# Powers of the channels of a head by which ports multiply queries or keys, where their attention
# divides the scores by the square root and ldmref's does not, or the other way round.
POWERS = {0.5: "sqrt(d)", -0.5: "1/sqrt(d)", 0.25: "d^(1/4)", -0.25: "d^(-1/4)"}
SCORED = {"input": ("queries", ("input", "0", "q")), "k": ("keys", ("k",))}  # by role


def _scores(
    known: NetworkConventions, replay: FollowedRun, point: Point, adopted: Mapping[str, Convention]
) -> Iterator[Candidate]:
    """Yield queries or keys that have the scale of the scores, which attention then does not."""
    if point.call.kind != "attention" or point.role not in SCORED:
        return
    what, roles = SCORED[point.role]

    def concerns(entry: TraceEntry, side: str, role: str) -> bool:
        return "k" in entry.inputs and side == "input" and role in roles

    for power, factor in POWERS.items():
        turn = partial(_without_power, power)
        text = f"{what} of attention multiplied by {factor}"
        convention = Convention(f"scale of {what}", text, turn, concerns)
        yield Candidate(convention, turn(point.recorded), point.computed)


def _without_power(power: float, x: np.ndarray) -> np.ndarray:
    """Return an array (..., d) divided by a power of d."""
    return x / x.shape[-1] ** power


KINDS: tuple[Callable[..., Iterator[Candidate]], ...] = (
    _halves,
    _order,
    _scores,
    _layer_units,
    _units,
    _sign,
)


def turn_call(port: Trace, call: TraceCall, conventions: Sequence[Convention]) -> Trace:
    """Return a port in which the arrays of a call are in ldmref's terms.

    Args:
        port: The trace.
        call: The call.
        conventions: Those of the port.
    """
    turned: dict[str, Derivation] = {}

    def name_of(entry: TraceEntry, side: str, role: str, name: str) -> str:
        found = [one for one in conventions if one.concerns(entry, side, role)]
        if not found:
            return name
        new = name + TURNED + "/".join(one.subject for one in found)
        turned[new] = (name, partial(_turn, found))
        return new

    def turn_entry(entry: TraceEntry) -> TraceEntry:
        if entry.call != call:
            return entry
        sides = {
            f"{side}s": {role: name_of(entry, side, role, name) for role, name in roles.items()}
            for side, roles in (("input", entry.inputs), ("output", entry.outputs))
        }
        return replace(entry, **sides)

    entries = tuple(map(turn_entry, port.entries)) if conventions else port.entries
    return with_derived(port, entries, turned) if turned else port


def _channels_first(rows: int, columns: int, x: np.ndarray) -> np.ndarray:
    """Return an array (n, h, w, c) as (n, c, h, w), if h and w are in the ratio of the latents'."""
    last = x.ndim == 4 and x.shape[1] * columns == x.shape[2] * rows
    return x.transpose(0, 3, 1, 2) if last else x


def _turn(conventions: Sequence[Convention], x: np.ndarray) -> np.ndarray:
    """Return an array, which was recorded in some conventions, in ldmref's terms."""
    for convention in conventions:
        x = convention.turned(x)
    return x
