"""Known faults of attention, softmax(s q k^T + b) v of arrays (n, heads, l, d)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.variants import Given, Inputs, Variant, with_changes
from ldmref.locate.replay.points import FollowedRun, Point
from ldmref.models.layers import MASKED

HIDDEN = -1e4  # a bias up to here hides a key; that of BERT's masks is the largest in use
TEXT_SEGMENT = 32  # tokens to a multiple of which Z-Image fills a text up
TILED = "the heads of {} are tiled instead of each repeated"
SHARED = {"k": "keys", "v": "values"}  # roles of what several heads may share
NOT_WANTED = "a padding mask that should not be there"
EQUAL = -1e30  # the bias of queries without keys, in which the scores of float64 drown also


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    causal: bool = False,
    axis: int = -1,
    padding: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Compute softmax(scale q k^T + bias) v, with the softmax along an axis of the scores.

    No query attends to keys of the `padding`, (n, l).
    """
    scores = scale * (q @ k.swapaxes(2, 3))
    if bias is not None:
        scores = scores + bias
    if causal:
        future = np.triu(np.ones(scores.shape[2:], bool), 1)
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
    right = call.attributes.get("scale")
    scales = {
        "the scale 1/sqrt(d) is missing": 1.0,
        f"scale 1/d = {1 / d:g} instead of 1/sqrt(d)": 1.0 / d,
        "scale 1/sqrt(heads d) instead of 1/sqrt(d)": 1.0 / math.sqrt(heads * d),
        "scale 1/sqrt(heads) instead of 1/sqrt(d)": 1.0 / math.sqrt(heads),
        "the scale is applied twice (1/d)": 1.0 / d,
        "scale sqrt(d) instead of 1/sqrt(d)": math.sqrt(d),
    }
    if right == 1.0:
        text = "the scores are divided by sqrt(d), which they should not be"
        scales = {text: 1.0 / math.sqrt(d)}
    elif right is not None:
        scales = {f"scale 1/sqrt(d) instead of {right:g}": 1.0 / math.sqrt(d)}
        scales[f"the scale {right:g} is missing"] = 1.0
    for text, scale in scales.items():
        yield Variant(text, lambda c, x, s=scale: _attend(c, x, s))


def other_mask(call: LayerCall) -> Iterator[Variant]:
    """Yield attention without its causal mask, or with one."""
    causal = _causal(call)
    if causal:
        yield with_changes("the causal mask is missing", causal=False)
        yield Variant("a token sees the next one: the causal mask is one token late", _see_next)
    elif _among_themselves(call):
        yield with_changes("a causal mask that should not be there", causal=True)


def _see_next(call: LayerCall, x: Inputs) -> np.ndarray:
    """Attend to all tokens up to the next one."""
    shape = x["input"].shape[2], x["k"].shape[2]
    hidden = MASKED * np.triu(np.ones(shape), 2)[None, None]
    return _with_bias(call, {**x, "causal": False}, x.get("bias", 0.0) + hidden)


def other_bias(call: LayerCall) -> Iterator[Variant]:
    """Yield attention with its bias in other forms: a mask, positions, or both."""
    if "bias" not in call.inputs:
        return
    for text, change in changes_of_bias(call.inputs["bias"], _scale(call)).items():
        yield Variant(text, lambda c, x, f=change: _with_bias(c, x, f(x["bias"])))
    hidden = call.inputs["bias"] <= HIDDEN
    if hidden.any() and hidden.shape[1:3] == (1, 1) and _among_themselves(call):
        text = "the mask is applied twice, the second time to the results of hidden queries"
        yield Variant(text, lambda c, x: np.where(_hidden_queries(x), 0.0, c.compute(x)))


