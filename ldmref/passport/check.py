"""Judge a port's dump by a kit: by the kit's model, and by its run and the floors of it.

The judge is that of `ldmref diff`: each recorded layer is computed again from the port's own input.
A kit adds what is known only of it: the run that everybody shares, so a port whose layers are right
and whose run is another one is found, and what a dump leaves out is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.errors import UsageError, abbreviated, counted
from ldmref.locate.diff import ModelOriginal
from ldmref.locate.findings import DIFFERS, EQUAL, INCOMPLETE, UNKNOWN, WIRING, DiffReport, Row
from ldmref.locate.law import allowed_error, noise_floor
from ldmref.locate.original import PortOriginal, compare
from ldmref.locate.preflight import missing_layers, with_request
from ldmref.locate.recorded.argument_names import with_declared_arguments
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.report import summary
from ldmref.locate.rows import REFERENCE_ALONE, compare_reference
from ldmref.models.config import TEXT_ENCODERS
from ldmref.passport.apart import RowsApart, take_apart
from ldmref.passport.contents import check_contents
from ldmref.passport.kit import Kit
from ldmref.passport.module_rows import take_modules_apart, undeclared_rows
from ldmref.passport.original import BATCH, PIPELINE, KitOriginal, RowsOriginal
from ldmref.passport.recorded import CODE
from ldmref.passport.request import other_length, other_request
from ldmref.trace.model import Trace, TraceEntry, tensor_name, without_own_arguments

PASSES = "passes"
OPTIONAL = ("", "vae.encode")  # what the host computes, and the encoder, which few ports have
OTHER_RUN = "run"  # the kind of the row of a right run that is not the kit's
ALONE = (
    "the outputs are compared with those of the kit; its module, --against {}, would judge each "
    "layer by itself and name causes"
)
NOT_THE_KITS = "not the kit's output, and not judged by itself: {}"
OTHER_REQUEST = "the pipeline was asked for another run than the kit's"
NOT_THE_INPUT = "its {} is not the kit's: what leads to the layer is wrong, or what came before"
INHERITED = "every layer before is right, and the run is another one than the kit's"


@dataclass(frozen=True)
class Verdict:
    """The judgement of a kit on a port's dump.

    Attributes:
        kit: Family, version and the first digits of the kit's digest.
        digest: The kit's digest.
        report: The rows of the judge.
        seen: The nodes of the kit that the dump has, `CALL/LAYER`.
        nodes: The number of nodes of the kit.
        missing: Calls of networks that the dump lacks, without which it does not pass; it may lack
            the encoder of images.

    >>> report = DiffReport((Row("vae.decode", "decoder.conv_in"),))
    >>> verdict = Verdict("sd15 2.0 (0f3a)", "0f3a", report, 1, 2, ("unet.000",))
    >>> verdict.passed, verdict.message
    (False, 'incomplete: 1 of 2 nodes in float32')
    """

    kit: str
    digest: str
    report: DiffReport
    seen: int
    nodes: int
    missing: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The result: "passes", "differs", "incomplete" or "nothing compared"."""
        if self.report.verdict == EQUAL:
            return INCOMPLETE if self.missing else PASSES
        return self.report.verdict

    @property
    def passed(self) -> bool:
        """Whether the port has every call of the kit's run, and nothing differs."""
        return self.verdict == PASSES

    @property
    def message(self) -> str:
        """The verdict in a few words, with its format and the number of nodes."""
        counted = f"{self.seen} of {self.nodes} nodes in {self.report.dtype}"
        return f"{self.verdict}: {counted}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary of everything."""
        return {
            "kit": self.kit,
            "digest": self.digest,
            "verdict": self.verdict,
            "passed": self.passed,
            "seen": self.seen,
            "nodes": self.nodes,
            "missing": list(self.missing),
            "report": self.report.to_dict(),
        }

    def __str__(self) -> str:
        if self.passed:
            return f"{self.message}; {summary(self.report)}"
        if self.verdict == INCOMPLETE and self.missing:
            return f"{self.message}; the dump lacks {', '.join(self.missing[:3])}"
        return f"{self.message}; {summary(self.report)}"


