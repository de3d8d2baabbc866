"""A grid: images of two or three parameters against each other, with distances from the truth.

`plan_grid` checks all cells without weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.explore.converged import ConvergedImage, converged_image
from ldmref.io.images.labels import fit_text
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import (
    Callback,
    CancelFlag,
    GeneratedImage,
    Progress,
    check_callbacks,
    notify,
)
from ldmref.modes.plan import find_mode, plan, require_images
from ldmref.modes.run import Plan
from ldmref.modes.validation import assign_seeds

GAP = 8  # px between cells
FONT_SIZE = 14  # px
LINE = 20  # px
MIN_CELL = 96  # px, for legible labels
MAX_SIDE_LABEL = 260  # px
BACKGROUND = "white"
TEXT = "black"
QUIET = "#666666"

CODE = "E-GRID"
MAX_CELLS = 400
WHOLE_GRID = ("count", "batch_size", "positions")  # make several images, or do not change any


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


def describe_value(value: object) -> str:
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


@dataclass(frozen=True, eq=False)
class GridPlan:
    """The checked plans of all cells, made without weights.

    Args:
        mode: Mode of the images.
        x, y: The axes; without `y` the grid has one row.
        plans: One row of plans for each value of `y`, and all of them again for each value of `z`.
        parameters: One row of parameters for each row of plans, as they were planned.
        distance: Whether the distances from the converged images are computed.
        z: The axis of the sheets; None: a single sheet.
    """

    mode: str
    x: Axis
    y: Axis | None
    plans: Sequence[Sequence[Plan]] = field(repr=False)
    parameters: Sequence[Sequence[Mapping[str, Any]]] = field(repr=False)
    distance: bool = True
    z: Axis | None = None

    @property
    def rows(self) -> int:
        """The number of rows of a sheet."""
        return 1 if self.y is None else len(self.y.values)

    @property
    def count(self) -> int:
        """The number of cells."""
        return sum(map(len, self.plans))

    def generate(
        self,
        model: LatentDiffusion,
        cancel: CancelFlag | None = None,
        cache: MutableMapping[str, ConvergedImage] | None = None,
    ) -> Iterator[Progress | GridCell]:
        """Generate the cells row by row, and sheet by sheet.

        Args:
            model: The model.
            cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
            cache: Converged images of the model that were computed before; it gets new ones.

        Yields:
            A `Progress` after each step, then the `GridCell`.

        Raises:
            Cancelled, NumericError, ResourceError: See `ldmref.errors`.
        """
        cache = {} if cache is None else cache
        for i, row in enumerate(self.plans):
            for j, planned in enumerate(row):
                run = planned.prepare(model)
                for event in run.generate(cancel):
                    if not isinstance(event, GeneratedImage):
                        yield event
                        continue
                    distance = None
                    if self.distance:
                        asked = self.parameters[i][j]
                        truth = converged_image(model, self.mode, asked, cache=cache, cancel=cancel)
                        distance = measure_distance(event.image, truth.image)
                    sheet, place = divmod(i, self.rows)
                    params = run.params_of(event.index)
                    yield GridCell(place, j, event.image, params, distance, run.warnings, sheet)

    def finish(self, cells: Sequence[GridCell]) -> ImageGrid:
        """Return the grid of all cells, in any order."""
        rows: list[list[GridCell]] = [[] for _ in self.plans]
        for cell in sorted(cells, key=lambda c: c.column):
            rows[cell.sheet * self.rows + cell.row].append(cell)
        return ImageGrid(self.mode, self.x, self.y, rows, self.z)


def plan_grid(
    model: LatentDiffusion | ModelConfig,
    x: tuple[str, Sequence[Any]],
    y: tuple[str, Sequence[Any]] | None = None,
    /,
    mode: str = "txt2img",
    *,
    z: tuple[str, Sequence[Any]] | None = None,
    distance: bool = True,
    **parameters: object,
) -> GridPlan:
    """Check all cells of a grid without weights.

    Args:
        model: A model or its configuration.
        x: Name and values of the parameter that differs between columns.
        y: Name and values of the parameter that differs between rows. None: a single row.
        mode: Mode of the images.
        z: Name and values of the parameter that differs between sheets. None: a single sheet.
        distance: Whether to compute the distance of each image from the converged one.
        parameters: The parameters that all cells share. Without a seed, all cells have the same
            random one.

    Returns:
        The plan; `count` is the number of its images, which `make_grid` generates.

    Raises:
        UsageError: An axis is not a parameter of the mode, or the values of a cell are wrong, or
            have no distance.

    >>> from ldmref.explore import plan_grid
    >>> from ldmref.models import preset
    >>> scales = ("cfg_scale", [1, 5, 9])
    >>> plan = plan_grid(preset("sd15"), ("steps", [10, 20]), scales, prompt="a cat")
    >>> plan.count
    6
    """
    columns = read_axis(mode, x)
    rows, sheets = (None if axis is None else read_axis(mode, axis) for axis in (y, z))
    check_axes([axis for axis in (columns, rows, sheets) if axis is not None], parameters)
    takes = find_mode(mode).parameters
    if "seed" in takes and parameters.get("seed") is None:
        parameters["seed"] = assign_seeds(None, 1)[0]
    values_of = [
        [parameters | sheet | row | column for column in values_along(columns)]
        for sheet in values_along(sheets)
        for row in values_along(rows)
    ]
    plans = [[plan_cell(model, mode, values) for values in row] for row in values_of]
    if distance and any(len(planned.passes) > 1 for row in plans for planned in row):
        message = "an image of two passes (upscale) has no distance from a converged one"
        raise UsageError(message, code=CODE, hint="distance=False (--no-distance)")
    return GridPlan(mode, columns, rows, plans, values_of, distance, sheets)


def values_along(axis: Axis | None) -> list[dict[str, Any]]:
    """Return the parameter of each place along an axis; one place without it if it is None."""
    return [{}] if axis is None else [{axis.name: value} for value in axis.values]


def make_grid(
    model: LatentDiffusion,
    x: tuple[str, Sequence[Any]],
    y: tuple[str, Sequence[Any]] | None = None,
    /,
    mode: str = "txt2img",
    *,
    z: tuple[str, Sequence[Any]] | None = None,
    distance: bool = True,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: object,
) -> ImageGrid:
    """Generate the images of two or three parameters against each other.

    Args:
        model: From `ldmref.load` or `ldmref.random_model`.
        x: Name and values of the parameter that differs between columns.
        y: Name and values of the parameter that differs between rows. None: a single row.
        mode: Mode of the images.
        z: Name and values of the parameter that differs between sheets. None: a single sheet.
        distance: Whether to compute the distance of each image from the converged one.
        callback: Called after every step with a `Progress`. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
            None: the run cannot be cancelled.
        parameters: The parameters that all cells share. Without a seed, all cells have the same
            random one.

    Returns:
        The images with their parameters and distances.

    Raises:
        UsageError: An axis is not a parameter of the mode, or the values of a cell are wrong.
        Cancelled, NumericError, ResourceError: See `ldmref.errors`.

    >>> import ldmref
    >>> from ldmref.explore import make_grid
    >>> model = ldmref.random_model("tiny")
    >>> make_grid(model, ("steps", [2, 4]), ("sampler", ["euler", "heun"]), prompt="a cat", seed=1)
    <Grid of txt2img: steps and sampler, 2 x 2 images>
    """
    check_callbacks(callback, cancel)
    planned = plan_grid(model, x, y, mode, z=z, distance=distance, **parameters)
    cells = []
    for event in planned.generate(model, cancel):
        if isinstance(event, GridCell):
            cells.append(event)
        elif callback is not None:
            notify(callback, event)
    return planned.finish(cells)


def read_axis(mode: str, axis: tuple[str, Sequence[Any]]) -> Axis:
    """Return a checked axis.

    Raises:
        UsageError: The mode does not have the parameter, or there are no values.
    """
    if not isinstance(axis, Sequence) or isinstance(axis, str) or len(axis) != 2:
        message = f"an axis of a grid must be a name and its values, not {short_repr(axis)}"
        raise UsageError(message, code=CODE, hint='("steps", [5, 10, 20])')
    name, values = axis
    takes = [n for n in find_mode(mode).parameters if n not in WHOLE_GRID]
    if name not in takes:
        message = f"{short_repr(name)} cannot be the axis of a grid of {mode}"
        raise UsageError(message, code=CODE, hint=did_you_mean(str(name), takes))
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        message = f"the axis {name} needs a list of values, not {short_repr(values)}"
        raise UsageError(message, code=CODE, hint=f'("{name}", [...])')
    return Axis(name, tuple(values))


def check_axes(axes: Sequence[Axis], parameters: Mapping[str, Any]) -> None:
    """Check that the axes differ, that no other value is given for them, and their size.

    Raises:
        UsageError: They do not.
    """
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two axes are {name}", code=CODE, hint="choose another one")
    for name in names:
        if name in parameters:
            raise UsageError(f"{name} is an axis and has a value", code=CODE)
    cells = math.prod(len(axis.values) for axis in axes)
    if cells > MAX_CELLS:
        message = f"a grid may have {MAX_CELLS} cells, not {cells}"
        raise UsageError(message, code=CODE, hint="give fewer values")


def plan_cell(
    model: LatentDiffusion | ModelConfig, mode: str, parameters: Mapping[str, Any]
) -> Plan:
    """Plan the image of a cell.

    Raises:
        UsageError: A value is wrong, or the cell would have several images.
    """
    planned = plan(mode, model, **parameters)
    require_images(planned, "a grid")
    if len(planned.job.seeds) != 1:
        message = f"a cell holds one image, not {len(planned.job.seeds)}"
        raise UsageError(message, code=CODE, hint="give one prompt and one seed, and count 1")
    return planned


def measure_distance(image: Image.Image, converged: Image.Image) -> float:
    """Return the root mean square difference of two images' pixels, in units of 1/255."""
    difference = np.asarray(image, np.float64) - np.asarray(converged, np.float64)
    return float(np.sqrt(np.mean(difference**2)))
