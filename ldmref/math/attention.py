"""Scaled dot-product attention, and the maps of its weights."""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from ldmref.math.arrays import Array


def softmax(x: Array, axis: int = -1) -> Array:
    r"""Exponentials of x, normalised to sum to one.

    .. math:: p_i = \frac{e^{x_i - \max x}}{\sum_j e^{x_j - \max x}}

    Args:
        x: scores in nats, any shape, real floating; -inf gives 0 unless all are -inf.
        axis: the axis along which weights sum to one.

    Returns:
        in [0, 1], shape and dtype of `x`.

    Accuracy: relative error (4 + number of terms + |x_i - max|) ulp.
    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network
    outputs", eq. 4 in its shifted form.

    >>> import numpy as np
    >>> softmax(np.log(np.asarray([1.0, 3.0])))
    array([0.25, 0.75])
    """
    xp = array_namespace(x)
    weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return weights / xp.sum(weights, axis=axis, keepdims=True)


def attention_map(q: Array, k: Array, causal: bool = False, mask: Array | None = None) -> Array:
    r"""Attention weights of each query over the keys.

    .. math:: A = \operatorname{softmax}\left(\frac{q k^T}{\sqrt d}\right)

    Args:
        q: queries, (..., l, d), real floating.
        k: keys, (..., m, d), leading axes of `q`.
        causal: query i attends to the keys 0 to i only.
        mask: booleans broadcastable to (..., l, m), True where the query may attend to the key. A
            fully masked query gets a row of zeros.

    Returns:
        (..., l, m), dtype of `q`, in [0, 1]; rows sum to one.

    Accuracy: relative error (8 + m) ulp, and d ulp of |q| |k| / sqrt(d).
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and section 3.2.3.

    >>> import numpy as np
    >>> attention_map(np.asarray([[1.0], [0.0]]), np.log(np.asarray([[1.0], [3.0]])))
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """
    xp = array_namespace(q, k)
    scores = (q / math.sqrt(q.shape[-1])) @ xp.matrix_transpose(k)
    if causal:
        rows, columns = (xp.arange(length, device=device(q)) for length in scores.shape[-2:])
        lower = columns[None, :] <= rows[:, None]
        mask = lower if mask is None else mask & lower
    if mask is None:
        return softmax(scores)
    masked_out = ~xp.any(mask, axis=-1, keepdims=True)
    minus_infinity = xp.asarray(-math.inf, dtype=scores.dtype, device=device(q))
    weights = softmax(xp.where(mask | masked_out, scores, minus_infinity))
    return xp.where(mask, weights, xp.zeros_like(weights))


def scaled_dot_product_attention(
    q: Array, k: Array, v: Array, causal: bool = False, mask: Array | None = None
) -> Array:
    r"""Average of the values, weighted by the similarity of query and key.

    .. math:: \operatorname{softmax}\left(\frac{q k^T}{\sqrt d}\right) v

    Args:
        q: queries, (..., l, d), real floating.
        k: keys, (..., m, d), leading axes of `q`.
        v: values, (..., m, d_v), leading axes of `q`.
        causal, mask: as for `attention_map`.

    Returns:
        (..., l, d_v), dtype of `q`: each row within the convex hull of the values.

    Accuracy: that of `attention_map`, and m ulp of the largest |v|.
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.

    >>> import numpy as np
    >>> q, k = np.asarray([[1.0]]), np.log(np.asarray([[1.0], [3.0]]))
    >>> scaled_dot_product_attention(q, k, np.asarray([[0.0], [4.0]]))
    array([[3.]])
    """
    return attention_map(q, k, causal, mask) @ v


def word_map(attention: Array, token: int, height: int, width: int) -> Array:
    r"""Return the map of an image's attention to one token of the prompt, averaged over the heads.

    .. math:: M_{yx} = \frac1H \sum_h A_{h,\; y w + x,\; k}

    Args:
        attention: cross-attention maps from `attention_map`, (..., heads, height * width, m).
        token: position k of the token, from 0 to m - 1; 0 is the start of the text.
        height, width: of the latents that the queries are computed from.

    Returns:
        (..., height, width), dtype of `attention`, in [0, 1].

    Raises:
        ValueError: the number of queries is not height * width, or `token` is out of range.

    Accuracy: as many ulp as there are heads.
    Source: Hertz et al. 2022, arXiv:2208.01626, section 3.1 and figure 4.

    >>> import numpy as np
    >>> heads = np.asarray([[[0.0, 1.0], [0.5, 0.5]], [[0.5, 0.5], [0.25, 0.75]]])
    >>> word_map(heads, 1, 1, 2)
    array([[0.75 , 0.625]])
    """
    queries, keys = attention.shape[-2:]
    if queries != height * width:
        raise ValueError(f"a map of {queries} queries is not {height} x {width}")
    if not 0 <= token < keys:
        raise ValueError(f"token must be from 0 to {keys - 1}, not {token}")
    xp = array_namespace(attention)
    mean = xp.mean(attention[..., token], axis=-2)
    return xp.reshape(mean, (*mean.shape[:-1], height, width))
