"""Known faults of what networks compute between their layers: parts, products, powers, angles.

Networks whose code is not ldmref's are followed function by function (`ldmref.locate.modules`).
Each function here takes such a call, and yields it with a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.modulation import ChangedOperations
from ldmref.locate.faults.norms import EPSILONS, SMALL
from ldmref.locate.faults.variants import BACKWARDS, Inputs, Variant, with_changes
from ldmref.locate.recorded.precision import round_to
from ldmref.locate.replay.points import FollowedRun, Point

BASES = (100.0, 256.0, 500.0, 1000.0, 2000.0, 10000.0, 100000.0, 1e6)
MOST_PARTS = 9  # that are exchanged in pairs


def other_constant(call: LayerCall) -> Iterator[Variant]:
    """Yield a sum with another constant: another eps, or none."""
    number = call.attributes["number"]
    if 0.0 < number < SMALL:
        for eps in EPSILONS:
            if eps != number:
                yield with_changes(f"eps {eps:g} instead of {number:g}", number=eps)
        return
    yield with_changes(f"{number:g} is not added", number=0.0)
    yield with_changes(f"{number:g} is added twice", number=2.0 * number)
    yield with_changes(f"{number:g} is subtracted", number=-number)


def other_factor(call: LayerCall) -> Iterator[Variant]:
    """Yield a product with another factor: none, its inverse, or its square."""
    number = call.attributes["number"]
    yield with_changes(f"the factor {number:g} is missing", number=1.0)
    if number:
        yield with_changes(f"divided by {number:g} instead of multiplied", number=1.0 / number)
    yield with_changes(f"the factor {number:g} is applied twice", number=number * number)
    yield with_changes(f"the factor {number:g} has the other sign", number=-number)


def other_divisor(call: LayerCall) -> Iterator[Variant]:
    """Yield a quotient without its divisor, and a product in its place."""
    number = call.attributes["number"]
    yield with_changes(f"the division by {number:g} is missing", number=1.0)
    if number:
        yield with_changes(f"multiplied by {number:g} instead of divided", number=1.0 / number)


def missing_factor(call: LayerCall) -> Iterator[Variant]:
    """Yield a product of one of its factors alone, and of a conjugate factor."""
    for role, other in (("input", "b"), ("b", "input")):
        text = f"the {'second' if other == 'b' else 'first'} factor is missing"
        yield Variant(text, lambda c, x, role=role, other=other: _alone(x, role, other))
    if call.attributes.get("complex"):
        conjugate = np.array([1.0, -1.0])
        yield Variant(BACKWARDS, lambda c, x: c.compute({**x, "b": conjugate * x["b"]}))
        yield Variant("the rotation is missing", lambda c, x: x["input"])
        return
    yield Variant("1 is added to the second factor", lambda c, x: c.compute({**x, "b": 1 + x["b"]}))
    yield Variant("1 is added to the first factor", _with_one)
    text = "1 is subtracted from the second factor"
    yield Variant(text, lambda c, x: c.compute({**x, "b": x["b"] - 1}))


def _alone(x: Inputs, role: str, other: str) -> np.ndarray:
    return np.broadcast_to(x[role], np.broadcast_shapes(x[role].shape, x[other].shape)).copy()


def _with_one(call: LayerCall, x: Inputs) -> np.ndarray:
    return call.compute({**x, "input": 1 + x["input"]})


def other_difference(call: LayerCall) -> Iterator[Variant]:
    """Yield a sum for a difference, the difference in the other order, and its first term."""
    yield Variant("added instead of subtracted", lambda c, x: x["input"] + x["b"])
    yield Variant("subtracted in the other order", lambda c, x: x["b"] - x["input"])
    yield Variant("the second term is not subtracted", lambda c, x: x["input"] + 0.0 * x["b"])


def other_sign(call: LayerCall) -> Iterator[Variant]:
    """Yield the number whose sign is not changed."""
    yield Variant("the sign is not changed", lambda c, x: x["input"])


def other_base(call: LayerCall) -> Iterator[Variant]:
    """Yield powers of other bases: the theta of rotations, the period of timesteps."""
    right = call.attributes["base"]
    for base in BASES:
        if base != right and right > 1.0:
            yield with_changes(f"theta {base:g} instead of {right:g}", base=base)
    yield Variant(
        "the exponent has the other sign", lambda c, x: c.compute({**x, "input": -x["input"]})
    )


def other_angles(call: LayerCall) -> Iterator[Variant]:
    """Yield functions of angles that are negated, rounded, or those of the other function."""
    other = np.sin if call.kind == "cosine" else np.cos
    if call.kind == "sine":
        yield Variant(BACKWARDS, lambda c, x: -c.compute(x))
    for form in ("bfloat16", "float16"):
        text = f"the angles are rounded to {form}"
        yield Variant(text, lambda c, x, form=form: c.compute(_with_rounded(x, form)))
    yield Variant("sine and cosine are exchanged", lambda c, x: other(x["input"]))


def other_turn(call: LayerCall) -> Iterator[Variant]:
    """Yield complex numbers of unit length of negated and rounded angles."""
    yield Variant(BACKWARDS, lambda c, x: c.compute({**x, "input": -x["input"]}))
    for form in ("bfloat16", "float16"):
        text = f"the angles are rounded to {form}"
        yield Variant(text, lambda c, x, form=form: c.compute(_with_rounded(x, form)))


def _with_rounded(x: Inputs, form: str) -> Inputs:
    return {**x, "input": round_to(x["input"], form)}


def exchanged_parts(call: LayerCall) -> Iterator[Variant]:
    """Yield the parts of an array in other orders, and taken in turn instead of in blocks."""
    parts = parts_of_split(call, call.inputs)
    for i, j in combinations(range(len(parts[:MOST_PARTS])), 2):
        if parts[i].shape == parts[j].shape:
            text = f"parts {i} and {j} of {len(parts)} are exchanged"
            yield Variant(text, lambda c, x, i=i, j=j: _exchanged(parts_of_split(c, x), i, j))
    if len(parts) == 3:
        for order in ((1, 2, 0), (2, 0, 1)):
            text = f"the parts are in the order {order}"
            yield Variant(text, lambda c, x, o=order: tuple(parts_of_split(c, x)[i] for i in o))
    if len({part.shape for part in parts}) == 1:
        yield Variant("the parts alternate instead of being blocks", _interleaved)


def parts_of_split(call: LayerCall, x: Inputs) -> tuple[np.ndarray, ...]:
    """Return the parts into which a call splits an array."""
    return tuple(call.compute(x))


def _exchanged(parts: tuple[np.ndarray, ...], i: int, j: int) -> tuple[np.ndarray, ...]:
    order = list(parts)
    order[i], order[j] = parts[j], parts[i]
    return tuple(order)


def _interleaved(call: LayerCall, x: Inputs) -> tuple[np.ndarray, ...]:
    count = len(parts_of_split(call, x))
    axis = call.attributes["axis"]
    if call.attributes["unbound"]:
        return halves_of(x["input"], axis)
    return tuple(
        np.take(x["input"], range(i, x["input"].shape[axis], count), axis) for i in range(count)
    )


def halves_of(x: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """Return the parts of an array (..., m, k) along its last axis, were it (..., k, m).

    Args:
        x: The array.
        axis: Its last axis.

    Raises:
        ValueError: The axis is not the last one.
    """
    if axis != x.ndim - 1 or x.ndim < 2:
        raise ValueError("the parts are not those of the last axis")
    *rest, m, k = x.shape
    other = x.reshape(*rest, k, m)
    return tuple(other[..., i, :] for i in range(k))


def other_order(call: LayerCall) -> Iterator[Variant]:
    """Yield arrays that are joined in other orders."""
    count = len(call.inputs)
    names = list(call.inputs)
    orders = permutations(range(count)) if count <= 3 else [tuple(reversed(range(count)))]
    for order in orders:
        if order != tuple(range(count)):
            text = f"parts are joined in the order {', '.join(map(str, order))}"
            yield Variant(text, lambda c, x, o=order: c.compute(_reordered(x, names, o)))


def _reordered(x: Inputs, names: list[str], order: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {**x, **{name: x[names[i]] for name, i in zip(names, order, strict=True)}}


def other_pairs(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield rotations of halves instead of neighbours, where each half is an array.

    Queries and keys are split into pairs, and joined again; both in the other layout.
    """
    changes = {}
    for call in point.suspects:
        if call.kind == "pair":
            changes[call.name] = _pair_of_halves
        elif call.kind == "unpair":
            changes[call.name] = _halves_of_pair
        elif call.kind == "split" and call.attributes["unbound"]:
            changes[call.name] = _interleaved
        elif call.kind == "join" and call.attributes["stacked"] and len(call.inputs) == 2:
            changes[call.name] = _joined_halves
    if changes:
        yield "halves are rotated instead of neighbours", changes


