"""Guidance: how strongly a conditional prediction is pushed away from the unconditional one."""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from ldmref.math.arrays import Array, along


def classifier_free_guidance(uncond: Array, cond: Array, scale: float) -> Array:
    r"""Extrapolate from the unconditional to the conditional prediction.

    .. math:: \hat f = f_\varnothing + s\,(f_c - f_\varnothing)

    s = 0 gives the unconditional and s = 1 the conditional prediction; the paper's w is s - 1.
    It is linear, so it applies equally to eps, x0, v and the score.

    Args:
        uncond: prediction without the condition, (n, ...), real floating.
        cond: prediction with it, shape of `uncond`.
        scale: s, any finite number; dimensionless.

    Returns:
        the guided prediction, shape and dtype of `uncond`; exact at s = 0 and s = 1.

    Accuracy: 3 ulp of the larger term.
    Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6.

    >>> import numpy as np
    >>> classifier_free_guidance(np.asarray([1.0]), np.asarray([2.0]), 7.5)
    array([8.5])
    """
    if scale == 1.0:
        return cond
    return uncond + scale * (cond - uncond)


def rescale_guidance(guided: Array, cond: Array, phi: float) -> Array:
    r"""Rescale a guided prediction to the contrast of the conditional one.

    .. math:: \hat f' = \phi\,\hat f\,\frac{\operatorname{std}(f_c)}{\operatorname{std}(\hat f)}
              + (1 - \phi)\,\hat f

    The standard deviation is over all axes but the first; only the ratio of two counts. A guided
    example without contrast (constant up to rounding, or a single element) is returned unchanged.

    Args:
        guided: prediction after guidance, (n, ...), real floating.
        cond: conditional prediction, shape of `guided`.
        phi: weight of the rescaled prediction, in [0, 1].

    Returns:
        shape and dtype of `guided`; `guided` itself at phi = 0. No NaN unless a square overflows.

    Accuracy: that of the library's std.
    Source: Lin et al. 2024, arXiv:2305.08891, eq. 15 and 16.

    >>> import numpy as np
    >>> rescale_guidance(np.asarray([[-2.0, 2.0]]), np.asarray([[-1.0, 1.0]]), 1.0)
    array([[-1.,  1.]])
    """
    xp = array_namespace(guided, cond)
    if phi == 0.0:
        return guided
    if math.prod(guided.shape[1:]) < 2:
        return guided
    axes = tuple(range(1, guided.ndim))

    def std(x: Array) -> Array:
        return xp.std(x, axis=axes, correction=1, keepdims=True)

    spread = std(guided)
    rounding = 16.0 * xp.finfo(guided.dtype).eps * xp.max(xp.abs(guided), axis=axes, keepdims=True)
    constant = spread <= rounding
    ratio = std(cond) / xp.where(constant, xp.ones_like(spread), spread)
    return xp.where(constant, guided, guided * (phi * ratio + (1.0 - phi)))


def dynamic_threshold(
    x0: Array, ratio: float, bound: float | Array = 1.0, largest: float = math.inf
) -> Array:
    r"""Keep predicted data within a bound by shrinking what exceeds it.

    .. math:: x_0' = \frac{b}{s}\,\mathrm{clip}(x_0, -s, s), \qquad
              s = \min(\max(Q(|x_0|), b), s_{max})

    Q is the quantile over an example's elements, linear between two of them. An example within
    [-b, b] is returned unchanged; of others, at least the fraction `ratio` of the elements keeps
    its proportions. A bound of 1 is that of pixels.

    Args:
        x0: predicted clean data, (n, ...), real floating.
        ratio: of the quantile, in [0, 1]; 0.995 in the paper.
        bound: b, > 0, a scalar or (n,).
        largest: s_max, > 0; below the bound it is s.

    Returns:
        shape and dtype of `x0`; within [-b, b] unless s_max is smaller than b.

    Accuracy: 5 ulp of the largest element.
    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 (dynamic thresholding), for b = 1.

    >>> import numpy as np
    >>> dynamic_threshold(np.asarray([[1.0, -2.0, 4.0]]), 0.5)
    array([[ 0.5, -1. ,  1. ]])
    """
    xp = array_namespace(x0)
    s = magnitude_quantile(x0, ratio)
    floor = along(bound, s)
    low = floor * xp.ones_like(s)
    s = xp.where(s < low, low, s)
    s = xp.where(s > largest, largest * xp.ones_like(s), s)
    s = along(s, x0)
    clipped = xp.where(x0 > s, s, x0)
    return xp.where(clipped < -s, -s, clipped) / s * along(bound, x0)


def magnitude_quantile(x: Array, ratio: float) -> Array:
    r"""Return the quantile of |x| over the elements of each example.

    .. math:: Q = (1 - f)\,a_k + f\,a_{k+1}, \qquad k + f = r\,(m - 1)

    with a the m magnitudes in increasing order: linear between two of them.

    Args:
        x: (n, ...), real floating.
        ratio: r, in [0, 1]; 0 gives the smallest magnitude, 1 the largest.

    Returns:
        (n,), dtype of `x`.

    Accuracy: 3 ulp.
    Source: Hyndman and Fan 1996, definition 7, which is NumPy's default.

    >>> import numpy as np
    >>> magnitude_quantile(np.asarray([[1.0, -2.0, 4.0]]), 0.75)
    array([3.])
    """
    xp = array_namespace(x)
    flat = xp.sort(xp.reshape(xp.abs(x), (x.shape[0], -1)), axis=1)
    position = ratio * (flat.shape[1] - 1)
    low = int(position)
    high = min(low + 1, flat.shape[1] - 1)
    return flat[:, low] + (position - low) * (flat[:, high] - flat[:, low])
