"""The signal-to-noise ratio and its logarithm."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.activations import sigmoid
from ldmref.math.arrays import Array


def snr(alpha_bar: Array) -> Array:
    r"""Signal-to-noise ratio, a ratio of variances.

    .. math:: \mathrm{SNR} = \frac{\bar\alpha}{1 - \bar\alpha} = \frac{1}{\sigma^2}

    Args:
        alpha_bar: scalar or any shape, in [0, 1); dimensionless.

    Returns:
        the same shape and dtype, in [0, inf).

    Accuracy: 2 ulp of alpha_bar / (1 - alpha_bar).
    Source: Kingma et al. 2021, arXiv:2107.00630, section 3.1 (definition of the SNR).

    >>> import numpy as np
    >>> snr(np.asarray([0.75]))
    array([3.])
    """
    return alpha_bar / (1.0 - alpha_bar)


def log_snr(alpha_bar: Array) -> Array:
    r"""Return the natural logarithm of the signal-to-noise ratio.

    .. math:: \log\mathrm{SNR} = \log\frac{\bar\alpha}{1 - \bar\alpha} = -2 \log\sigma

    VDM's -gamma, and twice the lambda of DPM-Solver.

    Args:
        alpha_bar: any shape, in (0, 1); dimensionless.

    Returns:
        the same shape and dtype, nats.

    Accuracy: 5 ulp, also near 1/2, where log alpha_bar and log(1 - alpha_bar) cancel: there it is
    2 artanh(2 alpha_bar - 1).
    Source: Kingma et al. 2021, arXiv:2107.00630, section 3.2 (gamma is minus the log-SNR).

    >>> import numpy as np
    >>> log_snr(np.asarray([0.5]))
    array([0.])
    """
    xp = array_namespace(alpha_bar)
    middle = 2.0 * alpha_bar - 1.0
    near = xp.abs(middle) < 0.5
    artanh = xp.atanh(xp.where(near, middle, xp.zeros_like(middle)))
    return xp.where(near, 2.0 * artanh, xp.log(alpha_bar) - xp.log1p(-alpha_bar))


def alpha_bar_from_log_snr(log_snr: Array) -> Array:
    r"""Invert `log_snr`: the logistic function.

    .. math:: \bar\alpha = \frac{1}{1 + e^{-\log\mathrm{SNR}}}

    Args:
        log_snr: any shape, real floating; nats.

    Returns:
        the same shape and dtype, in [0, 1]; 1 - alpha_bar is the same function of -log_snr.

    Accuracy: 4 ulp for positive and (4 + |log_snr|) ulp for negative ones; nothing overflows.
    Source: Kingma et al. 2021, arXiv:2107.00630, section 3.2 (alpha^2 as sigmoid of -gamma).

    >>> import numpy as np
    >>> alpha_bar_from_log_snr(np.asarray([0.0]))
    array([0.5])
    """
    return sigmoid(log_snr)
