"""Deterministic autoencoders: plain, denoising and sparse.

Losses are sums over the elements of an example, as in the papers; divide by the number of elements
for the mean that training code reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def squared_error(x: Array, reconstruction: Array) -> Array:
    r"""Squared Euclidean distance of every example to its reconstruction.

    .. math:: L(x, \hat x) = \lVert x - \hat x \rVert^2

    Up to scale and a constant, the negative of `gaussian_log_likelihood`.

    Args:
        x: (n, ...), real floating.
        reconstruction: shape and dtype of `x`.

    Returns:
        (n,), >= 0, dtype of `x`.

    Accuracy: (2 + number of elements) ulp relative to the rounded differences.
    Source: Vincent et al. 2010, JMLR 11:3371, section 2.2.

    >>> import numpy as np
    >>> squared_error(np.asarray([[1.0, 2.0]]), np.asarray([[1.0, 5.0]]))
    array([9.])
    """
    xp = array_namespace(x, reconstruction)
    error = xp.reshape(x - reconstruction, (x.shape[0], -1))
    return xp.sum(error * error, axis=1)


def psnr(x: Array, reconstruction: Array, peak: float = 2.0) -> Array:
    r"""Peak signal-to-noise ratio of every example.

    .. math:: 10 \log_{10} \frac{p^2}{\lVert x - \hat x \rVert^2 / d}

    Args:
        x: (n, ...), d elements per example, real floating.
        reconstruction: shape and dtype of `x`.
        peak: p, the range of an element, > 0: 2 for images in [-1, 1], 255 for bytes.

    Returns:
        decibels, (n,), dtype of `x`; infinity for equal examples.

    Accuracy: (8 + d) ulp of 1 + |psnr|.
    Derived: definition.

    >>> import numpy as np
    >>> psnr(np.zeros((1, 4)), np.full((1, 4), 0.02)).round(6)
    array([40.])
    """
    xp = array_namespace(x, reconstruction)
    mean = squared_error(x, reconstruction) / math.prod(x.shape[1:])
    return 20.0 * math.log10(peak) - 10.0 * xp.log10(mean)


def autoencoder_loss(
    x: Array, encode: Callable[[Array], Array], decode: Callable[[Array], Array]
) -> Array:
    r"""Squared error of the reconstructions.

    .. math:: L(x) = \lVert x - g(f(x)) \rVert^2

    With linear f and g the minimum is the projection on `principal_components`.

    Args:
        x: (n, ...), real floating.
        encode: f, from images (n, ...) to latents.
        decode: g, from latents to images.

    Returns:
        (n,), >= 0, dtype of `x`.

    Accuracy: that of `squared_error`.
    Source: Baldi and Hornik 1989, Neural Networks 2:53; Hinton and Salakhutdinov 2006,
    Science 313:504.

    >>> import numpy as np
    >>> autoencoder_loss(np.asarray([[3.0, 4.0]]), lambda x: x[:, :1], lambda z: z * [[1.0, 1.0]])
    array([1.])
    """
    return squared_error(x, decode(encode(x)))


def denoising_loss(
    x: Array,
    corrupted: Array,
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
) -> Array:
    r"""Squared error between the reconstructions of corrupted images and the clean ones.

    .. math:: L(x, \tilde x) = \lVert x - g(f(\tilde x)) \rVert^2

    Its minimiser over all functions is the posterior mean of the clean image, the x0 prediction
    of diffusion models.

    Args:
        x: clean images, (n, ...), real floating.
        corrupted: x-tilde, from `gaussian_corruption` or `masking_corruption`, shape of `x`.
        encode: f, from images to latents.
        decode: g, from latents to images.

    Returns:
        (n,), >= 0, dtype of `x`.

    Accuracy: that of `squared_error`.
    Source: Vincent et al. 2010, JMLR 11:3371, section 3.1.

    >>> import numpy as np
    >>> same = lambda z: z
    >>> denoising_loss(np.asarray([[3.0, 4.0]]), np.asarray([[3.0, 0.0]]), same, same)
    array([16.])
    """
    return squared_error(x, decode(encode(corrupted)))


def gaussian_corruption(x: Array, noise: Array, sigma: float) -> Array:
    r"""Add isotropic Gaussian noise.

    .. math:: \tilde x = x + \sigma\,\epsilon

    Args:
        x: any shape, real floating.
        noise: epsilon, standard normal, shape of `x`.
        sigma: standard deviation in units of `x`, >= 0.

    Returns:
        shape and dtype of `x`.

    Accuracy: each term within 2 ulp.
    Source: Vincent et al. 2010, JMLR 11:3371, section 3.3.

    >>> import numpy as np
    >>> gaussian_corruption(np.asarray([1.0]), np.asarray([-2.0]), 0.25)
    array([0.5])
    """
    return x + sigma * noise


def masking_corruption(x: Array, noise: Array, fraction: float) -> Array:
    r"""Set a fixed number of randomly chosen elements of every example to zero.

    .. math:: \tilde x_i = x_i\,[\,r_i \ge \operatorname{round}(\nu d)\,], \qquad
              r_i = \#\{j : u_j < u_i\}

    Args:
        x: (n, ...), d elements per example, real floating.
        noise: u, i.i.d. draws from any continuous distribution, shape of `x`.
        fraction: nu, of the elements set to zero, in [0, 1]; nu d is rounded half to even.

    Returns:
        shape and dtype of `x`; the other elements are unchanged.

    Raises:
        ValueError: `fraction` is not in [0, 1].

    Accuracy: exact.
    Source: Vincent et al. 2008, ICML, section 2.3; 2010, JMLR 11:3371, section 3.3.

    >>> import numpy as np
    >>> masking_corruption(np.asarray([[1.0, 2.0, 3.0]]), np.asarray([[0.5, 0.1, 0.9]]), 0.34)
    array([[1., 0., 3.]])
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be in [0, 1], not {fraction}")
    xp = array_namespace(x, noise)
    flat = xp.reshape(noise, (x.shape[0], -1))
    ranks = xp.argsort(xp.argsort(flat, axis=1), axis=1)
    kept = xp.reshape(ranks >= round(fraction * flat.shape[1]), x.shape)
    return xp.where(kept, x, xp.zeros_like(x))


