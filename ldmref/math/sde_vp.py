"""The variance-preserving diffusion and its sub-VP variant, which share their drift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldmref.math.arrays import Array, root
from ldmref.math.schedules import linear_betas
from ldmref.math.sde import LinearSDE, functions_of


@dataclass(frozen=True)
class VPSDE(LinearSDE):
    r"""The variance-preserving diffusion: the continuous limit of DDPM's chain.

    .. math:: dx = -\tfrac12\beta(t)\,x\,dt + \sqrt{\beta(t)}\,dw, \quad
              \beta(t) = \beta_{\min} + t(\beta_{\max} - \beta_{\min}), \quad
              B(t) = \int_0^t \beta, \qquad m = e^{-B/2}, \quad s^2 = 1 - e^{-B}

    Args:
        beta_min, beta_max: 0 < beta_min <= beta_max; n times the betas of a chain of n steps.

    Raises:
        ValueError: not 0 < beta_min <= beta_max.

    Accuracy: 8 ulp, plus B(1) ulp from the exponential; v of `transition` three times that.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 11, 32 and 33.

    >>> VPSDE(1.0, 3.0).beta(0.5), VPSDE(1.0, 3.0).integral(0.5)
    (2.0, 0.75)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_min <= self.beta_max:
            raise ValueError(f"need 0 < beta_min <= beta_max, not {self.beta_min}, {self.beta_max}")

    @classmethod
    def from_betas(cls, betas: np.ndarray) -> VPSDE:
        """Return the diffusion whose beta(t) is n times a chain's linear betas, (n,).

        Raises:
            ValueError: the betas are not linear.
        """
        if not np.allclose(betas, np.linspace(betas[0], betas[-1], len(betas)), rtol=1e-6, atol=0):
            raise ValueError("beta(t) is linear here; these betas are not")
        return cls(len(betas) * float(betas[0]), len(betas) * float(betas[-1]))

    def betas(self, n: int) -> np.ndarray:
        """Return the betas of DDPM's chain: beta(t) / n at n evenly spaced times, (n,) float64.

        Raises:
            ValueError: n < 2, or n <= beta_max.
        """
        return linear_betas(n, self.beta_min / n, self.beta_max / n)

    def beta(self, t: Array) -> Array:
        """beta(t), type and shape of `t`."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Array) -> Array:
        """B(t), the integral of beta from 0 to t, type and shape of `t`."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def integral_between(self, start: Array, end: Array) -> Array:
        """B(end) - B(start) without cancellation: the midpoint rule is exact for linear beta."""
        return (end - start) * self.beta(0.5 * (start + end))

    def integral_inverse(self, b: Array) -> Array:
        """Inverse of `integral`; type and shape of its argument."""
        slope = self.beta_max - self.beta_min
        return 2.0 * b / (self.beta_min + root(self.beta_min**2 + 2.0 * slope * b))

    def drift_coefficient(self, t: Array) -> Array:
        """f = -beta / 2."""
        return -0.5 * self.beta(t)

    def diffusion(self, t: Array) -> Array:
        """g = sqrt(beta)."""
        return root(self.beta(t))

    def mean_coefficient(self, t: Array) -> Array:
        """m = exp(-B / 2)."""
        return functions_of(t).exp(-0.5 * self.integral(t))

    def std(self, t: Array) -> Array:
        """s = sqrt(1 - exp(-B))."""
        return root(-functions_of(t).expm1(-self.integral(t)))

    def transition(self, start: Array, end: Array) -> tuple[Array, Array]:
        """DDPM's step: a = sqrt(1 - v), v = 1 - exp(-D), D = B(end) - B(start)."""
        xp = functions_of(end)
        between = self.integral_between(start, end)
        return xp.exp(-0.5 * between), -xp.expm1(-between)

    def time(self, sigma: Array) -> Array:
        """B(t) = log(1 + sigma^2), solved for t."""
        return self.integral_inverse(functions_of(sigma).log1p(sigma * sigma))


@dataclass(frozen=True)
class SubVPSDE(VPSDE):
    r"""The sub-VP diffusion: VP's drift, at most VP's variance; designed for likelihoods.

    .. math:: dx = -\tfrac12\beta\,x\,dt + \sqrt{\beta\,(1 - e^{-2B})}\,dw, \qquad
              m = e^{-B/2}, \quad s = 1 - e^{-B}, \quad \sigma = 2\sinh(B/2)

    Args:
        beta_min, beta_max: as in `VPSDE`.

    Raises:
        ValueError: not 0 < beta_min <= beta_max.

    Accuracy: as in `VPSDE`.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 12 and 29.

    >>> round(SubVPSDE().std(0.3), 6), round(VPSDE().std(0.3) ** 2, 6)
    (0.603667, 0.603667)
    """

    def diffusion(self, t: Array) -> Array:
        """g = sqrt(beta (1 - exp(-2 B)))."""
        return root(-self.beta(t) * functions_of(t).expm1(-2.0 * self.integral(t)))

    def std(self, t: Array) -> Array:
        """s = 1 - exp(-B)."""
        return -functions_of(t).expm1(-self.integral(t))

    def transition(self, start: Array, end: Array) -> tuple[Array, Array]:
        """Return exp(-D / 2), (1 - exp(-D)) (1 - exp(-S)); D and S are B(end) -+ B(start)."""
        xp = functions_of(end)
        between = self.integral_between(start, end)
        total = self.integral(start) + self.integral(end)
        return xp.exp(-0.5 * between), xp.expm1(-between) * xp.expm1(-total)

    def time(self, sigma: Array) -> Array:
        """B(t) = 2 asinh(sigma / 2), solved for t."""
        return self.integral_inverse(2.0 * functions_of(sigma).asinh(0.5 * sigma))