def _pair_of_halves(call: LayerCall, x: Inputs) -> np.ndarray:
    pairs = np.stack(halves_of(x["input"], x["input"].ndim - 1), axis=-1)
    return call.compute({**x, "input": pairs})


def _halves_of_pair(call: LayerCall, x: Inputs) -> np.ndarray:
    y = call.compute(x)
    return np.concatenate([y[..., 0], y[..., 1]], axis=-1).reshape(y.shape)


def _joined_halves(call: LayerCall, x: Inputs) -> np.ndarray:
    first, second = (x[name] for name in call.inputs)
    if call.attributes["axis"] not in (-1, first.ndim):
        raise ValueError("they are not stacked along the last axis")
    return np.concatenate([first, second], axis=-1).reshape(*first.shape, 2)


def other_softmax_axis(call: LayerCall) -> Iterator[Variant]:
    """Yield the softmax along the axis before the last one, and none."""
    for axis, text in ((-2, "softmax over the queries"), (1, "softmax over the heads")):
        yield with_changes(text, axis=axis)


def other_masking(call: LayerCall) -> Iterator[Variant]:
    """Yield an array of which nothing is masked, and of which the rest is."""
    yield Variant("the mask is missing", lambda c, x: x["input"])
    yield Variant("the mask is inverted", lambda c, x: c.compute({**x, "mask": 1 - x["mask"]}))


def other_repeats(call: LayerCall) -> Iterator[Variant]:
    """Yield an array that is repeated as a whole instead of number by number."""
    count, axis = call.attributes["count"], call.attributes["axis"]
    text = "repeated as a whole instead of each number"
    yield Variant(text, lambda c, x: np.concatenate([x["input"]] * count, axis=axis))


def other_axes(call: LayerCall) -> Iterator[Variant]:
    """Yield an array with two axes of equal length exchanged."""
    shape = np.shape(call.compute(call.inputs))
    for i, j in combinations(range(len(shape)), 2):
        if shape[i] == shape[j] > 1:
            text = f"axes {i} and {j} are exchanged"
            yield Variant(text, lambda c, x, i=i, j=j: np.swapaxes(c.compute(x), i, j))
