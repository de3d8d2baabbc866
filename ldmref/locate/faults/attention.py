"""Known faults of attention, softmax(q k^T / sqrt(d)) v of arrays (n, heads, l, d)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.variants import Inputs, Variant, with_changes

MASKED = -1e9  # what `ldmref.models.t5` adds to the scores of masked keys
HIDDEN = MASKED / 2  # scores below it are masked


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    causal: bool = False,
    axis: int = -1,
    padding: np.ndarray | None = None,
) -> np.ndarray:
    """Compute softmax(scale q k^T) v, with the softmax along an axis of the scores.

    No query attends to keys of the `padding`, (n, l).
    """
    scores = scale * (q @ k.swapaxes(-1, -2))
    if causal:
        future = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(future, -np.inf, scores)
    if padding is not None:
        scores = np.where(padding[:, None, None, :], -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return (weights / weights.sum(axis=axis, keepdims=True)) @ v


def swapped_inputs(call: LayerCall) -> Iterator[Variant]:
    """Yield attention with two of q, k and v exchanged."""
    if call.inputs["input"].shape == call.inputs["k"].shape:
        yield Variant(
            "q and k are swapped",
            lambda c, x: c.compute({**x, "input": x["k"], "k": x["input"]}),
        )
        yield Variant(
            "q and v are swapped",
            lambda c, x: c.compute({**x, "input": x["v"], "v": x["input"]}),
        )
    yield Variant("k and v are swapped", lambda c, x: c.compute({**x, "k": x["v"], "v": x["k"]}))


def other_scale(call: LayerCall) -> Iterator[Variant]:
    """Yield other scales of the scores."""
    _, heads, _, d = call.inputs["input"].shape
    scales = {
        "the scale 1/sqrt(d) is missing": 1.0,
        f"scale 1/d = {1 / d:g} instead of 1/sqrt(d)": 1.0 / d,
        "scale 1/sqrt(heads d) instead of 1/sqrt(d)": 1.0 / math.sqrt(heads * d),
        "scale 1/sqrt(heads) instead of 1/sqrt(d)": 1.0 / math.sqrt(heads),
        "the scale is applied twice (1/d)": 1.0 / d,
        "scale sqrt(d) instead of 1/sqrt(d)": math.sqrt(d),
    }
    for text, scale in scales.items():
        yield Variant(text, lambda c, x, s=scale: attend(x["input"], x["k"], x["v"], s, _causal(c)))


def other_mask(call: LayerCall) -> Iterator[Variant]:
    """Yield attention without its causal mask, or with one."""
    causal = _causal(call)
    same = call.inputs["input"].shape[2] == call.inputs["k"].shape[2]
    if causal:
        yield with_changes("the causal mask is missing", causal=False)
    elif same:
        yield with_changes("a causal mask that should not be there", causal=True)


def other_bias(call: LayerCall) -> Iterator[Variant]:
    """Yield attention with a bias of positions, as T5 has it, in other forms."""
    d = call.inputs["input"].shape[-1]
    text = "the scores are divided by sqrt(d), which they should not be"
    yield Variant(text, lambda c, x: c.compute({**x, "input": x["input"] / math.sqrt(d)}))
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "the bias of positions is missing": lambda b: 0.0 * b,
        "the bias of positions is that of the query from the key": lambda b: b.swapaxes(-1, -2),
        "a causal mask that should not be there": lambda b: b + np.triu(np.full(b.shape, -1e9), 1),
    }
    if np.min(call.inputs["score_bias"], initial=0.0) < HIDDEN:
        changes["the padding mask is missing"] = lambda b: np.where(b < HIDDEN, b - MASKED, b)
    for text, change in changes.items():
        yield Variant(text, lambda c, x, f=change: _with_bias(c, x, f(x["score_bias"])))


def _with_bias(call: LayerCall, x: Inputs, bias: np.ndarray) -> np.ndarray:
    return call.compute({**x, "score_bias": bias})


def with_padding_mask(call: LayerCall, ids: np.ndarray, config: Any) -> Iterator[Variant]:
    """Yield attention in which nothing attends to the padding of a text.

    Args:
        call: The attention of a text encoder.
        ids: The tokens, (n, l).
        config: The configuration of the text encoder.
    """
    if ids.shape != (call.inputs["k"].shape[0], call.inputs["k"].shape[2]):
        return
    masks = {"": find_padding(ids, config)}
    tail = _equal_tail(ids)
    if (tail & (ids == end_ids(config, ids)[:, None])).any():  # the end token pads
        masks[", which hides the end token also"] = tail
    for end, padding in masks.items():
        text = f"a padding mask that should not be there{end}"
        if "score_bias" in call.inputs:
            hidden = -1e9 * padding[:, None, None, :]
            yield Variant(text, lambda c, x, m=hidden: _with_bias(c, x, x["score_bias"] + m))
            continue
        yield Variant(text, lambda c, x, m=padding: _masked(x, m, _causal(c)))
        if _causal(call):
            text = f"a padding mask instead of the causal one{end}"
            yield Variant(text, lambda c, x, m=padding: _masked(x, m, False))


def end_ids(config: Any, ids: np.ndarray) -> np.ndarray:
    """Return the id of the end token of each text, (n,): the last token's if it has none.

    The configurations of CLIP from before 2024 have 2, and mean the largest id.
    """
    end = getattr(config, "eos_token_id", 2)
    if end == 2 and getattr(config, "model_type", "clip") == "clip":
        return ids.max(axis=1)
    return np.where((ids == end).any(axis=1), end, ids[:, -1])


def find_padding(ids: np.ndarray, config: Any) -> np.ndarray:
    """Return which tokens, (n, l), pad a text: the equal ones at its end, after the end token.

    Where the end token pads, the first of them ends the text.
    """
    tail = _equal_tail(ids)
    ends = ids[:, -1:] == end_ids(config, ids)[:, None]
    after_end = tail & np.roll(tail, 1, axis=1)
    after_end[:, 0] = False
    return np.where(ends, after_end, tail)


def _equal_tail(ids: np.ndarray) -> np.ndarray:
    """Return which tokens, (n, l), are the equal ones at the end of a text."""
    tail = np.cumprod(np.flip(ids == ids[:, -1:], axis=1), axis=1)
    return np.flip(tail, axis=1).astype(bool)


def _masked(x: Inputs, padding: np.ndarray, causal: bool) -> np.ndarray:
    q = x["input"]
    return attend(q, x["k"], x["v"], 1.0 / math.sqrt(q.shape[-1]), causal, padding=padding)


def other_softmax(call: LayerCall) -> Iterator[Variant]:
    """Yield the softmax over queries, over heads, and none."""

    def change(call: LayerCall, x: Inputs, axis: int) -> np.ndarray:
        q = x["input"]
        return attend(q, x["k"], x["v"], 1.0 / math.sqrt(q.shape[-1]), _causal(call), axis)

    yield Variant("softmax over the queries", lambda c, x: change(c, x, -2))
    yield Variant("softmax over the heads", lambda c, x: change(c, x, 1))


def other_heads(call: LayerCall) -> Iterator[Variant]:
    """Yield attention with another number of heads (`attention_head_dim`)."""
    _, heads, _, d = call.inputs["input"].shape
    width = heads * d
    numbers = [h for h in range(1, min(width, 64) + 1) if width % h == 0 and h != heads]
    numbers.sort(key=lambda h: (h != d, h))
    for count in numbers:
        yield Variant(
            f"{count} heads of width {width // count} instead of {heads} of {d}",
            lambda c, x, count=count: _with_heads(c, x, count),
        )


def permuted_heads(call: LayerCall) -> Iterator[Variant]:
    """Yield heads split or merged in another order of the axes."""

    def interleaved(x: np.ndarray) -> np.ndarray:
        """Split (d, heads) instead of (heads, d)."""
        n, heads, length, d = x.shape
        flat = x.transpose(0, 2, 1, 3).reshape(n, length, d, heads)
        return flat.transpose(0, 3, 1, 2)

    def unsplit(x: np.ndarray) -> np.ndarray:
        """Split without transposition, (heads, l) instead of (l, heads)."""
        n, heads, length, d = x.shape
        return x.transpose(0, 2, 1, 3).reshape(n, heads, length, d)

    def merged(y: np.ndarray) -> np.ndarray:
        """Merge without transposition, as the array that a correct merge would turn into it."""
        n, heads, length, d = y.shape
        return y.reshape(n, length, heads, d).transpose(0, 2, 1, 3)

    def on_all(x: Inputs, f) -> dict:
        return {**x, "input": f(x["input"]), "k": f(x["k"]), "v": f(x["v"])}

    yield Variant(
        "heads permuted: split as (d, heads)",
        lambda c, x: _undo_interleaving(c.compute(on_all(x, interleaved))),
    )
    yield Variant(
        "heads permuted: split as (d, heads), merged as (heads, d)",
        lambda c, x: c.compute(on_all(x, interleaved)),
    )
    yield Variant(
        "heads permuted: split as (heads, l) instead of (l, heads)",
        lambda c, x: c.compute(on_all(x, unsplit)),
    )
    yield Variant(
        "heads permuted: merged as (heads, l) instead of (l, heads)",
        lambda c, x: merged(c.compute(x)),
    )
    yield Variant(
        "heads permuted: split and merged as (heads, l) instead of (l, heads)",
        lambda c, x: merged(c.compute(on_all(x, unsplit))),
    )


def _undo_interleaving(y: np.ndarray) -> np.ndarray:
    n, heads, length, d = y.shape
    flat = y.transpose(0, 2, 3, 1).reshape(n, length, heads, d)
    return flat.transpose(0, 2, 1, 3)


def _with_heads(call: LayerCall, x: Inputs, count: int) -> np.ndarray:
    def split(y: np.ndarray) -> np.ndarray:
        n, heads, length, d = y.shape
        flat = y.transpose(0, 2, 1, 3).reshape(n, length, count, heads * d // count)
        return flat.transpose(0, 2, 1, 3)

    n, heads, length, d = x["input"].shape
    q, k, v = split(x["input"]), split(x["k"]), split(x["v"])
    y = attend(q, k, v, 1.0 / math.sqrt(q.shape[-1]), _causal(call))
    return y.transpose(0, 2, 1, 3).reshape(n, length, heads, d).transpose(0, 2, 1, 3)


def _causal(call: LayerCall) -> bool:
    return bool(call.attributes.get("causal", False))
