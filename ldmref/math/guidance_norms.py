"""Guidance that compares the norms of predictions, and projects one prediction on another.

Most of it was published for flow matching, whose networks predict the velocity eps - x0. Lengths
and angles depend on what is predicted: the same formula on eps or x0 is another guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from ldmref.math.arrays import Array
from ldmref.math.guidance import classifier_free_guidance
from ldmref.math.guidance_directions import parallel_part

if TYPE_CHECKING:
    from types import ModuleType


def zero_star_guidance(uncond: Array, cond: Array, scale: float) -> Array:
    r"""Guide from the part of the conditional prediction along the unconditional one (CFG-Zero*).

    .. math:: \hat f = \alpha f_\varnothing + s\,(f_c - \alpha f_\varnothing), \qquad
              \alpha = \frac{\langle f_c, f_\varnothing\rangle}{\|f_\varnothing\|^2}

    alpha is the factor with which the unconditional prediction comes closest to the conditional
    one. The inner product is that of each example; a zero unconditional prediction stays zero.

    Args:
        uncond: prediction without the condition, (n, ...), real floating; a velocity in the paper.
        cond: prediction with it, shape of `uncond`.
        scale: s, any finite number; dimensionless.

    Returns:
        the guided prediction, shape and dtype of `uncond`; exact at s = 1.

    Accuracy: that of the library's sums.
    Source: Fan et al. 2025, arXiv:2503.18886, section 4 (optimized scale) and published code
        (`optimized_scale`), without the 1e-8 that it adds to the denominator.

    >>> import numpy as np
    >>> zero_star_guidance(np.asarray([[2.0, 0.0]]), np.asarray([[1.0, 1.0]]), 3.0)
    array([[1., 3.]])
    """
    return classifier_free_guidance(parallel_part(cond, uncond), cond, scale)


def renormalize_guidance(
    guided: Array,
    cond: Array,
    over: str = "image",
    factor: float = 1.0,
    grow: bool = False,
    patch: int = 2,
    order: int = 2,
) -> Array:
    r"""Bring a guided prediction to the norm of the conditional one, or at most to it.

    .. math:: \hat f' = r\,\hat f, \qquad r = \frac{k\,\|f_c\|}{\|\hat f\|}, \quad
              \text{or } \min(r, 1)

    The norms are those of whole images, of the tokens of a transformer (all channels of a patch)
    or of rows of pixels. A zero prediction stays zero.

    Args:
        guided: prediction after guidance, (n, ...), real floating; for tokens (n, c, h, w).
        cond: conditional prediction, shape of `guided`.
        over: what has a norm: `image`, `token` or `row`.
        factor: k, > 0.
        grow: whether a small prediction is enlarged, too.
        patch: height and width of a token; h and w are multiples of it.
        order: 2 for Euclidean norms, 1 for sums of magnitudes.

    Returns:
        shape and dtype of `guided`.

    Accuracy: that of the library's sums.
    Source: published code of Lumina-Image 2.0 (`forward_with_cfg`) and Z-Image
        (`cfg_normalization`) for images, of Qwen-Image (`true_cfg_scale`) for tokens, of diffusers
        0.42.1 (`Lumina2Pipeline`) for rows.

    >>> import numpy as np
    >>> guided, cond = np.asarray([[[6.0, 8.0]], [[3.0, 4.0]]])
    >>> renormalize_guidance(guided, cond)
    array([[3., 4.]])
    """
    xp = array_namespace(guided, cond)
    shape = guided.shape
    if over == "token":
        n, c, h, w = shape
        cut = n, c, h // patch, patch, w // patch, patch
        guided, cond = xp.reshape(guided, cut), xp.reshape(cond, cut)
        axes = (1, 3, 5)
    else:
        axes = (len(shape) - 1,) if over == "row" else tuple(range(1, len(shape)))
    size = norms(guided, axes, order)
    ratio = factor * norms(cond, axes, order) / xp.where(size > 0, size, xp.ones_like(size))
    if not grow:
        ratio = xp.where(ratio < 1.0, ratio, xp.ones_like(ratio))
    return xp.reshape(guided * ratio, shape)


def tangential_guidance(uncond: Array, cond: Array, scale: float) -> Array:
    r"""Guide away from the part of the unconditional prediction that both have in common (TCFG).

    .. math:: \hat f = f'_\varnothing + s\,(f_c - f'_\varnothing), \qquad
              f'_\varnothing = \langle f_\varnothing, v_1\rangle\, v_1

    v_1 is the first right singular vector of the matrix with the rows f_c and f_0. Its direction is
    cos(a) f_c + sin(a) f_0, with

    .. math:: \tan 2a = \frac{2\,\langle f_c, f_\varnothing\rangle}{\|f_c\|^2 - \|f_\varnothing\|^2}

    and the projection is sin(a) times that, so no decomposition is computed. Where the two are
    perpendicular and equally long, v_1 is not unique: here it is that of f_c.

    Args:
        uncond: prediction without the condition, (n, ...), real floating.
        cond: prediction with it, shape of `uncond`.
        scale: s, any finite number; dimensionless.

    Returns:
        the guided prediction, shape and dtype of `uncond`; exact at s = 1.

    Accuracy: that of the library's sums, divided by 1 - (the ratio of the singular values)^2.
    Source: Kwon et al. 2025, arXiv:2503.18137, section 3 (singular value decomposition of the two
        predictions), as in diffusers 0.42.1 (`TangentialClassifierFreeGuidance`).

    >>> import numpy as np
    >>> tangential_guidance(np.asarray([[1.0, 0.0]]), np.asarray([[0.0, 2.0]]), 3.0)
    array([[0., 6.]])
    """
    xp = array_namespace(uncond, cond)
    axes = tuple(range(1, cond.ndim))
    largest = _largest(xp, xp.abs(uncond) + xp.abs(cond), axes)
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    u, c = uncond / unit, cond / unit
    difference = _sum(xp, (c - u) * (c + u), axes)
    angle = 0.5 * xp.atan2(2.0 * _sum(xp, c * u, axes), difference)
    sine = xp.sin(angle)
    damped = sine * (xp.cos(angle) * cond + sine * uncond)
    return classifier_free_guidance(damped, cond, scale)


def magnitude_aware_guidance(
    uncond: Array, cond: Array, scale: float, strength: float = 8.0
) -> Array:
    r"""Guide less where guidance would change a prediction much (MAMBO-G).

    .. math:: \hat f = f_c + (s - 1)\,e^{-a\rho}\,(f_c - f_\varnothing), \qquad
              \rho = \frac{\|f_c - f_\varnothing\|}{\|f_\varnothing\|}

    The norms are those of each example. Without an unconditional prediction (zero) the ratio is
    infinite, and the result the conditional prediction.

    Args:
        uncond: prediction without the condition, (n, ...), real floating; a velocity in the paper.
        cond: prediction with it, shape of `uncond`.
        scale: s, any finite number; dimensionless.
        strength: a, >= 0; 0 is classifier-free guidance.

    Returns:
        the guided prediction, shape and dtype of `uncond`; exact at s = 1.

    Accuracy: that of the library's sums, times strength and the ratio.
    Source: Zhu et al. 2025, arXiv:2508.03442, section 3 (ratio of update and prediction), as in
        diffusers 0.42.1 (`MagnitudeAwareGuidance`).

    >>> import numpy as np
    >>> magnitude_aware_guidance(np.asarray([[2.0]]), np.asarray([[3.0]]), 5.0).round(4)
    array([[3.0733]])
    """
    if strength == 0.0:
        return classifier_free_guidance(uncond, cond, scale)
    xp = array_namespace(uncond, cond)
    axes = tuple(range(1, cond.ndim))
    difference = cond - uncond
    size = norms(uncond, axes)
    ratio = norms(difference, axes) / xp.where(size > 0, size, xp.ones_like(size))
    weight = xp.where(size > 0, xp.exp(-strength * ratio), xp.zeros_like(ratio))
    return cond + (scale - 1.0) * weight * difference


def normalized_attention_guidance(
    positive: Array,
    negative: Array,
    scale: float,
    largest: float = 2.5,
    blend: float = 0.25,
    order: int = 2,
) -> Array:
    r"""Guide the output of an attention layer, token by token, and not far from it (NAG).

    .. math:: \tilde z &= z_+ + (s - 1)\,(z_+ - z_-) \\
              \hat z &= b\,\tilde z\,\min\left(1, \frac{\tau\,\|z_+\|}{\|\tilde z\|}\right)
              + (1 - b)\, z_+

    It works where guidance of the network's output does not: in networks distilled to few steps,
    or to read the guidance scale, which otherwise take no negative prompt. The norms are those of
    the last axis.

    Args:
        positive: attention of the image to the prompt, (n, l, d), real floating.
        negative: attention of the same queries to the negative prompt, shape of `positive`.
        scale: s, any finite number; 1 is no guidance.
        largest: tau, > 0: the largest norm, in norms of the positive output.
        blend: b, in [0, 1]; 0 gives `positive`.
        order: 1 for norms that are sums of magnitudes, 2 for Euclidean ones.

    Returns:
        the guided output, shape and dtype of `positive`.

    Accuracy: that of the library's sums.
    Source: Chen et al. 2025, arXiv:2505.21179, section 3, whose norms are sums of magnitudes, as in
        published code for Stable Diffusion (`attention_nag.py`, `attention_joint_nag.py`); for
        Flux.1 (`attention_flux_nag.py`) they are Euclidean. The code divides by the ratio of the
        norms, and so gives NaN, or for Stable Diffusion 3 adds 1e-7, where `positive` is zero.

    >>> import numpy as np
    >>> positive, negative = np.asarray([[[[3.0, 4.0]]], [[[0.0, 0.0]]]])
    >>> normalized_attention_guidance(positive, negative, 5.0, blend=1.0)
    array([[[ 7.5, 10. ]]])
    """
    guided = positive + (scale - 1.0) * (positive - negative)
    limited = renormalize_guidance(guided, positive, "row", largest, order=order)
    return positive + blend * (limited - positive)


def norms(x: Array, axes: tuple[int, ...], order: int = 2) -> Array:
    """Return the norms of x over some axes, which are kept with length 1: Euclidean, or of order 1.

    Squares do not overflow: x is divided by its largest magnitude first.
    """
    xp = array_namespace(x)
    if order == 1:
        return _sum(xp, xp.abs(x), axes)
    largest = _largest(xp, xp.abs(x), axes)
    unit = x / xp.where(largest > 0, largest, xp.ones_like(largest))
    return largest * xp.sqrt(_sum(xp, unit * unit, axes))


def _largest(xp: ModuleType, x: Array, axes: tuple[int, ...]) -> Array:
    return xp.max(x, axis=axes, keepdims=True) if axes else x


def _sum(xp: ModuleType, x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over some axes, which are kept with length 1; without axes return x."""
    return xp.sum(x, axis=axes, keepdims=True) if axes else x
