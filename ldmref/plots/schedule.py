"""`plot_schedule`: the noise levels of samplers, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.resolve import choose_sampler
from ldmref.plots.axes import choose_parts, finish, make_axes, one_or_all
from ldmref.samplers import (
    SPACINGS,
    Sampler,
    Schedule,
    SchedulerConfig,
    Spacing,
    make_schedule,
)
from ldmref.samplers.spacings import spacing_name

STEPS = 20
X_LABEL = "steps taken"


class Quantity(NamedTuple):
    """A quantity of a schedule: its label, and whether its axis is logarithmic."""

    label: str
    logarithmic: bool


QUANTITIES = {
    "sigma": Quantity("noise level $\\sigma$ (signal has variance 1)", True),
    "alpha_bar": Quantity("$\\bar\\alpha$, share of the signal's variance", False),
    "snr": Quantity("signal-to-noise ratio $1 / \\sigma^2$", True),
    "timestep": Quantity("timestep of the network", False),
}
DEFAULT = ("sigma", "alpha_bar", "snr")
Plottable = LatentDiffusion | ModelConfig | SchedulerConfig | Schedule | Sampler | str


def plot_schedule(
    schedules: Plottable | Sequence[Plottable] | Mapping[str, Plottable],
    *,
    model: LatentDiffusion | ModelConfig | SchedulerConfig | None = None,
    steps: int | None = None,
    quantity: str | Sequence[str] | None = None,
    ax: object = None,
) -> Any:
    r"""Plot the noise levels of one or several schedules, step by step.

    After i of n steps the state is x0 + sigma_i eps, with

    .. math:: \bar\alpha_i = 1 / (1 + \sigma_i^2), \quad \mathrm{SNR}_i = 1 / \sigma_i^2

    On logarithmic axes the last level of a schedule that ends at 0 is beyond the axis.

    Args:
        schedules: A model, whose own sampler and schedule are plotted; a `Schedule`; the name of a
            schedule (`karras`), of a sampler (`dpmpp_2m`), or of both (`DPM++ 2M Karras`); or
            several of these, in a list or by the label of their line.
        model: The model whose forward process names refer to. None: the one among the
            schedules, otherwise Stable Diffusion's.
        steps: The number of steps of models and names. None: the model's, otherwise 20.
        quantity: `sigma`, `alpha_bar`, `snr` or `timestep`, or several. None: the first three.
        ax: Axes of matplotlib, as many as quantities. None: new ones.

    Returns:
        The axes: one, or an array of as many as quantities.

    Raises:
        UsageError: Something else to plot, an unknown name, or another number of axes.
        BackendUnavailable: matplotlib is not installed.

    Source: Karras et al. 2022, arXiv:2206.00364, for the coordinates; docs/math/schedules.md.

    >>> from ldmref.plots import plot_schedule
    >>> axes = plot_schedule(["karras", "trailing"], quantity="sigma", steps=10)  # doctest: +SKIP
    >>> axes.figure.savefig("schedules.png")  # doctest: +SKIP
    """
    parts = choose_parts("quantity", quantity, list(QUANTITIES), DEFAULT)
    found = find_schedules(schedules, model, steps)
    axes = make_axes(ax, len(parts))
    longest = max(len(schedule.timesteps) for schedule in found.values())
    for part, one in zip(parts, axes, strict=True):
        for label, schedule in found.items():
            values = quantity_of(schedule, part)
            dots = "o" if len(values) <= 60 else ""
            one.plot(np.arange(len(values)), values, marker=dots, markersize=3, label=label)
        if QUANTITIES[part].logarithmic:
            one.set_yscale("log", nonpositive="mask")
        one.set_xlim(left=-0.03 * longest, right=1.03 * longest)
        named = len(found) > 1 and (ax is not None or one is axes[0])
        finish(one, X_LABEL, QUANTITIES[part].label, named)
    if ax is None and len(found) == 1:
        axes[0].set_title(next(iter(found)), loc="left")
    return one_or_all(axes)


def quantity_of(schedule: Schedule, quantity: str) -> np.ndarray:
    """Return a quantity of a schedule at each noise level, (n + 1,); timesteps have n values."""
    sigmas = np.asarray(schedule.sigmas, np.float64)
    if quantity == "sigma":
        return sigmas
    if quantity == "timestep":
        return np.asarray(schedule.timesteps, np.float64)
    if quantity == "alpha_bar":
        return 1.0 / (1.0 + sigmas**2)
    with np.errstate(divide="ignore"):
        return 1.0 / sigmas**2


def find_schedules(
    schedules: Any, model: LatentDiffusion | ModelConfig | SchedulerConfig | None, steps: int | None
) -> dict[str, Schedule]:
    """Return schedules by the label of their line.

    Raises:
        UsageError: Something that has no schedule, or nothing at all.
    """
    if isinstance(schedules, Mapping):
        sources = dict(schedules)
    else:
        single = isinstance(schedules, str | Schedule) or not isinstance(schedules, Sequence)
        listed = [schedules] if single else list(schedules)
        sources = {}
        for source in listed:
            label = label_of(source)
            while label in sources:
                label += "'"
            sources[label] = source
    if not sources:
        raise UsageError("plot_schedule needs at least one schedule", code="E-PLOT")
    reference = model
    if reference is None:
        models = [s for s in sources.values() if config_of(s) is not None]
        reference = models[0] if models else SchedulerConfig()
    return {label: make(source, reference, steps) for label, source in sources.items()}


def label_of(source: object) -> str:
    """Return the label of a schedule."""
    if isinstance(source, str):
        return source
    if isinstance(source, Schedule):
        return f"{len(source.timesteps)} steps"
    if isinstance(source, Sampler | Spacing):
        return source.name
    config = config_of(source)
    if config is None:
        return ""
    name = getattr(getattr(source, "config", source), "name", "")
    return f"{name}: {config.sampler}, {config.spacing}".removeprefix(": ")


def config_of(source: object) -> SchedulerConfig | None:
    """Return the scheduler's configuration of a model; None of anything else."""
    config = getattr(source, "config", source)
    config = getattr(config, "scheduler", config)
    return config if isinstance(config, SchedulerConfig) else None


def make(source: object, reference: object, steps: int | None) -> Schedule:
    """Return the schedule of a model, a name or a sampler.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(source, Schedule):
        return source
    own = config_of(source)
    config = own or config_of(reference)
    known = isinstance(source, str | Sampler | Spacing) or own is not None
    if config is None or not known:
        raise UsageError(
            f"plot_schedule takes models, schedules and names, not {short_repr(source)}",
            code="E-PLOT",
            hint='plot_schedule(["karras", "ays"], model=model)',
        )
    sampler, spacing = None, None
    if isinstance(source, Spacing) or (
        isinstance(source, str) and spacing_name(source) in SPACINGS
    ):
        spacing = source
    elif isinstance(source, str | Sampler):
        sampler = source
    its_sampler, spacing = choose_sampler(sampler, spacing, config)
    defaults = getattr(getattr(reference, "config", reference), "defaults", None)
    if own is not None:
        defaults = getattr(getattr(source, "config", source), "defaults", defaults)
    n = steps or (defaults.steps if defaults is not None else STEPS)
    return make_schedule(config, its_sampler, spacing, n)
