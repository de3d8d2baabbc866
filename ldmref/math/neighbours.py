"""Comparing sets of features by neighbours: precision, recall, density, coverage, distances.

The neighbourhood of a reference example is the ball around it that reaches to its k-th nearest
other reference example. Generated examples within one are where the data are (precision, density);
neighbourhoods that hold one are data that are generated (coverage). Recall is precision with the
two sets exchanged.
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

from ldmref.math.arrays import Array


def nearest_distance(x: Array, reference: Array, k: int = 1) -> Array:
    r"""Return the Euclidean distance from each example to its k-th nearest reference example.

    .. math:: d_k(x) = \min\left\{r : \#\{i : \lVert x - \phi_i \rVert \le r\} \ge k\right\}

    Of generated images and the images of the training, it tells copies from new ones.

    Args:
        x: (n, d), real floating.
        reference: phi, (m, d), dtype of `x`.
        k: which neighbour, >= 1, at most m.

    Returns:
        (n,), dtype of `x`.

    Raises:
        ValueError: fewer than k reference examples.

    Accuracy: (d + 4) ulp.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, section 3.1: NN_k.

    >>> import numpy as np
    >>> nearest_distance(np.asarray([[0.0], [5.0]]), np.asarray([[1.0], [3.0]]))
    array([1., 2.])
    """
    xp = array_namespace(x, reference)
    _require(k, reference.shape[0], "k")
    return xp.sort(_distances(x, reference), axis=1)[:, k - 1]


def neighbourhood_counts(x: Array, reference: Array, k: int = 5) -> Array:
    r"""Count the reference neighbourhoods that hold each example.

    .. math:: c(x) = \#\left\{i : \lVert x - \phi_i \rVert \le r_i\right\}, \qquad
              r_i = \lVert \phi_i - \mathrm{NN}_k(\phi_i) \rVert

    Of generated examples, precision is the mean of [c > 0], and density the mean of c / k, which is
    1 for equal distributions and above it where they lie where the data are dense. Recall is the
    mean of [c > 0] of the reference in the neighbourhoods of the generated examples.

    Args:
        x: (n, d), real floating.
        reference: phi, (m, d), m > k, dtype of `x`.
        k: which neighbour ends a neighbourhood, >= 1: 3 for precision and recall, 5 for density.

    Returns:
        (n,), dtype of `x`: whole numbers from 0 to m.

    Raises:
        ValueError: at most k reference examples.

    Accuracy: an example within (2 d + 8) ulp of a boundary may be on either side of it.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2; Naeem et al. 2020,
    arXiv:2002.09797, section 3.

    >>> import numpy as np
    >>> reference = np.asarray([[0.0], [1.0], [3.0]])
    >>> neighbourhood_counts(np.asarray([[0.5], [2.5], [9.0]]), reference, k=1)
    array([2., 1., 0.])
    """
    xp = array_namespace(x, reference)
    inside = _distances(x, reference) <= _radii(reference, k)[None, :]
    return xp.sum(xp.astype(inside, x.dtype), axis=1)


def neighbourhood_coverage(reference: Array, x: Array, k: int = 5) -> Array:
    r"""Return whether the neighbourhood of each reference example holds an example.

    .. math:: \left[\min_j \lVert \phi_i - x_j \rVert \le r_i\right], \qquad
              r_i = \lVert \phi_i - \mathrm{NN}_k(\phi_i) \rVert

    Its mean is the coverage. For n and m examples of one distribution it is, in the mean,
    1 - (m - 1) ... (m - k) / ((n + m - 1) ... (n + m - k)).

    Args:
        reference: phi, (m, d), m > k, real floating.
        x: (n, d), n >= 1, dtype of `reference`.
        k: which neighbour ends a neighbourhood, >= 1.

    Returns:
        (m,), dtype of `reference`: 0 or 1.

    Raises:
        ValueError: at most k reference examples.

    Accuracy: an example within (2 d + 8) ulp of a boundary may be on either side of it.
    Source: Naeem et al. 2020, arXiv:2002.09797, section 3, with its mean.

    >>> import numpy as np
    >>> reference = np.asarray([[0.0], [1.0], [3.0]])
    >>> neighbourhood_coverage(reference, np.asarray([[0.5]]), k=1)
    array([1., 1., 0.])
    """
    xp = array_namespace(reference, x)
    nearest = xp.min(_distances(reference, x), axis=1)
    return xp.astype(nearest <= _radii(reference, k), reference.dtype)


def _radii(reference: Array, k: int) -> Array:
    """Distance of each reference example to its k-th nearest other one, (m,)."""
    xp = array_namespace(reference)
    m = reference.shape[0]
    _require(k, m - 1, "k other")
    itself = xp.eye(m, dtype=reference.dtype, device=device(reference)) > 0.5
    far = xp.asarray(float("inf"), dtype=reference.dtype, device=device(reference))
    others = xp.where(itself, far, _distances(reference, reference))
    return xp.sort(others, axis=1)[:, k - 1]


def _distances(x: Array, y: Array) -> Array:
    """Distances of all pairs, (n, m).

    Differences are squared one channel at a time: the expansion of the square would cancel between
    near examples, and an array of (n, m, d) would not fit into memory.
    """
    xp = array_namespace(x, y)
    total = xp.zeros((x.shape[0], y.shape[0]), dtype=x.dtype, device=device(x))
    for channel in range(x.shape[1]):
        difference = x[:, None, channel] - y[None, :, channel]
        total = total + difference * difference
    return xp.sqrt(total)


def _require(k: int, count: int, words: str) -> None:
    if not 1 <= k <= count:
        raise ValueError(f"needs {words} reference examples, k = {k} >= 1, and has {count}")
