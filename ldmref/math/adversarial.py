r"""Adversarial and perceptual terms of first stages, and the weight that balances them.

A discriminator gives a logit for each patch: positive for real images, negative for made ones.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def hinge_discriminator_loss(real: Array, fake: Array) -> Array:
    r"""Hinge loss of the discriminator.

    .. math:: \max(0, 1 - D(x)) + \max(0, 1 + D(\hat x))

    taming-transformers and latent diffusion take half of it.

    Args:
        real: D(x), logits of real images, any shape, real floating.
        fake: D(x-hat), logits of reconstructions, shape of `real`.

    Returns:
        >= 0, shape and dtype of `real`.

    Accuracy: 2 ulp of 2 + |real| + |fake|.
    Source: Miyato et al. 2018, arXiv:1802.05957, eq. 16; Lim and Ye 2017, arXiv:1705.02894.

    >>> import numpy as np
    >>> hinge_discriminator_loss(np.asarray([0.5, 3.0]), np.asarray([0.0, -2.0]))
    array([1.5, 0. ])
    """
    xp = array_namespace(real, fake)
    zero = xp.zeros_like(real)
    return xp.maximum(zero, 1.0 - real) + xp.maximum(zero, 1.0 + fake)


def hinge_generator_loss(fake: Array) -> Array:
    r"""Loss of the generator against a hinge discriminator.

    .. math:: -D(\hat x)

    Args:
        fake: D(x-hat), logits of reconstructions, any shape, real floating.

    Returns:
        shape and dtype of `fake`.

    Accuracy: exact.
    Source: Miyato et al. 2018, arXiv:1802.05957, eq. 17; Lim and Ye 2017, arXiv:1705.02894.

    >>> import numpy as np
    >>> hinge_generator_loss(np.asarray([0.5, -2.0]))
    array([-0.5,  2. ])
    """
    return -fake


def log_discriminator_loss(real: Array, fake: Array) -> Array:
    r"""Cross-entropy of the discriminator.

    .. math:: -\log\sigma(D(x)) - \log(1 - \sigma(D(\hat x)))
              = \log(1 + e^{-D(x)}) + \log(1 + e^{D(\hat x)})

    Args:
        real: D(x), logits of real images, any shape and magnitude, real floating.
        fake: D(x-hat), logits of reconstructions, shape of `real`.

    Returns:
        nats, > 0, shape and dtype of `real`.

    Accuracy: 4 ulp of 1 + |real| + |fake|.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, eq. 1.

    >>> import numpy as np
    >>> log_discriminator_loss(np.asarray([0.0]), np.asarray([0.0])).round(6)
    array([1.386294])
    """
    return log_generator_loss(real) + log_generator_loss(-fake)


def log_generator_loss(fake: Array) -> Array:
    r"""Non-saturating loss of the generator.

    .. math:: -\log\sigma(D(\hat x)) = \log(1 + e^{-D(\hat x)})

    Its gradient is largest where the discriminator is sure, where that of log(1 - sigma) vanishes.

    Args:
        fake: D(x-hat), logits of reconstructions, any shape and magnitude, real floating.

    Returns:
        nats, > 0, shape and dtype of `fake`.

    Accuracy: 4 ulp of 1 + |fake|.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3.

    >>> import numpy as np
    >>> log_generator_loss(np.asarray([0.0])).round(6)
    array([0.693147])
    """
    xp = array_namespace(fake)
    return xp.logaddexp(xp.zeros_like(fake), -fake)


def adaptive_weight(
    reconstruction: Array, adversarial: Array, delta: float = 1e-6, maximum: float = 1e4
) -> Array:
    r"""Weight of the adversarial term with a gradient as long as that of the reconstruction.

    .. math:: \lambda = \min\left(\frac{\lVert \nabla_{G_L} L_{rec} \rVert}
              {\lVert \nabla_{G_L} L_{GAN} \rVert + \delta}, \lambda_{max}\right)

    The published code has delta 1e-4 and the maximum, the paper delta 1e-6 and none.

    Args:
        reconstruction: gradient of the reconstruction (and perceptual) loss at the weights of the
            decoder's last layer, any shape, real floating.
        adversarial: gradient of the generator's adversarial loss there, shape of `reconstruction`.
        delta: > 0.
        maximum: > 0.

    Returns:
        0-d, from 0 to `maximum`, dtype of `reconstruction`.

    Accuracy: (4 + number of elements) ulp.
    Source: Esser, Rombach, Ommer 2021, arXiv:2012.09841, eq. 7; the maximum:
    calculate_adaptive_weight in CompVis/taming-transformers.

    >>> import numpy as np
    >>> adaptive_weight(np.asarray([3.0, 4.0]), np.asarray([0.0, 2.0]), 0.5).item()
    2.0
    """
    xp = array_namespace(reconstruction, adversarial)
    norm = xp.linalg.vector_norm
    ratio = norm(reconstruction) / (norm(adversarial) + delta)
    return xp.minimum(ratio, xp.ones_like(ratio) * maximum)


def feature_distance(x: Array, y: Array) -> Array:
    r"""Distance of two images in the features of one layer of a network.

    .. math:: d = \frac{1}{hw} \sum_p \left\lVert \frac{x_p}{\lVert x_p \rVert}
              - \frac{y_p}{\lVert y_p \rVert} \right\rVert^2

    The sum over layers is the perceptual distance; LPIPS also weighs the channels, with weights
    learned from people's judgements.

    Args:
        x: features, (n, c, h, w), real floating; a pixel of only zeros stays zero.
        y: features of the other images, shape of `x`.

    Returns:
        (n,), from 0 to 4, dtype of `x`.

    Accuracy: (8 + c h w) ulp of 1.
    Source: Zhang et al. 2018, arXiv:1801.03924, eq. 1 with w = 1.

    >>> import numpy as np
    >>> x, y = np.zeros((2, 1, 2, 1, 1))
    >>> x[0, 0], y[0, 1] = 3.0, 5.0
    >>> feature_distance(x, y)
    array([2.])
    """
    xp = array_namespace(x, y)
    difference = _unit(x) - _unit(y)
    return xp.mean(xp.sum(difference * difference, axis=1), axis=(1, 2))


def _unit(x: Array) -> Array:
    """Every pixel's vector divided by its length. The gradient is finite at zero."""
    xp = array_namespace(x)
    squares = xp.sum(x * x, axis=1, keepdims=True)
    return x / xp.sqrt(xp.where(squares > 0.0, squares, xp.ones_like(squares)))
