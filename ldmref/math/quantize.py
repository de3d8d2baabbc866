"""Vector quantisation: nearest-code lookup, the straight-through estimator, and losses."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def nearest_code(z: Array, codebook: Array) -> tuple[Array, Array]:
    r"""Replace every vector by the nearest codebook entry in Euclidean distance.

    .. math:: k = \arg\min_j \lVert z - e_j \rVert^2, \qquad z_q = e_k

    Args:
        z: vectors, (..., d), real floating.
        codebook: entries e_j, (k, d), dtype of `z`.

    Returns:
        (indices, (...,) integers, the first on ties; quantised vectors, shape of `z`).

    Accuracy: distances are computed as |z|^2 - 2 z.e + |e|^2, so entries closer to each other than
    sqrt(ulp) times their length may be confused.
    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. 1 and 2.

    >>> import numpy as np
    >>> indices, quantised = nearest_code(np.asarray([[0.9], [0.1]]), np.asarray([[0.0], [1.0]]))
    >>> indices, quantised.ravel()
    (array([1, 0]), array([1., 0.]))
    """
    xp = array_namespace(z, codebook)
    flat = xp.reshape(z, (-1, z.shape[-1]))
    distances = sum((flat[:, i, None] - codebook[None, :, i]) ** 2 for i in range(z.shape[-1]))
    indices = xp.argmin(distances, axis=1)
    quantised = xp.reshape(xp.take(codebook, indices, axis=0), z.shape)
    return xp.reshape(indices, z.shape[:-1]), quantised


def stop_gradient(x: Array) -> Array:
    r"""x as a constant: the same values, without gradient.

    .. math:: \operatorname{sg}[x] = x, \qquad \partial\operatorname{sg}[x] / \partial x = 0

    Args:
        x: any shape. PyTorch tensors are detached; arrays of libraries that record no gradients are
            returned as they are.

    Returns:
        x, without a copy.

    Accuracy: exact.
    Source: van den Oord et al. 2017, arXiv:1711.00937, section 3.2.

    >>> import numpy as np
    >>> stop_gradient(np.asarray([1.0]))
    array([1.])
    """
    return x.detach() if hasattr(x, "detach") else x


def straight_through(z: Array, quantised: Array) -> Array:
    r"""Return the quantised vectors with the gradient of the unquantised ones.

    .. math:: z + \operatorname{sg}[z_q - z]

    The decoder receives z_q; its gradient reaches the encoder as if z had not been quantised, and
    does not reach the codebook.

    Args:
        z: encoder output, any shape, real floating.
        quantised: z_q, shape of `z`.

    Returns:
        z_q within rounding, shape and dtype of `z`.

    Accuracy: 2 ulp of |z| + |z_q|.
    Source: van den Oord et al. 2017, arXiv:1711.00937, section 3.2; Bengio et al. 2013,
    arXiv:1308.3432, for the estimator.

    >>> import numpy as np
    >>> straight_through(np.asarray([0.75]), np.asarray([1.0]))
    array([1.])
    """
    return z + stop_gradient(quantised - z)


def codebook_loss(z: Array, quantised: Array) -> Array:
    r"""Squared distance that moves codebook entries towards the encoder output.

    .. math:: \lVert \operatorname{sg}[z] - z_q \rVert^2

    Args:
        z: encoder output, (..., d), real floating.
        quantised: z_q from `nearest_code`, shape of `z`.

    Returns:
        (...,), >= 0, dtype of `z`; no gradient reaches `z`.

    Accuracy: (2 + d) ulp relative to the rounded differences.
    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. 3, second term.

    >>> import numpy as np
    >>> codebook_loss(np.asarray([[0.0, 1.0]]), np.asarray([[2.0, 0.0]]))
    array([5.])
    """
    return _square(stop_gradient(z) - quantised)


def commitment_loss(z: Array, quantised: Array) -> Array:
    r"""Squared distance that keeps the encoder output near its codebook entries.

    .. math:: \lVert z - \operatorname{sg}[z_q] \rVert^2

    Args:
        z: encoder output, (..., d), real floating.
        quantised: z_q from `nearest_code`, shape of `z`.

    Returns:
        (...,), >= 0, dtype of `z`; no gradient reaches the codebook.

    Accuracy: (2 + d) ulp relative to the rounded differences.
    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. 3, third term (without beta).

    >>> import numpy as np
    >>> commitment_loss(np.asarray([[0.0, 1.0]]), np.asarray([[2.0, 0.0]]))
    array([5.])
    """
    return _square(z - stop_gradient(quantised))


def vq_loss(z: Array, quantised: Array, beta: float = 0.25, taming_legacy: bool = False) -> Array:
    r"""Sum of codebook and commitment loss, added to the reconstruction loss.

    .. math:: \lVert \operatorname{sg}[z] - z_q \rVert^2
              + \beta\, \lVert z - \operatorname{sg}[z_q] \rVert^2

    taming-transformers, and with it latent diffusion's VQ autoencoders, by default applies beta to
    the codebook term instead. The two differ in gradient only, not in value.

    Args:
        z: encoder output, (..., d), real floating.
        quantised: z_q from `nearest_code`, shape of `z`.
        beta: weight of the commitment, >= 0.
        taming_legacy: apply beta to the codebook term instead of the commitment.

    Returns:
        (...,), >= 0, dtype of `z`; taming's loss is its mean, divided by d.

    Accuracy: that of its terms.
    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. 3; `legacy` of VectorQuantizer2 in
    CompVis/taming-transformers, taming/modules/vqvae/quantize.py.

    >>> import numpy as np
    >>> vq_loss(np.asarray([[0.0]]), np.asarray([[2.0]]))
    array([5.])
    """
    codebook = codebook_loss(z, quantised)
    commitment = commitment_loss(z, quantised)
    return beta * codebook + commitment if taming_legacy else codebook + beta * commitment


def codebook_moving_average(
    counts: Array, sums: Array, z: Array, indices: Array, decay: float
) -> tuple[Array, Array, Array]:
    r"""One step of the codebook as a moving average of the vectors assigned to each entry.

    .. math:: N_k \leftarrow \gamma N_k + (1 - \gamma)\, n_k, \qquad
              m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{i: k_i = k} z_i, \qquad
              e_k = m_k / N_k

    It replaces the gradient of `codebook_loss`: k-means over a moving window of batches.

    Args:
        counts: N, moving averages of the number of vectors per entry, (k,), >= 0, real floating.
        sums: m, moving averages of the sum of these vectors, (k, d), dtype of `counts`.
        z: encoder output, (n, d), dtype of `counts`.
        indices: entry of every vector, from `nearest_code`, (n,) integers.
        decay: gamma, in [0, 1], such as 0.99.

    Returns:
        (counts, sums, codebook), shapes and dtype of `counts`, `sums`, `sums`; the entry is `sums`
        itself where the new count is 0.

    Accuracy: counts and sums (4 + n) ulp of the sum of magnitudes, entries that over the count.
    Source: van den Oord et al. 2017, arXiv:1711.00937, appendix A.1, eq. 6 to 8.

    >>> import numpy as np
    >>> n, m, z = np.asarray([1.0, 1.0]), np.asarray([[2.0], [4.0]]), np.asarray([[0.0], [2.0]])
    >>> counts, sums, codebook = codebook_moving_average(n, m, z, np.asarray([0, 0]), 0.5)
    >>> counts, sums.ravel(), codebook.ravel().round(6)
    (array([1.5, 0.5]), array([2., 2.]), array([1.333333, 4.      ]))
    """
    xp = array_namespace(counts, sums, z, indices)
    entries = xp.arange(counts.shape[0], dtype=indices.dtype, device=counts.device)
    assigned = xp.astype(indices[None, :] == entries[:, None], z.dtype)  # (k, n)
    counts = decay * counts + (1.0 - decay) * xp.sum(assigned, axis=1)
    sums = decay * sums + (1.0 - decay) * (assigned @ z)
    divisor = xp.where(counts > 0.0, counts, xp.ones_like(counts))
    return counts, sums, sums / divisor[:, None]


def code_perplexity(indices: Array) -> Array:
    r"""Effective number of codes in use: the exponential of the entropy of their frequencies.

    .. math:: \exp\left(-\sum_k p_k \log p_k\right), \qquad p_k = n_k / \sum_j n_j

    Args:
        indices: codes, integers of any shape, not empty.

    Returns:
        0-d float64, from 1 (a single code) to the number of distinct codes (uniform use).

    Accuracy: 8 ulp times the number of codes.
    Derived: definition of perplexity; reported with VQ-VAEs since van den Oord et al. 2017.

    >>> import numpy as np
    >>> code_perplexity(np.asarray([[3, 7], [7, 3]])).round(6).item()
    2.0
    """
    xp = array_namespace(indices)
    counts = xp.astype(xp.unique_counts(xp.reshape(indices, (-1,))).counts, xp.float64)
    p = counts / xp.sum(counts)
    return xp.exp(-xp.sum(p * xp.log(p)))


def _square(x: Array) -> Array:
    return array_namespace(x).sum(x * x, axis=-1)
