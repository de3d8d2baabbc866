"""From clean data back to the noise that makes it: a deterministic sampler, walked upwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ldmref.math.arrays import Array
from ldmref.samplers.loop import Denoiser, History, Interval, Noise, State, Step, Stepped, sample
from ldmref.samplers.steps import ancestral, euler_step


def invert(
    denoise: Denoiser, x: Array, sigmas: Sequence[float], step: Step | None = None
) -> Iterator[State]:
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


def implicit(iterations: int = 5) -> Step:
    r"""A step upwards that DDIM's step down undoes, solved by fixed-point iteration.

    The slope is taken at the upper end, where the step down takes it:

    .. math:: x' = x + \frac{\sigma' - \sigma}{\sigma'} (x' - x_0(x', \sigma'))

    It begins from DDIM inversion's x', or from x where sigma is 0, which it allows. Each iteration
    evaluates the denoiser once. It converges where the right-hand side contracts, as it does for
    steps that are short against the curvature of the path; guidance far above 1 spoils it.

    Source: Pan et al. 2023, arXiv:2309.04907 (AIDI; the plain iteration, without its
    acceleration); Garibi et al. 2024, arXiv:2403.14602 (ReNoise, which besides averages the last
    predictions and keeps them editable; not done here).
    """

    def step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        sigma, sigma_next = interval.sigma, interval.sigma_next
        there, x0 = x, x
        if sigma > 0.0:
            x0 = denoise(x, sigma)
            there = euler_step(x, x0, sigma, sigma_next)
        for _ in range(iterations):
            x0 = denoise(there, sigma_next)
            there = x + (sigma_next - sigma) / sigma_next * (there - x0)
        return there, x0, history

    return step
