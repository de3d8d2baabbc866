"""The changes of a matrix or kernel that adapters describe: products of small factors.

LoRA itself is `ldmref.math.low_rank_update`. A kernel (o, i, k, k) counts as a matrix (o, i k k)
where no factor has axes of its own for it.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmref.math.arrays import Array


def tucker_kernel(core: Array, rows: Array, columns: Array) -> Array:
    r"""Return the kernel of a Tucker decomposition that leaves the spatial axes whole.

    .. math:: K_{o i x y} = \sum_{p q} U_{o p}\, T_{p q x y}\, D_{q i}

    It is the convolution by D (1 x 1), then by T (k x k), then by U (1 x 1).

    Args:
        core: T, (p, q, ...).
        rows: U, (o, p).
        columns: D, (q, i).

    Returns:
        (o, i, ...).

    Source: Hyeon-Woo, Ye-Bin and Oh 2022, arXiv:2108.06098, proposition 2; LyCORIS (Yeh et al.
    2024, arXiv:2309.14859), section 3.3.

    >>> import numpy as np
    >>> tucker_kernel(np.ones((1, 2, 3, 3)), np.ones((4, 1)), np.ones((2, 5))).shape
    (4, 5, 3, 3)
    """
    xp = array_namespace(core, rows, columns)
    p, q, *size = core.shape
    inner = rows @ xp.reshape(core, (p, -1))  # (o, q xy)
    inner = xp.reshape(inner, (rows.shape[0], q, -1))
    outer = xp.matmul(xp.permute_dims(columns, (1, 0)), inner)  # (o, i, xy)
    return xp.reshape(outer, (rows.shape[0], columns.shape[1], *size))


def hadamard_change(first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    r"""Return LoHa's change, the product entry by entry of two low-rank matrices.

    .. math:: \Delta = (A_1 B_1) \odot (A_2 B_2)

    Its rank is up to the product of the two.

    Args:
        first: (A1, B1): (o, r) and (r, n).
        second: (A2, B2): (o, r') and (r', n).

    Returns:
        (o, n).

    Source: Hyeon-Woo, Ye-Bin and Oh 2022 (FedPara), arXiv:2108.06098, proposition 1.

    >>> import numpy as np
    >>> pair = np.asarray([[1.0], [2.0]]), np.asarray([[1.0, 3.0]])
    >>> hadamard_change(pair, pair)
    array([[ 1.,  9.],
           [ 4., 36.]])
    """
    return (first[0] @ first[1]) * (second[0] @ second[1])


def kronecker_change(small: Array, large: Array) -> Array:
    r"""Return LoKr's change, the Kronecker product of a matrix and a matrix or kernel.

    .. math:: \Delta_{(a b) (c d) \ldots} = C_{a c}\, D_{b d \ldots}

    Args:
        small: C, (a, c).
        large: D, (b, d) or (b, d, k, k).

    Returns:
        (a b, c d) or (a b, c d, k, k).

    Source: Yeh et al. 2024 (LyCORIS), arXiv:2309.14859, section 3.2; Edalati et al. 2022
    (KronA), arXiv:2212.10650, equation 3.

    >>> import numpy as np
    >>> kronecker_change(np.asarray([[1.0, 2.0]]), np.asarray([[1.0], [3.0]]))
    array([[1., 2.],
           [3., 6.]])
    """
    xp = array_namespace(small, large)
    a, c = small.shape
    b, d, *size = large.shape
    left = xp.reshape(small, (a, 1, c, 1, *(1 for _ in size)))
    right = xp.reshape(large, (1, b, 1, d, *size))
    return xp.reshape(left * right, (a * b, c * d, *size))


def squared_norms(matrix: Array, columns: bool = False) -> Array:
    r"""Return the squared Euclidean norm of each row, or of each column with all rows.

    .. math:: \nu_o = \sum_{i x y} V_{o i x y}^2 \quad\text{or}\quad
              \nu_i = \sum_{o x y} V_{o i x y}^2

    Args:
        matrix: V, (o, i) or (o, i, k, k).
        columns: Whether to return those of the columns, (i,), instead of the rows, (o,).

    Returns:
        (o,) or (i,).

    Source: the definition; the rows are those of Liu et al. 2024 (DoRA), arXiv:2402.09353, whose
    matrices are transposed, the columns those of LyCORIS with `wd_on_out=False`.

    >>> import numpy as np
    >>> squared_norms(np.asarray([[3.0, 4.0]])), squared_norms(np.asarray([[3.0, 4.0]]), True)
    (array([25.]), array([ 9., 16.]))
    """
    xp = array_namespace(matrix)
    axes = tuple(axis for axis in range(matrix.ndim) if axis != int(columns))
    return xp.sum(matrix * matrix, axis=axes)


def decomposed_weight(
    changed: Array, magnitude: Array, squared: Array, columns: bool = False
) -> Array:
    r"""Return DoRA's weight: a changed one whose rows or columns get learned lengths.

    .. math:: W' = m\,\frac{W + \Delta}{\lVert W + \Delta \rVert}

    A row or column of zeros stays zero.

    Args:
        changed: W + Delta, (o, i) or (o, i, k, k).
        magnitude: m, (o,), or (i,) for columns.
        squared: The squared norms, as `squared_norms` returns them, of the shape of `magnitude`.
        columns: Whether the lengths are those of columns.

    Returns:
        The shape of `changed`.

    Source: Liu et al. 2024, arXiv:2402.09353, equation 5.

    >>> import numpy as np
    >>> v = np.asarray([[3.0, 4.0]])
    >>> decomposed_weight(v, np.asarray([10.0]), squared_norms(v))
    array([[6., 8.]])
    """
    xp = array_namespace(changed, magnitude, squared)
    safe = xp.where(squared > 0, squared, xp.ones_like(squared))
    shape = [1] * changed.ndim
    shape[int(columns)] = -1
    return changed * xp.reshape(magnitude / xp.sqrt(safe), tuple(shape))
