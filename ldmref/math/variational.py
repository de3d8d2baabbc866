"""The variational autoencoder: likelihoods, the evidence lower bound and its tighter relatives.

For one example x, any q(z|x) and the prior p(z) = N(0, 1),

    ELBO = E_q log p(x|z) - KL(q || p(z)) <= L_k <= log p(x),   log p(x) - ELBO = KL(q || p(z|x)),

where L_k is the importance-weighted bound from k samples, and L_1 = ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.math.autoencoding import squared_error
from ldmref.math.divergence import kl_standard_normal, reparameterize


def normal_log_density(x: Array, mean: Array, logvar: Array) -> Array:
    r"""Log-density of N(mean, exp(logvar)) at x, elementwise.

    .. math:: \log p = -\tfrac12\left(\log 2\pi + \log\sigma^2
              + (x - \mu)^2 e^{-\log\sigma^2}\right)

    Args:
        x: any shape, real floating.
        mean, logvar: of the Gaussian, broadcastable against `x`.

    Returns:
        nats, the broadcast shape; sum over elements for the joint density.

    Accuracy: (4 + |logvar|) ulp of 1 + |logvar| + (x - mean)^2 exp(-logvar).
    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix C.2.

    >>> import numpy as np
    >>> normal_log_density(*(np.asarray([z]) for z in (1.0, 1.0, 0.0))).round(6)
    array([-0.918939])
    """
    xp = array_namespace(x, mean, logvar)
    return -0.5 * (math.log(2.0 * math.pi) + logvar + (x - mean) ** 2 * xp.exp(-logvar))


def gaussian_log_likelihood(x: Array, mean: Array, variance: float = 1.0) -> Array:
    r"""Log-likelihood of a Gaussian decoder of fixed variance.

    .. math:: \log p(x|z) = -\frac{\lVert x - \mu(z) \rVert^2}{2\sigma^2}
              - \frac d2 \log(2\pi\sigma^2)

    The variance sets the weight of the squared error relative to the divergence.

    Args:
        x: (n, ...), d elements per example, real floating.
        mean: decoder output for z, shape of `x`.
        variance: sigma^2 of every element, > 0, in units of `x` squared.

    Returns:
        nats, (n,), dtype of `x`.

    Raises:
        ValueError: `variance` is not positive.

    Accuracy: (4 + d) ulp of the larger term.
    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix C.2.

    >>> import numpy as np
    >>> gaussian_log_likelihood(np.asarray([[1.0, 3.0]]), np.asarray([[1.0, 1.0]])).round(6)
    array([-3.837877])
    """
    if not variance > 0.0:
        raise ValueError(f"variance must be positive, not {variance}")
    d = math.prod(x.shape[1:])
    constant = 0.5 * d * math.log(2.0 * math.pi * variance)
    return -(squared_error(x, mean) / (2.0 * variance)) - constant


def bernoulli_log_likelihood(x: Array, logits: Array) -> Array:
    r"""Log-likelihood of a Bernoulli decoder: the negative cross-entropy.

    .. math:: \log p(x|z) = \sum_i x_i \log y_i + (1 - x_i) \log(1 - y_i)
              = \sum_i \left(x_i l_i - \log(1 + e^{l_i})\right), \qquad
              y = \operatorname{sigmoid}(l)

    For x strictly between 0 and 1 it is a loss but not a log-density: it is not normalised.

    Args:
        x: (n, ...), in [0, 1], real floating.
        logits: l, decoder output for z, shape of `x`; any magnitude.

    Returns:
        nats, (n,), <= 0, dtype of `x`.

    Accuracy: (4 + number of elements) ulp of the sum of |l| + 1.
    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix C.1.

    >>> import numpy as np
    >>> bernoulli_log_likelihood(np.asarray([[1.0, 0.0]]), np.zeros((1, 2))).round(6)
    array([-1.386294])
    """
    xp = array_namespace(x, logits)
    terms = x * logits - xp.logaddexp(xp.zeros_like(logits), logits)
    return xp.sum(xp.reshape(terms, (x.shape[0], -1)), axis=1)


def elbo(log_likelihood: Array, mean: Array, logvar: Array, kl_weight: float = 1.0) -> Array:
    r"""Evidence lower bound with q(z|x) = N(mean, exp(logvar)) and p(z) = N(0, 1).

    .. math:: \mathcal L = \frac1L \sum_l \log p(x|z_l) - w \operatorname{KL}(q(z|x) \,\|\, p(z))

    Given the expectation of log p(x|z) it is the bound itself; given samples, an unbiased estimate.
    A bound for w >= 1; latent diffusion trains its autoencoders with w near 1e-6.

    Args:
        log_likelihood: log p(x|z) in nats, (n,) for one sample or (samples, n).
        mean, logvar: of q, (n, ...), real floating.
        kl_weight: w, >= 0; 1 is the evidence bound.

    Returns:
        nats, (n,), dtype of `mean`.

    Accuracy: that of its terms, `kl_standard_normal` summed.
    Source: Kingma and Welling 2013, arXiv:1312.6114, eq. 7 and 10; w: Higgins et al. 2017,
    "beta-VAE", ICLR, eq. 4.

    >>> import numpy as np
    >>> elbo(np.asarray([-3.0]), np.asarray([[1.0, 1.0]]), np.zeros((1, 2)))
    array([-4.])
    """
    xp = array_namespace(log_likelihood, mean, logvar)
    if log_likelihood.ndim > 1:
        log_likelihood = xp.mean(log_likelihood, axis=0)
    kl = xp.sum(xp.reshape(kl_standard_normal(mean, logvar), (mean.shape[0], -1)), axis=1)
    return log_likelihood - kl_weight * kl


def elbo_estimate(
    x: Array,
    noise: Array,
    encode: Callable[[Array], tuple[Array, Array]],
    log_likelihood: Callable[[Array, Array], Array],
) -> Array:
    r"""Estimate the evidence lower bound from one reparameterised sample (SGVB, L = 1).

    .. math:: \hat{\mathcal L} = \log p(x\,|\,\mu + \sigma\epsilon)
              - \operatorname{KL}(q(z|x) \,\|\, p(z))

    Args:
        x: (n, ...), real floating.
        noise: epsilon, standard normal, shape of the latents.
        encode: from x to (mean, logvar) of q(z|x), each (n, ...).
        log_likelihood: from (x, z) to log p(x|z) in nats, (n,).

    Returns:
        nats, (n,); its expectation over the noise is the bound.

    Accuracy: that of `elbo`; the variance over the noise depends on the model.
    Source: Kingma and Welling 2013, arXiv:1312.6114, eq. 7 and 10, algorithm 1.

    >>> import numpy as np
    >>> x = np.asarray([[1.0, 1.0]])
    >>> encode = lambda x: (x[:, :1], np.zeros((1, 1)))
    >>> elbo_estimate(x, np.zeros((1, 1)), encode, lambda x, z: -squared_error(x, z))
    array([-0.5])
    """
    mean, logvar = encode(x)
    return elbo(log_likelihood(x, reparameterize(mean, logvar, noise)), mean, logvar)


def log_importance_weight(log_likelihood: Array, z: Array, mean: Array, logvar: Array) -> Array:
    r"""Log of the importance weight p(x, z) / q(z|x) at samples of q, with p(z) = N(0, 1).

    .. math:: \log w = \log p(x|z) + \log p(z) - \log q(z|x)

    Its mean over samples of q is the evidence lower bound (the first SGVB estimator), the mean of w
    is p(x) itself; where q is the posterior, every log w is log p(x).

    Args:
        log_likelihood: log p(x|z) in nats, (n,) or (samples, n).
        z: samples of q, (n, ...) or (samples, n, ...).
        mean, logvar: of q, (n, ...), real floating.

    Returns:
        nats, shape of `log_likelihood`.

    Accuracy: that of `normal_log_density`, summed.
    Source: Kingma and Welling 2013, arXiv:1312.6114, eq. 6; Burda et al. 2015, arXiv:1509.00519,
    section 3.

    >>> import numpy as np
    >>> z = mean = np.asarray([[2.0]])
    >>> log_importance_weight(np.asarray([-1.0]), z, mean, np.zeros((1, 1)))
    array([-3.])
    """
    xp = array_namespace(log_likelihood, z, mean, logvar)
    zero = xp.zeros_like(mean)
    ratio = normal_log_density(z, zero, zero) - normal_log_density(z, mean, logvar)
    return log_likelihood + xp.sum(xp.reshape(ratio, (*log_likelihood.shape, -1)), axis=-1)


def iwae_bound(log_weights: Array) -> Array:
    r"""Importance-weighted lower bound of log p(x) from k samples: log of the mean weight.

    .. math:: \mathcal L_k = \log \frac1k \sum_{i=1}^k w_i

    By Jensen's inequality at least the mean of log w (k single-sample bounds), and in expectation
    at most log p(x), its limit for large k.

    Args:
        log_weights: log w_i in nats from `log_importance_weight`, (k, n), real floating.

    Returns:
        nats, (n,), dtype of `log_weights`.

    Accuracy: (4 + k) ulp of 1 + the largest |log w|; no weight overflows.
    Source: Burda, Grosse, Salakhutdinov 2015, arXiv:1509.00519, section 3 and theorem 1.

    >>> import numpy as np
    >>> iwae_bound(np.log(np.asarray([[1.0], [3.0]]))).round(6)
    array([0.693147])
    """
    xp = array_namespace(log_weights)
    top = xp.max(log_weights, axis=0)
    return top + xp.log(xp.mean(xp.exp(log_weights - top[None, ...]), axis=0))
