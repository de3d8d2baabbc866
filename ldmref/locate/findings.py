"""The result of a diff: one row for every recorded array that was judged."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

EQUAL = "equal"
# Above the noise of the format and below the bound, or in float64 rounding of float32; no known
# fault explains it.
NOISY = "noisy"
DIFFERS = "differs"
UNKNOWN = "not judged"
WIRING = "wiring"  # the kind of a row for what leads to the input of a layer
INCOMPLETE = "incomplete"
NOTHING = "nothing compared"
OVERFLOW = "ldmref itself overflows in {} here, so it does not know which errors are rounding"


@dataclass(frozen=True)
class Row:
    """One judged layer, wiring or computation between them.

    Attributes:
        call: The call, "unet.000".
        layer: The layer's module path; "" for the whole call.
        kind: "own" for the layer itself, "wiring" for what leads to its input, or the name of a
            computation between networks ("step", "guidance").
        error: The largest difference relative to the largest value; infinite for other shapes.
        allowed: The largest error that counts as rounding: for layers and wiring 16 floors, with
            half a unit of rounding in place of a smaller or an unknown floor.
        floor: The error of ldmref in the port's number format. None: it was not needed.
        bound: The largest error that is no fault unless a known one explains it: the error bound of
            the operation, or 100 floors of a part of several. None: it was not needed.
        inherited: The difference of the output from the reference trace. None: there is no such
            trace.
        verdict: "equal", "noisy", "differs" or "not judged".
        cause: The known fault that explains the error.
        explained: The error that remains with that fault. None: no known fault explains it.
        note: Layout, first NaN, wrong shape, or the reason why it was not judged.
        segment: For wiring, the part that is wrong: the layer before it and the operations since.
        padding: The rows of padding of the array, on which nothing depends that is kept: they were
            not compared.
        reasonable: Why the cause, a change that is right in itself, makes another model, with the
            threads that discuss it; "" for all other causes.

    >>> from ldmref.locate import Row
    >>> row = Row("unet.000", "conv_in", error=2e-3, allowed=1e-6, verdict="differs")
    >>> row.name, round(row.excess)
    ('unet.000/conv_in', 2000)
    """

    call: str
    layer: str
    kind: str = "own"
    error: float = 0.0
    allowed: float = 0.0
    floor: float | None = None
    bound: float | None = None
    inherited: float | None = None
    verdict: str = EQUAL
    cause: str = ""
    explained: float | None = None
    note: str = ""
    segment: str = ""
    reasonable: str = ""
    padding: int = 0

    @property
    def name(self) -> str:
        """Return `CALL/LAYER`, or the call."""
        return f"{self.call}/{self.layer}" if self.layer else self.call

    @property
    def excess(self) -> float:
        """Return error / allowed, infinite where nothing is allowed."""
        if self.verdict == UNKNOWN:
            return 0.0
        return self.error / self.allowed if self.allowed else math.inf * (self.error > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; infinity becomes None."""
        values = asdict(self)
        return {
            key: None if isinstance(x, float) and not math.isfinite(x) else x
            for key, x in values.items()
        }


@dataclass(frozen=True)
class DiffReport:
    """All rows of a diff.

    Attributes:
        rows: In the order of the port's run.
        port: The file or folder of the port's trace.
        dtype: The number format by which it was judged.
        notes: Remarks on the whole comparison.
        seconds: The time that the comparison took.
        gaps: What the trace should have, or has, and was not compared.

    >>> from ldmref.locate import DiffReport, Row
    >>> report = DiffReport((Row("unet.000", "conv_in"), Row("unet.000", "mid", verdict="differs")))
    >>> report.counts(), [row.name for row in report.faults]
    ({'equal': 1, 'noisy': 0, 'differs': 1, 'not judged': 0}, ['unet.000/mid'])
    >>> report.verdict, DiffReport(()).verdict
    ('differs', 'nothing compared')
    """

    rows: tuple[Row, ...]
    port: str = ""
    dtype: str = "float32"
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    gaps: tuple[str, ...] = ()

    @property
    def faults(self) -> list[Row]:
        """The rows that differ."""
        return [row for row in self.rows if row.verdict == DIFFERS]

    @property
    def verdict(self) -> str:
        """The result: "equal", "differs", "incomplete" or "nothing compared".

        It is "equal" only if everything that was recorded was compared.
        """
        counts = self.counts()
        if counts[DIFFERS]:
            return DIFFERS
        seen = any(row.inherited is not None for row in self.rows)  # by the reference alone
        if not counts[EQUAL] and not counts[NOISY] and not seen:
            return NOTHING
        return INCOMPLETE if counts[UNKNOWN] or self.gaps else EQUAL

    @property
    def equal(self) -> bool:
        """Whether everything that was recorded was compared, and nothing differs."""
        return self.verdict == EQUAL

    def counts(self) -> dict[str, int]:
        """Return the number of rows by verdict."""
        found = [row.verdict for row in self.rows]
        return {verdict: found.count(verdict) for verdict in (EQUAL, NOISY, DIFFERS, UNKNOWN)}

    @property
    def padding(self) -> int:
        """The rows of padding of all arrays, which were not compared."""
        return sum(row.padding for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary of everything."""
        return {
            "port": self.port,
            "dtype": self.dtype,
            "verdict": self.verdict,
            "equal": self.equal,
            "counts": self.counts(),
            "padding": self.padding,
            "notes": list(self.notes),
            "gaps": list(self.gaps),
            "rows": [row.to_dict() for row in self.rows],
        }
