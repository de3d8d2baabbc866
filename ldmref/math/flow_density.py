"""Densities of Gaussian transitions: what reinforcement learning on flow models compares.

A transition N(mean, std^2) has independent numbers with one std per example. Its log-density is the
sum over the numbers of an example; published code takes their mean, which divides a ratio's
logarithm by their number. Both are here: `average=False` and `average=True`.
"""

from __future__ import annotations

import math

from ldmref.math.arrays import Array, along, array_namespace, log


def transition_log_density(x_next: Array, mean: Array, std: Array, average: bool = False) -> Array:
    r"""Return the log-density of the state after a Gaussian transition.

    .. math:: \ln p(x') = -\sum_i \left(\frac{(x'_i - \mu_i)^2}{2 q^2} + \ln q +
              \tfrac12 \ln 2\pi\right)

    Args:
        x_next: x', (n, ...), real floating.
        mean: mu, shape of `x_next`.
        std: q, scalar or (n,), > 0.
        average: whether to divide by the number of values of an example, as Flow-GRPO does.

    Returns:
        nats, (n,), dtype of `x_next`.

    Accuracy: 8 ulp of the sum of absolute terms, and twice that of (x' - mu) / q.
    Derived: the density of the normal distribution; arXiv:2505.05470 uses its mean.

    >>> import numpy as np
    >>> x = np.asarray([[1.0, 3.0]])
    >>> transition_log_density(x, np.zeros((1, 2)), 1.0).round(6)
    array([-6.837877])
    >>> transition_log_density(x, np.zeros((1, 2)), 1.0, average=True).round(6)
    array([-3.418939])
    """
    z = (x_next - mean) / along(std, x_next)
    terms = -0.5 * z * z - along(log(std), x_next) - 0.5 * math.log(2.0 * math.pi)
    return _reduce(terms, average)


def transition_kl(
    mean: Array, std: Array, other_mean: Array, other_std: Array, average: bool = False
) -> Array:
    r"""Return the Kullback-Leibler divergence of two Gaussian transitions.

    .. math:: \mathrm{KL} = \sum_i \left(\frac{(\mu_i - \mu'_i)^2}{2 q'^2} +
              \frac{q^2}{2 q'^2} - \frac12 - \ln\frac{q}{q'}\right)

    Args:
        mean: mu, (n, ...), real floating.
        std: q, scalar or (n,), > 0.
        other_mean: mu', shape of `mean`.
        other_std: q', scalar or (n,), > 0.
        average: whether to divide by the number of values of an example.

    Returns:
        KL(N(mu, q^2) || N(mu', q'^2)) in nats, (n,), dtype of `mean`.

    Accuracy: 10 ulp of the sum of absolute terms, those of the stds counted before they cancel.
    Derived: the expectation of the difference of two `transition_log_density`.

    >>> import numpy as np
    >>> transition_kl(np.asarray([[1.0, 3.0]]), 0.5, np.zeros((1, 2)), 0.5)
    array([20.])
    """
    shift = (mean - other_mean) / along(other_std, mean)
    ratio = std / other_std
    spread = 0.5 * ratio * ratio - 0.5 - log(ratio)
    return _reduce(0.5 * shift * shift + along(spread, mean), average)


def log_ratio_floor(
    size: Array, std: Array, count: float, eps: float, average: bool = False
) -> Array:
    r"""Return the noise that rounding alone puts into the logarithm of a ratio of two densities.

    .. math:: \frac{\varepsilon\, m \sqrt{D}}{4 \sqrt{\ln 2}\; q}

    It is the standard deviation of ln p(x') - ln p~(x') if p and p~ are the same transition, whose
    mean two programs rounded once each, with independent errors: to bfloat16 in a rollout, say. A
    clip range of ratios below it clips rounding.

    Args:
        size: m, the root mean square of the mean's values, scalar or any shape, >= 0.
        std: q, the transition's std, scalar or shape of `size`, > 0.
        count: D, the number of values of an example, scalar, > 0.
        eps: epsilon, the spacing of numbers above 1, scalar, > 0: 2^-23 in float32, 2^-10 in
            float16, 2^-7 in bfloat16.
        average: whether the log-density is the mean over values and not the sum: divides by D.

    Returns:
        nats, shape and dtype of `size`.

    Accuracy: 8 ulp; as a prediction, within a tenth if the mean's values are spread over several
    powers of 2, as normal ones are, and if the rounding errors are small against q.
    Derived: an error uniform in half a spacing either way, for mantissas whose logarithms are
    uniform, has the variance (epsilon m)^2 / (32 ln 2); each of 2 D errors shifts the logarithm by
    error / q times a standard normal number.

    >>> round(log_ratio_floor(1.0, 0.1, 16 * 128 * 128, 2.0**-7, average=True), 7)
    4.58e-05
    >>> round(log_ratio_floor(1.0, 0.1, 16 * 128 * 128, 2.0**-23, average=True), 12)
    6.99e-10
    """
    total = size * (eps * math.sqrt(count) / (4.0 * math.sqrt(math.log(2.0)))) / std
    return total / count if average else total


def _reduce(terms: Array, average: bool) -> Array:
    """Sum, or average, the values of each example."""
    xp = array_namespace(terms)
    rows = xp.reshape(terms, (terms.shape[0], -1))
    return xp.mean(rows, axis=1) if average else xp.sum(rows, axis=1)
