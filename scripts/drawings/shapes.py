"""The shapes that all drawings are made of.

A drawing is 400 units wide: at 375 pixels its smallest text is 11 pixels high. Texts are written
with marks: `*x*` for a variable, `_{t}` for an index, `^{2}` for an exponent. A drawing remembers
where its texts, frames and lines are, so that tests can find what overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from drawings.canvas import SMALL, Canvas, Rectangle
from drawings.geometry import Point, number, pair, rounded
from drawings.palette import width_of

LEVELS = 4  # shades of a grid's cells


class Drawing(Canvas):
    """A canvas with shapes. Colours are named after what they stand for: see `palette.TONES`."""

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *lines: str,
        tone: str = "net",
        dashed: bool = False,
        strong: bool = True,
    ) -> None:
        """Draw a frame with lines of text; the first line names it."""
        self.frames.append(Rectangle(x, y, x + width, y + height))
        names = f"{self._class('fill', tone + '-tint')} {self._class('stroke', tone)}"
        self._parts.append(
            f'<rect class="{names}{" dashed" if dashed else ""}" x="{number(x)}" y="{number(y)}" '
            f'width="{number(width)}" height="{number(height)}" rx="6" stroke-width="1.5"/>'
        )
        self._lines(x + width / 2, y + height / 2, lines, strong)

    def trapezoid(
        self, y: float, height: float, top: float, bottom: float, *lines: str, middle: float
    ) -> None:
        """Draw an encoder or a decoder: a frame that narrows or widens from top to bottom."""
        left, right = middle - min(top, bottom) / 2, middle + min(top, bottom) / 2
        self.frames.append(Rectangle(left, y, right, y + height))
        corners = [(-top, y), (top, y), (bottom, y + height), (-bottom, y + height)]
        path = " ".join(f"{number(middle + x / 2)},{number(y)}" for x, y in corners)
        names = f"{self._class('fill', 'net-tint')} {self._class('stroke', 'net')}"
        self._parts.append(
            f'<polygon class="{names}" points="{path}" stroke-width="1.5" stroke-linejoin="round"/>'
        )
        self._lines(middle, y + height / 2, lines, True)

    def node(
        self, x: float, y: float, radius: float, markup: str, tone: str, dashed: bool = False
    ) -> None:
        """Draw a circle with a symbol: a variable of a graph."""
        self.frames.append(Rectangle(x - radius, y - radius, x + radius, y + radius))
        names = f"{self._class('fill', tone + '-tint')} {self._class('stroke', tone)}"
        self._parts.append(
            f'<circle class="{names}{" dashed" if dashed else ""}" cx="{number(x)}" '
            f'cy="{number(y)}" r="{number(radius)}" stroke-width="1.5"/>'
        )
        self._lines(x, y, (markup,), False)

    def arrow(
        self, *points: Point, tone: str = "ink", dashed: bool = False, head: bool = True
    ) -> None:
        """Draw a line through points with rounded corners and a head at its end."""
        self.segments += pairwise(points)
        before, end = np.asarray(points[-2], float), np.asarray(points[-1], float)
        direction = (end - before) / np.linalg.norm(end - before)
        stop = end - 7 * direction if head else end
        names = f"line {self._class('stroke', tone)}{' dashed' if dashed else ''}"
        path = rounded([*points[:-1], (float(stop[0]), float(stop[1]))])
        self._parts.append(f'<path class="{names}" d="{path}"/>')
        if head:
            side = 4.5 * np.asarray([-direction[1], direction[0]])
            back = end - 9.5 * direction
            corners = " ".join(pair(p) for p in (end, back + side, back - side))
            self._parts.append(f'<polygon class="{self._class("fill", tone)}" points="{corners}"/>')

    def curve(
        self,
        points: Sequence[Point],
        tone: str,
        *,
        filled: bool = False,
        thin: bool = False,
        dashed: bool = False,
    ) -> None:
        """Draw a line through computed points, or the area that they surround."""
        path = "M" + "L".join(pair(p) for p in points)
        if filled:
            self._parts.append(f'<path class="{self._class("fill", tone + "-tint")}" d="{path}Z"/>')
            return
        self.segments += pairwise(points)
        names = f"line {self._class('stroke', tone)}"
        names += " thin" * thin + " dashed" * dashed
        self._parts.append(f'<path class="{names}" d="{path}"/>')

    def circle(self, x: float, y: float, radius: float, tone: str, dashed: bool = False) -> None:
        """Draw a region of a plane: a filled circle with an outline."""
        names = f"{self._class('fill', tone + '-tint')} {self._class('stroke', tone)}"
        self._parts.append(
            f'<circle class="{names}{" dashed" if dashed else ""}" cx="{number(x)}" '
            f'cy="{number(y)}" r="{number(radius)}" stroke-width="1.25"/>'
        )

    def marked(self, x: float, y: float, size: float, tone: str) -> None:
        """Fill one cell of a picture's grid."""
        self._rectangle(x, y, size, size, tone, tone)

    def dot(self, x: float, y: float, tone: str, radius: float = 3.5, hollow: bool = False) -> None:
        """Draw a point of a plot."""
        fill = self._class("fill", "paper" if hollow else tone)
        outline = f' {self._class("stroke", tone)}" stroke-width="2' if hollow else ""
        self._parts.append(
            f'<circle class="{fill}{outline}" cx="{number(x)}" cy="{number(y)}" '
            f'r="{number(radius)}"/>'
        )

    def grid(self, x: float, y: float, size: float, values: np.ndarray, tone: str) -> None:
        """Draw an array of numbers in [0, 1] as a square of cells; darker is larger."""
        self.frames.append(Rectangle(x, y, x + size, y + size))
        self._rectangle(x, y, size, size, "paper", None)
        self.cells(x, y, size, values, tone)
        self._rectangle(x, y, size, size, None, tone)

    def cells(self, x: float, y: float, size: float, values: np.ndarray, tone: str) -> None:
        """Draw the cells of a grid without its frame."""
        side = size / len(values)
        shades = np.clip(np.rint(np.asarray(values) * LEVELS), 0, LEVELS).astype(int)
        fill = self._class("fill", tone)
        for shade in range(1, LEVELS + 1):
            path = "".join(
                f"M{pair((x + side * j, y + side * i))}h{number(side)}v{number(side)}"
                f"h{number(-side)}z"
                for i, j in np.argwhere(shades == shade)
            )
            if path:
                opacity = number(0.85 * shade / LEVELS, 2)
                self._parts.append(f'<path class="{fill}" fill-opacity="{opacity}" d="{path}"/>')

    def matrix(
        self, x: float, y: float, width: float, height: float, tone: str, row: float | None = None
    ) -> None:
        """Draw a matrix as a rectangle, with one row filled: `row` is where, from 0 to 1."""
        self.frames.append(Rectangle(x, y, x + width, y + height))
        self._rectangle(x, y, width, height, f"{tone}-tint", tone)
        if row is not None:
            self._rectangle(x, y + row * height, width, 7, tone, None)

    def square(self, x: float, y: float, size: float, tone: str, markup: str, strong: bool) -> None:
        """Draw a cell of a table; a strong one has a frame."""
        self.frames.append(Rectangle(x, y, x + size, y + size))
        self._rectangle(x, y, size, size, f"{tone}-tint", tone if strong else None)
        self._lines(x + size / 2, y + size / 2, (markup,), False, SMALL)

    def brace(self, left: float, right: float, y: float, markup: str) -> None:
        """Draw a brace below something, with a text below it."""
        middle = (left + right) / 2
        path = (
            f"M{pair((left, y))}q0 6 6 6H{number(middle - 6)}q6 0 6 6q0 -6 6 -6"
            f"H{number(right - 6)}q6 0 6 -6"
        )
        self._parts.append(f'<path class="line thin {self._class("stroke", "muted")}" d="{path}"/>')
        self.text(middle, y + 27, markup, tone="muted")

    def shape(self, points: np.ndarray, tone: str) -> None:
        """Fill the area inside of points, (n, 2): a thing in a picture."""
        path = " ".join(pair(p) for p in points)
        self._parts.append(f'<polygon class="{self._class("fill", tone)}" points="{path}"/>')

    def picture(self, x: float, y: float, size: float) -> None:
        """Draw the frame of a picture."""
        self.frames.append(Rectangle(x, y, x + size, y + size))
        self._rectangle(x, y, size, size, "paper", "data")

    def pills(self, x: float, y: float, words: Sequence[str], tone: str) -> None:
        """Draw tokens side by side, with their middle at (x, y)."""
        widths = [width_of(word, SMALL) + 16 for word in words]
        left = x - (sum(widths) + 8 * (len(words) - 1)) / 2
        for word, width in zip(words, widths, strict=True):
            self.pill(left + width / 2, y, word, tone, width)
            left += width + 8

    def pill(self, x: float, y: float, markup: str, tone: str, width: float | None = None) -> None:
        """Draw a token: a small text in a rounded frame whose middle is (x, y)."""
        wide = width or width_of(markup, SMALL) + 16
        self.frames.append(Rectangle(x - wide / 2, y - 11, x + wide / 2, y + 11))
        self._rectangle(x - wide / 2, y - 11, wide, 22, f"{tone}-tint", tone, 11)
        self._lines(x, y, (markup,), False, SMALL)
