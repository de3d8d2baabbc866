"""`plot_diff`: the own and the inherited error of every layer of a port."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.locate.findings import DIFFERS, UNKNOWN, DiffReport, Row
from ldmref.plots.axes import require_matplotlib

LABELLED = 12  # faults with a name in the plot
LARGEST = 1e1  # infinite errors are shown here
SMALLEST = 1e-17  # below it, an array equals the expected one


def plot_diff(report: DiffReport, ax: Any = None) -> Any:
    """Plot the errors of a report in the order of the run, on a logarithmic axis.

    Args:
        report: From `ldmref.locate.diff_traces`.
        ax: Axes of matplotlib; None for new ones.

    Returns:
        The axes.

    Raises:
        UsageError: Nothing was judged.
        BackendUnavailable: matplotlib is not installed.
    """
    pyplot = require_matplotlib()
    rows = [row for row in report.rows if row.verdict != UNKNOWN]
    if not rows:
        raise UsageError("nothing was judged, so there is nothing to plot", code="E-PLOT")
    if ax is None:
        _, ax = pyplot.subplots(figsize=(10.0, 4.5), layout="constrained")
    place = np.arange(len(rows))
    error = np.clip([row.error or np.nan for row in rows], SMALLEST, LARGEST)
    allowed = np.array([row.allowed or np.nan for row in rows])
    wrong = np.array([row.verdict == DIFFERS for row in rows])
    ax.semilogy(place, allowed, color="0.75", lw=1, label="allowed")
    ax.semilogy(place[~wrong], error[~wrong], ".", ms=4, color="tab:blue", label="own error")
    inherited = [(i, row.inherited) for i, row in enumerate(rows) if row.inherited]
    if inherited:
        x, y = zip(*inherited, strict=True)
        ax.semilogy(
            x, np.clip(y, SMALLEST, LARGEST), "-", lw=1, color="tab:orange", label="inherited"
        )
    if wrong.any():
        ax.semilogy(place[wrong], error[wrong], "v", ms=7, color="tab:red", label="differs")
    for i, name in list(_first_places(rows).items())[:LABELLED]:
        right = i > 0.6 * len(rows)
        ax.annotate(
            name[-38:],
            (place[i], error[i]),
            xytext=(-6 if right else 6, 4),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=7,
        )
    ax.set_xlabel("layers and computations, in the order of the run")
    ax.set_ylabel("error, relative to the largest value")
    ax.legend(loc="lower right", fontsize=8)
    return ax


def _first_places(rows: list[Row]) -> dict[int, str]:
    """Return the names of faults by the index of their first row."""
    found: dict[str, int] = {}
    for i, row in enumerate(rows):
        if row.verdict == DIFFERS:
            name = row.layer or f"{row.call.split('.')[0]} {row.kind}"
            found.setdefault(name, i)
    return {i: name for name, i in found.items()}
