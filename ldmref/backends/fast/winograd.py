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
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ldmref.backends.fast import memory, threads

TILES = 512  # of a block
WORKSPACE = 4 * 2**20  # elements in the transformed tiles of a block
CHUNK = 2**16  # elements transformed at a time

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

    threads.parallel(block, -(-c // step))
    return u


@threads.divisible
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
    y = np.empty((n, m * tile_rows, m * tile_columns, out), np.float32)
    tiles = min(TILES, WORKSPACE // (len(u) * max(c, out)))
    if n * tile_rows * tile_columns <= TILES:  # one block, whose parts the threads share
        tiles = TILES
    if tile_rows * tile_columns > tiles:  # a block is a band of rows, otherwise several images
        images = 1
        rows = max(1, tiles // tile_columns)
    else:
        images = tiles // (tile_rows * tile_columns)
        rows = tile_rows
    bands = -(-tile_rows // rows)

    def block(i: int) -> None:
        first = (i // bands) * images
        top = (i % bands) * rows
        batch = slice(first, min(first + images, n))
        height = min(rows, tile_rows - top)
        phases = _phases(x[batch], m * top, height, tile_columns, m)
        target = y[batch, m * top : m * (top + height)]
        _convolve_tiles(phases, u, bias, target.reshape(-1, height, m, tile_columns, m, out))

    threads.parallel(block, -(-n // images) * bands)
    return y[:, :h, :w]


def _convolve_tiles(
    phases: np.ndarray, u: np.ndarray, bias: np.ndarray | None, target: np.ndarray
) -> None:
    """Convolve a block of tiles; `target` is its output, (images, rows, m, columns, m, o).

    The rows of B^T d B need only the products of the same row, until A^T adds up the rows. So a
    thread takes its rows from the pixels to the sums over their columns, and waits only once.
    """
    (images, height, m, columns, _, out) = target.shape
    grid = (images, height, columns)
    size = m + 2
    tiles = _Tiles(
        phases,
        v=memory.scratch("tiles", (size, size, *grid, u.shape[1])),
        products=memory.scratch("products", (size, size, *grid, out)),
        sums=memory.scratch("sums", (size, m, *grid, out)),
        chunks=_chunks(grid, max(u.shape[1:])),
        length=threads.block_length(size, size),
    )
    parts, chunks = tiles.parts, tiles.chunks
    factors = tiles.v.reshape(len(u), -1, u.shape[1])
    by_entry = tiles.products.reshape(len(u), -1, out)
    # Views of scratch memory of this thread, also for the steps that others run
    key = (tiles.v.shape, out, tiles.length)
    known = None if chunks[1:] else memory.remember_views(key, tiles.list_all_steps)

    def transform(i: int) -> None:
        part, chunk = divmod(i, len(chunks))
        _run(known[0][part] if known else tiles.list_tile_steps(parts[part], chunk))

    def multiply(entries: slice) -> None:
        np.matmul(factors[entries], u[entries], out=by_entry[entries])
        if bias is not None and entries.start <= size + 1 < entries.stop:
            by_entry[size + 1] += bias  # A^T M A takes M[1, 1] once into every output

    def add_columns(i: int) -> None:
        part, chunk = divmod(i, len(chunks))
        _run(known[1][part] if known else tiles.list_column_steps(parts[part], chunk))

    def compute(part: int) -> None:
        shares = range(part * len(chunks), (part + 1) * len(chunks))
        for i in shares:
            transform(i)
        multiply(slice(size * parts[part].start, size * parts[part].stop))
        for i in shares:
            add_columns(i)

    def add_rows(chunk: int) -> None:
        outputs = target[chunks[chunk]].transpose(2, 4, 0, 1, 3, 5)
        rows = known[2] if known else tiles.list_row_steps(chunk)
        for steps, output in zip(rows, outputs, strict=True):
            _run(steps, output)

    if threads.count() <= size:
        threads.parallel(compute, len(parts))
    else:  # more threads than rows
        threads.parallel(transform, len(parts) * len(chunks))
        threads.parallel(lambda i: multiply(slice(i, i + 1)), len(u))
        threads.parallel(add_columns, len(parts) * len(chunks))
    threads.parallel(add_rows, len(chunks))


class _Tiles(NamedTuple):
    """The arrays of a block of tiles, and the steps from each to the next.

    Attributes:
        phases: Pixels by column mod m, of `_phases`.
        v: B^T d B, (size, size, n, rows, columns, c).
        products: Of the entries of v with those of the weights, (size, size, ..., o).
        sums: Products, added up over their columns, (size, m, ..., o).
        chunks: Images and rows of tiles that are computed at a time, of `_chunks`.
        length: Number of rows of the transformed tiles in a part.
    """

    phases: np.ndarray
    v: np.ndarray
    products: np.ndarray
    sums: np.ndarray
    chunks: list[tuple[slice, slice]]
    length: int

    @property
    def parts(self) -> list[slice]:
        """Rows of the transformed tiles, for each part."""
        return [slice(a, a + self.length) for a in range(0, len(self.v), self.length)]

    def list_tile_steps(self, part: slice, chunk: int) -> list[ArrayStep]:
        """Return the steps from pixels to a part's rows of v."""
        m = self.sums.shape[1]
        batch, rows = self.chunks[chunk]
        lines = slice(m * rows.start, m * rows.stop + 2)
        return _list_tile_steps(self.phases[:, batch, lines], self.v[part, :, batch, rows], m, part)

    def list_column_steps(self, part: slice, chunk: int) -> list[ArrayStep]:
        """Return the steps from a part's products to their sums over columns."""
        at = (part, slice(None), *self.chunks[chunk])
        return _list_column_steps(self.products[at], self.sums[at], part)

    def list_row_steps(self, chunk: int) -> list[list[ArrayStep]]:
        """Return the steps from sums over columns to each row of the outputs."""
        return _list_row_steps(self.sums[:, :, *self.chunks[chunk]])

    def list_all_steps(self) -> tuple[Any, ...]:
        """Return the steps of all parts where all tiles are one chunk."""
        tile_steps = [self.list_tile_steps(part, 0) for part in self.parts]
        column_steps = [self.list_column_steps(part, 0) for part in self.parts]
        return tile_steps, column_steps, self.list_row_steps(0)


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
    phases = memory.scratch("phases", (m, n, m * height + 2, tile_columns + 1, c))
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


def _list_tile_steps(phases: np.ndarray, v: np.ndarray, m: int, part: slice) -> list[ArrayStep]:
    """List the steps that write the rows `part` of B^T d B into v.

    v is (rows, m + 2, images, rows of tiles, columns, c), and `phases` are the pixels d,
    (m, images, lines, columns + 1, c).
    """
    terms = _SUMS[m][0]
    (n, height, columns, c) = v.shape[2:]
    lines = [phases[:, :, r : r + m * (height - 1) + 1 : m] for r in range(len(terms))]
    half = memory.scratch(f"half {part.start}", (len(v), m, n, height, columns + 1, c))
    shifted = [half[:, j % m, :, :, j // m : j // m + columns] for j in range(len(terms))]
    steps: list[ArrayStep] = []
    for row, target in zip(terms[part], half, strict=True):
        steps += _list_steps(row, lines, target, part)
    for column in range(len(terms)):
        steps += _list_steps(terms[column], shifted, v[:, column], part)
    return steps


def _list_column_steps(products: np.ndarray, sums: np.ndarray, part: slice) -> list[ArrayStep]:
    """List the steps that write M A into `sums`, (rows, m, ...), for some rows of M.

    `products` are these rows, (rows, m + 2, images, rows of tiles, columns, o).
    """
    m = sums.shape[1]
    columns = products.swapaxes(0, 1)
    steps: list[ArrayStep] = []
    for column in range(m):
        steps += _list_steps(_SUMS[m][1][column], columns, sums[:, column], part)
    return steps


def _list_row_steps(sums: np.ndarray) -> list[list[ArrayStep]]:
    """List the steps that compute A^T (M A), for each row of an output tile.

    The results are (m, images, rows of tiles, columns, o). `sums` are M A, (m + 2, m, ...).
    """
    part = slice(0, len(sums))
    return [_list_steps(terms, sums, None, part) for terms in _SUMS[sums.shape[1]][1]]


def _list_steps(
    terms: Sequence[tuple[float, int]],
    arrays: Sequence[np.ndarray] | np.ndarray,
    out: np.ndarray | None,
    part: slice,
) -> list[ArrayStep]:
    """List the steps that write the sum of factor * arrays[i] over the terms (factor, i).

    Parts that run at the same time have memory of their own for intermediate results.
    """
    (factor, i), *rest = terms
    array = arrays[i]
    if not rest:
        return [(np.multiply, array, factor, out)]
    steps: list[ArrayStep] = []
    if out is None or rest[1:]:
        partial = memory.scratch(f"sum {part.start}", array.shape)  # contiguous
    else:
        partial = out
    if factor != 1:
        steps.append((np.multiply, array, factor, partial))
        array = partial
    for position, (factor, i) in enumerate(rest, 1):
        term = arrays[i]
        if abs(factor) != 1:
            term = memory.scratch(f"term {part.start}", array.shape)
            steps.append((np.multiply, arrays[i], abs(factor), term))
        target = out if position == len(rest) else partial
        steps.append((np.add if factor > 0 else np.subtract, array, term, target))
        array = partial
    return steps


def _run(steps: Sequence[ArrayStep], output: np.ndarray | None = None) -> None:
    """Run steps; `output` is where those without a target write."""
    for function, a, b, target in steps:
        function(a, b, output if target is None else target)
