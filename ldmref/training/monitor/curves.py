"""Plots of a training's loss, as PNG. They need matplotlib."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RAW = "#a9c6dd"
SMOOTH = "#1f5f8b"
SPAN = 3.0  # smallest ratio of the largest to the least value for a logarithmic axis


def figure_class() -> Any:
    """Return `matplotlib.figure.Figure`, which needs no display.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    return importlib.import_module("matplotlib.figure").Figure


def loss_curves(
    figure_class: type[Figure], lines: Sequence[Mapping[str, Any]], units: Mapping[str, str]
) -> bytes:
    """Plot the loss over steps, a panel per stage: every line of the metrics, and a running mean.

    `units` are the units of the loss by stage.
    """
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    panels = max(1, len(stages))
    figure = figure_class(figsize=(1 + 5 * panels, 4), layout="constrained")
    for axes, stage in zip(figure.subplots(1, panels, squeeze=False)[0], stages, strict=False):
        points = [(line["step"], line["loss"]) for line in lines if line["stage"] == stage]
        steps, loss = np.array(points, np.float64).T
        axes.plot(steps, loss, color=RAW, linewidth=0.8, label="each report")
        width = max(1, len(loss) // 20)
        mean = running_mean(loss, width)
        axes.plot(steps, mean, color=SMOOTH, linewidth=1.8, label=f"mean of {2 * width + 1}")
        axes.set_title(f"{stage}: {mean[-1]:.4g} after step {steps[-1]:,.0f}")
        _style(axes, "step", units.get(stage, ""), loss)
        axes.legend(frameon=False)
    return _png(figure)


def timestep_curve(figure_class: type[Figure], sums: np.ndarray, title: str, unit: str) -> bytes:
    """Plot the mean loss in bins of t / T; `sums` (2, bins): losses, and numbers of examples."""
    figure = figure_class(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    bins = sums.shape[1]
    mean = np.divide(sums[0], sums[1], out=np.full(bins, np.nan), where=sums[1] > 0)
    known = np.isfinite(mean)
    edges = np.linspace(0.0, 1.0, bins + 1)
    floor = 0.0 if (mean[known] >= 0).all() else None
    axes.stairs(mean, edges, baseline=floor, fill=True, color=RAW)
    axes.stairs(mean, edges, baseline=None, color=SMOOTH, linewidth=1.8)
    axes.set_title(title)
    axes.set_xlim(0, 1)
    _style(axes, "t / T  (0: image, 1: noise)", unit, mean[known])
    return _png(figure)


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of each value and `width` neighbours on each side, fewer at the ends."""
    sums = np.cumsum(np.append(0.0, y))
    i = np.arange(len(y))
    low = np.maximum(i - width, 0)
    high = np.minimum(i + width + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _style(axes: Axes, x: str, unit: str, values: np.ndarray) -> None:
    """Set labels, and a logarithmic axis if positive values span a factor of `SPAN`."""
    axes.set_xlabel(x)
    axes.set_ylabel(f"loss, {unit}" if unit else "loss")
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    if len(values) and values.min() > 0 and values.max() > SPAN * values.min():
        axes.set_yscale("log")
        ticker = importlib.import_module("matplotlib.ticker")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
