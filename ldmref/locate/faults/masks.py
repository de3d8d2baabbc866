"""Known faults of the masks of a batch of texts, in attention, softmax(s q k^T + b) v."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.attention import HIDDEN, NOT_WANTED, find_padding, without_mask
from ldmref.locate.faults.variants import Given, Inputs, Variant
from ldmref.locate.law import allowed_error
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import find_entry, read_inputs, read_output
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.replay.points import FollowedRun, Point

NO_KEYS = {  # what programs return of queries without keys
    "return zeros": 0.0,  # PyTorch's kernels
    "read all alike": 1.0,  # a softmax over equal lowest numbers
}


def changes_of_mask(seen: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what ports make of a mask: in words, and the mask.

    Args:
        seen: Which keys are seen, (n or 1, heads or 1, l or 1, m) bool.

    >>> [words for words, _ in changes_of_mask(np.array([[[[True, False]]]]))][1]
    'the mask is one token late'
    """
    yield "the mask is inverted", ~seen
    yield from moved_masks(seen)
    yield from masks_of_other_rows(seen, 3)


def moved_masks(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a mask, (..., m), a token away in both directions: in words, and the mask.

    >>> [x.tolist() for _, x in moved_masks(np.array([[1, 1, 0]]))]
    [[[0, 1, 1]], [[1, 0, 1]]]
    """
    yield "the mask is one token late", np.roll(mask, 1, axis=-1)
    yield "the mask is one token early", np.roll(mask, -1, axis=-1)


def masks_of_other_rows(mask: np.ndarray, least: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a mask with rows of others, in words, and the mask.

    Args:
        mask: The mask, (n, ...).
        least: The number of rows from which one of them may be that of all.

    >>> [x.tolist() for _, x in masks_of_other_rows(np.array([[1, 0], [1, 1]]), 2)]
    [[[1, 1], [1, 0]], [[1, 0], [1, 0]], [[1, 1], [1, 1]]]
    """
    for shift in range(1, len(mask)):
        yield "each row has the mask of another row", np.roll(mask, shift, axis=0)
    for row in range(len(mask) if len(mask) >= least else 0):
        yield f"all rows have the mask of row {row}", np.repeat(mask[row : row + 1], len(mask), 0)


def other_masks(call: LayerCall) -> Iterator[Variant]:
    """Yield attention with the mask of its bias changed."""
    bias = call.inputs.get("bias")
    if bias is None or not (bias <= HIDDEN).any():
        return
    rest = without_mask(bias)
    right = bias > HIDDEN
    if not _list_visible(call, call.inputs, right).any(axis=-1).all():
        yield from _with_seen(call, "the mask leaves no key to some", right, rest)
    for words, seen in changes_of_mask(right):
        yield from _with_seen(call, words, seen, rest)


def with_mask(call: LayerCall, mask: np.ndarray) -> Iterator[Variant]:
    """Yield attention that hides keys of a text where the padding needs no mask, or hides others.

    In causal attention no token reads padding behind it.

    Args:
        call: An attention among the tokens of a text.
        mask: 1 for tokens, and 0 for padding, (n, l).
    """
    n, _, keys, _ = call.inputs["k"].shape
    if "bias" in call.inputs or mask.shape != (n, keys) or not (mask == 0).any():
        return
    seen = (mask != 0)[:, None, None, :]
    rest = np.zeros(())
    yield from _with_seen(call, "keys of padding are hidden", seen, rest)
    for words, other in changes_of_mask(seen):
        yield from _with_seen(call, words, other, rest)


def with_wrong_padding_mask(call: LayerCall, ids: np.ndarray, config: object) -> Iterator[Variant]:
    """Yield attention with a mask of padding that should not be there, and that is wrong itself.

    Args:
        call: The attention of a text encoder.
        ids: The tokens, (n, l).
        config: The configuration of the text encoder.
    """
    if ids.shape != (call.inputs["k"].shape[0], call.inputs["k"].shape[2]):
        return
    seen = ~find_padding(ids, config)[:, None, None, :]
    if seen.all():
        return
    rest = without_mask(call.inputs["bias"]) if "bias" in call.inputs else np.zeros(())
    for words, other in changes_of_mask(seen):
        yield from _with_seen(call, f"{NOT_WANTED}: {words}", other, rest)


def _with_seen(
    call: LayerCall, words: str, seen: np.ndarray, rest: np.ndarray
) -> Iterator[Variant]:
    """Yield attention that sees some keys, for each thing that queries without keys return."""
    if _list_visible(call, call.inputs, seen).any(axis=-1).all():
        yield Variant(words, lambda c, x: _attend(c, x, seen, rest, 0.0))
        return
    for what, weight in NO_KEYS.items():
        text = f"{words}, and queries without keys {what}"
        yield Variant(text, lambda c, x, w=weight: _attend(c, x, seen, rest, w))


def _list_visible(call: LayerCall, x: Inputs, seen: np.ndarray) -> np.ndarray:
    """Return which keys each query sees, (n or 1, heads or 1, l, m)."""
    pairs = np.ones((x["input"].shape[2], x["k"].shape[2]), bool)
    return seen & (np.tril(pairs) if call.attributes.get("causal", False) else pairs)


def _attend(
    call: LayerCall, x: Inputs, seen: np.ndarray, rest: np.ndarray, alike: float
) -> np.ndarray:
    """Compute attention to the keys that are seen; `alike` is the weight of all for no keys."""
    q, k, v = x["input"], x["k"], x["v"]
    scale = float(call.attributes.get("scale", q.shape[-1] ** -0.5))
    visible = _list_visible(call, x, seen)
    scores = np.where(visible, scale * (q @ k.swapaxes(-1, -2)) + rest, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    empty = total == 0.0
    weights = np.where(empty, alike / k.shape[2], weights / np.where(empty, 1.0, total))
    return weights @ v


def unmasked_rows(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield attention that reads rows of padding which the port alone has: what was recorded.

    It is that of all recorded rows, with no mask.
    """
    call = point.call
    entry = find_entry(replay.port, replay.call, call) if call.kind == "attention" else None
    if entry is None or point.role:
        return
    x, recorded = read_inputs(replay.port, entry, call), read_output(replay.port, entry)
    shapes = {role: np.shape(array) for role, array in x.items()}
    expected = np.shape(point.computed)
    if recorded is None or not x.keys() >= {"input", "k", "v"} or len(set(shapes.values())) > 1:
        return
    if recorded.shape != shapes["k"] or recorded.ndim != 4 or recorded.shape[2] <= expected[2]:
        return
    every, nothing = np.ones((1, 1, 1, 1), bool), np.zeros((), np.float32)
    computed = _attend(call, x, every, nothing, 0.0)
    low = {role: np.asarray(array, np.float32) for role, array in x.items()}
    floor = relative_error(_attend(call, low, every, nothing, 0.0), computed)
    unit = max(EPSILONS["float32"], point.unit)
    if relative_error(recorded, computed) <= allowed_error(max(floor, unit)):
        text = "the padding mask is missing: rows of padding are read that ldmref does not have"
        yield text, np.asarray(point.recorded)
