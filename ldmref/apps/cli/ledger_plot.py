"""`plot_ledger` and `plot_types`: the errors of layers and of types, with their controls."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.ledger import LedgerRow, QuantizationLedger
from ldmref.plots.axes import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 5  # layers with a name in the plot
SMALLEST = 1e-9  # an error of 0 is shown here


def plot_ledger(ledger: QuantizationLedger) -> Any:
    """Plot the errors of outputs and images in the order of the network, on logarithmic axes.

    Args:
        ledger: From `make_ledger`.

    Returns:
        The lower axes.

    Raises:
        UsageError: No layer differs.
        BackendUnavailable: matplotlib is not installed.
    """
    pyplot = require_matplotlib()
    rows = ledger.rows
    if not rows:
        raise UsageError("no layer differs, so there is nothing to plot", code="E-PLOT")
    shown = [row for row in rows if row.image is not None]
    figure, axes = pyplot.subplots(
        1 + bool(shown), figsize=(10, 3.4 * (1 + bool(shown))), layout="constrained", squeeze=False
    )
    _plot_outputs(axes[0, 0], rows)
    axes[0, 0].set_title(f"{ledger.model} against {ledger.other}", loc="left")
    if shown:
        _plot_images(axes[1, 0], shown, ledger)
    figure.supxlabel("layers in the order of the network", fontsize=10)
    return axes[-1, 0]


def _plot_outputs(ax: Axes, rows: Sequence[LedgerRow]) -> None:
    place = np.arange(len(rows))
    ax.semilogy(place, _clip([r.weights for r in rows]), "-", lw=1, color="0.7", label="weights")
    ax.semilogy(place, _clip([r.outputs for r in rows]), ".", color="tab:blue", label="outputs")
    control = [fmean(r.outputs_control) if r.outputs_control else None for r in rows]
    ax.semilogy(place, _clip(control), "_", ms=7, color="tab:orange", label="control")
    floor = _clip([r.outputs_floor for r in rows])
    ax.semilogy(place, floor, "-", lw=1, color="tab:green", label="noise floor")
    ax.set_ylabel("relative error")
    ax.legend(fontsize=8, ncols=4, loc="center right")


def _plot_images(ax: Axes, rows: Sequence[LedgerRow], ledger: QuantizationLedger) -> None:
    place = np.arange(len(rows))
    error = _clip([row.image for row in rows])
    low = _clip([min(row.image_control) for row in rows])
    high = _clip([max(row.image_control) for row in rows])
    ax.vlines(place, low, high, lw=3, color="tab:orange", alpha=0.5, label="controls")
    ax.semilogy(place, error, ".", color="tab:blue", label="this layer alone")
    for value, style, label in (
        (ledger.image, "-", "all layers"),
        (ledger.image_floor, ":", "noise floor"),
    ):
        ax.axhline(max(value, SMALLEST), color="0.4", ls=style, lw=1, label=label)
    shares = ledger.shares
    names = []
    for number, i in enumerate(np.argsort(-error)[:LABELLED], 1):
        ax.annotate(
            str(number), (i, error[i]), xytext=(4, 2), textcoords="offset points", fontsize=7
        )
        layer = rows[i].layer
        names.append(f"{number}  {layer}  {100 * shares.get(layer, 0):.0f} %")
    ax.text(0.15, 0.97, "\n".join(names), transform=ax.transAxes, va="top", fontsize=7)
    ax.set_ylabel("change of the image (steps of 255)")
    ax.legend(fontsize=8, ncols=4, loc="lower right")


def plot_types(ledgers: Sequence[QuantizationLedger]) -> Any:
    """Plot the change of the image by each type, with the controls; the types by their bits.

    Args:
        ledgers: From `make_ledgers`.

    Returns:
        The axes.

    Raises:
        UsageError: No type changes a weight.
        BackendUnavailable: matplotlib is not installed.
    """
    pyplot = require_matplotlib()
    shown = sorted((one for one in ledgers if one.rows), key=lambda one: -(one.bits or 0))
    if not shown:
        raise UsageError("no layer differs, so there is nothing to plot", code="E-PLOT")
    _, ax = pyplot.subplots(figsize=(8, 1.6 + 0.27 * len(shown)), layout="constrained")
    place = np.arange(len(shown))
    low = _clip([min(one.image_control) for one in shown])
    high = _clip([max(one.image_control) for one in shown])
    label = "random, of the same norm"
    ax.hlines(place, low, high, lw=8, color="tab:orange", alpha=0.5, label=label)
    ax.semilogx(_clip([one.image for one in shown]), place, "o", ms=5, label="quantised")
    floor = max(shown[0].image_floor, SMALLEST)
    ax.axvline(floor, color="0.4", ls=":", label=f"noise floor, {floor:.1e}")
    ax.set_xlim(left=0.3 * min(min(low), min(_clip([one.image for one in shown]))))
    names = [f"{one.other}, {one.bits:.2f} bits" if one.bits else one.other for one in shown]
    ax.set_yticks(place, names)
    ax.set_xlabel("change of the image (steps of 255)")
    ax.set_title(shown[0].model, loc="left")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8, loc="upper left")
    return ax


def _clip(values: Sequence[float | None]) -> np.ndarray:
    """Return numbers that a logarithmic axis can show; NaN for what was not measured."""
    found = np.array([np.nan if x is None else x for x in values])
    return np.maximum(found, SMALLEST)
