"""Judge a port's dump by a kit: by the kit's model, and by its run and the floors of it.

The judge is that of `ldmref diff`: each recorded layer is computed again from the port's own input.
A kit adds what is known only of it: the run that everybody shares, so a port whose layers are right
and whose run is another one is found, and what a dump leaves out is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.locate.findings import DIFFERS, EQUAL, INCOMPLETE, UNKNOWN, DiffReport, Row
from ldmref.locate.law import allowed_error, noise_floor
from ldmref.locate.original import compare
from ldmref.locate.precision import EPSILONS
from ldmref.locate.preflight import missing_layers, with_request
from ldmref.locate.report import summary
from ldmref.locate.rows import REFERENCE_ALONE, compare_reference
from ldmref.passport.kit import Kit
from ldmref.passport.original import KitOriginal
from ldmref.trace.model import Trace, TraceEntry, tensor_name

PASSES = "passes"
OPTIONAL = ("", "vae.encode")  # what the host computes, and the encoder, which few ports have
OTHER_RUN = "run"  # the kind of the row of a right run that is not the kit's
NOT_THE_KITS = "not the kit's output, and not judged by itself: {}"
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
    >>> verdict = Verdict("sd15 1.0 (0f3a)", "0f3a", report, 1, 2, ("unet.000",))
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
    dtype: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Verdict:
    """Judge a port's dump by a kit.

    Args:
        port: The dump, from `load_trace`.
        kit: The kit that the port ran.
        dtype: The port's number format. None: as recorded.
        progress: Called as `progress(calls done, calls, call)`. None: nothing is called.

    Returns:
        The verdict.

    Raises:
        CorruptModelError: A file of the kit is not the one that it describes.
        UsageError: The dump has no call of a network of the kit.

    >>> from ldmref.passport import read_kit
    >>> from ldmref.trace import load_trace
    >>> kit = read_kit("kits/z-image")  # doctest: +SKIP
    >>> check_dump(load_trace("port.safetensors"), kit).passed  # doctest: +SKIP
    True
    """
    kit.check_files()
    reference = kit.trace
    port = with_request(port, reference)
    report = compare(port, KitOriginal(kit), dtype=dtype, progress=progress)
    rows, _ = compare_reference(port, reference, report.rows)
    floors = kit.floors.get(report.dtype, kit.floors["float32"])
    judged = [_judge_run(row, reference, floors, report.dtype) for row in rows]
    apart = [i for i, row in enumerate(judged) if row.kind == OTHER_RUN]
    later = {*range(len(rows))} if report.faults else {*apart[1:]}  # they inherit what came before
    counted = set(missing_layers(port))  # a kit has the layers of the first call of a network
    found = replace(
        report,
        rows=tuple(rows[i] if i in later and i in apart else row for i, row in enumerate(judged)),
        gaps=tuple(gap for gap in report.gaps if gap not in counted),
    )
    nodes = {entry.name for entry in reference.entries if entry.outputs}
    seen = {entry.name for entry in port.entries if _has_the_shape(port, entry, reference)}
    whole = [e for e in reference.entries if not e.layer and e.call.network not in OPTIONAL]
    calls = [e.name for e in whole]
    missing = tuple(name.rstrip("/") for name in calls if name not in seen)
    return Verdict(kit.label, kit.digest, found, len(nodes & seen), len(nodes), missing)


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
    if row.inherited is None or entry is None or row.verdict == DIFFERS:
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
