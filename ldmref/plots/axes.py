"""Axes of matplotlib: new ones or those of the caller, in one style."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.errors import BackendUnavailable, UsageError, did_you_mean, short_repr

PANEL = (4.2, 3.2)  # inches


def require_matplotlib() -> Any:
    """Import `matplotlib.pyplot`.

    Raises:
        BackendUnavailable: matplotlib is not installed.
    """
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise BackendUnavailable(
            "plots need matplotlib, which is not installed",
            code="E-PLOT",
            hint="pip install 'ldmref[plot]'",
        ) from error


def choose_parts(
    what: str, asked: str | Sequence[str] | None, known: Sequence[str], default: Sequence[str]
) -> list[str]:
    """Return the parts of a plot: the default, or those asked for by name.

    Raises:
        UsageError: No part, or an unknown one.
    """
    parts = list(default) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    for part in parts:
        if part not in known:
            message = f"unknown {what} {short_repr(part)}"
            raise UsageError(message, code="E-PLOT", hint=did_you_mean(str(part), known))
    if not parts:
        raise UsageError(f"a plot needs at least one {what}", code="E-PLOT")
    return parts


def make_axes(
    ax: object, n: int, rows: bool = False, heights: Sequence[float] | None = None
) -> list[Any]:
    """Return n axes: those of the caller, or new ones in a row or a column.

    Args:
        ax: Axes of matplotlib, or a sequence of them; None for new ones.
        n: The number of axes.
        rows: Whether new axes are below each other.
        heights: The relative heights of rows.

    Raises:
        UsageError: `ax` holds another number of axes.
        BackendUnavailable: matplotlib is not installed.
    """
    pyplot = require_matplotlib()
    if ax is None:
        width, height = PANEL
        columns = 1 if rows else n
        size = (width * max(columns, 1.8), height * n) if rows else (width * n, height)
        ratios = {"height_ratios": list(heights)} if heights else {}
        made = pyplot.subplots(
            n if rows else 1, columns, figsize=size, layout="constrained", squeeze=False, **ratios
        )[1]
        return list(made.flat)
    found = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(found) != n or not all(hasattr(one, "plot") for one in found):
        raise UsageError(
            f"ax must hold {n} axes of matplotlib, not {short_repr(ax)}",
            code="E-PLOT",
            hint="figure, ax = matplotlib.pyplot.subplots(1, 3)",
        )
    return found


def finish(axes: Any, x: str, y: str, legend: bool = True) -> None:
    """Label axes, and name the lines if there are several."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if legend:
        axes.legend(frameon=False)


def one_or_all(axes: list[Any]) -> Any:
    """Return the only axes, or an array of several, as `matplotlib.pyplot.subplots` does."""
    return axes[0] if len(axes) == 1 else np.asarray(axes, dtype=object)
