"""Normalisation, resampling and LoRA as plain definitions, the reference for optimised backends."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def group_norm(
    x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float
) -> Array:
    r"""Normalise each group of adjacent channels of each example to zero mean, unit variance.

    .. math:: y = \frac{x - \operatorname E_g[x]}{\sqrt{\operatorname{Var}_g[x] + \varepsilon}}\,
              \gamma_c + \beta_c

    The variance is biased. eps has no default because models differ: 1e-6 in the autoencoder and
    before the transformers, 1e-5 in the U-Net's residual blocks.

    Args:
        x: (n, c, ...), real floating.
        weight, bias: gamma and beta, (c,), or None for 1 and 0.
        groups: number of groups, a divisor of c; 1 normalises all channels together, c each one.
        eps: added to the variance, in units of `x` squared, >= 0.

    Returns:
        shape and dtype of `x`.

    Raises:
        ValueError: `groups` does not divide c.

    Accuracy: (8 + sqrt(elements of a group)) ulp of 1 + |mean| / sqrt(variance + eps), times gamma.
    Source: Wu and He 2018, arXiv:1803.08494, section 3.

    >>> import numpy as np
    >>> group_norm(np.asarray([[1.0, 3.0, 5.0, 5.0]]), None, None, 2, 0.5).round(6)
    array([[-0.816497,  0.816497,  0.      ,  0.      ]])
    """
    n, c = x.shape[:2]
    if groups < 1 or c % groups:
        raise ValueError(f"{groups} groups do not divide {c} channels")
    xp = array_namespace(x)
    y = xp.reshape(_standardise(xp.reshape(x, (n, groups, -1)), eps), x.shape)
    shape = (c,) + (1,) * (x.ndim - 2)
    y = y if weight is None else y * xp.reshape(weight, shape)
    return y if bias is None else y + xp.reshape(bias, shape)


def layer_norm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    r"""Normalise the last axis to zero mean and unit variance.

    .. math:: y = \frac{x - \operatorname E[x]}{\sqrt{\operatorname{Var}[x] + \varepsilon}}\,
              \gamma + \beta

    Args:
        x: (..., d), real floating.
        weight, bias: gamma and beta, (d,), or None for 1 and 0.
        eps: added to the (biased) variance, in units of `x` squared, >= 0; 1e-5 in all models.

    Returns:
        shape and dtype of `x`.

    Accuracy: (8 + sqrt(d)) ulp of 1 + |mean| / sqrt(variance + eps), times gamma.
    Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450, section 3.

    >>> import numpy as np
    >>> layer_norm(np.asarray([1.0, 3.0]), None, None, 0.5).round(6)
    array([-0.816497,  0.816497])
    """
    y = _standardise(x, eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(x: Array, weight: Array | None, eps: float) -> Array:
    r"""Divide the last axis by its root mean square: a layer normalisation without a mean.

    .. math:: y = \frac{x}{\sqrt{\frac1d \sum_i x_i^2 + \varepsilon}}\, \gamma

    Args:
        x: (..., d), real floating.
        weight: gamma, (d,), or None for 1.
        eps: added to the mean square, in units of `x` squared, >= 0.

    Returns:
        shape and dtype of `x`; without a weight each row is shorter than sqrt(d), or as long.

    Accuracy: (8 + sqrt(d)) ulp of each value.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.

    >>> import numpy as np
    >>> rms_norm(np.asarray([1.0, 7.0]), None, 0.0)
    array([0.2, 1.4])
    """
    xp = array_namespace(x)
    y = x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


def adaptive_layer_norm(x: Array, shift: Array, scale: Array, eps: float = 1e-6) -> Array:
    r"""Normalise tokens, then scale and shift them as time and prompt say: adaLN.

    .. math:: y = \mathrm{LN}(x)\, (1 + s) + b

    Shift and scale come from a linear layer that begins at zero, so a new network only normalises.

    Args:
        x: tokens, (n, l, d), real floating.
        shift: b, (n, d), the same for all tokens of an example.
        scale: s, (n, d), the same for all tokens of an example.
        eps: of the norm, in units of `x` squared, >= 0.

    Returns:
        shape and dtype of `x`.

    Accuracy: that of `layer_norm`, times 1 + |s|, and 2 ulp of the shift.
    Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2, adaLN-Zero; 1 + s as in its code
    (`modulate`).

    >>> import numpy as np
    >>> x, shift, scale = np.asarray([[[1.0, 3.0]]]), np.asarray([[0.5, 0.0]]), np.ones((1, 2))
    >>> adaptive_layer_norm(x, shift, scale, 0.0)
    array([[[-1.5,  2. ]]])
    """
    return _standardise(x, eps) * (1.0 + scale[:, None, :]) + shift[:, None, :]


def upsample_nearest(x: Array, factor: int = 2) -> Array:
    r"""Nearest-neighbour upsampling: repeat every pixel.

    .. math:: y_{i, j} = x_{\lfloor i/f \rfloor, \lfloor j/f \rfloor}

    Args:
        x: (n, c, h, w).
        factor: f, >= 1; 2 in all models.

    Returns:
        (n, c, f h, f w), dtype of `x`.

    Accuracy: exact.
    Derived: definition; the decoder and the U-Net follow it with a convolution.

    >>> import numpy as np
    >>> upsample_nearest(np.asarray([[[[1.0, 2.0]]]]))
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.]]]])
    """
    xp = array_namespace(x)
    n, c, h, w = x.shape
    tiles = xp.broadcast_to(x[:, :, :, None, :, None], (n, c, h, factor, w, factor))
    return xp.reshape(tiles, (n, c, h * factor, w * factor))


def pad_bottom_right(x: Array) -> Array:
    r"""Append one row and one column of zeros: the autoencoder's asymmetric padding.

    .. math:: y_{i, j} = x_{i, j}\,[\,i < h,\; j < w\,], \qquad 0 \le i \le h,\; 0 \le j \le w

    Output i of a 3 x 3 convolution of stride 2 then covers the pixels 2i to 2i + 2; with symmetric
    padding (the U-Net's), 2i - 1 to 2i + 1. Three such layers cover 8i to 8i + 14, starting at
    their own block of 8; with symmetric padding 8i - 7 to 8i + 7, seven pixels further up and left.

    Args:
        x: (n, c, h, w).

    Returns:
        (n, c, h + 1, w + 1), dtype of `x`.

    Accuracy: exact.
    Source: CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py, Downsample.

    >>> import numpy as np
    >>> pad_bottom_right(np.asarray([[[[1.0]]]]))
    array([[[[1., 0.],
             [0., 0.]]]])
    """
    xp = array_namespace(x)
    x = xp.concat([x, xp.zeros_like(x[:, :, :1, :])], axis=2)
    return xp.concat([x, xp.zeros_like(x[:, :, :, :1])], axis=3)


def low_rank_update(w: Array, down: Array, up: Array, scale: float) -> Array:
    r"""LoRA: a matrix or kernel plus the product of two thin ones.

    .. math:: W' = W + s\, B A, \qquad A \in \mathbb R^{r \times i k^2},\;
              B \in \mathbb R^{o \times r}

    A convolution by A (k x k), then one by B (1 x 1), is a convolution by their product.

    Args:
        w: (o, i) or (o, i, k, k), real floating.
        down: A, (r, i) or (r, i, k, k), dtype of `w`.
        up: B, (o, r) or (o, r, 1, 1), dtype of `w`.
        scale: s, alpha / r times the strength; dimensionless.

    Returns:
        shape and dtype of `w`.

    Accuracy: (2 + r) ulp of |W| + |s| |B| |A|.
    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.

    >>> import numpy as np
    >>> w, down, up = np.eye(2), np.asarray([[1.0, 2.0]]), np.asarray([[1.0], [3.0]])
    >>> low_rank_update(w, down, up, 0.5)
    array([[1.5, 1. ],
           [1.5, 4. ]])
    """
    xp = array_namespace(w, down, up)
    rank = down.shape[0]
    product = xp.reshape(up, (-1, rank)) @ xp.reshape(down, (rank, -1))
    return w + scale * xp.reshape(product, w.shape)


def _standardise(x: Array, eps: float) -> Array:
    """Zero mean and unit variance over the last axis, up to eps."""
    xp = array_namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)
