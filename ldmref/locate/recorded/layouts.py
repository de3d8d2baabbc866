"""Arrays that hold the right numbers in another order or scale, and dumps that hold none.

`recognise` compares an array with the one that was expected and says in words how they are related.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ldmref.locate.law import GAIN, choose_cause

CLOSE = 1e-3  # relative difference from which factors and constants differ
MOST_ORDERS = 720  # of axes that are tried: all of 6 axes
LEAST_OF_CHANNEL = 16  # values from which a factor and a constant, or a format, can be told
HEADS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)  # numbers of heads that are tried


class Layout(NamedTuple):
    """The relation of an array to the expected one.

    Attributes:
        text: The relation in words.
        array: The array in the expected order.
        harmless: Whether it is only another order in memory, which a port may choose.
    """

    text: str
    array: np.ndarray
    harmless: bool = False


def largest_value(x: np.ndarray) -> float:
    """Return max |x|; 0 for an array without values.

    >>> largest_value(np.array([1.0, -2.5])), largest_value(np.zeros((0, 4)))
    (2.5, 0.0)
    """
    return float(np.max(np.abs(x), initial=0.0))


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the axes of one number, which programs add and leave out.

    >>> without_ones((2, 6, 1, 16))
    (2, 6, 16)
    """
    return tuple(size for size in shape if size != 1)


def shrinkage(before: np.ndarray, after: np.ndarray) -> float:
    """Return max |before| / max |after|; 1 where that is no number.

    >>> shrinkage(np.array([1.0, -3.0]), np.array([2.0])), shrinkage(np.ones(2), np.zeros(2))
    (1.5, 1.0)
    """
    largest = largest_value(after)
    return largest_value(before) / largest if largest else 1.0


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Return max |got - expected| / max |expected|; infinite for other shapes, NaN and infinity.

    >>> relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
    0.25
    """
    got = np.asarray(got)
    if got.shape != expected.shape:
        return float("inf")
    if not got.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        scale = max(largest_value(expected), float(np.finfo(np.float64).tiny))
        error = largest_value(np.subtract(got, expected, dtype=np.float64)) / scale
    return error if np.isfinite(error) else float("inf")


def recognise(
    got: np.ndarray,
    expected: np.ndarray,
    close: float,
    kept: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Layout | None:
    """Return how `got` is related to `expected`, None if it is not recognised.

    The first relation that leaves at most `close`, and a quarter of the error, is returned, or a
    later one that is clearly better (`ldmref.locate.law`).

    Args:
        got: The recorded array.
        expected: The array that it should equal, of any shape.
        close: Largest relative error that counts as equal: what the port's number format rounds.
        kept: Returns of an array in the expected order what is compared with the expected one.
    """
    got = np.asarray(got, np.float64)
    if not got.size or not np.isfinite(got).all():
        return None
    if not np.any(got) and np.any(expected):
        return Layout("all zeros", np.zeros_like(expected))
    error = relative_error(kept(got), expected)
    layouts = (layout for relation in RELATIONS for layout in relation(got, expected))
    tried = ((layout, relative_error(kept(layout.array), expected)) for layout in layouts)
    best = choose_cause(tried, error, close)
    return None if best is None else best[0]


def find_order(
    got: np.ndarray,
    expected: np.ndarray,
    kept: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Layout | None:
    """Return an array in the order in memory in which it is nearest to the expected one.

    A port may keep its arrays in any order, which is no fault. If the array has the expected shape
    already, another order must reduce its error by `GAIN`: numbers that nearly repeat along two
    axes look transposed to rounding.

    Args:
        got: The recorded array, of any type, which is kept.
        expected: The array that it should equal.
        kept: Returns of an array in the expected order what is compared with the expected one.

    Returns:
        The nearest order; None if it is the array's own, or if there is none of that shape.

    >>> find_order(np.eye(3)[:2], np.eye(3)[:, :2]).text
    'equal after transpose 1,0'
    >>> find_order(np.eye(3), np.eye(3)) is None
    True
    """
    nearest = min(
        restore_order(got, expected.shape),
        key=lambda layout: _distance(kept(layout.array), expected),
        default=None,
    )
    if nearest is None or got.shape != expected.shape:
        return nearest
    own = relative_error(kept(got), expected)
    closer = own > 0.0 and relative_error(kept(nearest.array), expected) <= own / GAIN
    return nearest if closer else None


def _distance(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the sum of squares of the differences, which a fault in few numbers hardly changes."""
    apart = np.subtract(got, expected, dtype=np.float64)
    return float(np.vdot(apart, apart))


