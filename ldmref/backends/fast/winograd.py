"""3x3 convolution by Winograd's minimal filtering: fewer multiplications, more additions.

Lavin and Gray 2016, arXiv:1509.09308, section 4.1: for tiles d of m + 2 by m + 2 pixels
that overlap by two, and a kernel g,

    Y = A^T [ (G g G^T) * (B^T d B) ] A,

where * is elementwise for one channel, and (m + 2)^2 matrix products summed over channels. F(2x2)
takes 16 products for 4 outputs instead of 36. F(4x4) takes 36 for 16 instead of 144, but has matrix
entries up to 8 and loses about a digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmref.backends.fast.threads import parallel, scratch

TILES = 512  # of a block
WORKSPACE = 4 * 2**20  # elements in the transformed tiles of a block
CHUNK = 2**16  # elements transformed at a time

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
    """Compute G g G^T of every kernel in float64; weight: (o, i, 3, 3) -> ((m + 2)^2, i, o)."""
    g = np.asarray(_MATRICES[m][1])
    (out, c) = weight.shape[:2]
    transform = np.kron(g, g)  # ((m + 2)^2, 9): maps a flattened kernel g to G g G^T, flattened
    u = np.empty((len(transform), c, out), np.float32)
    step = max(1, CHUNK // out)

    def block(i: int) -> None:
        inputs = slice(i * step, (i + 1) * step)
        kernels = weight[:, inputs].transpose(2, 3, 1, 0).astype(np.float64, order="C")
        u[:, inputs] = (transform @ kernels.reshape(9, -1)).reshape(len(transform), -1, out)

    parallel(block, -(-c // step), (weight.shape,))
    return u


def winograd(x: np.ndarray, u: np.ndarray, bias: np.ndarray | None, m: int = 2) -> np.ndarray:
    """Convolve with 3x3 kernels, stride 1 and padding 1; x: (n, h, w, i) -> (n, h, w, o).

    Args:
        x: Images, (n, h, w, i).
        u: Result of `transform_weight` for the same m.
    """
    n, h, w, c = x.shape
    tile_rows = -(-h // m)
    tile_columns = -(-w // m)
    out = u.shape[2]
    y = np.empty((n, m * tile_rows, m * tile_columns, out), np.float32)
    tiles = min(TILES, WORKSPACE // (len(u) * max(c, out)))
    if n * tile_rows * tile_columns <= TILES:  # one block, whose products the threads share
        tiles = TILES
    if tile_rows * tile_columns > tiles:  # a block is a band of rows, otherwise several images
        images = 1
        rows = max(1, tiles // tile_columns)
    else:
        images = tiles // (tile_rows * tile_columns)
        rows = tile_rows
    bands = -(-tile_rows // rows)
    rows_per_chunk = max(1, CHUNK // (tile_columns * max(c, out)))

    def block(i: int) -> None:
        first = (i // bands) * images
        top = (i % bands) * rows
        batch = slice(first, min(first + images, n))
        height = min(rows, tile_rows - top)
        phases = _phases(x[batch], m * top, height, tile_columns, m)
        batch_size = phases.shape[1]
        size = m + 2
        v = scratch("tiles", (size, size, batch_size, height, tile_columns, c))
        chunks = [
            (image, slice(start, min(start + rows_per_chunk, height)))
            for image in range(batch_size)
            for start in range(0, height, rows_per_chunk)
        ]
        products = scratch("products", (size, size, batch_size, height, tile_columns, out))
        target = y[batch, m * top : m * (top + height)]
        target = target.reshape(batch_size, height, m, tile_columns, m, out)

        def transform(chunk: int) -> None:
            image, r = chunks[chunk]
            lines = slice(m * r.start, m * r.stop + 2)
            _transform_tiles(phases[:, image, lines], v[:, :, image, r], m)

        def multiply(entry: int) -> None:
            ij = divmod(entry, size)
            product = products[ij].reshape(-1, out)
            np.matmul(v[ij].reshape(-1, c), u[entry], out=product)
            if bias is not None and ij == (1, 1):  # A^T M A takes M[1, 1] once into every output
                product += bias

        def gather(chunk: int) -> None:
            image, r = chunks[chunk]
            _transform_products(products[:, :, image, r], target[image, r], m)

        parallel(transform, len(chunks), (v.shape,))
        parallel(multiply, size * size, (v.shape, u.shape))
        parallel(gather, len(chunks), (products.shape,))

    parallel(block, -(-n // images) * bands, (x.shape, u.shape))
    return y[:, :h, :w]


def _phases(x: np.ndarray, top: int, height: int, tile_columns: int, m: int) -> np.ndarray:
    """Split zero-padded rows of `height` rows of tiles, from pixel row `top` on, by column mod m.

    The result is (m, images, m height + 2, tile_columns + 1, c), so the transforms run over
    contiguous rows.
    """
    n, h, _, c = x.shape
    phases = scratch("phases", (m, n, m * height + 2, tile_columns + 1, c))
    first = max(top - 1, 0)
    last = min(top + m * height + 1, h)
    inside = slice(first - (top - 1), last - (top - 1))
    phases[:, :, : inside.start] = 0.0
    phases[:, :, inside.stop :] = 0.0
    for phase in range(m):  # column j of the padded image is column j - 1 of x
        columns = x[:, first:last, phase - 1 if phase else m - 1 :: m]
        begin = 0 if phase else 1
        end = begin + columns.shape[2]
        phases[phase, :, inside, begin:end] = columns
        phases[phase, :, inside, :begin] = 0.0
        phases[phase, :, inside, end:] = 0.0
    return phases


def _transform_tiles(phases: np.ndarray, v: np.ndarray, m: int) -> None:
    """Write B^T d B, d: (m, lines, columns + 1, c), into v, (m + 2, m + 2, rows, columns, c)."""
    matrix = _MATRICES[m][0]
    size = m + 2
    (height, columns) = v.shape[2:4]
    rows = [phases[:, r : r + m * (height - 1) + 1 : m] for r in range(size)]
    half = scratch("half", (size, m, height, *phases.shape[2:]))
    for a in range(size):
        _linear_combination(matrix[a], rows, half[a])
    shifted = [half[:, j % m, :, j // m : j // m + columns] for j in range(size)]
    for b in range(size):
        _linear_combination(matrix[b], shifted, v[:, b])


def _transform_products(products: np.ndarray, y: np.ndarray, m: int) -> None:
    """Write A^T M A, M: (m + 2, m + 2, rows, columns, o), into y, (rows, m, columns, m, o)."""
    matrix = _MATRICES[m][2]
    half = scratch("halves", products.shape[1:])
    for a in range(m):
        _linear_combination(matrix[a], products, half)
        for b in range(m):
            _linear_combination(matrix[b], half, y[:, a, :, b])


def _linear_combination(
    factors: Sequence[float], arrays: Sequence[np.ndarray] | np.ndarray, out: np.ndarray
) -> None:
    """Write the sum of factors[i] arrays[i] into `out`; most factors are 0, 1 or -1."""
    terms = [(f, a) for f, a in zip(factors, arrays, strict=True) if f]
    (first, array), *rest = sorted(terms, key=lambda term: term[0] < 0)
    total = scratch("sum", out.shape) if rest[1:] else out  # partial sums are contiguous
    if first != 1:
        array = np.multiply(array, first, out=total)
    for i, (factor, term) in enumerate(rest, 1):
        if abs(factor) != 1:
            term = np.multiply(term, abs(factor), out=scratch("term", out.shape))
        target = out if i == len(rest) else total
        array = (np.add if factor > 0 else np.subtract)(array, term, out=target)
    if not rest:
        np.copyto(out, array)
