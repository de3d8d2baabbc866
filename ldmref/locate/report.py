"""A report as text: one line for each fault, however many calls repeat it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ldmref.errors import counted
from ldmref.locate.faults.weights import OTHERS
from ldmref.locate.findings import DIFFERS, NOISY, UNKNOWN, WIRING, DiffReport, Row
from ldmref.trace.calls import TraceCall

WIRES = (WIRING, "prediction", "state", "initial latents")  # what leads from one to another
ORDER = "equal after transpose"  # of notes on arrays in another order of axes
FEWEST = 3  # layers of a network with other weights, from which they share one line
UPSTREAM = "as upstream"  # the end of notes on what follows from an earlier NaN
HEADINGS = ("layer or computation", "own error", "allowed", "bound", "inherited", "finding")


@dataclass(frozen=True)
class Group:
    """Rows of one layer in several calls that have the same finding.

    Attributes:
        worst: The row with the largest excess.
        calls: All calls.
    """

    worst: Row
    calls: tuple[str, ...]

    @property
    def name(self) -> str:
        """The layer, with its calls in short: `unet.000 to unet.049/conv_in`."""
        first, last = self.calls[0], self.calls[-1]
        calls = first if len(self.calls) == 1 else f"{first} to {last}"
        return f"{calls}/{self.worst.layer}" if self.worst.layer else calls


def group_rows(rows: Sequence[Row], worst_first: bool = False) -> list[Group]:
    """Return rows in groups, in the order of their first row or by excess."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (
            TraceCall(row.call).kind,
            row.layer,
            row.kind,
            row.verdict,
            _without_numbers(row.cause),
            row.segment,
        )
        groups.setdefault(key, []).append(row)
    found = [
        Group(max(rows, key=lambda row: row.excess), tuple(dict.fromkeys(r.call for r in rows)))
        for rows in groups.values()
    ]
    return sorted(found, key=lambda group: -group.worst.excess) if worst_first else found


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+\.\d+", "#", text)


def table(
    report: DiffReport, *, everything: bool = False, worst_first: bool = False
) -> list[list[str]]:
    """Return the cells of a table with headings; [] if there is nothing to show.

    Args:
        report: The report.
        everything: Whether layers that are equal are also listed, each call by itself.
        worst_first: Whether the largest excess comes first.
    """
    shown = [row for row in report.rows if row.verdict in (DIFFERS, NOISY, UNKNOWN)]
    if everything:
        groups = [Group(row, (row.call,)) for row in report.rows]
        if worst_first:
            groups.sort(key=lambda group: -group.worst.excess)
    else:
        groups = group_rows(shown, worst_first)
        groups = _summarise_weights(_summarise_upstream(groups))
    if not groups:
        return []
    inherited = any(group.worst.inherited is not None for group in groups)
    lines: list[list[str]] = [[*HEADINGS], *map(_cells, groups)]
    return lines if inherited else [line[:4] + line[5:] for line in lines]


def _summarise_upstream(groups: list[Group]) -> list[Group]:
    """Return the groups, with one in place of all that were not judged because of one before."""
    after = [g for g in groups if g.worst.verdict == UNKNOWN and g.worst.note.endswith(UPSTREAM)]
    if len(after) < 2:
        return groups
    note = f"{counted(len(after), 'layer')} after it not finite, {UPSTREAM}; --all lists them"
    return _in_one(groups, after, replace(after[0].worst, note=note))


def _summarise_weights(groups: list[Group]) -> list[Group]:
    """Return the groups, with one for each network whose weights were not loaded.

    Some layers have too few rows to show their weights; where many others of the network have other
    weights, what nothing explains is counted with them.
    """
    wrong = [g for g in groups if (g.worst.verdict, g.worst.kind) == (DIFFERS, "own")]
    for network in dict.fromkeys(TraceCall(group.worst.call).kind for group in wrong):
        own = [group for group in wrong if TraceCall(group.worst.call).kind == network]
        shown = [g for g in own if g.worst.cause == OTHERS]
        rest = [g for g in own if not g.worst.cause]
        if len(shown) < FEWEST or len(shown) * 4 < len(rest):
            continue
        note = f"{counted(len(shown), 'layer')} of {network}: were its weights loaded?"
        if rest:
            note += f" Nothing else explains {len(rest)} more."
        row = replace(shown[0].worst, explained=None, note=f"{note} --all lists them")
        groups = _in_one(groups, [*shown, *rest], row)
    return groups


