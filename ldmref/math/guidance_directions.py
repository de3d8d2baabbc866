"""Guidance along several directions: projections of one on another, and a worse model's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from ldmref.math.arrays import Array

if TYPE_CHECKING:
    from types import ModuleType


def parallel_part(x: Array, direction: Array) -> Array:
    r"""Project each example of x on a direction.

    .. math:: x_\parallel = \frac{\langle x, d\rangle}{\langle d, d\rangle}\, d

    The inner product is over all axes but the first. Where the direction is zero, so is the part.
    The rest, x minus this part, is perpendicular to the direction.

    Args:
        x: (n, ...), real floating.
        direction: d, shape of `x`.

    Returns:
        shape and dtype of `x`. Squares of the direction must not overflow.

    Accuracy: that of the library's sums.
    Source: Armandpour et al. 2023, arXiv:2304.04968, section 3 (the perpendicular gradient is the
        rest); Sadat et al. 2024, arXiv:2410.02416, algorithm 1 (`project`).

    >>> import numpy as np
    >>> parallel_part(np.asarray([[3.0, 4.0]]), np.asarray([[2.0, 0.0]]))
    array([[3., 0.]])
    """
    xp = array_namespace(x, direction)
    axes = tuple(range(1, x.ndim))
    largest = xp.max(xp.abs(direction), axis=axes, keepdims=True) if axes else xp.abs(direction)
    unit = direction / xp.where(largest > 0, largest, xp.ones_like(largest))
    square = _sum(xp, unit * unit, axes)
    return _sum(xp, x * unit, axes) / xp.where(square > 0, square, xp.ones_like(square)) * unit


def perpendicular_negative_guidance(
    empty: Array, cond: Array, negative: Array, scale: float, weight: float = 1.0
) -> Array:
    r"""Guide towards the condition, and away from what a negative prompt adds to it.

    .. math:: \hat f = f_\varnothing + s\,(d_c - w\, d_{n\perp}), \qquad
              d_c = f_c - f_\varnothing, \quad d_n = f_n - f_\varnothing

    with the part of d_n perpendicular to d_c. The part that the negative prompt shares with the
    prompt is ignored. The projection depends only on directions, so eps, x0 and v give the same
    result.

    Args:
        empty: prediction with the empty prompt, (n, ...), real floating.
        cond: prediction with the prompt, shape of `empty`.
        negative: prediction with the negative prompt, shape of `empty`.
        scale: s, any finite number; dimensionless.
        weight: w of the negative prompt; 0 is classifier-free guidance.

    Returns:
        shape and dtype of `empty`.

    Accuracy: that of the library's sums.
    Source: Armandpour et al. 2023, arXiv:2304.04968, section 3 and published code
        (`weighted_perpendicular_aggregator`), for one negative prompt of weight -w.

    >>> import numpy as np
    >>> empty, cond, negative = np.asarray([[[0.0, 0.0]], [[2.0, 0.0]], [[3.0, 1.0]]])
    >>> perpendicular_negative_guidance(empty, cond, negative, 2.0)
    array([[ 4., -2.]])
    """
    wanted = cond - empty
    unwanted = negative - empty
    perpendicular = unwanted - parallel_part(unwanted, wanted)
    return empty + scale * (wanted - weight * perpendicular)


def perturbed_attention_guidance(
    guided: Array, cond: Array, perturbed: Array, scale: float
) -> Array:
    r"""Push a prediction away from that of the network with perturbed self-attention.

    .. math:: \hat f = f + s\,(f_c - f_p)

    f is the prediction so far: the conditional one, or that of classifier-free guidance. f_p is
    the conditional prediction of the same network with its self-attention maps replaced by the
    identity (`identity_attention` of `model.predict`), which loses the structure of the
    image. Skip-layer guidance is the same formula, with f_p of a transformer without some layers.

    Args:
        guided: f, (n, ...), real floating.
        cond: f_c, shape of `guided`.
        perturbed: f_p, shape of `guided`.
        scale: s, any finite number; 0 gives f.

    Returns:
        shape and dtype of `guided`.

    Accuracy: 3 ulp of the larger term.
    Source: Ahn et al. 2024, arXiv:2403.17377, section 4.2, and published code for the sum with
        classifier-free guidance; Stability-AI/sd3.5, sd3_impls.py, for skipped layers.

    >>> import numpy as np
    >>> perturbed_attention_guidance(*np.asarray([[5.0], [2.0], [1.5]]), 3.0)
    array([6.5])
    """
    return guided + scale * (cond - perturbed)


def adaptive_projected_guidance(
    uncond: Array,
    cond: Array,
    scale: float,
    eta: float = 0.0,
    radius: float = math.inf,
    momentum: float = 0.0,
    average: Array | None = None,
) -> tuple[Array, Array]:
    r"""Guide without the part that makes images saturated.

    .. math:: a &= (f_c - f_\varnothing) + \beta\, a_{prev}, \qquad
              d = a\,\min(1, r / \|a\|) \\
              \hat f &= f_c + (s - 1)\,(d_\perp + \eta\, d_\parallel)

    The parts are parallel and perpendicular to f_c, the norm and the inner product those of each
    example. With eta = 1, without radius and momentum, this is classifier-free guidance. It is
    meant for predictions of x0, where the parallel part raises the contrast.

    Args:
        uncond: prediction without the condition, (n, ...), real floating.
        cond: prediction with it, shape of `uncond`.
        scale: s, any finite number; dimensionless.
        eta: weight of the parallel part, in [0, 1].
        radius: r, the largest norm of the difference, > 0.
        momentum: beta, in [-1, 1]; negative in the paper, which pushes away from earlier steps.
        average: a of the step before; None in the first.

    Returns:
        (guided, average): the guided prediction, and a, which is the `average` of the next step;
        each has shape and dtype of `uncond`.

    Accuracy: that of the library's sums.
    Source: Sadat et al. 2024, arXiv:2410.02416, algorithm 1.

    >>> import numpy as np
    >>> uncond, cond = np.asarray([[[1.0, -1.0]], [[2.0, 0.0]]])
    >>> adaptive_projected_guidance(uncond, cond, 3.0)[0]
    array([[2., 2.]])
    """
    xp = array_namespace(uncond, cond)
    difference = cond - uncond
    if average is not None:
        difference = difference + momentum * average
    limited = difference
    axes = tuple(range(1, cond.ndim))
    if radius < math.inf:
        norm = xp.sqrt(_sum(xp, difference * difference, axes))
        one = xp.ones_like(norm)
        limited = difference * xp.where(norm > radius, radius / xp.where(norm > 0, norm, one), one)
    parallel = parallel_part(limited, cond)
    return cond + (scale - 1.0) * (limited - parallel + eta * parallel), difference


def _sum(xp: ModuleType, x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over an example's axes, which are kept with length 1; without such axes return x."""
    return xp.sum(x, axis=axes, keepdims=True) if axes else x