def restore_order(got: np.ndarray, shape: tuple[int, ...]) -> Iterator[Layout]:
    """Yield the ways to bring an array of another order in memory to a shape."""
    for axes in islice(_axis_orders(got.shape, shape), MOST_ORDERS):
        if axes != tuple(range(got.ndim)):
            text = ",".join(map(str, axes))
            yield Layout(f"equal after transpose {text}", got.transpose(np.argsort(axes)), True)
    if prod(shape) == got.size and got.shape != shape:
        yield Layout(f"equal after reshape from {got.shape}", got.reshape(shape), True)
        yield from _move_channels(got, shape)
        if len(shape) == 4:
            n, c, h, w = shape
            if got.shape in ((n, h * w, c), (n * h * w, c)):
                moved = got.reshape(n, h, w, c).transpose(0, 3, 1, 2)
                yield Layout("equal after transpose 0,2,3,1 and flattening", moved, True)


def _move_channels(got: np.ndarray, shape: tuple[int, ...]) -> Iterator[Layout]:
    """Yield the ways to bring an array to a shape of other axes whose channels are elsewhere.

    The pixels of (n, h, w, c) are the tokens of (n, c, l), and those of (n, c, h, w) of (n, l, c).
    """
    ends = ((-1, 1), (1, -1)) if got.ndim > 2 < len(shape) and got.ndim != len(shape) else ()
    for source, to in ends:
        if got.shape[source] == shape[to]:
            axes = list(range(got.ndim))
            axes.insert(to % got.ndim, axes.pop(source % got.ndim))
            order = ",".join(map(str, axes))
            text = f"equal after transpose {order} and reshape from {got.shape}"
            yield Layout(text, got.transpose(axes).reshape(shape), True)


def _axis_orders(
    recorded: tuple[int, ...], shape: tuple[int, ...], axes: tuple[int, ...] = ()
) -> Iterator[tuple[int, ...]]:
    """Yield the orders of axes that bring a shape to another one, and begin with some axes.

    Axes of size 1 keep their order: exchanging them changes no number.
    """
    if sorted(recorded) != sorted(shape):
        return
    if len(axes) == len(shape):
        yield axes
        return
    size = recorded[len(axes)]
    free = [axis for axis, other in enumerate(shape) if other == size and axis not in axes]
    for axis in free[:1] if size == 1 else free:
        yield from _axis_orders(recorded, shape, (*axes, axis))


