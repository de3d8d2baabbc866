"""The task behind the grids: a thin adapter of `ldmref.explore.plan_grid`.

A request has `mode`, `model`, `parameters`, `x` and optionally `y` and `z`, each `{"name": ...,
"values": [...]}`, and `distance`. Images arrive cell by cell; the job's data hold `cells`, the
sheet, row, column, distance and index of the image of each, and its files the sheets and JSON.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref import explore
from ldmref.apps.server.bodies import check_keys, read_flag, read_mode, require_object
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.inputs import read_values
from ldmref.apps.server.task_kinds import register
from ldmref.apps.server.tasks import Report
from ldmref.errors import UsageError, short_repr
from ldmref.explore.grid import CODE, GridCell, GridPlan
from ldmref.io.images.metadata import encode_png
from ldmref.models.model import LatentDiffusion

KEYS = ("kind", "mode", "model", "parameters", "x", "y", "z", "distance")


@dataclass(frozen=True)
class GridTask:
    """The images of a grid, its sheet, and the distances from the converged images."""

    plan: GridPlan = field(repr=False)
    request: Mapping[str, Any] = field(repr=False)
    kind: str = "grid"
    previews: bool = False

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Generate the cells row by row."""
        cells = []
        placed = []
        for event in self.plan.generate(model, cancel):
            if not isinstance(event, GridCell):
                report.progress(event.step + 1, event.steps, len(cells), self.plan.count)
                continue
            placed.append(
                {
                    "sheet": event.sheet,
                    "row": event.row,
                    "column": event.column,
                    "image": len(cells),
                    "distance": event.distance,
                }
            )
            # The cell's position first: clients look it up when the image event arrives.
            report.data({"cells": [*placed]})
            report.image(len(cells), event.image, event.params, np.zeros(0))
            cells.append(event)
            for line in event.warnings:
                report.warn(line)
        grid = self.plan.finish(cells)
        report.file("sheet.png", "image/png", encode_png(grid.sheet()))
        description = json.dumps(grid.to_json(), indent=1).encode()
        report.file("grid.json", "application/json", description + b"\n")


@register("grid")
def make_grid_task(engine: Engine, body: Mapping[str, Any]) -> GridTask:
    """Return the task of `{"mode": ..., "parameters": {...}, "x": {...}, "y": {...}}`."""
    check_keys(body, KEYS)
    mode, values = read_mode(body)
    model = engine.models[engine.find_model(body.get("model"))]
    limits = engine.settings
    asked = {key: body.get(key) for key in "xyz" if key == "x" or body.get(key) is not None}
    axes = {key: read_axis(mode, axis, key, engine) for key, axis in asked.items()}
    count = math.prod(len(axis_values) for _, axis_values in axes.values())
    if count > limits.max_images:
        raise UsageError(
            f"{count} images in one grid, the limit is {limits.max_images}",
            code=CODE,
            hint="give fewer values",
        )
    distance = read_flag(body, "distance", True)
    with engine.planning:
        parameters = read_values(mode, values, limits.max_pixels, engine.served)
        x, y, z = (axes.get(key) for key in "xyz")
        assert x is not None
        plan = explore.plan_grid(model, x, y, mode, z=z, distance=distance, **parameters)
    request = {"mode": mode, "parameters": dict(values), "distance": distance}
    return GridTask(plan, request | {key: body.get(key) for key in "xyz"})


def read_axis(mode: str, value: object, name: str, engine: Engine) -> tuple[str, list[Any]]:
    """Return an axis of a request: the name of a parameter, and its values.

    Raises:
        LdmrefError: It has another form, or a value cannot come as JSON.
    """
    axis = require_object(value)
    check_keys(axis, ("name", "values"))
    parameter, values = axis.get("name"), axis.get("values")
    if not isinstance(parameter, str) or not isinstance(values, list):
        raise UsageError(
            f"the axis {name} must have a name and a list of values, not {short_repr(axis)}",
            code=CODE,
            hint='{"name": "steps", "values": [10, 20]}',
        )
    most = engine.settings.max_pixels
    read = [read_values(mode, {parameter: v}, most, engine.served)[parameter] for v in values]
    return parameter, read
