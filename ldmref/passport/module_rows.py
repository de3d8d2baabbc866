"""Which arguments of a kit's modules have a row for each image or text, and a port's rows by them.

A module says nothing of its axes, so the function that makes the kit declares them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.errors import UsageError, abbreviated, counted
from ldmref.models.declared import BATCH, CallSize, NetworkInput
from ldmref.passport.aligned_sums import align_sums
from ldmref.passport.apart import CallCutter, CutArray, RowsApart, describe_rows, name_rows
from ldmref.passport.batches import RowMatch, batch_of, is_as_in_kit, match_rows
from ldmref.passport.kit import Kit
from ldmref.passport.recorded import CODE
from ldmref.trace.model import Trace, TraceEntry

ROWS, TOKENS, MASK = "rows", "tokens", "mask"
CONTENTS = (ROWS, TOKENS, MASK)
SHAPES = {ROWS: "(1, ...)", TOKENS: "(1, l, ...)", MASK: "(1, l)"}  # in a call of a kit
WITH_TOKENS = 2  # axes of an array that counts tokens
HINT = "docs/passport.md describes the third part of what make returns"
UNDECLARED = (
    "{} has {} rows, and the kit's calls have {}: the kit does not declare which arguments have "
    "rows, so the port's batches are not taken apart"
)
UNLIKE = "{} of sizes that do not tell which numbers are a row of the kit's; not judged: {}"


@dataclass(frozen=True)
class ModuleRows:
    """The arguments of a module that have rows.

    Attributes:
        name: The name of the network.
        inputs: The arguments.
    """

    name: str
    inputs: tuple[NetworkInput, ...]


def check_rows(network: str, calls: Sequence[Mapping[str, Any]], rows: object) -> dict[str, str]:
    """Return a declaration of rows, after comparing it with the arguments of calls.

    Args:
        network: The name of the network.
        calls: The arguments of each call by name.
        rows: By argument "rows" (n, ...), "tokens" (n, l, ...), where each row has a text of its
            own length, or "mask" (n, l), 0 for padding. Other arguments are the same for all rows.

    Raises:
        UsageError: A word or argument is unknown, a call has other than one row, the texts of a
            call differ in length, or its mask hides a token.
    """
    found = dict(rows) if isinstance(rows, Mapping) else {}
    if not found or not all(content in CONTENTS for content in found.values()):
        message = f"the rows of {network} are not {{ARGUMENT: {' or '.join(map(repr, CONTENTS))}}}"
        raise UsageError(message, code=CODE, hint=HINT)
    if MASK in found.values() and TOKENS not in found.values():
        raise UsageError(f"{network} has a mask of no tokens", code=CODE, hint=HINT)
    for arguments in calls:
        lengths = set()
        for name, content in found.items():
            if name not in arguments:
                message = (
                    f"a call of {network} has no argument {name}, which is declared to have rows"
                )
                raise UsageError(message, code=CODE, hint=f"it has {', '.join(arguments)}")
            shape = list(getattr(arguments[name], "shape", ()))
            axes = 1 if content == ROWS else WITH_TOKENS
            wrong = len(shape) < axes or shape[0] != 1
            if wrong or (content == MASK and len(shape) > WITH_TOKENS):
                message = f"{name} of {network} has the shape {tuple(shape)}; as {content!r} "
                message += f"it must have {SHAPES[content]}"
                hint = "give a list with the arguments of each row, in calls of their own"
                raise UsageError(message, code=CODE, hint=hint)
            lengths |= set() if content == ROWS else {shape[1]}
            if content == MASK and not bool((arguments[name] != 0).all()):
                message = f"the mask {name} of {network} hides tokens of a row that is alone"
                raise UsageError(message, code=CODE, hint="leave out the padding")
        if len(lengths) > 1:
            message = f"arguments of {network} have {sorted(lengths)} tokens in one call"
            raise UsageError(message, code=CODE, hint=HINT)
    return {str(name): str(content) for name, content in found.items()}


def declared_rows(kit: Kit) -> dict[str, ModuleRows]:
    """Return the arguments with rows of each network of a kit of modules that declares them."""
    tokens = CallSize("tokens")
    shapes = {ROWS: (BATCH,), TOKENS: (BATCH, tokens), MASK: (BATCH, tokens)}
    contents = {ROWS: "normal", TOKENS: "normal", MASK: "mask"}
    return {
        network: ModuleRows(
            network,
            tuple(NetworkInput(x, x, shapes[kind], contents[kind]) for x, kind in rows.items()),
        )
        for network, rows in kit.rows.items()
    }


def undeclared_rows(port: Trace, kit: Kit) -> Iterator[str]:
    """Yield which calls have other numbers of rows than the kit's, which does not declare them."""
    for network in kit.networks:
        batches = {batch_of(kit.trace, c) for c in kit.trace.calls if c.kind == network}
        for call in port.calls:
            rows = batch_of(port, call) if call.kind == network else 0
            if rows and rows not in batches and network not in kit.rows:
                yield UNDECLARED.format(call, rows, " or ".join(map(str, sorted(batches))))


