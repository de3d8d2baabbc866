"""The variance-exploding diffusion: noise is added, the signal is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ldmref.math.arrays import Array
from ldmref.math.sde import LinearSDE, functions_of


@dataclass(frozen=True)
class VESDE(LinearSDE):
    r"""The variance-exploding diffusion: the continuous limit of SMLD's noise levels.

    .. math:: dx = \sqrt{\frac{d[\sigma^2(t)]}{dt}}\,dw, \quad
              \sigma(t) = \sigma_{\min}\left(\frac{\sigma_{\max}}{\sigma_{\min}}\right)^t, \quad
              g = \sigma(t)\sqrt{2\log\frac{\sigma_{\max}}{\sigma_{\min}}}, \qquad m = 1, \quad
              s = \sigma(t)

    At t = 0 the data already carry noise of sigma_min, as in the paper: x(0) = x0 + sigma_min eps.

    Args:
        sigma_min, sigma_max: 0 < sigma_min < sigma_max.

    Raises:
        ValueError: not 0 < sigma_min < sigma_max.

    Accuracy: 8 ulp, plus 2 log(sigma_max / sigma_min) ulp from the power; v of `transition` three
    times that.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 9, 30 and 31.

    >>> VESDE(0.25, 4.0).sigma(0.5), round(VESDE(0.25, 4.0).transition(0.0, 0.5)[1], 12)
    (1.0, 0.9375)
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"need 0 < sigma_min < sigma_max, not {self.sigma_min}, {self.sigma_max}"
            )

    @property
    def prior_std(self) -> float:
        """sigma_max; the additional variance of the data in p(x(1)) is neglected."""
        return self.sigma_max

    @property
    def log_ratio(self) -> float:
        """log(sigma_max / sigma_min)."""
        return math.log(self.sigma_max / self.sigma_min)

    def drift_coefficient(self, t: Array) -> Array:
        """f = 0."""
        return 0.0 * t

    def diffusion(self, t: Array) -> Array:
        """g = sigma sqrt(2 log(sigma_max / sigma_min))."""
        return math.sqrt(2.0 * self.log_ratio) * self.std(t)

    def mean_coefficient(self, t: Array) -> Array:
        """m = 1."""
        return 0.0 * t + 1.0

    def std(self, t: Array) -> Array:
        """s = sigma(t), geometric from sigma_min to sigma_max."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def transition(self, start: Array, end: Array) -> tuple[Array, Array]:
        """SMLD's step: a = 1, v = sigma(end)^2 - sigma(start)^2."""
        growth = functions_of(end).expm1(2.0 * self.log_ratio * (end - start))
        return self.mean_coefficient(end), self.std(start) ** 2 * growth

    def time(self, sigma: Array) -> Array:
        """t = log(sigma / sigma_min) / log(sigma_max / sigma_min)."""
        return functions_of(sigma).log(sigma / self.sigma_min) / self.log_ratio
