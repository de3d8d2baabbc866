"""From clean data back to the noise that makes it: a deterministic sampler, walked upwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from ldmref.samplers.loop import Denoise, Step, StepFunction, sample
from ldmref.samplers.steps import ancestral

Array = Any


def invert(
    denoise: Denoise, x: Array, sigmas: Sequence[float], step: StepFunction | None = None
) -> Iterator[Step]:
    r"""Walk `x` up the increasing `sigmas`; by default with DDIM's straight line (DDIM inversion).

    .. math:: x' = x_0 + \frac{\sigma'}{\sigma}(x - x_0), \qquad \sigma' > \sigma

    Walking the last state down the same levels again gives x with an error that shrinks like the
    step to the power of the method's order, because the slope is taken at the other end of each
    interval: first order for DDIM.

    Args:
        denoise: `denoise(x, sigma) -> x0`.
        x: data at level sigmas[0], any shape.
        sigmas: increasing noise levels; the first is positive, since the slope (x - x0) / sigma
            does not exist at 0: give the smallest level that the network knows.
        step: of a deterministic sampler; a `SAMPLERS` entry makes one.

    Raises:
        ValueError: the levels do not increase, or start at 0.

    Source: Song, Meng, Ermon 2020, arXiv:2010.02502, section 4.3 and eq. 13, run backwards.
    """
    levels = [float(s) for s in sigmas]
    if not levels or levels[0] <= 0.0 or any(b <= a for a, b in pairwise(levels)):
        raise ValueError(f"inversion needs increasing sigmas above 0, not {levels}")
    return sample(denoise, x, levels, ancestral(0.0) if step is None else step)