def _orders(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    yield from restore_order(got, expected.shape)


def _swapped_halves(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    if got.shape != expected.shape or got.ndim < 2:
        return
    n = got.shape[0]
    if n % 2 == 0:
        yield Layout("batch halves swapped", np.roll(got, n // 2, axis=0))


def _swapped_channels(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    """Yield [b, a] for [a, b]: find where the first channel of `got` comes from."""
    if got.shape != expected.shape or got.ndim < 2:
        return
    axis = 1 if got.ndim == 4 else got.ndim - 1
    first = np.moveaxis(got, axis, 0)[0]
    channels = np.moveaxis(expected, axis, 0)
    apart = np.abs(channels - first).reshape(len(channels), -1).max(axis=1)
    k = int(np.argmin(apart))
    if k:
        order = f"channels in the order [{k}:, :{k}]"
        yield Layout(f"parts concatenated in the other order: {order}", np.roll(got, k, axis=axis))


def _other_part_first(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    """Yield tokens (n, l, d) that were joined in the other order: T5's before CLIP's."""
    if got.shape != expected.shape or got.ndim != 3 or got.shape[1] < 2:
        return
    apart = np.abs(expected - got[:, :1]).max(axis=(0, 2))
    k = int(np.argmin(apart))
    if k:
        order = f"tokens in the order [{k}:, :{k}]"
        yield Layout(f"parts concatenated in the other order: {order}", np.roll(got, k, axis=1))


def _zeros_in_front(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    """Yield tokens (n, l, d) whose zeros come before their numbers instead of after them."""
    if got.shape != expected.shape or got.ndim != 3:
        return
    used = [np.flatnonzero(expected[:, i].any(axis=0)) for i in range(expected.shape[1])]
    ends = [int(filled[-1]) + 1 if filled.size else 0 for filled in used]
    width = expected.shape[2]
    moved = np.stack([np.roll(got[:, i], end, axis=1) for i, end in enumerate(ends)], 1)
    padded = [i for i, end in enumerate(ends) if 0 < end < width]
    if padded:
        tokens = f"[{padded[0]}:{padded[-1] + 1}]"
        yield Layout(f"the zeros of tokens {tokens} are in front instead of behind", moved)


def find_order_of_rows(
    got: np.ndarray, expected: np.ndarray, kept: np.ndarray
) -> tuple[str, list[int]] | None:
    """Return the order of the rows of a batch that is nearest to the recorded one, in words.

    Args:
        got: The recorded array, (n, l, ...).
        expected: The array that it should equal.
        kept: Which entries of each row are compared, (n, l).

    Returns:
        What became of the rows, and the number of the row that is in the place of each; None: they
        are in their order, or there is one alone.

    >>> right = np.eye(3)
    >>> find_order_of_rows(right[[1, 0, 2]], right, np.ones((3, 3), bool))
    ('rows of prompts are exchanged', [1, 0, 2])
    >>> twice = np.concatenate([right[:2], right[:2]])
    >>> find_order_of_rows(twice[[1, 0, 3, 2]], twice, np.ones((4, 3), bool))
    ('rows of prompts are exchanged', [1, 0, 3, 2])
    """
    rows = got.shape == expected.shape and got.ndim > 1 and len(got) > 1
    if not rows or not np.isfinite(np.asarray(got, np.float64)).all():
        return None
    found, right = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    apart = [[np.abs(x - y)[k].mean() for y, k in zip(right, kept, strict=True)] for x in found]
    order: list[int] = []
    for row in apart:  # of equal rows, each is taken once
        best = int(np.argmin(row))
        equal = [i for i, x in enumerate(row) if x == row[best] and i not in order]
        order.append(equal[0] if equal else best)
    if order == [*range(len(order))]:
        return None
    what = "exchanged" if len({*order}) == len(order) else "repeated"
    return f"rows of prompts are {what}", order


def resplit_heads(got: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return (n, heads, l, d) split into other heads; None if the shapes do not allow it."""
    if got.ndim != 4 or len(shape) != 4 or got.shape == shape:
        return None
    n, heads, length, d = got.shape
    if (n, length, heads * d) != (shape[0], shape[2], shape[1] * shape[3]):
        return None
    return got.transpose(0, 2, 1, 3).reshape(n, length, shape[1], shape[3]).transpose(0, 2, 1, 3)


def _split_heads(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    """Yield (n, heads, l, d) arrays that were split into other heads, or not transposed."""
    resplit = resplit_heads(got, expected.shape)
    if resplit is not None:
        heads, width = got.shape[1], got.shape[3]
        right = f"{expected.shape[1]} of {expected.shape[3]}"
        yield Layout(f"{heads} heads of width {width} instead of {right}", resplit)
    if got.ndim == 4 and got.shape == expected.shape:
        n, heads, length, d = got.shape
        split = got.reshape(n, length, heads, d).transpose(0, 2, 1, 3)
        yield Layout("heads permuted: split as (heads, l) instead of (l, heads)", split)


def _heads(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    if got.shape != expected.shape or got.ndim != 3:
        return
    n, length, d = got.shape
    for heads in HEADS:
        if d % heads or heads == d:
            continue
        interleaved = got.reshape(n, length, d // heads, heads).swapaxes(2, 3)
        yield Layout(
            f"heads permuted: (d/heads, heads) for {heads} heads", interleaved.reshape(got.shape)
        )
        mixed = got.reshape(n, heads, length, d // heads).swapaxes(1, 2)
        yield Layout(
            f"heads permuted: (heads, l) instead of (l, heads) for {heads} heads",
            mixed.reshape(got.shape),
        )


def _flipped(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    if got.shape != expected.shape:
        return
    for axis in range(got.ndim):
        if got.shape[axis] > 1:
            yield Layout(f"axis {axis} reversed", np.flip(got, axis))


def _scaled(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    power = float(np.vdot(expected, expected)) if got.shape == expected.shape else 0.0
    if power == 0.0:
        return
    factor = float(np.vdot(expected, got)) / power
    if factor == 0.0 or _constant(factor) == "1" or _is_rather_shifted(got, expected, factor):
        return
    text = "sign reversed" if abs(factor + 1.0) < 1e-4 else f"scaled by {_constant(factor)}"
    yield Layout(text, got / factor)


def _shifted(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    if got.shape == expected.shape and got.size > 1:  # of one number, any difference is a shift
        constant = float(np.mean(got - expected))
        factor = float(np.mean(got)) / float(np.mean(expected)) if np.mean(expected) else 0.0
        scaled = not np.ptp(expected) and factor and not _is_rather_shifted(got, expected, factor)
        if constant and not scaled:
            yield Layout(f"shifted by {constant:.6g}", got - constant)


def _is_rather_shifted(got: np.ndarray, expected: np.ndarray, factor: float) -> bool:
    """Return whether of an array of equal numbers the difference is rounder than the factor."""
    shift = float(np.mean(got - expected)) if got.shape == expected.shape else 0.0
    several = got.size > 1 and not np.ptp(expected)
    return several and bool(shift) and _count_digits(shift) < _count_digits(factor)


def _count_digits(x: float) -> int:
    """Return the significant digits of a number, of five at most."""
    mantissa = f"{abs(x):.4e}".partition("e")[0]
    return len(mantissa.replace(".", "").rstrip("0"))


def _by_channel(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    """Yield latents or images (n, c, h, w) of which each channel was scaled and shifted."""
    if got.shape != expected.shape or got.ndim != 4 or got[:, 0].size < LEAST_OF_CHANNEL:
        return
    axes = (0, 2, 3)
    centred = expected - expected.mean(axis=axes, keepdims=True)
    power = np.square(centred).sum(axis=axes, keepdims=True)
    if not power.all():
        return
    gain = (centred * got).sum(axis=axes, keepdims=True) / power
    offset = got.mean(axis=axes, keepdims=True) - gain * expected.mean(axis=axes, keepdims=True)
    scale = float(np.max(np.abs(expected)))
    alike = np.ptp(offset) < CLOSE * scale
    tiny = np.abs(offset).max() < CLOSE * scale
    if not gain.all() or ((alike or tiny) and np.abs(gain - 1.0).max() < CLOSE):
        return  # where all are shifted alike, `_shifted` says it
    sign = "-" if offset.flat[0] < 0 else "+"
    first = f"{gain.flat[0]:.4g} x {sign} {abs(offset.flat[0]):.4g}"
    if alike and np.ptp(gain) < CLOSE * np.abs(gain).max():
        text = f"scaled and shifted: {first}"
    else:
        rest = f"from {gain.min():.4g} to {gain.max():.4g}"
        text = f"each channel is scaled and shifted: channel 0 is {first}, the factors are {rest}"
    yield Layout(text, (got - offset) / gain)


def _rounded(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    """Yield the expected numbers in a narrower format."""
    if got.shape != expected.shape or got.size < LEAST_OF_CHANNEL:
        return
    for name, digits in (("bfloat16", 8), ("float16", 11)):
        nearest = np.abs(got - expected) <= 2.0**-digits * np.abs(expected)
        mantissa = np.frexp(got)[0] * 2.0**digits
        if nearest.all() and np.array_equal(mantissa, np.rint(mantissa)):
            yield Layout(f"rounded to {name}", expected)


RANGES = (  # of pixels: factor, constant, words
    (0.5, 0.5, "pixels in [0, 1] instead of [-1, 1]: 0.5 x + 0.5"),
    (2.0, -1.0, "pixels in [-1, 1] instead of [0, 1]: 2 x - 1"),
    (127.5, 127.5, "pixels from 0 to 255 instead of [-1, 1]: 127.5 x + 127.5"),
)


def _ranges(got: np.ndarray, expected: np.ndarray) -> Iterator[Layout]:
    if got.shape == expected.shape:
        for factor, constant, text in RANGES:
            mapped = (got - constant) / factor
            if relative_error(mapped, expected) < 1e-3:
                yield Layout(text, mapped)


def _constant(factor: float) -> str:
    """Return a factor as a number, with 1/factor where that is the rounder one."""
    inverse = 1.0 / factor
    rounder = len(f"{inverse:.5g}") + 2 < len(f"{factor:.5g}")
    return f"{factor:.5g} = 1/{inverse:.5g}" if rounder else f"{factor:.5g}"


RELATIONS: tuple[Callable[[np.ndarray, np.ndarray], Iterator[Layout]], ...] = (
    _orders,
    _swapped_halves,
    _swapped_channels,
    _other_part_first,
    _zeros_in_front,
    _heads,
    _split_heads,
    _flipped,
    _ranges,
    _scaled,
    _shifted,
    _by_channel,
    _rounded,
)


def first_nonfinite(x: np.ndarray) -> str:
    """Return the first place that is NaN or infinite, in words; "" if all values are finite.

    >>> first_nonfinite(np.array([[1.0, np.nan]]))
    'NaN at [0, 1], 1 of 2 values'
    """
    finite = np.isfinite(x)
    if finite.all():
        return ""
    place = [int(i) for i in np.argwhere(~finite)[0]]
    kind = "NaN" if np.isnan(x[tuple(place)]) else "infinity"
    return f"{kind} at {place}, {int(np.count_nonzero(~finite))} of {x.size} values"


def latents_as_tokens(
    unpack: Callable[..., Any], x: np.ndarray, rows: int, columns: int
) -> np.ndarray:
    """Return latents (n, c, h, w) as the tokens (n, l, c) that a pipeline passes.

    Args:
        unpack: Returns latents of tokens, from these and the numbers of their rows and columns.
        x: The latents.
        rows, columns: Of the tokens.

    >>> join = lambda tokens, rows, columns: tokens.transpose(0, 2, 1).reshape(1, -1, rows, columns)
    >>> latents_as_tokens(join, np.arange(8.0).reshape(1, 2, 2, 2), 2, 2).tolist()
    [[[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]]
    """
    cells = np.arange(x.size).reshape(len(x), rows * columns, -1)
    tokens = np.empty(x.size, x.dtype)
    tokens[np.asarray(unpack(cells, rows, columns)).ravel()] = x.ravel()
    return tokens.reshape(cells.shape)
