"""Noise that was not recorded, read from the first recorded array that depends on it.

Up to that array a run is linear in the noise, x = mean + s noise. So the run is made with 0 and
with 1 in the place of the noise, and the recorded array says the rest. Everything that is computed
later is then known; the array itself is only judged by the distribution of its noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ldmref.locate.normal import NormalDeviation, depends_on, deviation_from_normal
from ldmref.locate.run.calls import ArrayName, FollowedCalls, Noises

DEPENDS = "noise that depends on the state"
CONSTANT = 1e-6  # relative difference of factors that are one number


class ImpliedNoise(NamedTuple):
    """The noise that a recorded array implies.

    Attributes:
        name: The name of the noise.
        z: The noise.
        mean: The array without it.
        factor: s, by which it is multiplied.
    """

    name: ArrayName
    z: np.ndarray
    mean: np.ndarray
    factor: float

    def describe(self) -> NormalDeviation:
        """Return how far it is from independent normal numbers, which depend on no mean.

        Each image is described alone, since all may have the same noise; it is the farthest one.
        """
        rows = [_describe(z, mean) for z, mean in zip(self.z, self.mean, strict=True)]
        return max(rows, key=lambda found: found.error)

    def log_density(self) -> float:
        """Return the mean log-density of the array, -z^2 / 2 - log s, without -log(2 pi) / 2."""
        return float(np.mean(-0.5 * np.square(self.z))) - math.log(abs(self.factor))


def _describe(z: np.ndarray, mean: np.ndarray) -> NormalDeviation:
    """Return how far the noise of an image is from normal numbers, which depend on no mean."""
    found = deviation_from_normal(z)
    if not found.cause and depends_on(z, mean):
        return found._replace(error=math.inf, cause=DEPENDS)
    return found


def read_noises(
    calls: FollowedCalls, follow: Callable[[Noises], FollowedCalls]
) -> dict[ArrayName, ImpliedNoise]:
    """Return the noises that a followed run lacks, by the recorded arrays that imply them.

    A step that draws several has the later ones read when the earlier ones are known.

    Args:
        calls: The run without them.
        follow: Follows it with noises, and returns what was compared.
    """
    found: dict[ArrayName, ImpliedNoise] = {}
    for draw in range(_most_draws(calls.lacking)):
        known = {noise.name: noise.z for noise in found.values()}
        mine = {name: x for name, x in calls.lacking.items() if _draw_of(name) == draw}
        zeros = {name: np.zeros_like(x) for name, x in mine.items()}
        ones = {name: np.ones_like(x) for name, x in mine.items()}
        without, taken = follow({**known, **zeros}), follow({**known, **ones})
        found |= dict(_solve(mine, without, taken))
    return found


def _most_draws(names: Mapping[ArrayName, np.ndarray]) -> int:
    """Return how many noises a step draws at most."""
    return 1 + max(map(_draw_of, names), default=-1)


def _draw_of(name: ArrayName) -> int:
    """Return which noise of its step one is, from 0."""
    return int(name.role.partition(".")[2] or 0)


def _solve(
    names: Mapping[ArrayName, np.ndarray], without: FollowedCalls, taken: FollowedCalls
) -> Iterator[tuple[ArrayName, ImpliedNoise]]:
    """Yield for each noise the first recorded array that depends on it, and what it implies."""
    noise: ArrayName | None = None
    for name, mean in without.computed.items():
        if name in names:
            noise = name
        got = name.tensor_in(without.port)
        if noise is None or got is None or name not in taken.computed:
            continue
        implied = _imply(noise, len(names[noise]), got, mean, taken.computed[name])
        if implied is not None:
            yield name, implied
            noise = None


def _imply(
    name: ArrayName, rows: int, got: np.ndarray, mean: np.ndarray, taken: np.ndarray
) -> ImpliedNoise | None:
    """Return the noise of an array; None: it depends on none, or on more than that.

    Args:
        name: The name of the noise.
        rows: Its rows, n; a network may read each of them several times.
        got: The recorded array.
        mean: What the run computes without noise.
        taken: What it computes with 1 in the place of the noise.
    """
    if not got.size or not got.shape == mean.shape == taken.shape or mean.dtype.kind != "f":
        return None
    factors = taken - mean
    factor = float(np.mean(factors))
    constant = bool(np.ptp(factors) <= CONSTANT * abs(factor))
    if not constant or not factor or not np.isfinite(got).all():
        return None
    z = (np.asarray(got, np.float64) - mean) / factor
    return ImpliedNoise(name, z[:rows], mean[:rows], factor)
