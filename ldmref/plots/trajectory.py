"""`plot_trajectory`: how the predictions and states of a run move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.explore import RunRecord
from ldmref.explore.preview import PreviewMatrix, find_preview, preview_pixels
from ldmref.modes.generate import Progress
from ldmref.plots.axes import choose_parts, finish, make_axes, one_or_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("images", "norms", "distances")
MOST_IMAGES = 10


class TrajectoryNumbers(NamedTuple):
    """A run of n steps in numbers; norms and distances are root mean squares over all elements.

    Attributes:
        sigmas: The noise level after each step, (n,).
        x: Norm of the state after each step, divided by sqrt(1 + sigma^2), (n,).
        x0: Norm of the prediction of each step, (n,).
        to_last: Distance of each prediction from the last one, (n,).
        change: Distance of each prediction from the one before, (n,); NaN at the first step.
        truth: Distance of the states from the converged trajectory, (n + 1,); None if the record
            does not hold it.

    >>> import ldmref
    >>> from ldmref.explore import record_run
    >>> from ldmref.plots import measure_trajectory
    >>> record = record_run(ldmref.random_model("tiny"), prompt="a red cat", seed=1, steps=3)
    >>> numbers = measure_trajectory(record)
    >>> numbers.sigmas.shape, float(numbers.to_last[-1])
    ((3,), 0.0)
    """

    sigmas: np.ndarray
    x: np.ndarray
    x0: np.ndarray
    to_last: np.ndarray
    change: np.ndarray
    truth: np.ndarray | None


class States(NamedTuple):
    """States after each step and predictions, (n, c, h, w), their levels, and a linear preview."""

    x: np.ndarray
    x0: np.ndarray
    sigmas: np.ndarray
    preview: PreviewMatrix | None
    truth: np.ndarray | None


def plot_trajectory(
    run: RunRecord | Sequence[Progress],
    *,
    image: int = 0,
    parts: str | Sequence[str] | None = None,
    images: int = MOST_IMAGES,
    ax: object = None,
) -> Any:
    """Plot a run: its predicted images, their norms, and how far they move.

    Args:
        run: A record of `ldmref.explore.record_run`, or the list of `Progress` that a callback
            collected: `states = []; modes.txt2img(..., callback=states.append)`.
        image: The index of the image among those of the run, for a list of `Progress`.
        parts: `images`, `norms` or `distances`, or several. None: all three. Images are linear
            previews of the predicted x0, one RGB pixel for each latent cell; for latents whose
            preview is not known, the mean of their channels.
        images: The largest number of previews, which are spread evenly over the steps.
        ax: Axes of matplotlib, as many as parts. None: new ones.

    Returns:
        The axes: one, or an array of as many as parts. `measure_trajectory` returns the numbers.

    Raises:
        UsageError: The argument is no run, a part is unknown, or the number of axes differs.
        BackendUnavailable: matplotlib is not installed.

    >>> import ldmref
    >>> from ldmref.explore import record_run
    >>> from ldmref.plots import plot_trajectory
    >>> record = record_run(ldmref.random_model("tiny"), prompt="a red cat", seed=1, steps=3)
    >>> axes = plot_trajectory(record, parts="distances")  # doctest: +SKIP
    >>> axes.figure.savefig("distances.png")  # doctest: +SKIP
    """
    names = choose_parts("part", parts, PARTS, PARTS)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        message = f"images must be a whole number of at least 1, not {short_repr(images)}"
        raise UsageError(message, code="E-PLOT")
    states = read_states(run, image)
    heights = [0.6 if part == "images" else 1.0 for part in names]
    axes = make_axes(ax, len(names), rows=True, heights=heights)
    numbers = measure(states)
    for part, one in zip(names, axes, strict=True):
        if part == "images":
            plot_images(one, states, images)
        elif part == "norms":
            plot_norms(one, numbers)
        else:
            plot_distances(one, numbers)
    return one_or_all(axes)


def measure_trajectory(run: RunRecord | Sequence[Progress], image: int = 0) -> TrajectoryNumbers:
    """Return the numbers that `plot_trajectory` plots.

    Args:
        run: A record of `ldmref.explore.record_run`, or the list of `Progress` that a callback
            collected.
        image: The index of the image among those of the run, for a list of `Progress`.

    Returns:
        Norms and distances of the states and predictions, by step.

    Raises:
        UsageError: The argument is no run.

    >>> import ldmref
    >>> from ldmref import modes
    >>> from ldmref.plots import measure_trajectory
    >>> states = []
    >>> model = ldmref.random_model("tiny")
    >>> result = modes.txt2img(model, "a red cat", seed=1, steps=3, callback=states.append)
    >>> measure_trajectory(states).x0.shape
    (3,)
    """
    return measure(read_states(run, image))


def measure(states: States) -> TrajectoryNumbers:
    """Return norms and distances of states and predictions."""
    scale = np.sqrt(1.0 + states.sigmas**2)
    moved = np.full(len(states.x0), np.nan)
    moved[1:] = rms(states.x0[1:] - states.x0[:-1])
    return TrajectoryNumbers(
        states.sigmas,
        rms(states.x) / scale,
        rms(states.x0),
        rms(states.x0 - states.x0[-1:]),
        moved,
        states.truth,
    )


def rms(x: np.ndarray) -> np.ndarray:
    """Return the root mean square of each row, (n, ...) -> (n,) float64."""
    return np.sqrt(np.mean(np.asarray(x, np.float64) ** 2, axis=(1, 2, 3)))


def read_states(run: object, image: int) -> States:
    """Return the states of a record, or of one image of a list of `Progress`.

    Raises:
        UsageError: It is neither, or the image does not exist.
    """
    if isinstance(run, RunRecord):
        truth = None if run.truth is None else run.truth.distance
        return States(run.x[1:], run.x0, run.sigmas[1:], run.preview, truth)
    listed = list(run) if isinstance(run, list | tuple) else []
    if not listed or not all(isinstance(event, Progress) for event in listed):
        raise UsageError(
            f"plot_trajectory takes a record or a list of Progress, not {short_repr(run)}",
            code="E-PLOT",
            hint="explore.record_run(model, prompt=...), or callback=states.append of a mode",
        )
    found = [event for event in listed if event.first <= image < event.first + len(event.x0)]
    if not found:
        raise UsageError(f"these states hold no image {short_repr(image)}", code="E-PLOT")
    rows = [(event.latents[image - event.first], event.x0[image - event.first]) for event in found]
    x, x0 = (np.stack(arrays) for arrays in zip(*rows, strict=True))
    sigmas = np.asarray([event.sigma for event in found])
    return States(x, x0, sigmas, find_preview(found[0].model.config.vae), None)


def spread(n: int, most: int) -> np.ndarray:
    """Return at most `most` indices from 0 to n - 1, evenly spaced, with both ends.

    >>> spread(5, 3).tolist(), spread(2, 8).tolist(), spread(4, 1).tolist()
    ([0, 2, 4], [0, 1], [3])
    """
    if most == 1:
        return np.asarray([n - 1])
    return np.unique(np.rint(np.linspace(0, n - 1, min(n, most))).astype(int))


def plot_images(axes: Axes, states: States, most: int) -> None:
    """Plot previews of predictions side by side, with the step and its noise level below."""
    shown = spread(len(states.x0), most)
    tiles = preview_tiles(states.x0[shown], states.preview)
    n, h, w, _ = tiles.shape
    strip = np.ones((h, n * (w + 1) - 1, 3))
    for i, tile in enumerate(tiles):
        strip[:, i * (w + 1) : i * (w + 1) + w] = tile
    axes.imshow(strip, interpolation="nearest")
    labels = [f"{i + 1}\n$\\sigma$ {states.sigmas[i]:.3g}" for i in shown]
    axes.set_xticks(np.arange(n) * (w + 1) + (w - 1) / 2, labels)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("steps taken, and the noise level reached")
    kind = "linear preview" if states.preview is not None else "mean of channels"
    axes.set_title(f"predicted $x_0$ ({kind})", loc="left")


def preview_tiles(x0: np.ndarray, preview: PreviewMatrix | None) -> np.ndarray:
    """Return RGB from 0 to 1 of latents (n, c, h, w), (n, h, w, 3)."""
    if preview is not None:
        return preview_pixels(preview, x0)
    grey = x0.mean(axis=1)
    low, high = float(grey[-1].min()), float(grey[-1].max())
    scaled = np.clip((grey - low) / max(high - low, 1e-9), 0.0, 1.0)
    return np.repeat(scaled[..., None], 3, axis=-1)


def plot_norms(axes: Axes, numbers: TrajectoryNumbers) -> None:
    """Plot the norms of states and predictions."""
    steps = np.arange(1, len(numbers.x0) + 1)
    axes.plot(steps, numbers.x0, marker="o", markersize=3, label="predicted $x_0$")
    label = "state $x / \\sqrt{1 + \\sigma^2}$"
    axes.plot(steps, numbers.x, marker="o", markersize=3, label=label)
    finish(axes, "steps taken", "root mean square (latents)")


def plot_distances(axes: Axes, numbers: TrajectoryNumbers) -> None:
    """Plot how far predictions move, and how far the states are from the converged ones."""
    steps = np.arange(1, len(numbers.x0) + 1)
    axes.plot(steps, numbers.to_last, marker="o", markersize=3, label="to the last prediction")
    axes.plot(steps, numbers.change, marker="o", markersize=3, label="to the prediction before")
    if numbers.truth is not None:
        label = "of the state from the converged one"
        axes.plot(np.arange(len(numbers.truth)), numbers.truth, marker="o", ms=3, label=label)
    finish(axes, "steps taken", "root mean square distance (latents)")
