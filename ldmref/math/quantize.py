"""Vector quantisation: the nearest entry of a codebook."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any


def nearest_code(z: Array, codebook: Array) -> tuple[Array, Array]:
    r"""Replace every vector by the codebook entry at the smallest Euclidean distance.

    .. math:: k = \arg\min_j \lVert z - e_j \rVert^2, \qquad z_q = e_k

    Args:
        z: vectors, (..., d), real floating.
        codebook: entries e_j, (k, d), dtype of `z`.

    Returns:
        (indices, (...,) integers, the first among equals; quantised vectors, shape of `z`).

    Accuracy: distances as |z|^2 - 2 z.e + |e|^2, so entries nearer to each other than sqrt(ulp)
    times their length may be confused.
    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. 1 and 2.

    >>> import numpy as np
    >>> indices, quantised = nearest_code(np.asarray([[0.9], [0.1]]), np.asarray([[0.0], [1.0]]))
    >>> indices, quantised.ravel()
    (array([1, 0]), array([1., 0.]))
    """
    xp = array_namespace(z, codebook)
    flat = xp.reshape(z, (-1, z.shape[-1]))
    squares = xp.sum(codebook * codebook, axis=1)
    indices = xp.argmin(squares[None, :] - 2.0 * (flat @ codebook.T), axis=1)
    quantised = xp.reshape(xp.take(codebook, indices, axis=0), z.shape)
    return xp.reshape(indices, z.shape[:-1]), quantised
