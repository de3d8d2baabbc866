"""Known faults of rotary positions, of rotations of `models.transformer_layers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, permutations

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.variants import BACKWARDS, Inputs, Variant
from ldmref.locate.recorded.precision import round_to
from ldmref.models.transformer_layers import THETA, find_angles, turn, turn_halves

THETAS = (100.0, 256.0, 500.0, 1000.0, 2000.0, 5000.0, 1e5, 5e5, 1e6, 5e6)


def other_layout(call: LayerCall) -> Iterator[Variant]:
    """Yield pairs of other channels, and pairs turned by other formulas."""

    def halves(c: LayerCall, x: Inputs) -> np.ndarray:
        return turn_halves(x["input"], _angles(c, x))

    def neighbours(c: LayerCall, x: Inputs) -> np.ndarray:
        return turn(x["input"], _angles(c, x))

    def halves_of_axes(c: LayerCall, x: Inputs) -> np.ndarray:
        ends = np.cumsum(_dims(c))[:-1]
        parts = np.split(x["input"], ends, axis=-1)
        angles = np.split(_angles(c, x), ends // 2, axis=-1)
        turned = [turn_halves(y, a) for y, a in zip(parts, angles, strict=True)]
        return np.concatenate(turned, axis=-1)

    if call.kind == "rotate_halves":
        yield Variant("neighbouring channels are rotated instead of halves of a head", neighbours)
        text = "neighbouring channels are rotated by the angles of halves of a head"
        yield Variant(text, lambda c, x: _turn_mixed(x["input"], _angles(c, x), False))
    else:
        yield Variant("halves of a head are rotated instead of neighbouring channels", halves)
        text = "halves of each axis are rotated instead of neighbouring channels"
        yield Variant(text, halves_of_axes)
        text = "halves of a head are rotated by the angles of neighbouring channels"
        yield Variant(text, lambda c, x: _turn_mixed(x["input"], _angles(c, x), True))
    text = "the rotation has no minus: it adds both products of a pair"
    yield Variant(text, _without_minus)
    quarter = np.pi / 2
    angles: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        # Of queries and keys alike, rotations by -a and by pi/2 - a have the same scores, which
        # depend on the difference of two angles.
        BACKWARDS: lambda a: -a,
        "sine and cosine are swapped in the rotation": lambda a: quarter - a,
        "the rotation is missing": np.zeros_like,
        "the angles of the rotation are rounded to bfloat16": lambda a: round_to(a, "bfloat16"),
        "the angles of the rotation are rounded to float16": lambda a: round_to(a, "float16"),
    }
    for text, change in angles.items():
        yield Variant(text, lambda c, x, f=change: _turn(c, x, f(_angles(c, x))))


def other_waves(call: LayerCall) -> Iterator[Variant]:
    """Yield rotations by cosines and sines in other directions, and of other pairs."""

    def with_waves(text: str, change: Callable[[Inputs], dict]) -> Variant:
        return Variant(text, lambda c, x: c.compute({**x, **change(x)}))

    def halves(c: LayerCall, x: Inputs) -> np.ndarray:
        pairs = np.stack(np.split(x["input"], 2, axis=-1), axis=-1).reshape(x["input"].shape)
        y = c.compute({**x, "input": pairs})
        return np.concatenate([y[..., ::2], y[..., 1::2]], axis=-1)

    yield Variant("halves of a head are rotated instead of neighbouring channels", halves)
    yield with_waves(BACKWARDS, lambda x: {"sin": -x["sin"]})
    text = "sine and cosine are swapped in the rotation"
    yield with_waves(text, lambda x: {"cos": x["sin"], "sin": x["cos"]})
    yield Variant("the rotation is missing", lambda c, x: x["input"])


def _turn_mixed(x: np.ndarray, angles: np.ndarray, halves: bool) -> np.ndarray:
    """Turn pairs of one layout by angles that are listed for the channels of the other one."""
    angles = angles[:, None] if angles.ndim == 3 else angles
    if halves:
        first, second = np.split(x, 2, axis=-1)
        across = np.concatenate([-second, first], axis=-1)
        listed = np.repeat(angles, 2, axis=-1)
    else:
        across = np.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
        listed = np.concatenate([angles, angles], axis=-1)
    return x * np.cos(listed) + across * np.sin(listed)


def _without_minus(call: LayerCall, x: Inputs) -> np.ndarray:
    """Return (a cos + b sin, a sin + b cos) of each pair (a, b)."""
    mirrored = x["input"].copy()
    halves = call.kind == "rotate_halves"
    second = slice(mirrored.shape[-1] // 2, None) if halves else slice(1, None, 2)
    mirrored[..., second] *= -1.0
    angles = _angles(call, x)
    y, other = _turn(call, x, angles), _turn(call, {**x, "input": mirrored}, angles)
    is_second = np.zeros(y.shape[-1], bool)
    is_second[second] = True
    return np.where(is_second, y, other)


def other_frequencies(call: LayerCall) -> Iterator[Variant]:
    """Yield other bases of the frequencies, and other shares of the axes."""
    right = _theta(call)
    for theta in sorted({*THETAS, THETA} - {right}):
        text = f"theta {theta:g} instead of {right:g}"
        yield Variant(text, lambda c, x, b=theta: _turn(c, x, _angles(c, x, theta=b)))
    dims = _dims(call)
    shares = dict.fromkeys(permutations(dims))
    if sum(dims) % (2 * len(dims)) == 0:
        shares[(sum(dims) // len(dims),) * len(dims)] = None
    shares.pop(dims, None)
    for other in shares:
        text = f"axes of {_listed(other)} channels instead of {_listed(dims)}"
        yield Variant(text, lambda c, x, o=other: _turn(c, x, _angles(c, x, dims=o)))


def other_positions(call: LayerCall) -> Iterator[Variant]:
    """Yield other positions of the tokens."""
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "all positions are larger by 1": lambda p: p + 1.0,
        "the positions are twice as large, or the rotation is applied twice": lambda p: 2.0 * p,
        "the positions are half as large": lambda p: 0.5 * p,
        "the positions are rounded to bfloat16": lambda p: round_to(p, "bfloat16"),
        "the positions are rounded to float16": lambda p: round_to(p, "float16"),
    }
    if call.inputs["positions"].ndim == 2:
        changes |= _positions_of_an_image()
    else:  # of each row
        changes["every row has the positions of the first"] = lambda p: np.broadcast_to(
            p[:1], p.shape
        )
        if call.inputs["positions"].shape[2] > 2:
            changes |= _positions_of_rows()
        else:
            changes["padding takes up positions"] = _count_padding
    if call.inputs["positions"].shape[-1] > 2:
        changes["the axes of the positions are reversed"] = lambda p: p[..., ::-1]
        changes |= _exchanged_axes(call.inputs["positions"])
    for length in _table_lengths(call.inputs["positions"]):
        again = f"positions from {length} on start again at 0: a table of {length}"
        changes[again] = lambda p, n=length: p % n
        text = f"positions from {length} on are {length - 1}: a table of {length}"
        changes[text] = lambda p, n=length: np.minimum(p, n - 1.0)
    for text, change in changes.items():
        yield Variant(text, lambda c, x, f=change: c.compute({**x, "positions": f(x["positions"])}))


def other_places(call: LayerCall, mask: np.ndarray) -> Iterator[Variant]:
    """Yield positions of an image behind a text whose padding they do not count, or count twice.

    Args:
        call: A rotation of tokens of which each row has its own positions, (n, l, axes).
        mask: Which tokens are the text's own, (n, m).
    """
    positions = call.inputs["positions"]
    if positions.ndim != 3 or positions.shape[2] < 3 or len(mask) != len(positions):
        return
    own = np.count_nonzero(mask, axis=1)[:, None] + 1.0
    text = "the image's positions do not count the padding of the text"
    yield _with_places(text, lambda first: np.where(first == _ends(first), own, first))
    text = "the places of the text count from 0"
    yield _with_places(text, lambda first: first - ((first > 0.0) & (first < _ends(first))))
    text = "the image is one place earlier, at that of the text's last token"
    yield _with_places(text, lambda first: first - (first == _ends(first)))
    text = "the image is one place later"
    yield _with_places(text, lambda first: first + (first == _ends(first)))
    text = "the image is at place 0"
    yield _with_places(text, lambda first: np.where(first == _ends(first), 0.0, first))


def _ends(first: np.ndarray) -> np.ndarray:
    """Return the place of the image, which is behind the text, in (n, l): (n, 1)."""
    return first.max(axis=1, keepdims=True)


def _with_places(text: str, change: Callable[[np.ndarray], np.ndarray]) -> Variant:
    """Return a variant with other positions on the first axis."""

    def compute(call: LayerCall, x: Inputs) -> np.ndarray:
        p = x["positions"]
        moved = np.concatenate([change(p[..., 0])[..., None], p[..., 1:]], axis=-1)
        return call.compute({**x, "positions": moved})

    return Variant(text, compute)


def _exchanged_axes(positions: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return in words the positions (..., l, axes) with rows and columns, or others, exchanged."""
    axes = positions.shape[-1]
    rows, columns = find_plane(positions)
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for i, j in combinations(range(axes), 2):
        order = [*range(axes)]
        order[i], order[j] = j, i
        if (i, j) == (rows, columns):
            text = "rows and columns are exchanged"
        elif order == [*range(axes)][::-1]:
            continue
        else:
            text = f"axes {i} and {j} of the positions are exchanged"
        found[text] = lambda p, order=order: p[..., order]
    return found