def _in_one(groups: list[Group], some: list[Group], row: Row) -> list[Group]:
    """Return the groups, with one of a row in place of the first of some."""
    calls = tuple(dict.fromkeys(call for group in some for call in group.calls))
    first = min(groups.index(group) for group in some)
    return [*groups[:first], Group(row, calls), *(g for g in groups[first:] if g not in some)]


def _cells(group: Group) -> list[str]:
    row = group.worst
    kind = "" if row.kind == "own" else f" ({row.kind})"
    numbers = [row.error, row.allowed, row.bound, row.inherited]
    if row.verdict == UNKNOWN:
        numbers[:3] = [None, None, None]
    return [group.name + kind, *map(show_number, numbers), describe(row)]


def describe(row: Row) -> str:
    """Return the finding of a row in words."""
    parts = [row.verdict]
    if row.cause:
        left = "" if row.explained is None else f" (leaves {show_number(row.explained)})"
        parts.append(f"{row.cause}{left}")
    if row.reasonable:
        parts.append(f"reasonable, but not this model: {row.reasonable}")
    if row.note:
        parts.append(row.note)
    shows_segment = row.kind in WIRES or (row.verdict == DIFFERS and not row.cause)
    if row.segment and shows_segment:
        parts.append(row.segment)
    return ": ".join([parts[0], "; ".join(parts[1:])]) if parts[1:] else parts[0]


def show_number(x: float | None) -> str:
    """Return a number with two digits; "" for None.

    >>> show_number(1.234e-7), show_number(None), show_number(float("inf"))
    ('1.2e-07', '', 'infinite')
    """
    if x is None:
        return ""
    return f"{x:.2g}" if math.isfinite(x) else "infinite"


def summary(report: DiffReport) -> str:
    """Return the report in one sentence."""
    counts = report.counts()
    judged = sum(counts.values()) - counts[UNKNOWN]
    several = judged != 1
    what = f"{judged} layers and computations" if several else "1 layer or computation"
    agree = f"{what} agree{'' if several else 's'} within the rounding of {report.dtype}"
    faults = group_rows(report.faults)
    if faults:
        named = counted(len(faults), "fault")
        explained = sum(bool(group.worst.cause) for group in faults)
        text = f"{named} in {what}, {explained} explained"
    elif not judged:
        text = _compare_with_reference(report)
    elif report.equal:
        text = agree
    else:
        text = f"not everything could be compared; {agree}"
    if counts[UNKNOWN]:
        text += f"; {counts[UNKNOWN]} not judged"
    turned = [row for row in report.rows if row.verdict != DIFFERS and ORDER in row.note]
    if turned:
        order = ORDER + turned[0].note.partition(ORDER)[2].partition(";")[0]
        text += f"; {len(turned)} in another order of axes, such as {turned[0].name}: {order}"
    if report.padding:
        text += f"; rows of padding not compared: {report.padding}"
    return "; ".join([text, *report.gaps[:1]]) if not faults else text


def _compare_with_reference(report: DiffReport) -> str:
    """Return in words what a report without a judged layer holds."""
    seen = [row for row in report.rows if row.inherited is not None]
    if not seen:
        return "nothing was compared"
    far = max(seen, key=lambda row: row.inherited or 0.0)
    largest = f"the largest difference is {show_number(far.inherited)}, of {far.name}"
    layers = counted(len(seen), "layer")
    return f"{layers} compared with the reference alone, which locates no fault; {largest}"
