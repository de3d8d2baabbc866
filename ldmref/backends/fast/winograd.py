"""3x3 convolution by Winograd's minimal filtering: fewer multiplications, more additions.

Lavin and Gray 2016, arXiv:1509.09308, section 4.1: for tiles d of m + 2 by m + 2 pixels
that overlap by two, and a kernel g,

    Y = A^T [ (G g G^T) * (B^T d B) ] A,

where * is elementwise for one channel, and (m + 2)^2 matrix products summed over channels. F(2x2)
takes 16 products for 4 outputs instead of 36. F(4x4) takes 36 for 16 instead of 144, but has matrix
entries up to 8 and loses about a digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ldmref.backends.fast.threads import block_length, parallel, remember_views, scratch

TILES = 512  # of a block
WORKSPACE = 4 * 2**20  # elements in the transformed tiles of a block
CHUNK = 2**16  # elements transformed at a time
ENTRIES = 8  # tile entries that are multiplied at a time

# A function of two operands, and the array that it writes; None: an array that is given later
ArrayStep: TypeAlias = tuple[Callable[..., Any], np.ndarray, Any, np.ndarray | None]

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


def _list_terms(matrix: Sequence[Sequence[float]]) -> list[list[tuple[float, int]]]:
    """Return (factor, column) of the nonzero entries of each row, a positive one first."""
    rows = [[(factor, i) for i, factor in enumerate(row) if factor] for row in matrix]
    return [sorted(row, key=lambda term: term[0] < 0) for row in rows]


_SUMS = {m: (_list_terms(bt), _list_terms(at)) for m, (bt, _, at) in _MATRICES.items()}


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
        bias: (o,) or None.
        m: Side of the output tiles.
    """
    n, h, w, c = x.shape
    tile_rows = -(-h // m)
    tile_columns = -(-w // m)
    out = u.shape[2]
    size = m + 2
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
    entries = block_length(size * size, ENTRIES)

    def block(i: int) -> None:
        first = (i // bands) * images
        top = (i % bands) * rows
        batch = slice(first, min(first + images, n))
        height = min(rows, tile_rows - top)
        phases = _phases(x[batch], m * top, height, tile_columns, m)
        grid = (phases.shape[1], height, tile_columns)
        v = scratch("tiles", (size, size, *grid, c))
        products = scratch("products", (size, size, *grid, out))
        target = y[batch, m * top : m * (top + height)]
        target = target.reshape(*grid[:2], m, tile_columns, m, out)
        chunks = _chunks(grid, max(c, out))
        factors = v.reshape(size * size, -1, c)
        flat_products = products.reshape(size * size, -1, out)

        def transform(chunk: int) -> None:
            batch, r = chunks[chunk]
            lines = slice(m * r.start, m * r.stop + 2)

            def make() -> list[ArrayStep]:
                return _list_tile_steps(phases[:, batch, lines], v[:, :, batch, r], m)

            _run(make() if chunks[1:] else remember_views(("tiles", v.shape), make))

        def multiply(group: int) -> None:
            part = slice(group * entries, (group + 1) * entries)
            np.matmul(factors[part], u[part], out=flat_products[part])
            if bias is not None and part.start <= size + 1 < part.stop:
                flat_products[size + 1] += bias  # A^T M A takes M[1, 1] once into every output

        def gather(chunk: int) -> None:
            batch, r = chunks[chunk]

            def make() -> list[list[ArrayStep]]:
                return _list_product_steps(products[:, :, batch, r], m)

            columns = make() if chunks[1:] else remember_views(("products", products.shape), make)
            outputs = target[batch, r].transpose(4, 2, 0, 1, 3, 5)
            for steps, output in zip(columns, outputs, strict=True):
                _run(steps, output)

        parallel(transform, len(chunks), (v.shape,))
        parallel(multiply, -(-size * size // entries), (v.shape, u.shape))
        parallel(gather, len(chunks), (products.shape,))

    parallel(block, -(-n // images) * bands, (x.shape, u.shape))
    return y[:, :h, :w]


def _chunks(grid: tuple[int, int, int], channels: int) -> list[tuple[slice, slice]]:
    """Divide tiles, (images, rows, columns), into images and rows of at most `CHUNK` elements."""
    (n, height, columns) = grid
    rows = min(height, max(1, CHUNK // (columns * channels)))
    images = max(1, CHUNK // (height * columns * channels))
    return [
        (slice(image, min(image + images, n)), slice(row, min(row + rows, height)))
        for image in range(0, n, images)
        for row in range(0, height, rows)
    ]


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


def _list_tile_steps(phases: np.ndarray, v: np.ndarray, m: int) -> list[ArrayStep]:
    """List the steps that write B^T d B into v, (m + 2, m + 2, images, rows, columns, c).

    `phases` are the pixels d, (m, images, lines, columns + 1, c).
    """
    sums = _SUMS[m][0]
    size = m + 2
    (n, height, columns, c) = v.shape[2:]
    rows = [phases[:, :, r : r + m * (height - 1) + 1 : m] for r in range(size)]
    half = scratch("half", (size, m, n, height, columns + 1, c))
    steps = [step for a in range(size) for step in _list_steps(sums[a], rows, half[a])]
    shifted = [half[:, j % m, :, :, j // m : j // m + columns] for j in range(size)]
    return steps + [step for b in range(size) for step in _list_steps(sums[b], shifted, v[:, b])]


def _list_product_steps(products: np.ndarray, m: int) -> list[list[ArrayStep]]:
    """List the steps that compute A^T M A for each column of an output tile.

    The results are (m, images, rows, columns, o): for the rows of the tile. `products` are M,
    (m + 2, m + 2, images, rows, columns, o).
    """
    sums = _SUMS[m][1]
    half = scratch("halves", (m, *products.shape[1:]))
    first = [step for a in range(m) for step in _list_steps(sums[a], products, half[a])]
    columns = half.swapaxes(0, 1)
    steps = [_list_steps(sums[b], columns, None) for b in range(m)]
    return [first + steps[0], *steps[1:]]


def _list_steps(
    terms: Sequence[tuple[float, int]],
    arrays: Sequence[np.ndarray] | np.ndarray,
    out: np.ndarray | None,
) -> list[ArrayStep]:
    """List the steps that write the sum of factor * arrays[i] over the terms (factor, i)."""
    (factor, i), *rest = terms
    array = arrays[i]
    if not rest:
        return [(np.multiply, array, factor, out)]
    steps: list[ArrayStep] = []
    partial = scratch("sum", array.shape) if rest[1:] or out is None else out  # contiguous
    if factor != 1:
        steps.append((np.multiply, array, factor, partial))
        array = partial
    for position, (factor, i) in enumerate(rest, 1):
        term = arrays[i]
        if abs(factor) != 1:
            term = scratch("term", array.shape)
            steps.append((np.multiply, arrays[i], abs(factor), term))
        target = out if position == len(rest) else partial
        steps.append((np.add if factor > 0 else np.subtract, array, term, target))
        array = partial
    return steps


def _run(steps: Sequence[ArrayStep], output: np.ndarray | None = None) -> None:
    """Run steps; `output` is where those without a target write."""
    for function, a, b, target in steps:
        function(a, b, output if target is None else target)
