"""EDM's preconditioning: scale a network's input and output so that both have unit variance.

Coordinates x = x0 + sigma eps. `sigma` is a scalar or (n,), > 0, and broadcasts over trailing axes.
With sigma_data = 1 it is v-prediction: c_in x is the variance-preserving x_t, and the network's
output is -v.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ldmref.math.arrays import Array, along, log, root


class Preconditioning(NamedTuple):
    """The four coefficients of one noise level, each a scalar or (n,)."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_preconditioning(sigma: Array, sigma_data: float = 0.5) -> Preconditioning:
    r"""Coefficients that turn a network F into a denoiser D.

    .. math:: c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
              c_{out} = \frac{\sigma\,\sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
              c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
              c_{noise} = \tfrac14 \ln\sigma

    Args:
        sigma: noise level, scalar or (n,), > 0.
        sigma_data: standard deviation of the data, > 0; 0.5 in the paper.

    Returns:
        Preconditioning(c_skip, c_out, c_in, c_noise), each of sigma's type and shape.

    Accuracy: 6 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (last column) and appendix B.6.

    >>> edm_preconditioning(1.0, 1.0).c_skip, edm_preconditioning(4.0, 3.0)[1:3]
    (0.5, (2.4, 0.2))
    """
    total = sigma * sigma + sigma_data * sigma_data
    c_skip = sigma_data * sigma_data / total
    c_out = sigma * sigma_data / root(total)
    return Preconditioning(c_skip, c_out, 1.0 / root(total), 0.25 * log(sigma))


def edm_denoise(
    network: Callable[[Array, Array], Array], x: Array, sigma: Array, sigma_data: float = 0.5
) -> Array:
    r"""Evaluate the denoiser built from a network.

    .. math:: D(x; \sigma) = c_{skip}\, x + c_{out}\, F(c_{in}\, x;\ c_{noise})

    Args:
        network: `F(scaled x, c_noise) -> output` of x's shape; c_noise has sigma's type and shape.
        x: noisy data, (n, ...), real floating.
        sigma: noise level, scalar or (n,), > 0.
        sigma_data: standard deviation of the data, > 0.

    Returns:
        the estimate of x0, shape and dtype of `x`.

    Raises:
        ValueError: `sigma` and `x` disagree in n.

    Accuracy: each term within 8 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 7.

    >>> import numpy as np
    >>> edm_denoise(lambda x, c: 0 * x + 1.0, np.asarray([[5.0]]), 4.0, 3.0)  # 9/25 5 + 12/5
    array([[4.2]])
    """
    c = edm_preconditioning(sigma, sigma_data)
    output = network(along(c.c_in, x) * x, c.c_noise)
    return along(c.c_skip, x) * x + along(c.c_out, x) * output


def edm_target(x0: Array, x: Array, sigma: Array, sigma_data: float = 0.5) -> Array:
    r"""Return the network's training target: `edm_denoise` solved for F.

    .. math:: F^* = \frac{x_0 - c_{skip}\, x}{c_{out}}

    Args:
        x0: clean data, (n, ...), real floating.
        x: noisy data x0 + sigma eps, shape of `x0`.
        sigma: noise level, scalar or (n,), > 0.
        sigma_data: standard deviation of the data, > 0.

    Returns:
        the target, shape and dtype of `x0`; of unit variance for data of variance sigma_data^2.

    Raises:
        ValueError: `sigma` and `x0` disagree in n.

    Accuracy: 8 ulp of (|x0| + |x|) / c_out.
    Source: Karras et al. 2022, arXiv:2206.00364, eq. 8.

    >>> import numpy as np
    >>> edm_target(np.asarray([[4.2]]), np.asarray([[5.0]]), 4.0, 3.0).round(12)
    array([[1.]])
    """
    c = edm_preconditioning(sigma, sigma_data)
    return (x0 - along(c.c_skip, x0) * x) / along(c.c_out, x0)


def edm_loss_weight(sigma: Array, sigma_data: float = 0.5) -> Array:
    r"""Weight that turns D's squared error into F's, at every noise level.

    .. math:: \lambda(\sigma) = \frac{1}{c_{out}^2}
              = \frac{\sigma^2 + \sigma_d^2}{(\sigma\,\sigma_d)^2}

    With sigma_data = 1 it is SNR + 1, the ratio of v's squared error to x0's.

    Args:
        sigma: noise level, scalar or (n,), > 0.
        sigma_data: standard deviation of the data, > 0.

    Returns:
        lambda, type and shape of `sigma`.

    Accuracy: 6 ulp.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (loss weighting) and appendix B.6.

    >>> edm_loss_weight(1.0, 1.0), edm_loss_weight(0.5, 0.5)
    (2.0, 8.0)
    """
    product = sigma * sigma_data
    return (sigma * sigma + sigma_data * sigma_data) / (product * product)
