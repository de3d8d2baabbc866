"""Plan a grid, which checks all of its cells without weights, and generate it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.explore.converged import ConvergedImage, converged_image
from ldmref.explore.grid import Axis, GridCell, ImageGrid
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks, notify
from ldmref.modes.generate import Callback, CancelFlag, GeneratedImage, Progress
from ldmref.modes.plan import find_mode, plan, require_images
from ldmref.modes.run import Plan
from ldmref.modes.validation import assign_seeds

CODE = "E-GRID"
MAX_CELLS = 400
WHOLE_GRID = ("count", "batch_size", "positions")  # make several images, or do not change any


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
    **parameters: Any,
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
    **parameters: Any,
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
