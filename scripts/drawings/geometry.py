"""Numbers and outlines of shapes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Point = tuple[float, float]
RADIUS = 10.0  # of the rounded corners of an arrow


def number(value: float, digits: int = 1) -> str:
    """Return a coordinate as the file has it."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def pair(point: Iterable[float]) -> str:
    """Return a point as the file has it."""
    return ",".join(number(v) for v in point)


def rounded(points: list[Point]) -> str:
    """Return the path through points, with arcs at its corners."""
    commands = [f"M{pair(points[0])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        enter, leave = (_towards(corner, other) for other in (before, after))
        commands.append(f"L{pair(enter)}Q{pair(corner)} {pair(leave)}")
    return "".join([*commands, f"L{pair(points[-1])}"])


def _towards(corner: Point, other: Point) -> np.ndarray:
    """Return the point where the arc of a corner begins or ends."""
    away = np.subtract(other, corner)
    length = float(np.linalg.norm(away))
    return np.asarray(corner) + away / length * min(RADIUS, length / 2)


def heart(x: float, y: float, size: float) -> np.ndarray:
    """Return the outline of a heart around (x, y), (n, 2)."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    across = 16 * np.sin(t) ** 3
    up = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x + across * size / 32, y - (up + 2) * size / 32], axis=1)


def inside_heart(n: int) -> np.ndarray:
    """Return n x n cells: 1 inside of a heart, 0 outside."""
    side = (np.arange(n) + 0.5) / n * 2.7 - 1.35
    x, y = side[None, :], 0.2 - side[:, None]
    return ((x**2 + y**2 - 1) ** 3 - x**2 * y**3 < 0).astype(float)


def polygon(x: float, y: float, size: float, corners: int, depth: float = 1.0) -> np.ndarray:
    """Return the corners of a regular polygon, or of a star whose inner corners are at `depth`."""
    count = corners if depth == 1.0 else 2 * corners
    angles = 2 * np.pi * np.arange(count) / count - np.pi / 2
    radii = np.where(np.arange(count) % 2, depth, 1.0) * size / 2
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
