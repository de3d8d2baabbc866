"""What was measured: rows with a value, its interval and its unit, in sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ldmref.evaluate.estimate import Estimate


@dataclass(frozen=True)
class Row:
    """One figure; `interval`: half the width of its 95 % confidence interval, None without one."""

    name: str
    value: float
    interval: float | None
    unit: str


@dataclass
class Section:
    """Figures that belong together, and a sentence on what they are figures of."""

    title: str
    note: str
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, value: Estimate | float, unit: str = "") -> None:
        interval = value.half_width if isinstance(value, Estimate) else None
        mean = value.mean if isinstance(value, Estimate) else float(value)
        self.rows.append(Row(name, mean, interval, unit))


def to_lines(sections: list[Section]) -> list[str]:
    """A readable table."""
    lines = []
    for section in sections:
        lines += [section.title] + [f"  {section.note}"] * bool(section.note)
        for row in section.rows:
            interval = "" if row.interval is None else f" +- {row.interval:.3g}"
            value = f"{row.value:.4g}{interval} {row.unit}".rstrip()
            lines.append(f"  {row.name:<42} {value}")
    return lines


def to_dict(sections: list[Section]) -> dict[str, Any]:
    """The same for JSON, by title and name."""
    return {
        section.title: {
            row.name: {"value": row.value, "interval": row.interval, "unit": row.unit}
            for row in section.rows
        }
        for section in sections
    }
