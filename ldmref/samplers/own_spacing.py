"""Spacings of one's own: a function of the training sigmas, given as an object or by a package.

A package offers a spacing with an entry point that names a `Spacing` object or its function:

    [project.entry-points."ldmref.schedules"]
    my_spacing = "my_package.spacings:my_spacing"

It is loaded when the name is requested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.errors import LdmrefError, UsageError, short_repr
from ldmref.samplers.path import noise_levels
from ldmref.samplers.spacings import FLOW_SPACINGS, OF_OTHERS, SPACINGS, spacing_name
from ldmref.support.plugins import (
    describe_origin,
    find_plugin,
    load_plugin,
    suggest_names,
    summarize_error,
)

GROUP = "ldmref.schedules"
SLACK = 0.01  # by which the largest sigma may exceed the table's, as with `sigmas=`


@dataclass(frozen=True)
class Spacing:
    """A spacing of noise levels of one's own, which `schedule=` and `make_schedule` take.

    Args:
        make: Function `make(table, steps)` of the sigmas of every training timestep, (T,) float64,
            increasing, and the number of steps. It returns steps + 1 decreasing sigmas; the last is
            0, or larger to leave noise in the latents.
        source: Paper or code, with equation.
        name: Name recorded in images; the name of an entry point replaces it.

    >>> import numpy as np
    >>> from ldmref.samplers import Spacing
    >>> straight = Spacing(lambda table, steps: np.linspace(table[-1], 0.0, steps + 1))
    >>> straight.sigmas(np.array([0.1, 1.0, 8.0]), 4)
    array([8., 6., 4., 2., 0.])
    """

    make: Callable[[np.ndarray, int], Any]
    source: str = ""
    name: str = "custom"

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Spacing {self.name!r}>"

    def sigmas(self, table: np.ndarray, steps: int) -> np.ndarray:
        """Return the sigmas of `steps` steps, (steps + 1,) float64, strictly decreasing.

        Args:
            table: Sigmas of every training timestep, (T,), increasing.
            steps: Number of steps.

        Raises:
            UsageError: The function fails, or returns something else.
        """
        try:
            grid = np.asarray(noise_levels(self.make(table.copy(), steps)), np.float64)
        except LdmrefError as error:
            raise self._error(steps, str(error)) from error
        except Exception as error:
            raise self._error(steps, summarize_error(error)) from error
        if len(grid) != steps + 1:
            raise self._error(steps, f"it returned {len(grid)} sigmas, not {steps + 1}")
        if not (np.diff(grid) < 0.0).all():
            raise self._error(steps, f"its sigmas do not decrease: {short_repr(grid.tolist())}")
        if grid[0] > table[-1] * (1.0 + SLACK):
            raise self._error(
                steps, f"it begins at {grid[0]:g}, the model knows noise up to {table[-1]:g}"
            )
        return grid

    def _error(self, steps: int, reason: str) -> UsageError:
        return UsageError(
            f"schedule {self.name!r} of {steps} steps: {reason}",
            code="E-SCHEDULE",
            hint="its function returns steps + 1 decreasing noise levels, the last of them 0",
        )


def get_spacing(spacing: str | Spacing | Callable[[np.ndarray, int], Any]) -> str | Spacing:
    """Return the name of a built-in spacing, or the `Spacing` of a plug-in, object or function.

    Args:
        spacing: A name in `SPACINGS` or of an entry point, in any case; a `Spacing`; or its
            function.

    Returns:
        The name in `SPACINGS`, or the `Spacing`; `make_schedule` takes both.

    Raises:
        UsageError: No spacing has this name, or a plug-in cannot be imported or is no spacing.

    >>> from ldmref.samplers import get_spacing
    >>> get_spacing("KL Optimal"), get_spacing(lambda table, steps: table[: -steps - 2 : -1])
    ('kl_optimal', <Spacing 'custom'>)
    """
    if isinstance(spacing, Spacing):
        return spacing
    if callable(spacing) and not isinstance(spacing, type):
        return Spacing(spacing)
    if not isinstance(spacing, str):
        raise UsageError(
            f"schedule must be a name, a Spacing or a function, not {short_repr(spacing)}",
            code="E-SCHEDULE",
            hint="names are " + ", ".join(SPACINGS),
        )
    name = spacing_name(spacing)
    if name in SPACINGS or name in FLOW_SPACINGS:
        return name
    point = find_plugin(GROUP, spacing.strip())
    if point is None:
        hint = OF_OTHERS.get(name) or suggest_names(GROUP, SPACINGS, name)
        raise UsageError(f"unknown schedule {short_repr(spacing)}", code="E-SCHEDULE", hint=hint)
    loaded = load_plugin(point)
    if isinstance(loaded, Spacing):
        return replace(loaded, name=point.name)
    if callable(loaded) and not isinstance(loaded, type):
        return Spacing(loaded, name=point.name)
    message = f"{describe_origin(point)} is of type {type(loaded).__name__}, not a Spacing"
    raise UsageError(message, code="E-PLUGIN", hint="an entry point names a Spacing or a function")
