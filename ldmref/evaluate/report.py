"""Sections of measurements: each has a value, its confidence interval and its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ldmref.evaluate.intervals import IntervalEstimate

SAME = 1e-9  # relative difference below which the two sides of an interval are equal


@dataclass(frozen=True)
class Measurement:
    """One measured number, as `evaluate` reports it.

    Args:
        name: Name of the quantity, such as "PSNR".
        value: The number.
        interval: The ends of its 95 % confidence interval; None without one.
        unit: Its unit, such as "dB"; "" for a number without one.
        count: The number of images on which it was measured.

    >>> from ldmref.evaluate import Measurement
    >>> Measurement("PSNR", 28.5, (28.0, 29.0), "dB", 64).unit
    'dB'
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    unit: str
    count: int


@dataclass
class Section:
    """A group of measurements, with a title and a note.

    Args:
        title: The title.
        note: A sentence about all measurements; "" for none.
        count: The number of images that are measured.
        rows: The measurements.

    >>> from ldmref.evaluate import Section, to_lines
    >>> section = Section("Reconstruction", "", 64)
    >>> section.add("PSNR", 28.5, "dB")
    >>> to_lines([section])
    ['Reconstruction, 64 images', '  PSNR                                       28.5 dB']
    """

    title: str
    note: str
    count: int
    rows: list[Measurement] = field(default_factory=list)

    def add(self, name: str, value: IntervalEstimate | float, unit: str = "") -> None:
        """Append a measurement.

        Args:
            name: Name of the quantity.
            value: A number, or an estimate with its interval and its own number of images.
            unit: Its unit; "" for a number without one.
        """
        if isinstance(value, IntervalEstimate):
            interval = None if math.isnan(value.low) else (value.low, value.high)
            self.rows.append(Measurement(name, value.mean, interval, unit, value.images))
        else:
            self.rows.append(Measurement(name, float(value), None, unit, self.count))


def to_lines(sections: list[Section]) -> list[str]:
    """Return the measurements as text; one on fewer images than its section says so.

    Args:
        sections: The sections, from `evaluate`.

    Returns:
        Lines without line ends.

    >>> from ldmref.evaluate import Section, to_lines
    >>> section = Section("Reconstruction", "", 64)
    >>> section.add("PSNR", 28.5, "dB")
    >>> to_lines([section])
    ['Reconstruction, 64 images', '  PSNR                                       28.5 dB']
    """
    lines = []
    for section in sections:
        images = f"{section.count} images"
        lines.append(f"{section.title}, {images}")
        if section.note:
            lines.append(f"  {section.note}")
        for row in section.rows:
            name = row.name if row.count == section.count else f"{row.name}, {row.count} images"
            value = f"{row.value:.4g}{_interval(row)} {row.unit}".rstrip()
            lines.append(f"  {name:<42} {value}")
    return lines


def _interval(row: Measurement) -> str:
    """Format " +- half the width", or both ends if the value is not in the middle."""
    if row.interval is None:
        return ""
    low, high = row.interval
    below = row.value - low
    above = high - row.value
    if math.isclose(below, above, rel_tol=SAME, abs_tol=SAME * abs(row.value)):
        return f" +- {below:.3g}"
    return f" ({low:.4g} to {high:.4g})"


def to_dict(sections: list[Section]) -> dict[str, Any]:
    """Return the measurements for JSON, by title and name.

    Args:
        sections: The sections, from `evaluate`.

    Returns:
        Nested dictionaries; values that are not finite, and missing intervals, are None.

    >>> from ldmref.evaluate import Section, to_dict
    >>> section = Section("Reconstruction", "", 64)
    >>> section.add("PSNR", 28.5, "dB")
    >>> to_dict([section])
    {'Reconstruction': {'PSNR': {'value': 28.5, 'interval': None, 'unit': 'dB', 'images': 64}}}
    """
    return {
        section.title: {
            row.name: {
                "value": _finite(row.value),
                "interval": row.interval and [_finite(end) for end in row.interval],
                "unit": row.unit,
                "images": row.count,
            }
            for row in section.rows
        }
        for section in sections
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
