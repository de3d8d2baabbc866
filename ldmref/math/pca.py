"""Principal components, the best linear autoencoder, and distances between subspaces."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def principal_components(x: Array, k: int | None = None) -> tuple[Array, Array, Array]:
    r"""Mean, principal directions and variances of the rows of x.

    .. math:: X - \mathbf 1\mu^T = U S V^T, \qquad \lambda_i = S_i^2 / (n - 1)

    The entry of largest magnitude of every direction is positive, so libraries agree on signs
    unless two entries tie.

    Args:
        x: one example per row, (n, d), n >= 2, real floating.
        k: number of components, from 1 to min(n, d); None for min(n, d).

    Returns:
        (mean, (d,); components, (k, d), orthonormal rows; explained variances, (k,), decreasing, in
        units of `x` squared).

    Raises:
        ValueError: `x` is not a matrix with at least two rows, or `k` is out of range.

    Accuracy: variances within a few ulp of the largest; a component turns by about ulp times the
    largest singular value over the gap to its neighbours.
    Source: Pearson 1901; Jolliffe, Principal Component Analysis, 2002, section 3.5 (by SVD).

    >>> import numpy as np
    >>> mean, components, variances = principal_components(np.asarray([[1.0, 5.0], [3.0, 5.0]]), 1)
    >>> mean, abs(components), variances
    (array([2., 5.]), array([[1., 0.]]), array([2.]))
    """
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"x must be (n, d) with n >= 2, not of shape {x.shape}")
    most = min(x.shape)
    count = most if k is None else k
    if not 1 <= count <= most:
        raise ValueError(f"k must be from 1 to {most}, not {count}")
    xp = array_namespace(x)
    mean = xp.mean(x, axis=0)
    _, s, components = xp.linalg.svd(x - mean[None, :], full_matrices=False)
    components = components[:count, :]
    sign = xp.max(components, axis=1, keepdims=True) + xp.min(components, axis=1, keepdims=True)
    components = xp.where(sign < 0.0, -components, components)
    return mean, components, s[:count] ** 2 / (x.shape[0] - 1)


def pca_project(x: Array, mean: Array, components: Array) -> Array:
    r"""Coordinates of x along the principal directions: the linear encoder.

    .. math:: z = (x - \mu)\, V

    Args:
        x: (n, d), real floating.
        mean: (d,).
        components: orthonormal rows, (k, d).

    Returns:
        z, (n, k), dtype of `x`.

    Accuracy: d ulp of |x - mean|.
    Source: Jolliffe, Principal Component Analysis, 2002, section 1.1.

    >>> import numpy as np
    >>> pca_project(np.asarray([[4.0, 5.0]]), np.asarray([1.0, 1.0]), np.asarray([[0.0, 1.0]]))
    array([[4.]])
    """
    return (x - mean[None, :]) @ components.T


def pca_reconstruct(z: Array, mean: Array, components: Array) -> Array:
    r"""Return the point with given principal coordinates: the linear decoder.

    .. math:: \hat x = \mu + z\, V^T

    After `pca_project`, the nearest point of the principal subspace; no linear autoencoder of the
    same width has a smaller mean squared error.

    Args:
        z: (n, k), real floating.
        mean: (d,).
        components: orthonormal rows, (k, d).

    Returns:
        (n, d), dtype of `z`.

    Accuracy: k ulp of |z| + |mean|.
    Source: Baldi and Hornik 1989, Neural Networks 2:53, section 3.

    >>> import numpy as np
    >>> pca_reconstruct(np.asarray([[4.0]]), np.asarray([1.0, 1.0]), np.asarray([[0.0, 1.0]]))
    array([[1., 5.]])
    """
    return mean[None, :] + z @ components


def principal_angles(a: Array, b: Array) -> Array:
    r"""Principal angles between two subspaces, in increasing order.

    .. math:: \cos\theta_i = \sigma_i(Q_a^T Q_b), \qquad
              \sin\theta_{k+1-i} = \sigma_i(Q_b - Q_a Q_a^T Q_b)

    Args:
        a, b: rows that span the subspaces, linearly independent, not necessarily orthonormal,
            (k, d), k <= d, real floating.

    Returns:
        (k,), radians, in [0, pi/2], increasing.

    Raises:
        ValueError: the two shapes differ, or k > d.

    Accuracy: a few ulp times the condition number of `a` and `b`, for small angles too, where the
    arc cosine alone would lose digits.
    Source: Bjorck and Golub 1973, Math. Comp. 27:579, theorem 1 and section 3.

    >>> import numpy as np
    >>> principal_angles(np.asarray([[1.0, 0.0]]), np.asarray([[3.0, 3.0]])).round(6)
    array([0.785398])
    """
    xp = array_namespace(a, b)
    q_a, q_b = _bases(a, b)
    cosines = xp.linalg.svdvals(q_a.T @ q_b)
    sines = xp.flip(xp.linalg.svdvals(q_b - q_a @ (q_a.T @ q_b)))
    return xp.atan2(sines, cosines)


def subspace_distance(a: Array, b: Array) -> Array:
    r"""Projection distance of two subspaces: the distance of their projection matrices.

    .. math:: \tfrac{1}{\sqrt2} \lVert P_a - P_b \rVert_F = \sqrt{\sum_i \sin^2\theta_i}

    Args:
        a, b: rows that span the subspaces, as for `principal_angles`, (k, d).

    Returns:
        0-d, from 0 (equal) to sqrt(k) (orthogonal); dimensionless.

    Raises:
        ValueError: the two shapes differ, or k > d.

    Accuracy: a few ulp times the condition number of `a` and `b`.
    Source: Edelman, Arias, Smith 1998, arXiv:physics/9806030: "projection F-norm".

    >>> import numpy as np
    >>> subspace_distance(np.asarray([[1.0, 0.0]]), np.asarray([[3.0, 3.0]])).round(6).item()
    0.707107
    """
    xp = array_namespace(a, b)
    q_a, q_b = _bases(a, b)
    outside = q_b - q_a @ (q_a.T @ q_b)
    return xp.sqrt(xp.sum(outside * outside))


def _bases(a: Array, b: Array) -> tuple[Array, Array]:
    """Orthonormal columns (d, k) that span the rows of a, and those of b."""
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] > a.shape[1]:
        raise ValueError(f"a and b must both be (k, d), k <= d, not {a.shape} and {b.shape}")
    qr = array_namespace(a, b).linalg.qr
    return qr(a.T)[0], qr(b.T)[0]
