"""The paper of a drawing: its text, its file, and what tests have to know about its layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from xml.sax.saxutils import escape

from drawings.geometry import Point, number
from drawings.palette import MARKS, SMALLER, style_sheet, width_of

WIDTH = 400
SIZE = 15.0  # of the text that names something
SMALL = 13.0  # of everything else
SHOWN = 1.15  # pixels per unit where there is room


class Rectangle(NamedTuple):
    """A place on the drawing."""

    left: float
    top: float
    right: float
    bottom: float


class Text(NamedTuple):
    """A text and the place that it may take."""

    markup: str
    place: Rectangle


class Canvas:
    """An SVG drawing that grows with each text.

    Args:
        title: A few words for screen readers and for the tip of a pointer.
        description: What the drawing shows, for readers who do not see it.
        height: Height in units; the width is 400.
    """

    def __init__(self, title: str, description: str, height: float):
        self.title = title
        self.description = description
        self.height = height
        self.texts: list[Text] = []
        self.frames: list[Rectangle] = []
        self.segments: list[tuple[Point, Point]] = []
        self._parts: list[str] = []
        self._used = {"fill-paper"}

    def svg(self, name: str) -> str:
        """Return the file; `name` makes its identifiers unique where a page holds several."""
        width, height = (number(SHOWN * v) for v in (WIDTH, self.height))
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" '
                f'width="{width}" height="{height}" viewBox="0 0 {WIDTH} {number(self.height)}" '
                f'aria-labelledby="title-{name} description-{name}">',
                f'<title id="title-{name}">{escape(self.title)}</title>',
                f'<desc id="description-{name}">{escape(self.description)}</desc>',
                f"<style>{style_sheet(self._used)}</style>",
                f'<rect class="fill-paper" width="{WIDTH}" height="{number(self.height)}" rx="8"/>',
                *self._parts,
                "</svg>\n",
            ]
        )

    def text(
        self,
        x: float,
        y: float,
        markup: str,
        *,
        size: float = SMALL,
        tone: str = "ink",
        anchor: str = "middle",
        strong: bool = False,
    ) -> None:
        """Write a line of text whose baseline is at y."""
        width = width_of(markup, size, strong)
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        place = Rectangle(left, y - 0.76 * size, left + width, y + 0.24 * size)
        self.texts.append(Text(markup, place))
        names = f"{self._class('fill', tone)}{' strong' if strong else ''}"
        end = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(
            f'<text class="{names}" x="{number(x)}" y="{number(y)}" '
            f'font-size="{number(size)}"{end}>{_spans(markup, size)}</text>'
        )

    def _rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str | None,
        stroke: str | None,
        radius: float = 2,
    ) -> None:
        names = [self._class("fill", fill)] if fill else []
        names += [self._class("stroke", stroke)] if stroke else []
        inside = "" if fill else ' fill="none"'
        outline = ' stroke-width="1.5"' if stroke else ""
        self._parts.append(
            f'<rect class="{" ".join(names)}" x="{number(x)}" y="{number(y)}" '
            f'width="{number(width)}" height="{number(height)}" rx="{number(radius)}"'
            f"{inside}{outline}/>"
        )

    def _lines(
        self, x: float, y: float, lines: Iterable[str], strong: bool, first: float = SIZE
    ) -> None:
        """Write lines around the height y: the first one names, the others describe."""
        sizes = [(markup, first if i == 0 else SMALL) for i, markup in enumerate(lines)]
        total = sum(1.3 * size for _, size in sizes)
        top = y - total / 2
        for i, (markup, size) in enumerate(sizes):
            baseline = top + 1.3 * size / 2 + 0.35 * size
            self.text(x, baseline, markup, size=size, strong=strong and i == 0)
            top += 1.3 * size

    def _class(self, kind: str, colour: str) -> str:
        name = f"{kind}-{colour}"
        self._used.add(name)
        return name


def _spans(markup: str, size: float) -> str:
    """Return the marked text as SVG."""
    spans = []
    shift = 0.0
    for part in MARKS.finditer(markup):
        kind, letters = part.lastgroup, escape(part[part.lastgroup or 0])
        wanted = {"sub": 0.24 * size, "sup": -0.36 * size}.get(kind or "", 0.0)
        move = f' dy="{number(wanted - shift)}"' if wanted != shift else ""
        shift = wanted
        if kind in ("sub", "sup"):
            style = f' class="math" font-size="{number(SMALLER * size)}"'
            spans.append(f"<tspan{move}{style}>{letters}</tspan>")
        elif kind == "math":
            spans.append(f'<tspan{move} class="math">{letters}</tspan>')
        else:
            spans.append(f"<tspan{move}>{letters}</tspan>" if move else letters)
    return "".join(spans)
