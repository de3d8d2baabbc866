"""Convolution 3x3 by Winograd's minimal filtering: fewer multiplications for more additions.

Lavin and Gray 2016, arXiv:1509.09308, section 4.1: with tiles d of m + 2 pixels a side that
overlap by two, and a kernel g,

    Y = A^T [ (G g G^T) * (B^T d B) ] A,

where * is elementwise for one channel and, summed over channels, (m + 2)^2 matrix products.
F(2x2) needs 16 products for 4 outputs instead of 36, F(4x4) 36 for 16 instead of 144, but its
matrices hold numbers up to 8 and cost about a digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmref.backends.fast.threads import parallel, scratch

TILES = 512  # that are transformed together
WORKSPACE = 4 * 2**20  # numbers in the transformed tiles of a block
CHUNK = 2**16  # numbers that are transformed together

# (B^T, G, A^T) of F(m x m, 3 x 3): Lavin and Gray, section 4.1 for m = 2, equation 17 f. for m = 4
_MATRICES = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
         [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]],
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
         [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}  # fmt: skip


def transform_weight(weight: np.ndarray, m: int = 2) -> np.ndarray:
    """G g G^T of every kernel, summed in float64; weight: (o, i, 3, 3) -> ((m + 2)^2, i, o)."""
    g, (out, c) = np.asarray(_MATRICES[m][1]), weight.shape[:2]
    both = np.kron(g, g)  # ((m + 2)^2, 9): G g G^T of a kernel written as nine numbers
    u = np.empty((len(both), c, out), np.float32)
    step = max(1, CHUNK // out)

    def block(i: int) -> None:
        here = slice(i * step, (i + 1) * step)
        kernels = weight[:, here].transpose(2, 3, 1, 0).astype(np.float64, order="C")
        u[:, here] = (both @ kernels.reshape(9, -1)).reshape(len(both), -1, out)

    parallel(block, -(-c // step))
    return u


def winograd(x: np.ndarray, u: np.ndarray, bias: np.ndarray | None, m: int = 2) -> np.ndarray:
    """Convolution 3x3, stride 1, padding 1; x: (n, h, w, i) -> (n, h, w, o).

    u: of `transform_weight`, for the same m.
    """
    n, h, w, c = x.shape
    up, across, out = -(-h // m), -(-w // m), u.shape[2]
    y = np.empty((n, m * up, m * across, out), np.float32)
    tiles = min(TILES, WORKSPACE // (len(u) * max(c, out)))
    if n * up * across <= TILES:  # one block, whose products are shared out
        tiles = TILES
    if up * across > tiles:  # a block is a band of rows of one image, else several whole images
        images, rows = 1, max(1, tiles // across)
    else:
        images, rows = tiles // (up * across), up
    bands = -(-up // rows)

    def block(i: int) -> None:
        first, top = (i // bands) * images, (i % bands) * rows
        here, height = slice(first, min(first + images, n)), min(rows, up - top)
        phases = _phases(x[here], m * top, height, across, m)
        n_here, size = phases.shape[1], m + 2
        v = scratch("tiles", (size, size, n_here, height, across, c))
        chunks = [
            (image, slice(r, min(r + some, height)))
            for some in [max(1, CHUNK // (across * max(c, out)))]
            for image in range(n_here)
            for r in range(0, height, some)
        ]
        products = scratch("products", (size, size, n_here, height, across, out))
        target = y[here, m * top : m * (top + height)].reshape(n_here, height, m, across, m, out)

        def transform(j: int) -> None:
            image, r = chunks[j]
            lines = slice(m * r.start, m * r.stop + 2)
            _transform_tiles(phases[:, image, lines], v[:, :, image, r], m)

        def multiply(j: int) -> None:
            place = divmod(j, size)
            into = products[place].reshape(-1, out)
            np.matmul(v[place].reshape(-1, c), u[j], out=into)
            if bias is not None and place == (1, 1):  # the place that counts once in every output
                into += bias

        def gather(j: int) -> None:
            image, r = chunks[j]
            _transform_products(products[:, :, image, r], target[image, r], m)

        parallel(transform, len(chunks))
        parallel(multiply, size * size)
        parallel(gather, len(chunks))

    parallel(block, -(-n // images) * bands)
    return y[:, :h, :w]


def _phases(x: np.ndarray, top: int, height: int, across: int, m: int) -> np.ndarray:
    """Zero-padded rows of `height` tiles from row `top` on.

    (m, images, m height + 2, across + 1, c): columns that are equal modulo m lie together, so that
    all that follows runs over whole rows.
    """
    n, h, _, c = x.shape
    phases = scratch("phases", (m, n, m * height + 2, across + 1, c))
    first, last = max(top - 1, 0), min(top + m * height + 1, h)
    inside = slice(first - (top - 1), last - (top - 1))
    phases[:, :, : inside.start] = 0.0
    phases[:, :, inside.stop :] = 0.0
    for phase in range(m):  # padded column j is column j - 1
        columns = x[:, first:last, phase - 1 if phase else m - 1 :: m]
        begin = 0 if phase else 1
        end = begin + columns.shape[2]
        phases[phase, :, inside, begin:end] = columns
        phases[phase, :, inside, :begin] = 0.0
        phases[phase, :, inside, end:] = 0.0
    return phases


def _transform_tiles(phases: np.ndarray, v: np.ndarray, m: int) -> None:
    """B^T d B of rows of tiles; (m, lines, across + 1, c) into (m + 2, m + 2, rows, across, c)."""
    matrix, size, (height, across) = _MATRICES[m][0], m + 2, v.shape[2:4]
    rows = [phases[:, r : r + m * (height - 1) + 1 : m] for r in range(size)]
    half = scratch("half", (size, m, height, *phases.shape[2:]))
    for a in range(size):
        _combine(matrix[a], rows, half[a])
    parts = [half[:, j % m, :, j // m : j // m + across] for j in range(size)]
    for b in range(size):
        _combine(matrix[b], parts, v[:, b])


def _transform_products(products: np.ndarray, y: np.ndarray, m: int) -> None:
    """A^T M A of rows of tiles; (m + 2, m + 2, rows, across, o) into (rows, m, across, m, o)."""
    matrix = _MATRICES[m][2]
    half = scratch("halves", products.shape[1:])
    for a in range(m):
        _combine(matrix[a], products, half)
        for b in range(m):
            _combine(matrix[b], half, y[:, a, :, b])


def _combine(
    factors: Sequence[float], arrays: Sequence[np.ndarray] | np.ndarray, out: np.ndarray
) -> None:
    """out = the sum of factors times arrays, for factors most of which are 0, 1 or -1."""
    terms = sorted(
        ((f, a) for f, a in zip(factors, arrays, strict=True) if f), key=lambda term: term[0] < 0
    )
    total = scratch("sum", out.shape) if len(terms) > 2 else out  # only the last sum may be strided
    (first, array), *rest = terms
    if first != 1:
        array = np.multiply(array, first, out=total)
    for i, (factor, term) in enumerate(rest):
        target = out if i == len(rest) - 1 else total
        if abs(factor) != 1:
            term = np.multiply(term, abs(factor), out=scratch("term", out.shape))
        array = (np.add if factor > 0 else np.subtract)(array, term, out=target)
    if not rest:
        np.copyto(out, array)
