"""Gaussians of the autoencoder: reparameterisation and closed-form Kullback-Leibler divergences."""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def reparameterize(mean: Array, logvar: Array, noise: Array) -> Array:
    r"""Sample N(mean, exp(logvar)) as a differentiable function of mean and logvar.

    .. math:: z = \mu + e^{\frac12 \log\sigma^2}\, \epsilon

    Args:
        mean: any shape, real floating.
        logvar: natural logarithm of the variance, shape of `mean`.
        noise: standard normal, shape of `mean`.

    Returns:
        z, shape and dtype of `mean`.

    Accuracy: each term within 4 ulp.
    Source: Kingma and Welling 2013, arXiv:1312.6114, section 2.4 and eq. 10.

    >>> import numpy as np
    >>> reparameterize(np.asarray([1.0]), np.asarray([0.0]), np.asarray([0.5]))
    array([1.5])
    """
    xp = array_namespace(mean, logvar, noise)
    return mean + xp.exp(0.5 * logvar) * noise


def normal_entropy(logvar: Array) -> Array:
    r"""Differential entropy of N(mean, exp(logvar)), elementwise.

    .. math:: H = \tfrac12\left(1 + \log 2\pi + \log\sigma^2\right)

    Args:
        logvar: natural logarithm of the variance, any shape, real floating.

    Returns:
        nats, shape and dtype of `logvar`; sum over elements for the joint entropy.

    Accuracy: 2 ulp of 3 + |logvar|.
    Source: Cover and Thomas 2006, Elements of Information Theory, example 8.1.2.

    >>> import numpy as np
    >>> normal_entropy(np.asarray([0.0])).round(6)
    array([1.418939])
    """
    return 0.5 * (1.0 + math.log(2.0 * math.pi) + logvar)


def kl_standard_normal(mean: Array, logvar: Array) -> Array:
    r"""Divergence of N(mean, exp(logvar)) from N(0, 1), elementwise.

    .. math:: D = \tfrac12\left(\mu^2 + e^{\log\sigma^2} - 1 - \log\sigma^2\right)

    Args:
        mean: any shape, real floating.
        logvar: natural logarithm of the variance, shape of `mean`.

    Returns:
        nats, >= 0, shape and dtype of `mean`; sum over elements for the joint divergence.

    Accuracy: within 4 ulp of mean^2 + |logvar| + |exp(logvar) - 1|; near N(0, 1), where D itself
    is of order logvar^2, that is a relative error of ulp / |logvar|.
    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix B.

    >>> import numpy as np
    >>> kl_standard_normal(np.asarray([2.0]), np.asarray([0.0]))
    array([2.])
    """
    xp = array_namespace(mean, logvar)
    return 0.5 * (mean * mean + (xp.expm1(logvar) - logvar))


def kl_normal(mean1: Array, logvar1: Array, mean2: Array, logvar2: Array) -> Array:
    r"""Divergence D(N(mean1, exp(logvar1)) || N(mean2, exp(logvar2))), elementwise.

    .. math:: D = \tfrac12\left(\log\sigma_2^2 - \log\sigma_1^2 - 1
              + e^{\log\sigma_1^2 - \log\sigma_2^2} + (\mu_1-\mu_2)^2 e^{-\log\sigma_2^2}\right)

    Args:
        mean1, logvar1: the first Gaussian, any shape, real floating.
        mean2, logvar2: the second Gaussian, broadcastable to the first.

    Returns:
        nats, >= 0, and 0 only for equal Gaussians (up to rounding).

    Accuracy: with d = logvar1 - logvar2, within 4 + |d| ulp of (mean1 - mean2)^2 exp(-logvar2)
    + |d| + |exp(d) - 1|; exactly 0 for equal Gaussians.
    Source: Ho, Jain, Abbeel 2020, arXiv:2006.11239, used in eq. 5; derived from the definition.

    >>> import numpy as np
    >>> kl_normal(*(np.asarray([x]) for x in (1.0, 0.0, 3.0, 0.0)))
    array([2.])
    """
    xp = array_namespace(mean1, logvar1, mean2, logvar2)
    d = logvar1 - logvar2
    return 0.5 * (xp.expm1(d) - d + (mean1 - mean2) ** 2 * xp.exp(-logvar2))