def find_plane(positions: np.ndarray) -> tuple[int, int]:
    """Return the axes of rows and columns of positions (..., l, axes).

    They are the last two on which a token of the image is not at 0. Of three axes or more, the
    first one is neither.

    >>> find_plane(np.array([[0.0, 0, 0, 1], [0, 0, 0, 2], [0, 1, 1, 0]]))
    (1, 2)
    """
    axes = positions.shape[-1]
    placed = positions.reshape(-1, axes) != 0.0
    pairs = [*combinations(range(1 if axes > 2 else 0, axes), 2)]
    both = [(i, j) for i, j in pairs if (placed[:, i] & placed[:, j]).any()]
    return both[-1] if both else (axes - 2, axes - 1)


def _positions_of_an_image() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return in words how ports number the tokens of a text and an image, (l, axes)."""
    return {
        "rows and columns count from 1": lambda p: _move_image(p, 1.0),
        "rows and columns count from the middle": _from_the_middle,
        "the positions of the text are 0": _zero_text,
        "the tokens of the text count on the first axis": lambda p: _count_text(p, 0),
        "the tokens of the text count on the last axis": lambda p: _count_text(p, -1),
        "the positions have the image before the text": lambda p: np.roll(p, -_text(p), axis=0),
        "the tokens count on one axis": _count_all,
    }


def _positions_of_rows() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return in words how ports number tokens of which each row has its own, (n, l, axes)."""
    return {
        "the places in the sequence count from 0": _count_from_0,
    }


