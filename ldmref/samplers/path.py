r"""The path of a run: how much data is left at each noise level.

A sampler goes along a straight line from the predicted data to the predicted noise,

.. math:: x = \alpha(\sigma)\, x_0 + \sigma\,\epsilon, \qquad \alpha(\sigma) = 1 - f\,\sigma

with f = 0 for `VE`, x0 + sigma eps, in which models of the variance-preserving diffusion are
sampled, and f = 1 for `FLOW`, (1 - sigma) x0 + sigma eps, the path of flow matching. The ratio
sigma / alpha is the same noise level on every path: it says which distribution x has, up to scale.

The probability-flow ODE is dx/dsigma = (x - x0) / sigma on all of them, so a method that uses only
this slope (Euler, Heun, Runge-Kutta, linear multistep) is written once. Methods in the log-SNR, and
those that add noise, are written for `VE` and run on other paths by a change of variables:
`on_ratio`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array

PURE_NOISE = 2.0**40  # the ratio of a level without data; 2^-40 of the data is below all rounding


@dataclass(frozen=True)
class NoisePath:
    r"""A straight path x = alpha x0 + sigma eps with alpha = 1 - f sigma.

    Args:
        name: `ve` or `flow`.
        fade: f, from 0 to 1.

    Source: Lipman et al. 2022, arXiv:2210.02747, section 4 (paths as pairs of scales); Karras et
    al. 2022, arXiv:2206.00364, section 2 (x0 + sigma eps).

    >>> from ldmref.samplers import FLOW, VE
    >>> FLOW.ratio(0.75), FLOW.level(3.0), VE.ratio(3.0)
    (3.0, 0.75, 3.0)
    """

    name: str
    fade: float

    def alpha(self, sigma: Array) -> Array:
        """Return the share of the data, alpha = 1 - f sigma.

        Args:
            sigma: The level, a scalar or an array of any shape.

        Returns:
            The same shape.
        """
        return 1.0 - self.fade * sigma

    def ratio(self, sigma: float) -> float:
        """Return sigma / alpha, the noise level in x0 + sigma eps; `PURE_NOISE` without data."""
        alpha = self.alpha(sigma)
        return sigma / alpha if sigma < PURE_NOISE * alpha else PURE_NOISE

    def level(self, ratio: Array) -> Array:
        """Return the level of a ratio, sigma = r / (1 + f r).

        Args:
            ratio: sigma / alpha, a scalar or an array of any shape.

        Returns:
            The same shape.
        """
        return ratio / (1.0 + self.fade * ratio)

    def from_ratio(self, z: Array, ratio: float) -> tuple[Array, float]:
        """Return the state and the level on the path of z = x / alpha = x0 + r eps.

        Args:
            z: The state in x0 + r eps, (n, ...).
            ratio: r = sigma / alpha.
        """
        return z / (1.0 + self.fade * ratio), self.level(ratio)

    def spread(self, sigma: float) -> float:
        """Return the standard deviation of x at level `sigma`, for data of variance 1."""
        return math.hypot(self.alpha(sigma), sigma)

    def noised(self, x0: Array, eps: Array, sigma: float) -> Array:
        """Return alpha x0 + sigma eps.

        Args:
            x0: Clean data, (n, ...).
            eps: Unit noise, shape of `x0`.
            sigma: The level.
        """
        return self.alpha(sigma) * x0 + sigma * eps

    def forward(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        r"""Return (keep, up): x' = keep x + up eps takes x to a level of more noise.

        .. math:: q(x' | x) = N\left(\frac{\alpha'}{\alpha} x,\;
                       \sigma'^2 - (\alpha' \sigma / \alpha)^2\right)

        Args:
            sigma, sigma_next: The levels before and after, sigma <= sigma_next, with data in both.
        """
        keep = self.alpha(sigma_next) / self.alpha(sigma)
        return keep, math.sqrt(sigma_next**2 - (keep * sigma) ** 2)


VE = NoisePath("ve", 0.0)
"""x0 + sigma eps: variance exploding, and variance preserving up to scale."""

FLOW = NoisePath("flow", 1.0)
"""(1 - sigma) x0 + sigma eps: flow matching, sigma from 0 (data) to 1 (noise)."""

PATHS = {path.name: path for path in (VE, FLOW)}


def noise_levels(sigmas: Sequence[float] | np.ndarray, path: NoisePath = VE) -> list[float]:
    """Return numbers, or a one-dimensional array of them, as a list of Python floats.

    Args:
        sigmas: The numbers.
        path: The path on which they are levels.

    Raises:
        UsageError: `sigmas` is not a list of finite numbers of at least 0, or has a level at which
            the path has no data left: above 1 on `FLOW`.
    """
    try:
        numbers = [*sigmas]
        if any(isinstance(value, str | bytes | bool) for value in (sigmas, *numbers)):
            raise TypeError("text or truth values")
        levels = [float(sigma) for sigma in numbers]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UsageError(
            f"sigmas must be a list of numbers, not {short_repr(sigmas)}", code="E-SIGMAS"
        ) from None
    for sigma in levels:
        if not 0.0 <= sigma < math.inf:
            message = f"sigmas must be finite numbers of at least 0, not {short_repr(sigma)}"
            raise UsageError(message, code="E-SIGMAS")
        if path.fade * sigma > 1.0:
            message = f"sigmas on the path {path.name!r} must be from 0 to 1"
            raise UsageError(f"{message}, not {short_repr(sigma)}", code="E-SIGMAS")
    return levels
