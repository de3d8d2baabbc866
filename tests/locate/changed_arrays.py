"""Recorded runs in which one array is changed, and what the locator says of each change.

Runs of ldmref are followed, so the first array of each kind stands for the others.

`changed_arrays/RUN.txt` has a line for each change: the array, the change, and the rows that are
not equal. Numbers within causes are left out, as they follow from the weights.
`python scripts/make_changed_arrays.py` writes the files anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.locate import DiffReport, Row
from ldmref.locate.pipeline import judge_host
from ldmref.locate.pipeline.coverage import KIND as NOT_COMPARED
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.trace import Trace
from ldmref.trace.model import without_own_arguments

FOLDER = Path(__file__).with_name("changed_arrays")
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d.]*(e[+-]?\d+)?(?!\w)")
UNIT = EPSILONS["float32"]
ALIKE = 1e-4  # of the largest value: less is no change, for kernels of other processors round so
Change = Callable[[np.ndarray], np.ndarray]


def channel(x: np.ndarray) -> int:
    """Return the axis of the channels, or of the tokens."""
    return 1 if x.ndim > 1 else -1


OFTEN: dict[str, Change] = {  # of every array
    "negative": lambda x: -x,
    "moved": lambda x: np.roll(x, 1, axis=-1) if x.ndim else x + 1,
}
ONCE: dict[str, Change] = {  # of the first array of each kind
    "halved": lambda x: x / 2,
    "doubled": lambda x: x * 2,
    "thousandfold": lambda x: x * 1000,
    "thousandth": lambda x: x / 1000,
    "later": lambda x: x + 1,
    "earlier": lambda x: x - 1,
    "one minus it": lambda x: 1 - x,
    "square": lambda x: x * x,
    "zero": lambda x: 0 * x,
    "one": lambda x: 0 * x + 1,
    "clamped": lambda x: np.clip(x, -0.5, 0.5),
    "rows exchanged": lambda x: x[::-1] if x.ndim else x,
    "rows alike": lambda x: np.concatenate([x[:1]] * len(x)) if x.ndim else x,
    "channels exchanged": lambda x: np.flip(x, channel(x)) if x.ndim else x,
    "channels moved": lambda x: np.roll(x, 1, channel(x)) if x.ndim else x,
    "channels earlier": lambda x: np.roll(x, -1, channel(x)) if x.ndim else x,
    "turned": lambda x: x.swapaxes(-1, -2) if x.ndim > 1 else x,
    "not a number": lambda x: x * np.nan,
    "cut": lambda x: x[..., :-1] if x.ndim else x,
    "missing": lambda x: x,
}


FEW = ("halved", "later", "zero", "rows exchanged", "missing", "cut")  # of `ONCE`


def changed_runs(
    trace: Trace, kinds: tuple[str, ...], few: bool = False
) -> Iterator[tuple[str, Trace]]:
    """Yield the changes of each array of whole calls: the array's name, and the run.

    Args:
        trace: The run.
        kinds: Kinds of calls whose first arrays are changed in every way.
        few: Whether only the first array of each kind is changed, in `FEW` ways.
    """
    seen = set()
    once = {title: ONCE[title] for title in FEW} if few else ONCE
    for entry in trace.entries:
        of_text = entry.call.kind.startswith("text_encoder")
        if entry.layer or (of_text and "text_encoder" not in kinds):
            continue
        for side in ("inputs", "outputs"):
            for role in getattr(entry, side):
                kind = (entry.call.kind, side, role.partition(".")[0] if few else role)
                first = kind not in seen and entry.call.startswith(kinds)
                changes = {**OFTEN, **once} if first else OFTEN
                if few and kind in seen:
                    continue
                seen.add(kind)
                for title, change in changes.items():
                    made = change_array(trace, entry, side, role, title, change)
                    if made is not None:
                        yield f"{entry.call} {side[:-1]}.{role} {title}", made


def change_array(
    trace: Trace, entry: Any, side: str, role: str, title: str, change: Change
) -> Trace | None:
    """Return a run in which one array is another one; None if that changes nothing."""
    roles = dict(getattr(entry, side))
    x = np.asarray(trace.tensors[roles[role]])
    tensors = dict(trace.tensors)
    if title == "missing":
        del roles[role]
    else:
        whole = x.dtype.kind != "f"
        if whole and title == "not a number":
            return None
        with np.errstate(all="ignore"):
            other = np.asarray(change(x.astype(np.int64) if whole else x)).astype(x.dtype)
        if is_alike(other, x):
            return None
        roles[role] = f"changed/{entry.call}/{side}.{role}"
        tensors[roles[role]] = other
    entries = tuple(replace(e, **{side: roles}) if e is entry else e for e in trace.entries)
    return replace(trace, tensors=tensors, entries=entries)


def is_alike(other: np.ndarray, x: np.ndarray) -> bool:
    """Return whether a change leaves all but rounding, as the order of two equal rows does.

    Which last bits such rows have depends on the kernels that a processor gets.
    """
    if other.shape != x.shape or x.dtype.kind != "f":
        return np.array_equal(other, x)
    wide = x.astype(np.float64)
    largest = float(np.max(np.abs(wide), initial=0.0))
    return bool(np.allclose(other.astype(np.float64), wide, rtol=0.0, atol=ALIKE * largest))


def words_of(row: Row) -> str:
    """Return a row in a few words without numbers.

    The letters say what else it has: n a note, s a segment, e an error that its cause leaves.
    """
    verdict = "?" if row.verdict == "not judged" else ""
    kinds = {"n": row.note, "s": row.segment, "e": row.explained is not None}
    letters = "".join(letter for letter, value in kinds.items() if value)
    text = f"{verdict}{row.call} {row.kind} {letters}".rstrip()
    if row.kind == NOT_COMPARED:
        text += f" of {row.note.partition(' not compared')[0]}"
    return text + (f" ({NUMBER.sub('#', row.cause)})" if row.cause else "")


def allowed_of(row: Row) -> str:
    """Return the error that a row allows, with ~ if it follows from the noise of a computation."""
    computed = row.floor is not None and row.floor != UNIT / 2.0
    return f" ~{row.allowed:.3g}" if computed else f" {row.allowed:.1g}"


def describe_changes(
    trace: Trace,
    model: Any,
    controlnets: Sequence = (),
    kinds: tuple[str, ...] = (),
    few: bool = False,
) -> list[str]:
    """Return a line for each change of a run.

    Args:
        trace: The run.
        model: Its model.
        controlnets: Its ControlNets.
        kinds: Kinds of calls whose first arrays are changed in every way.
        few: Whether only the first array of each kind is changed.
    """
    trace = without_own_arguments(trace)
    rows = judge_host(trace, model, "float32", [], controlnets)
    lines = [f"unchanged: {'equal' if DiffReport(tuple(rows)).equal else 'not equal'}"]
    lines += [f"{words_of(row)}{allowed_of(row)}" for row in rows]
    for title, run in changed_runs(trace, kinds, few):
        with np.errstate(all="ignore"):
            rows = judge_host(run, model, "float32", [], controlnets)
        found = [words_of(row) for row in rows if row.verdict != "equal"]
        lines.append(f"{title}: {'; '.join(dict.fromkeys(found)) or 'equal'}")
    return lines


def path_of(name: str) -> Path:
    """Return the file of a run."""
    return FOLDER / f"{name.replace(',', '').replace(' ', '-')}.txt"


def stored_lines(name: str) -> list[str]:
    """Return the lines of a run as they are stored."""
    return path_of(name).read_text(encoding="utf-8").splitlines()


def differences(name: str, found: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Return the lines of a run that are not as they are stored, with those that are."""
    pairs = zip_longest(found, stored_lines(name))
    return [(line, stored) for line, stored in pairs if not is_same(line, stored)]


def is_same(line: str | None, stored: str | None) -> bool:
    """Return whether lines are equal, but for a twentieth of what a row allows after ~."""
    words, computed, allowed = (line or "").partition(" ~")
    others, _, expected = (stored or "").partition(" ~")
    if not computed or not expected or words != others:
        return line == stored
    return math.isclose(float(allowed), float(expected), rel_tol=0.05)