def _count_padding(positions: np.ndarray) -> np.ndarray:
    """Return positions (n, l, axes) that count all tokens, wherever padding is."""
    return np.zeros_like(positions) + np.arange(positions.shape[1])[:, None]


def _count_from_0(positions: np.ndarray) -> np.ndarray:
    """Move the first axis by one, where it is not 0, as for padding."""
    moved = positions.copy()
    moved[:, :, 0] = np.maximum(moved[:, :, 0] - 1.0, 0.0)
    return moved


def _table_lengths(positions: np.ndarray) -> list[int]:
    """Return lengths of tables that do not reach the last position: powers of 2, and 3/2 of them.

    A table of another length is not recognised.
    """
    last = int(np.max(positions, initial=0.0))
    lengths = (n << k for k in range(last.bit_length()) for n in (2, 3))
    return sorted(n for n in lengths if n <= last)


def _dims(call: LayerCall) -> tuple[int, ...]:
    return tuple(call.attributes["dims"])


def _angles(
    call: LayerCall, x: Inputs, dims: tuple[int, ...] = (), theta: float | None = None
) -> np.ndarray:
    base = _theta(call) if theta is None else theta
    return find_angles(x["positions"], dims or _dims(call), base)


def _theta(call: LayerCall) -> float:
    return float(call.attributes.get("theta", THETA))


def _turn(call: LayerCall, x: Inputs, angles: np.ndarray) -> np.ndarray:
    function = turn_halves if call.kind == "rotate_halves" else turn
    return function(x["input"], angles)


def _text(positions: np.ndarray) -> int:
    """Return the number of tokens before the image, whose first one is at 0.

    All tokens of the text are there too, or the first alone, where the text counts on an axis of
    its own.
    """
    placed = positions.any(axis=1)
    if not placed.any():
        return 0
    plane = positions[:, [*find_plane(positions)]].any(axis=1)
    first = int(np.argmax(plane if plane.any() else placed))
    return max(first - 1, 0)


def _zero_text(positions: np.ndarray) -> np.ndarray:
    moved = positions.copy()
    moved[: _text(positions)] = 0.0
    return moved


def _move_image(positions: np.ndarray, by: float) -> np.ndarray:
    moved = positions.copy()
    moved[_text(positions) :, [*find_plane(positions)]] += by
    return moved


def _from_the_middle(positions: np.ndarray) -> np.ndarray:
    plane = [*find_plane(positions)]
    sizes = positions[:, plane].max(axis=0) + 1.0
    moved = positions.copy()
    moved[_text(positions) :, plane] -= sizes // 2
    return moved


def _count_text(positions: np.ndarray, axis: int) -> np.ndarray:
    length = _text(positions)
    moved = positions.copy()
    moved[:length, axis] = np.arange(length)
    return moved


def _count_all(positions: np.ndarray) -> np.ndarray:
    counted = np.zeros_like(positions)
    counted[:, 0] = np.arange(len(positions))
    return counted


def _listed(dims: tuple[int, ...]) -> str:
    return ", ".join(map(str, dims))
