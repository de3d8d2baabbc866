"""Known faults of text encoders: T5's positions and gate, and the token that is pooled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.locate.faults.activations import tanh_gelu
from ldmref.locate.faults.attention import HIDDEN, end_ids
from ldmref.locate.faults.modulation import ChangedOperations
from ldmref.locate.faults.variants import Given
from ldmref.locate.recorded.names import find_layer, read_output
from ldmref.locate.replay.points import FollowedRun, OperationChange, Point
from ldmref.models.t5 import find_buckets

TABLE = "relative_attention_bias"
DISTANCES = (16, 20, 32, 64, 100, 128, 256, 512, 1000, 1024)  # largest ones that are tried
BIAS = "bias"  # the role of the positions in blocks and in attention
T5_GATE = ("wi_0", "wi_1")
EXCHANGED = "gate and value are exchanged: GELU is applied to wi_1"
SWAPPED = "gate and value are exchanged: SiLU is applied to {}"
GATES = {("silu", "w2"): ("w1", "w3"), ("silu", "down_proj"): ("gate_proj", "up_proj"),
         ("silu", "down"): ("gate", "up"), ("silu", "out"): ("gate_layer", "proj")}  # fmt: skip
PROJECTION = "text_projection"
BucketRule = Callable[[int], np.ndarray]  # from the number of tokens to the rows of the table


def other_buckets(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield the rows of T5's table of distances by other rules, (l, l), or the bias they give."""
    computed = np.asarray(point.computed)
    if point.role == "input" and point.call.name.endswith(TABLE):
        rows = replay.parameters(point.call)["table"].shape[0]
        for text, rule in _rules(replay, rows).items():
            yield text, rule(computed.shape[-1])
    table = replay.parameters_of(TABLE) if point.role == BIAS else None
    if table is not None and computed.ndim == 4:
        right = _right_rule(replay, len(table))
        for text, rule in _rules(replay, len(table)).items():
            yield text, computed + _moved(table, right, rule, computed.shape[-1])