def take_modules_apart(port: Trace, kit: Kit) -> RowsApart | None:
    """Take the batches of a port of modules apart; return None if its calls are those of the kit.

    Args:
        port: The port's run.
        kit: The kit.
    """
    networks = declared_rows(kit)
    run = kit.trace
    matches = {name: match_rows(run, port, network, 1) for name, network in networks.items()}
    matches = {name: found for name, found in matches.items() if found}
    if all(map(is_as_in_kit, matches.values())):
        return None
    aligned, renamed, left_out = _with_sums(port, run, matches)
    cutters = ModuleRowCutter(aligned, run, True), ModuleRowCutter(run, run, False)
    named: dict[str, RowMatch] = {}
    for name, found in matches.items():
        for call, match in name_rows(found):
            named[call] = match
            for cutter in cutters:
                left_out += cutter.add(call, match, networks[name])
    notes, gaps = describe_rows(port, matches)
    if left_out:
        names = list(dict.fromkeys(entry.name for entry in left_out))
        gaps.append(UNLIKE.format(counted(len(names), "layer"), abbreviated(names, 3)))
    sides = [_with_others(cutter.trace(), cutter.source, matches) for cutter in cutters]
    host = replace(port, entries=tuple(e for e in port.entries if e.call.is_host))
    return RowsApart(sides[0], sides[1], host, named, tuple(notes), tuple(gaps), renamed)


def _with_sums(
    port: Trace, run: Trace, matches: Mapping[str, Sequence[RowMatch]]
) -> tuple[Trace, dict[tuple[str, str], str], list[TraceEntry]]:
    """Return a port whose sums have the names of a kit's; see `align_sums`.

    Returns:
        The port, the port's own names by call and new name, and the entries that are left out.
    """
    renamed: dict[tuple[str, str], str] = {}
    tensors = port.tensors  # which the new names of layers leave as they are
    left_out: list[TraceEntry] = []
    calls = {m.port.call: m for found in matches.values() for m in reversed(found)}
    for call, match in calls.items():
        batch = batch_of(port, call)

        def is_like(
            own: TraceEntry, entry: TraceEntry, match: RowMatch = match, batch: int = batch
        ) -> bool:
            x = np.asarray(tensors[next(iter(own.outputs.values()))])
            like = np.shape(run.tensors[next(iter(entry.outputs.values()))])
            return cut_like(x, match, batch, like) is not None

        port, names, dropped = align_sums(port, call, run, match.kit.call, is_like)
        renamed |= {(str(call), new): old for new, old in names.items()}
        left_out += dropped
    return port, renamed, left_out


class ModuleRowCutter(CallCutter):
    """Builds a trace of single rows of modules, whose arrays are compared with the kit's.

    An axis is one of rows or of tokens if its size says so, compared with the kit's: `n` rows where
    the kit has one, all tokens of the padded batch where the kit has those of the row. So heads or
    channels that are as many as tokens are kept.

    Args:
        trace: The trace with batches.
        run: The kit's run.
        of_port: Whether it is the port's trace; else the kit's.
    """

    def __init__(self, trace: Trace, run: Trace, of_port: bool):
        super().__init__(trace)
        self.run = run
        self.of_port = of_port

    def add(self, call: str, match: RowMatch, network: ModuleRows) -> list[TraceEntry]:
        """Add a row as a call, and return the entries of which the row is not known.

        Args:
            call: The name of the call.
            match: The row.
            network: The network that computes it.
        """
        at = match.port if self.of_port else match.kit
        return self.add_cut(call, at.call, self._rule(match, network))

    def _rule(self, match: RowMatch, network: ModuleRows) -> CutArray:
        """Return what cuts the arrays of a call."""
        declared = {x.role for x in network.inputs} | {"input"}
        batch = batch_of(self.source, match.port.call) if self.of_port else 1

        def cut(entry: TraceEntry, side: str, role: str, x: np.ndarray) -> np.ndarray | None:
            if not self.of_port:
                return x
            own = self.run.find(match.kit.call, entry.layer)
            roles = {} if own is None else own.inputs if side == "input" else own.outputs
            like = np.shape(self.run.tensors[roles[role]]) if role in roles else None
            if not entry.layer and side == "input" and role not in declared:
                return x if like is None or x.shape == like else None
            return cut_like(x, match, batch, like)

        return cut


def cut_like(
    x: np.ndarray, match: RowMatch, batch: int, like: tuple[int, ...] | None
) -> np.ndarray | None:
    """Return a row of a port's array without padding; None if its sizes do not tell which it is.

    Args:
        x: The array of the whole call.
        match: The row.
        batch: The number of rows of the call.
        like: The sizes of the kit's array. None: the kit has none, and whole axes are rows and
            tokens by their sizes alone.
    """
    window = match.of_port
    padded = window is not None and window.padding > 0
    if like is not None and x.ndim != len(like):
        return x if batch == 1 and x.size == int(np.prod(like)) else None
    done = batch == 1
    for axis, size in enumerate(x.shape):
        tokens = np.asarray(window.rows if window else (), int)
        expected = size if like is None else like[axis]
        is_text = padded and window is not None and (like is None or expected == len(tokens))
        rows = like is None and axis == 0 and size == batch
        if not done and (rows or (like is not None and size == batch * expected)):
            count = size // batch
            x = np.take(x, np.arange(match.port.row * count, (match.port.row + 1) * count), axis)
            done = True
        elif is_text and window is not None and axis == 0 and size == batch * window.of:
            x = np.take(x, match.port.row * window.of + tokens, axis)  # tokens of all texts
            done = True
        elif is_text and window is not None and size == window.of:
            x = np.take(x, tokens, axis)
    return x if like is None or x.size == int(np.prod(like)) else None


def _with_others(rows: Trace, source: Trace, networks: Collection[str]) -> Trace:
    """Return rows with the calls of the networks that were not taken apart.

    Args:
        rows: The trace of rows.
        source: The trace with batches.
        networks: The networks of the rows.
    """
    others = [e for e in source.entries if e.call.kind not in networks and not e.call.is_host]
    names = [name for e in others for name in (*e.inputs.values(), *e.outputs.values())]
    tensors = {**rows.tensors, **{name: source.tensors[name] for name in names}}
    return replace(rows, tensors=tensors, entries=(*rows.entries, *others))
