"""A grid: images of two or three parameters against each other, with distances from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ldmref.io.images.labels import fit_text

GAP = 8  # px between cells
FONT_SIZE = 14  # px
LINE = 20  # px
MIN_CELL = 96  # px, for legible labels
MAX_SIDE_LABEL = 260  # px
BACKGROUND = "white"
TEXT = "black"
QUIET = "#666666"


@dataclass(frozen=True)
class Axis:
    """A parameter and its values along one side of a grid."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """The values as text."""
        return [describe_value(value) for value in self.values]


@dataclass(frozen=True)
class GridCell:
    """An image of a grid.

    Args:
        row, column: Its place on its sheet.
        image: The image.
        params: The parameters that generate it again.
        distance: Root mean square difference of its pixels from the converged image of the same
            seed, in units of 1/255; None if it was not asked for.
        warnings: Warnings, one line each.
        sheet: The number of its sheet, from 0; without a third axis there is one.
    """

    row: int
    column: int
    image: Image.Image
    params: dict[str, Any]
    distance: float | None
    warnings: list[str]
    sheet: int = 0


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """A finished grid: rows of cells, one row for each value of `y`, on a sheet for each of `z`.

    Args:
        mode: The mode of the images.
        x: Name and values of the parameter that differs between columns.
        y: Name and values of the parameter that differs between rows; None for a single row.
        cells: The images with their parameters, by row and column. With `z`, the rows of the first
            sheet come first.
        z: Name and values of the parameter that differs between sheets; None for a single sheet.

    >>> import ldmref
    >>> from ldmref.explore import make_grid
    >>> grid = make_grid(
    ...     ldmref.random_model("tiny"), ("steps", [2, 4]), prompt="a cat", seed=1, distance=False
    ... )
    >>> len(grid.cells), len(grid.cells[0]), grid.cells[0][1].image.size
    (1, 2, (16, 16))
    """

    mode: str
    x: Axis
    y: Axis | None
    cells: list[list[GridCell]] = field(repr=False)
    z: Axis | None = None

    @property
    def sheets(self) -> list[ImageGrid]:
        """The grids of two axes, one for each value of `z`."""
        rows = 1 if self.y is None else len(self.y.values)
        starts = range(0, len(self.cells), rows)
        return [ImageGrid(self.mode, self.x, self.y, self.cells[i : i + rows]) for i in starts]

    def sheet(self) -> Image.Image:
        """Return all images on one sheet, with the values along its sides and the distances.

        With `z`, the sheets of its values are below each other, each under its value.
        """
        return draw_sheet(self) if self.z is None else stack_sheets(self.z, self.sheets)

    def to_json(self) -> dict[str, Any]:
        """Return the axes and, for each cell, its parameters, distance and warnings."""
        return {
            "mode": self.mode,
            "x": describe_axis(self.x),
            "y": None if self.y is None else describe_axis(self.y),
            "z": None if self.z is None else describe_axis(self.z),
            "cells": [
                [{"params": c.params, "distance": c.distance, "warnings": c.warnings} for c in row]
                for row in self.cells
            ],
        }

    def __repr__(self) -> str:
        axes = [axis for axis in (self.x, self.y, self.z) if axis is not None]
        names = " and ".join(axis.name for axis in axes)
        sizes = [len(self.x.values), 1 if self.y is None else len(self.y.values)]
        sizes += [] if self.z is None else [len(self.z.values)]
        return f"<Grid of {self.mode}: {names}, {' x '.join(map(str, sizes))} images>"


def describe_axis(axis: Axis) -> dict[str, Any]:
    """Return an axis as JSON."""
    return {"name": axis.name, "values": list(axis.values)}


def describe_value(value: Any) -> str:
    """Format a value as an axis label, numbers with `%g`."""
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- the sheet ------------------------------------------------------------------------------------


def draw_sheet(grid: ImageGrid) -> Image.Image:
    """Return the sheet of a grid.

    The name and values of x are above the columns, those of y left of the rows, and the distance
    from the converged image is below each image.
    """
    font = ImageFont.load_default(FONT_SIZE)
    images = [cell.image for row in grid.cells for cell in row]
    width = max(MIN_CELL, *(image.width for image in images))
    below = LINE if any(c.distance is not None for row in grid.cells for c in row) else 0
    height = max(image.height for image in images) + below
    labels = [] if grid.y is None else grid.y.labels
    side = 0
    if grid.y is not None:
        longest = max(font.getlength(text) for text in [grid.y.name, *labels])
        side = GAP + min(MAX_SIDE_LABEL, int(longest) + 1)
    top = GAP + 2 * LINE
    size = (
        side + GAP + len(grid.x.values) * (width + GAP),
        top + GAP + len(grid.cells) * (height + GAP),
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)

    def write(x: float, y: float, text: str, room: int, colour: str = TEXT, anchor="mm") -> None:
        pen.text((x, y), fit_text(text, font, room), colour, font, anchor=anchor)

    middle = side + (size[0] - side) // 2
    write(middle, GAP + LINE // 2, grid.x.name, size[0] - side, QUIET)
    if grid.y is not None:
        write(GAP, GAP + LINE // 2, grid.y.name, side, QUIET, "lm")
    for j, text in enumerate(grid.x.labels):
        left = side + GAP + j * (width + GAP)
        write(left + width // 2, GAP + LINE + LINE // 2, text, width)
    for i, row in enumerate(grid.cells):
        y = top + GAP + i * (height + GAP)
        if labels:
            write(GAP, y + (height - below) // 2, labels[i], side - GAP, TEXT, "lm")
        for j, cell in enumerate(row):
            left = side + GAP + j * (width + GAP)
            sheet.paste(cell.image, (left + (width - cell.image.width) // 2, y))
            if cell.distance is not None:
                place = (left + width // 2, y + height - LINE // 2)
                write(*place, describe_distance(cell), width, QUIET)
    return sheet


def stack_sheets(z: Axis, grids: Sequence[ImageGrid]) -> Image.Image:
    """Return the sheets of grids below each other, each under its value of z."""
    font = ImageFont.load_default(FONT_SIZE)
    sheets = [draw_sheet(grid) for grid in grids]
    title = GAP + LINE
    size = max(s.width for s in sheets), sum(title + s.height for s in sheets)
    stacked = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(stacked)
    y = 0
    for label, sheet in zip(z.labels, sheets, strict=True):
        text = fit_text(f"{z.name} {label}", font, size[0] - 2 * GAP)
        pen.text((GAP, y + GAP + LINE // 2), text, TEXT, font, anchor="lm")
        stacked.paste(sheet, (0, y + title))
        y += title + sheet.height
    return stacked


def describe_distance(cell: GridCell) -> str:
    """Return the distance of a cell as it is written below its image."""
    return f"{cell.distance:.1f}/255 off"