def other_bias_of_positions(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield attention with a bias of positions by other rules, and without its mask."""
    calls = [call for call in point.suspects if call.kind == "attention" and BIAS in call.inputs]
    names = [call.name for call in calls]
    table = replay.parameters_of(TABLE) if names else None
    if table is None:
        return
    right = _right_rule(replay, len(table))
    for text, rule in _rules(replay, len(table)).items():
        change = _with_rule(table, right, rule)
        yield text, dict.fromkeys(names, change)
    if (calls[0].inputs[BIAS] <= HIDDEN).any():
        positions = table[right(calls[0].inputs[BIAS].shape[-1])].transpose(2, 0, 1)
        yield "the padding mask is missing", dict.fromkeys(names, _without_mask(positions))


def _with_rule(table: np.ndarray, right: BucketRule, rule: BucketRule) -> OperationChange:
    def change(call: LayerCall, x: Mapping[str, np.ndarray]) -> np.ndarray:
        moved = _moved(table, right, rule, x[BIAS].shape[-1])
        return call.compute({**x, BIAS: x[BIAS] + moved})

    return change


def _without_mask(positions: np.ndarray) -> OperationChange:
    """Give hidden keys the bias of their positions, (heads, l, l)."""

    def change(call: LayerCall, x: Mapping[str, np.ndarray]) -> np.ndarray:
        return call.compute({**x, BIAS: np.where(x[BIAS] <= HIDDEN, positions, x[BIAS])})

    return change


def _moved(table: np.ndarray, right: BucketRule, rule: BucketRule, length: int) -> np.ndarray:
    """Return what another rule adds to the bias of positions, (heads, l, l)."""
    return (table[rule(length)] - table[right(length)]).transpose(2, 0, 1)


def _right_rule(replay: FollowedRun, rows: int) -> BucketRule:
    return lambda n: find_buckets(_distances(n), rows, _largest(replay))


def _rules(replay: FollowedRun, rows: int) -> dict[str, BucketRule]:
    """Return in words how ports find the rows of a table of distances."""
    right = _largest(replay)
    rules: dict[str, BucketRule] = {
        "the buckets are those of causal attention": lambda n: _one_way(n, rows, right),
        "the distance is that of the query from the key": lambda n: find_buckets(
            -_distances(n), rows, right
        ),
    }
    for largest in DISTANCES:
        if largest not in (right, rows // 4):
            text = f"largest distance {largest} instead of {right}"
            rules[text] = lambda n, far=largest: find_buckets(_distances(n), rows, far)
    return rules


def _largest(replay: FollowedRun) -> int:
    return int(getattr(replay.config, "relative_attention_max_distance", 128))


def _distances(length: int) -> np.ndarray:
    tokens = np.arange(length)
    return tokens[None, :] - tokens[:, None]


def _one_way(length: int, rows: int, largest: int) -> np.ndarray:
    """Return the rows for keys before the query alone, as decoders have them."""
    past = np.minimum(_distances(length), 0)
    return find_buckets(past, 2 * rows, largest)  # half of twice as many are for what is before


def exchanged_gate(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield T5's gated layer with GELU of the other projection."""
    parent, _, last = point.call.name.rpartition(".")
    if point.role != "input" or last not in ("act", "wo"):
        return
    found = [_read(replay, f"{parent}.{name}") for name in T5_GATE]
    value, gate = found
    if value is None or gate is None or value.shape != gate.shape:
        return
    yield EXCHANGED, gate if last == "act" else tanh_gelu(gate) * value


def exchanged_silu(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield a layer W_2 (silu(W_1 x) * W_3 x) with SiLU of the other projection."""
    parent, _, last = point.call.name.rpartition(".")
    for ends, names in GATES.items():
        if point.role != "input" or last not in ends:
            continue
        gate, value = (_read(replay, f"{parent}.{name}") for name in names)
        if gate is not None and value is not None and gate.shape == value.shape:
            exchanged = value if last == "silu" else value / (1.0 + np.exp(-value)) * gate
            yield SWAPPED.format(names[1]), exchanged


def exchanged_halves(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield SiLU of the other half of what one linear layer gives: gate and value, in this order.

    Attention may stand before them in its output.
    """
    for call in point.suspects:
        if call.kind != "silu":
            continue
        gate = call.inputs["input"]
        width = gate.shape[-1]
        for name, x in (*replay.recent, *_returned(replay, point, gate)):
            fits = x.ndim == gate.ndim and x.shape[:-1] == gate.shape[:-1]
            if fits and np.array_equal(x[..., -2 * width : -width], gate):
                text = f"{SWAPPED.format('the other half')} of {name}"
                yield text, {name: _with_last_swapped(width)}


def _returned(
    replay: FollowedRun, point: Point, gate: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the linear layers of a part returned that give twice as many channels, or more."""
    for call in point.suspects:
        weight = call.parameters.get("weight")
        if call.kind == "linear" and weight is not None and len(weight) >= 2 * gate.shape[-1]:
            x = {**replay.parameters(call), **call.inputs}
            if np.shape(x["input"])[:-1] == gate.shape[:-1]:
                yield call.name, np.asarray(call.compute(x))


def _with_last_swapped(width: int) -> OperationChange:
    """Exchange the last two parts of an output, of `width` numbers each."""

    def change(call: LayerCall, x: Mapping[str, np.ndarray]) -> np.ndarray:
        y = call.compute(x)
        ends = (y[..., : -2 * width], y[..., -width:], y[..., -2 * width : -width])
        return np.concatenate(ends, axis=-1)

    return change


def exchanged_projections(replay: FollowedRun, point: Point) -> Iterator[ChangedOperations]:
    """Yield gated layers with their two projections exchanged."""
    by_name = {call.name: call for call in point.suspects if call.kind == "linear"}
    pairs = {T5_GATE: EXCHANGED, **{names: SWAPPED.format(names[1]) for names in GATES.values()}}
    for name, call in by_name.items():
        parent, _, last = name.rpartition(".")
        for (gate, value), text in pairs.items():
            other = by_name.get(f"{parent}.{value}")
            if last == gate and other is not None:
                first, second = (replay.parameters(one) for one in (call, other))
                changes = {name: _with_parameters(second), other.name: _with_parameters(first)}
                yield f"{text} in {parent}", changes


def _with_parameters(parameters: Mapping[str, np.ndarray]) -> OperationChange:
    return lambda call, x: call.compute({**x, **parameters})


def _read(replay: FollowedRun, layer: str) -> np.ndarray | None:
    """Return what a layer returned, with the rows that are expected if it was followed just now."""
    known = next((x for name, x in reversed(replay.recent) if name == layer), None)
    entry = find_layer(replay.port, replay.call, layer) if known is None else None
    return known if entry is None else read_output(replay.port, entry)


def other_pooling(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield the states of other tokens than the end token, projected where they should be."""
    ids, computed = replay.ids, np.asarray(point.computed)
    if ids is None or computed.ndim != 2 or len(computed) != len(ids):
        return
    states = [x for _, x in replay.recent if x.ndim == 3 and x.shape[:2] == ids.shape]
    into = point.call.name == PROJECTION and point.role == "input"
    pooled = not point.call.name and point.part == 1
    weight = replay.parameters_of(PROJECTION) if pooled else None
    if not states or not (into or pooled):
        return
    if weight is not None and weight.shape[1] != states[-1].shape[2]:
        return
    for text, x in pool_elsewhere(replay.config, ids, states[-1]):
        yield text, x if weight is None else x @ weight.T


def pool_elsewhere(config: object, ids: np.ndarray, states: np.ndarray) -> Iterator[Given]:
    """Yield the states of other tokens than the end token: in words, and the states, (n, d).

    Args:
        config: The configuration of the text encoder.
        ids: The tokens, (n, l).
        states: The hidden states, (n, l, d).
    """
    rows = np.arange(len(ids))
    is_end = ids == end_ids(config, ids)[:, None]
    first = np.argmax(is_end, axis=1)
    last_end = ids.shape[1] - 1 - np.argmax(is_end[:, ::-1], axis=1)
    tokens = {
        "the last token": np.full(len(ids), -1),
        "the last end token": last_end,
        "the first token": np.zeros_like(first),
        "the token before the end token": np.maximum(first - 1, 0),
        "the token after the end token": np.minimum(first + 1, ids.shape[1] - 1),
    }
    found = {text: states[rows, token] for text, token in tokens.items()}
    found["the mean of all tokens"] = states.mean(axis=1)
    for text, x in found.items():
        yield f"pooled at {text} instead of the first end token", x