def kl_bernoulli(p: Array, q: Array) -> Array:
    r"""Divergence of Bernoulli(p) from Bernoulli(q), element by element.

    .. math:: D = p \log\frac{p}{q} + (1 - p) \log\frac{1 - p}{1 - q}

    Args:
        p: probability, in [0, 1]; a scalar, or an array broadcastable to `q`.
        q: probability, in (0, 1), any shape, real floating.

    Returns:
        nats, >= 0 up to rounding, 0 where p = q; shape and dtype of `q`.

    Accuracy: 8 ulp of p |log(p/q)| + (1 - p) |log((1-p)/(1-q))| + 1.
    Derived: definition of the divergence.

    >>> import numpy as np
    >>> kl_bernoulli(0.5, np.asarray([0.5, 0.2])).round(6)
    array([0.      , 0.223144])
    """
    xp = array_namespace(q)
    p = xp.zeros_like(q) + (float(p) if isinstance(p, Real) else p)

    def term(a: Array, b: Array) -> Array:  # a log(a / b), and 0 at a = 0
        return a * xp.log(xp.where(a > 0.0, a, b) / b)

    return term(p, q) + term(1.0 - p, 1.0 - q)


def kl_sparsity(activation: Array, rho: float) -> Array:
    r"""Penalty on the deviation of each hidden unit's mean activation from rho.

    .. math:: \Omega = \sum_j \operatorname{KL}(\rho \,\|\, \hat\rho_j), \qquad
              \hat\rho_j = \frac1n \sum_i h_j(x_i)

    Args:
        activation: h, (n, units), in (0, 1), such as a sigmoid's output.
        rho: target mean activation, in (0, 1), such as 0.05.

    Returns:
        0-d, nats, >= 0, dtype of `activation`.

    Raises:
        ValueError: `rho` is not in (0, 1).

    Accuracy: that of `kl_bernoulli` at the rounded means, summed.
    Source: Ng 2011, CS294A lecture notes "Sparse autoencoder", section 3.

    >>> import numpy as np
    >>> kl_sparsity(np.asarray([[0.1, 0.2], [0.9, 0.2]]), 0.5).round(6).item()
    0.223144
    """
    if not 0.0 < rho < 1.0:
        raise ValueError(f"rho must be in (0, 1), not {rho}")
    xp = array_namespace(activation)
    return xp.sum(kl_bernoulli(rho, xp.mean(activation, axis=0)))


def l1_sparsity(activation: Array) -> Array:
    r"""L1 penalty on the latents: the sum of their absolute values.

    .. math:: \Omega(x) = \sum_j \lvert h_j(x) \rvert

    Args:
        activation: h, (n, ...), real floating.

    Returns:
        (n,), >= 0, dtype of `activation`.

    Accuracy: (number of elements) ulp.
    Source: Olshausen and Field 1996, Nature 381:607, with the penalty |x|.

    >>> import numpy as np
    >>> l1_sparsity(np.asarray([[1.0, -2.0, 0.0]]))
    array([3.])
    """
    xp = array_namespace(activation)
    return xp.sum(xp.abs(xp.reshape(activation, (activation.shape[0], -1))), axis=1)