def check_dump(
    port: Trace,
    kit: Kit,
    *,
    against: object = None,
    dtype: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Verdict:
    """Judge a port's dump by a kit.

    Args:
        port: The dump, from `load_trace`.
        kit: The kit that the port ran.
        against: Of a kit of modules of PyTorch, the modules as `make_module_kit` took them, which
            judge each layer by itself and name causes. None: the dump is compared with the outputs
            in the kit alone, which needs no PyTorch.
        dtype: The port's number format. None: as recorded.
        progress: Called as `progress(calls done, calls, call)`. None: nothing is called.

    Returns:
        The verdict.

    Raises:
        CorruptModelError: A file of the kit is not the one that it describes, or its files do not
            agree with each other.
        UsageError: The dump has no call of a network of the kit, or the modules are not the kit's.

    >>> from ldmref.passport import read_kit
    >>> from ldmref.trace import load_trace
    >>> kit = read_kit("kits/z-image")  # doctest: +SKIP
    >>> check_dump(load_trace("port.safetensors"), kit).passed  # doctest: +SKIP
    True
    """
    if against is not None and not kit.networks:
        message = f"{kit.family} is a model of ldmref, and its kit is judged by no module"
        raise UsageError(message, code=CODE, hint="leave out the module")
    kit.check_files()
    check_contents(kit)
    run = kit.trace
    port = with_request(port, run)
    if not kit.networks:
        port = with_declared_arguments(without_own_arguments(port), kit.config)
    original, reference, apart = _original(port, kit, against)
    judged_port, run = (port, run) if apart is None else (apart.port, apart.kit)
    report = compare(judged_port, original, reference, dtype=dtype, progress=progress)
    floors = kit.floors.get(report.dtype, kit.floors["float32"])
    floors = floors if apart is None else apart.floors(floors, kit.trace)
    alone = bool(kit.networks) and against is None
    inputs = [*wrong_inputs(judged_port, run, floors, report.dtype)] if alone else []
    found = replace(report, rows=_judge_runs(report, judged_port, run, floors, inputs))
    if not kit.networks and PIPELINE in port.manifest:
        asked = other_request(port, kit.request, kit.config)
        length = other_length(port, kit.request, kit.config)
        rows = _with_request(found.rows, judged_port, asked, length)
        found = replace(found, rows=tuple(rows))
    unneeded = set(missing_layers(judged_port))  # a kit has the layers of a network's first call
    gaps = [gap for gap in report.gaps if gap not in unneeded]
    notes = [ALONE.format(kit.family)] if alone else [*report.notes]
    if alone:
        gaps += _not_of_the_kit(judged_port, run)
    if kit.networks and apart is None:
        gaps += undeclared_rows(port, kit)
    if apart is not None:
        found = replace(found, rows=tuple(map(apart.rename, found.rows)))
        gaps += apart.gaps
        notes += apart.notes
    found = replace(found, gaps=tuple(gaps), notes=tuple(notes))
    seen = {e.name for e in judged_port.entries if _has_the_shape(judged_port, e, run)}
    seen = seen if apart is None else apart.whole(seen, kit.trace)
    return _verdict(kit, found, seen)


def _verdict(kit: Kit, report: DiffReport, seen: Collection[str]) -> Verdict:
    """Return a verdict with what of the kit was seen, and which calls are missing."""
    nodes = {entry.name for entry in kit.trace.entries if entry.outputs}
    whole = [entry for entry in kit.trace.entries if not entry.layer]
    calls = [e.name for e in whole if kit.networks or e.call.network not in OPTIONAL]
    calls = [name for name in calls if name not in _zeroed_calls(kit)]
    missing = tuple(name.rstrip("/") for name in calls if name not in seen)
    return Verdict(kit.label, kit.digest, report, len(nodes & {*seen}), len(nodes), missing)


def _zeroed_calls(kit: Kit) -> set[str]:
    """Return the calls of a kit's text encoders that its images do not depend on.

    A model may read zeros for an empty negative prompt, whatever the encoders return for it; a port
    need not call them then. The prompts come first.
    """
    if kit.networks or kit.request["negative_prompt"] or not kit.config.zero_empty_negative:
        return set()
    first = len(kit.request["prompt"])
    of_text = [e for e in kit.trace.entries if e.call.network in TEXT_ENCODERS]
    return {e.name for e in of_text if e.call.number >= first}


def _judge_runs(
    report: DiffReport,
    port: Trace,
    run: Trace,
    floors: Mapping[str, float],
    inputs: Sequence[Row] = (),
) -> tuple[Row, ...]:
    """Return the rows of a report, compared with a kit's run; of what follows, the first alone.

    Args:
        report: The report.
        port: The port's run.
        run: The kit's.
        floors: The kit's floors.
        inputs: Rows of inputs of layers that are not the kit's.
    """
    rows, _ = compare_reference(port, run, report.rows)
    found = [(row, _judge_run(row, run, floors, report.dtype)) for row in rows]
    if inputs:  # each is before the outputs of its layer
        order = {(entry.call, entry.layer): i for i, entry in enumerate(port.entries)}
        found = [*((None, row) for row in inputs), *found]
        found.sort(key=lambda pair: order.get((pair[1].call, pair[1].layer), len(order)))
    settled = _settled_calls(row for _, row in found)
    found = [
        (before, before if before and _has_no_effect(before, row, settled) else row)
        for before, row in found
    ]
    judged = [row for _, row in found]
    apart = [i for i, row in enumerate(judged) if row.kind == OTHER_RUN or row in inputs]
    batches = any(row.kind == BATCH and row.verdict == UNKNOWN for row in judged)
    first = None if report.faults or batches else _first_of(judged, apart)
    later = {*apart} - {first}  # they inherit what came before
    kept = [before if i in later else row for i, (before, row) in enumerate(found)]
    return tuple(row for row in kept if row is not None)


def _with_request(rows: Sequence[Row], port: Trace, asked: str, length: str) -> Iterator[Row]:
    """Yield rows, those of another run with what was asked for other than the kit asks.

    Another length of texts is a cause where something differs, and no fault by itself. In a narrow
    format, another request may lead to numbers within the floors, and is a row of its own.
    """
    causes = {OTHER_RUN: "; ".join(filter(None, (asked, length))), BATCH: length}
    for row in rows:
        known = row.cause or row.verdict != DIFFERS or row.kind not in causes
        yield row if known else replace(row, cause=causes[row.kind])
    if asked and not any(row.kind == OTHER_RUN for row in rows):
        values = {"error": math.inf, "verdict": DIFFERS, "cause": asked, "note": OTHER_REQUEST}
        yield Row(port.calls[0], "", OTHER_RUN, **values)


def _settled_calls(rows: Iterable[Row]) -> set[str]:
    """Return the calls of networks whose whole output is the kit's."""
    whole = [row for row in rows if not row.layer and row.inherited is not None]
    other = {row.call for row in whole if row.kind == OTHER_RUN or row.verdict != EQUAL}
    return {row.call for row in whole} - other


def _has_no_effect(before: Row, row: Row, settled: Collection[str]) -> bool:
    """Return whether a layer has other numbers than the kit's, and the output of its call has not.

    They are padding, which each program fills in its own way and no result depends on. That is
    known only of a layer that was judged by itself, and is right.
    """
    is_other = row.kind == OTHER_RUN and bool(row.layer)
    return is_other and before.verdict == EQUAL and row.call in settled


def _original(
    port: Trace, kit: Kit, against: object
) -> tuple[PortOriginal | None, Trace | None, RowsApart | None]:
    """Return what computes a port's layers again, what its outputs are compared with, and its rows.

    Rows are there of a port with other batches than the kit's.

    Raises:
        UsageError: Modules were given that are not the kit's, or the dump has no call of them.
    """
    if not kit.networks:
        model = kit.model()
        size = kit.request["width"], kit.request["height"]
        apart = take_apart(port, kit.trace, model.config, size)
        if apart is None:
            return KitOriginal(model, kit.trace), None, None
        of_rows = KitOriginal(model, apart.kit, kit.trace)
        return RowsOriginal(of_rows, ModelOriginal(model), port, apart, model), None, apart
    if not {*port.calls} & {*kit.trace.calls}:
        calls = ", ".join(kit.trace.calls)
        message = f"the dump has the calls {abbreviated(port.calls, 3)}, and the kit {calls}"
        raise UsageError(message, code=CODE, hint="name the port's call as the kit's: --names")
    apart = take_modules_apart(port, kit)
    if against is None:
        return None, kit.trace if apart is None else apart.kit, apart
    from ldmref.passport.modules import module_original

    original = module_original(kit, against)
    if apart is None:
        return original, None, None
    return RowsOriginal(original, original, port, apart), None, apart


def _first_of(rows: Sequence[Row], apart: Sequence[int]) -> int | None:
    """Return the first of some rows: of a layer's output and those within it, one within."""
    names = [rows[i].name for i in apart]
    for i in apart:
        inside = rows[i].name + ("." if rows[i].layer else "/")
        if rows[i].kind == WIRING or not any(name.startswith(inside) for name in names):
            return i
    return None


def wrong_inputs(port: Trace, run: Trace, floors: Mapping[str, float], dtype: str) -> Iterator[Row]:
    """Yield a row for each layer's input of a port that is not the kit's.

    Args:
        port: The port's run.
        run: The kit's run, with the inputs of layers.
        floors: The error of each array in the port's format.
        dtype: The port's number format.
    """
    for entry in port.entries:
        own = run.find(entry.call, entry.layer)
        for role, stored in {} if own is None or not entry.layer else own.inputs.items():
            floor = floors.get(tensor_name(entry.call, entry.layer, "input", role))
            if role not in entry.inputs or floor is None:
                continue
            got, expected = np.asarray(port.tensors[entry.inputs[role]]), run.tensors[stored]
            error = relative_error(got, np.asarray(expected))
            floor = noise_floor(floor, EPSILONS[dtype])
            allowed = allowed_error(floor)
            if got.size == np.size(expected) and error > allowed:
                note = NOT_THE_INPUT.format("input" if role == "input" else f"input {role}")
                row = Row(entry.call, entry.layer, WIRING, error, allowed, floor, verdict=DIFFERS)
                yield replace(row, inherited=error, note=note)


def _not_of_the_kit(port: Trace, reference: Trace) -> Iterator[str]:
    """Yield which outputs of a dump cannot be compared with those of a kit."""
    known = [e for e in port.entries if e.outputs]
    missing = [e.name for e in known if reference.find(e.call, e.layer) is None]
    if missing:
        yield f"{counted(len(missing), 'layer')} not in the kit's run: {abbreviated(missing, 3)}"
    other = [e.name for e in known if not _has_the_shape(port, e, reference)]
    other = [name for name in other if name not in missing]
    if other:
        text = f"{counted(len(other), 'layer')} of other sizes than the kit's"
        yield f"{text}: {abbreviated(other, 3)}"


def _has_the_shape(port: Trace, entry: TraceEntry, reference: Trace) -> bool:
    """Return whether a dump has an output of a node, in the shape of the kit's."""
    other = reference.find(entry.call, entry.layer)
    if other is None:
        return False
    shared = [
        (entry.outputs[role], other.outputs[role])
        for role in entry.outputs
        if role in other.outputs
    ]
    pairs = shared or list(zip(entry.outputs.values(), other.outputs.values(), strict=False))
    return any(np.size(port.tensors[a]) == np.size(reference.tensors[b]) for a, b in pairs)


def _judge_run(row: Row, reference: Trace, floors: Mapping[str, float], dtype: str) -> Row:
    """Return a row whose output is also compared with that of the kit's run.

    A run in the port's format inherits at most 16 of the kit's floors, as any layer may have.
    """
    entry = reference.find(row.call, row.layer)
    if row.inherited is None or entry is None or row.verdict == DIFFERS or row.kind == BATCH:
        return row
    floor = floors.get(tensor_name(row.call, row.layer, "output", next(iter(entry.outputs))))
    if floor is None:
        return row
    floor = noise_floor(floor, EPSILONS[dtype])
    judged = replace(row, error=row.inherited, allowed=allowed_error(floor), floor=floor)
    if row.inherited > judged.allowed:
        note = INHERITED if row.verdict != UNKNOWN else NOT_THE_KITS.format(row.note)
        return replace(judged, kind=OTHER_RUN, verdict=DIFFERS, note=note)
    if row.verdict == UNKNOWN and row.note == REFERENCE_ALONE:
        return replace(judged, verdict=EQUAL, note="")
    return row