def changes_of_bias(
    bias: np.ndarray, scale: float
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return in words what ports do to a bias of attention.

    Args:
        bias: (n or 1, heads or 1, l or 1, m).
        scale: The scale of the scores.
    """
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    hidden = bias <= HIDDEN
    if hidden.any():
        changes["the padding mask is missing"] = without_mask
        changes["the mask is inverted"] = lambda b: _inverted(b, MASKED)
        text = "the mask is inverted, and queries without keys attend to all alike"
        changes[text] = lambda b: _inverted(b, EQUAL)
        text = "the mask is added as 1 and 0, which hides nothing"
        changes[text] = lambda b: without_mask(b) + np.where(b <= HIDDEN, 0.0, 1.0)
    if not np.where(hidden, 0.0, bias).any():
        return changes
    of_positions = bias.shape[1] > 1 and bias.shape[2] == bias.shape[3]
    name = "the bias of positions" if of_positions else "the bias"
    changes[f"{name} is missing"] = lambda b: _seen(b, 0.0)
    changes[f"{name} is applied twice"] = lambda b: _seen(b, 2.0)
    changes[f"{name} has the other sign"] = lambda b: _seen(b, -1.0)
    if scale != 1.0:
        changes[f"{name} is scaled as the scores are"] = lambda b: _seen(b, scale)
    if of_positions:
        changes[f"{name} is that of the query from the key"] = lambda b: b.swapaxes(2, 3)
    return changes


def _seen(bias: np.ndarray, factor: float) -> np.ndarray:
    """Multiply a bias where it does not hide a key."""
    return np.where(bias <= HIDDEN, bias, factor * bias)


def without_mask(bias: np.ndarray) -> np.ndarray:
    """Return a bias that hides no key; where `MASKED` was added, the rest remains."""
    within = np.abs(bias - MASKED) < abs(HIDDEN)
    return np.where(bias <= HIDDEN, np.where(within, bias - MASKED, 0.0), bias)


def _inverted(bias: np.ndarray, masked: float) -> np.ndarray:
    """Give the keys that a bias does not hide the bias `masked`, and show the others."""
    return np.where(bias <= HIDDEN, without_mask(bias), masked)


def _hidden_queries(x: Inputs) -> np.ndarray:
    """Return which queries, (n or 1, 1, l, 1), are hidden as keys."""
    return x["bias"].swapaxes(2, 3) <= HIDDEN


def _with_bias(call: LayerCall, x: Inputs, bias: np.ndarray) -> np.ndarray:
    return call.compute({**x, "bias": bias})


def with_padding_mask(call: LayerCall, ids: np.ndarray, config: object) -> Iterator[Variant]:
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
        text = f"{NOT_WANTED}{end}"
        if "bias" in call.inputs:
            hidden = MASKED * padding[:, None, None, :]
            yield Variant(text, lambda c, x, m=hidden: _with_bias(c, x, x["bias"] + m))
            continue
        yield Variant(text, lambda c, x, m=padding: _masked(c, x, m, _causal(c)))
        if _causal(call):
            text = f"a padding mask instead of the causal one{end}"
            yield Variant(text, lambda c, x, m=padding: _masked(c, x, m, False))


def with_text_mask(call: LayerCall, mask: np.ndarray) -> Iterator[Variant]:
    """Yield attention in which nothing attends to the tokens that fill up a text.

    Some transformers fill a text up to whole segments, and attend to all tokens of a segment.

    Args:
        call: The attention of a transformer, whose last keys are those of the text.
        mask: Which tokens are the text's own, (n, l).
    """
    n, _, keys, _ = call.inputs["k"].shape
    if "bias" not in call.inputs or mask.ndim != 2 or mask.shape[0] != n:
        return
    length = -(-mask.shape[1] // TEXT_SEGMENT) * TEXT_SEGMENT
    filled = np.pad(mask == 0, ((0, 0), (0, length - mask.shape[1])), constant_values=True)
    if length > keys or not filled.any():
        return
    hidden = MASKED * np.pad(filled, ((0, 0), (keys - length, 0)))[:, None, None, :]
    text = "the tokens that fill up the text are hidden"
    yield Variant(text, lambda c, x: _with_bias(c, x, x["bias"] + hidden))


def end_ids(config: object, ids: np.ndarray) -> np.ndarray:
    """Return the id of the end token of each text, (n,): the last token's if it has none.

    The configurations of CLIP from before 2024 have 2, and mean the largest id.
    """
    end = getattr(config, "eos_token_id", 2)
    if end == 2 and getattr(config, "model_type", "clip") == "clip":
        return ids.max(axis=1)
    return np.where((ids == end).any(axis=1), end, ids[:, -1])


def find_padding(ids: np.ndarray, config: object) -> np.ndarray:
    """Return which tokens, (n, l), pad a text: the equal ones at its end, after the end token.

    Where the end token pads, the first of them ends the text.
    """
    tail = _equal_tail(ids)
    ends = ids[:, -1:] == end_ids(config, ids)[:, None]
    after_end = np.zeros_like(tail)
    after_end[:, 1:] = tail[:, 1:] & tail[:, :-1]
    return np.where(ends, after_end, tail)


def _equal_tail(ids: np.ndarray) -> np.ndarray:
    """Return which tokens, (n, l), are the equal ones at the end of a text."""
    tail = np.cumprod(np.flip(ids == ids[:, -1:], axis=1), axis=1)
    return np.flip(tail, axis=1).astype(bool)


def _masked(call: LayerCall, x: Inputs, padding: np.ndarray, causal: bool) -> np.ndarray:
    return attend(x["input"], x["k"], x["v"], _scale(call), causal, padding=padding)


def other_softmax(call: LayerCall) -> Iterator[Variant]:
    """Yield the softmax over queries, over heads, and none."""

    yield Variant("softmax over the queries", lambda c, x: _attend(c, x, axis=2))
    yield Variant("softmax over the heads", lambda c, x: _attend(c, x, axis=1))


def other_heads(call: LayerCall) -> Iterator[Variant]:
    """Yield attention with another number of heads (`attention_head_dim`)."""
    _, heads, _, d = call.inputs["input"].shape
    if "bias" in call.inputs and call.inputs["bias"].shape[1] > 1:
        return  # each head has its own
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


def tiled_heads(call: LayerCall) -> Iterator[Variant]:
    """Yield attention whose heads of keys and values are tiled, and not each repeated."""
    times = count_repeats(call.inputs["k"])
    if times == 1:
        return
    for what, roles in (("keys and values", ("k", "v")), ("keys", ("k",)), ("values", ("v",))):
        yield Variant(
            TILED.format(what),
            lambda c, x, r=roles: c.compute({**x, **{role: tile(x[role], times) for role in r}}),
        )


def tiled_arrays(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield keys or values that attention reads, whose heads are tiled and not each repeated."""
    x = np.asarray(point.computed)
    if point.call.kind != "attention" or point.role not in SHARED or x.ndim != 4:
        return
    times = count_repeats(x)
    if times > 1:
        yield TILED.format(SHARED[point.role]), tile(x, times)


def count_repeats(x: np.ndarray) -> int:
    """Return how often each head of (n, heads, l, d) is repeated; 1: they are not."""
    heads = x.shape[1]
    groups = 1 + int(np.count_nonzero(np.abs(np.diff(x, axis=1)).max(axis=(0, 2, 3))))
    return heads // groups if 1 < groups and heads % groups == 0 else 1


def tile(x: np.ndarray, times: int) -> np.ndarray:
    """Return heads that are each repeated as heads that are tiled."""
    return np.concatenate([x[:, ::times]] * times, axis=1)


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
    scale = call.attributes.get("scale", 1.0 / math.sqrt(q.shape[-1]))
    y = attend(q, k, v, scale, _causal(call), bias=x.get("bias"))
    return y.transpose(0, 2, 1, 3).reshape(n, length, heads, d).transpose(0, 2, 1, 3)


def _causal(call: LayerCall) -> bool:
    return bool(call.attributes.get("causal", False))


def _scale(call: LayerCall) -> float:
    return float(call.attributes.get("scale", 1.0 / math.sqrt(call.inputs["input"].shape[-1])))


def _among_themselves(call: LayerCall) -> bool:
    """Return whether there are as many queries as keys."""
    return call.inputs["input"].shape[2] == call.inputs["k"].shape[2]


def _attend(call: LayerCall, x: Inputs, scale: float | None = None, axis: int = -1) -> np.ndarray:
    """Compute attention with another scale, or another axis of the softmax."""
    factor = _scale(call) if scale is None else scale
    bias = x.get("bias")
    return attend(x["input"], x["k"], x["v"], factor, _causal(call), axis, bias=bias)
