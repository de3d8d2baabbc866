"""Forward diffusions in continuous time, in closed form.

Each is dx = f(t) x dt + g(t) dw with t in [0, 1], from data at 0 to the prior at 1. t is a Python
float (computed on the host) or (n,), one time per example of x. In the samplers' coordinates
x(t) = m(t) (x0 + sigma(t) eps): processes differ in their scale m(t) and noise schedule sigma(t).
"""

from __future__ import annotations

import math
from numbers import Real
from types import ModuleType

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along


def functions_of(t: Array) -> ModuleType:
    """Namespace of elementary functions for t: Python's `math` for scalars.

    Args:
        t: scalar or array.

    Returns:
        `math`, or the namespace of t's array library.

    Accuracy: exact.
    Derived: definition.

    >>> functions_of(0.5).exp(0.0)
    1.0
    """
    return math if isinstance(t, Real) else array_namespace(t)


class LinearSDE:
    r"""The linear SDE dx = f(t) x dt + g(t) dw, and the quantities derived from it.

    A subclass defines `drift_coefficient` f, `diffusion` g, `mean_coefficient` m, `std` s,
    `transition` and `time`; then

    .. math:: x(t) \mid x_0 \sim N(m x_0, s^2), \quad \sigma = s / m, \quad
              \bar\alpha = \frac{m^2}{m^2 + s^2} = \frac{1}{1 + \sigma^2}

    Accuracy: each term within 4 ulp for the functions of the subclass.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 5 and 29; Karras et al. 2022, arXiv:2206.00364,
    table 1 (scale and sigma of VP and VE).

    >>> from ldmref.math import VESDE, VPSDE
    >>> VPSDE().alpha_bar(0.0), VESDE().sigma(1.0)
    (1.0, 50.0)
    """

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2), which approximates p(x(1))."""
        return 1.0

    def drift_coefficient(self, t: Array) -> Array:
        """f(t), type and shape of `t`."""
        raise NotImplementedError

    def diffusion(self, t: Array) -> Array:
        """g(t) >= 0, type and shape of `t`."""
        raise NotImplementedError

    def mean_coefficient(self, t: Array) -> Array:
        """m(t) in (0, 1], type and shape of `t`."""
        raise NotImplementedError

    def std(self, t: Array) -> Array:
        """s(t) >= 0, type and shape of `t`."""
        raise NotImplementedError

    def transition(self, start: Array, end: Array) -> tuple[Array, Array]:
        """Return (a, v) of x(end) | x(start) ~ N(a x(start), v), start <= end, like `end`."""
        raise NotImplementedError

    def time(self, sigma: Array) -> Array:
        """Inverse of `sigma`; type and shape of its argument."""
        raise NotImplementedError

    def drift(self, x: Array, t: Array) -> Array:
        """f(t) x, shape and dtype of `x`, (n, ...)."""
        return along(self.drift_coefficient(t), x) * x

    def sigma(self, t: Array) -> Array:
        """Noise level s / m in the coordinates x = x0 + sigma eps, type and shape of `t`."""
        return self.std(t) / self.mean_coefficient(t)

    def alpha_bar(self, t: Array) -> Array:
        """Fraction of signal variance m^2 / (m^2 + s^2), type and shape of `t`."""
        m = self.mean_coefficient(t)
        s = self.std(t)
        return m * m / (m * m + s * s)

    def q_sample(self, x0: Array, t: Array, eps: Array) -> Array:
        """x(t) = m(t) x0 + s(t) eps, shape and dtype of `x0`, (n, ...)."""
        return along(self.mean_coefficient(t), x0) * x0 + along(self.std(t), x0) * eps

    def prior(self, noise: Array) -> Array:
        """Sample the prior from standard normal noise; shape and dtype of `noise`."""
        return self.prior_std * noise

    def log_prior(self, x: Array) -> Array:
        """Log-density of the prior at `x`, (n, ...), summed over all axes but the first: (n,)."""
        xp = array_namespace(x)
        flat = xp.reshape(x, (x.shape[0], -1)) / self.prior_std
        constant = flat.shape[1] * math.log(math.sqrt(2.0 * math.pi) * self.prior_std)
        return -0.5 * xp.sum(flat * flat, axis=1) - constant
