"""The positions of a row: where a schedule puts its flow times before or instead of a shift."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
from scipy import special

from ldmref.atlas.table import FlowSchedule
from ldmref.math import (
    beta_timesteps,
    exponential_sigmas,
    karras_sigmas,
    kl_optimal_sigmas,
    shift_flow_time,
)

MAX_STEPS = 1000  # of a run, for quantiles of which two are one
LARGEST = 700.0  # of mu: above it e^mu overflows, and all flow times but 0 are 1 long before
STEEPEST = 0.6  # of the steps, where both arctangents of bong_tangent turn
SLOPE = 0.2 * 40  # of their argument, over the number of steps
LINEAR_PART = 0.025  # that Mochi's schedule leaves behind in the first half of its steps
LOG_SNRS = -15.0, 18.0  # of 1 - s as an amplitude of noise, where logit-normal laws are clamped


def place(row: FlowSchedule, steps: int, mu: float) -> np.ndarray:
    """Return the flow times of a row with the shift e^mu, before a stretch and without the 0.

    Args:
        row: The row.
        steps: The number of steps that is asked for.
        mu: The logarithm of the shift, or the mean of a logit-normal law.

    Returns:
        Falling flow times: `steps`, but for strides and quantiles of a beta law, which are as many
        as their rule gives.
    """
    if row.positions == "list":
        return np.asarray(row.sigmas)
    if row.positions == "logit-normal":
        return _logit_normal(row, steps, mu)
    if row.positions == "linear-quadratic":
        return _linear_quadratic(steps)
    shift = math.exp(min(mu, LARGEST))
    if row.positions in UNSHIFTED:
        end = 0.0 if row.end == 0.0 else float(shift_flow_time(1 / row.table, shift))
        return UNSHIFTED[row.positions](steps, end, 1.0)
    return shift_flow_time(_unshifted(row, steps, shift), shift)


def place_late(row: FlowSchedule, steps: int, mu: float) -> np.ndarray | None:
    """Return the flow times of a row whose program adds 1 to the timesteps once too often.

    They begin above 1: stable-diffusion.cpp did so before its pull request 1372.

    Args:
        row: The row.
        steps: The number of steps that is asked for.
        mu: The logarithm of the shift.

    Returns:
        Falling flow times as of `place`; None of a row that has no timesteps.
    """
    if row.end == 0.0:
        return None
    table = row.table or 1000
    shift = math.exp(min(mu, LARGEST))
    if row.positions in UNSHIFTED:
        largest, smallest = (float(shift_flow_time(k / table, shift)) for k in (table + 1, 2))
        return UNSHIFTED[row.positions](steps, smallest, largest)
    if row.positions in ("linspace", "open linspace", "table", "beta"):
        return shift_flow_time(_unshifted(row, steps, shift) + 1 / table, shift)
    return None


def takes_shift(row: FlowSchedule) -> bool:
    """Return whether a row shifts its flow times.

    Lists and logit-normal laws have no shift. ComfyUI's schedulers that begin with the shifted
    table, and its linear-quadratic one, ignore the shift of the family.
    """
    return row.shift != "none" and row.positions not in (*UNSHIFTED, "linear-quadratic")


def count_steps(row: FlowSchedule, count: int) -> Iterator[int]:
    """Yield the numbers of steps for which a row has this many flow times; of none, nothing.

    Two quantiles of a beta law that round to one are one, so there it may be less than the steps.
    """
    if row.positions == "strides":
        for steps in range(max(1, count - 2 - count * count // row.table), count + 1):
            if _strided(row, steps).size == count:
                yield steps
    elif row.positions == "beta":
        for steps in range(count, max(count, MAX_STEPS) + 1):
            size = _beta(row.table, steps).size
            if size == count:
                yield steps
            elif size > count:
                return
    elif row.positions != "list" or len(row.sigmas) == count:
        yield count


def _unshifted(row: FlowSchedule, steps: int, shift: float) -> np.ndarray:
    if row.positions == "table":
        return 1 - np.floor(np.arange(steps) * (row.table / steps)) / row.table
    if row.positions == "strides":
        return _strided(row, steps)
    if row.positions == "beta":
        return _beta(row.table, steps)
    if not isinstance(row.end, str):
        end = row.end
    elif row.end == "1/n":
        end = 1 / steps
    else:
        smallest = 1 / (row.table or int(row.end.removeprefix("shifted 1/")))
        end = float(shift_flow_time(smallest, shift))
    if row.positions == "open linspace":
        return np.linspace(1.0, end, steps + 1)[:-1]
    return np.linspace(1.0, end, steps)


@functools.lru_cache(512)
def _beta(table: int, steps: int) -> np.ndarray:
    """Return the quantiles of Beta(0.6, 0.6) in a table, falling; two that round to one are one."""
    indices = np.rint(beta_timesteps(steps, table))
    return (np.unique(indices)[::-1] + 1) / table


def _strided(row: FlowSchedule, steps: int) -> np.ndarray:
    """Return every (table // steps)-th value k / table, from the second smallest."""
    return (np.arange(1, row.table, max(row.table // steps, 1))[::-1] + 1) / row.table


def _linear_quadratic(steps: int) -> np.ndarray:
    """Return Mochi's flow times: a line for half of the steps, then a parabola to 0.

    With m = steps // 2, the line falls by 0.025 / m a step; the parabola continues it with the same
    slope and is 0 at `steps`. A single step starts at 1.
    """
    if steps == 1:
        return np.ones(1)
    i = np.arange(steps)
    m = steps // 2
    slope = LINEAR_PART / m
    rest = steps - m
    bend = (1 - LINEAR_PART - slope * rest) / rest**2
    beyond = np.maximum(i - m, 0)
    return 1 - (slope * i + bend * beyond**2)


def _logit_normal(row: FlowSchedule, steps: int, mean: float) -> np.ndarray:
    """Return the quantiles of a logit-normal law, clamped as Ideogram's code clamps 1 - s.

    1 - s is the amplitude of data, but is clamped as if it were that of noise: at log-SNRs of -15
    and 18 it would be the largest and the smallest.
    """
    z = special.ndtri(1 - np.arange(steps) / steps)
    low, high = (float(special.expit(-0.5 * snr)) for snr in reversed(LOG_SNRS))
    return 1 - np.clip(1 - special.expit(mean + row.std * z), low, high)


def _bong_tangent(steps: int, smallest: float, largest: float) -> np.ndarray:
    """Return two arctangents, from the largest flow time to the middle and on to the smallest.

    Of n + 2 places the first int(0.6 (n + 2)) belong to the first one; its last is left out, and so
    is the last of the second one, after which a run ends.

    Source: ClownsharkBatwing/RES4LYF, sigmas.py, `bong_tangent_scheduler`.
    """
    n = steps + 2
    turn = int(n * STEEPEST)
    middle = (largest + smallest) / 2

    def part(count: int, pivot: int, start: float, end: float) -> np.ndarray:
        v = -np.arctan(SLOPE / n * (np.arange(count) - pivot))
        return (v - v[-1]) / (v[0] - v[-1]) * (start - end) + end if count > 1 else v[:0]

    first = part(turn, turn, largest, middle)[:-1]
    return np.append(first, part(n - turn, 0, middle, smallest))[:steps]


UNSHIFTED = {  # from 1 to the shifted smallest flow time of the table, never shifted themselves
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "arctan": kl_optimal_sigmas,
    "bong_tangent": _bong_tangent,
}
