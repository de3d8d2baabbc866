"""Known faults between layers: arrays that are joined, added or multiplied in another way.

Each function takes the replay and a point, and yields what the fault would have given there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ldmref.locate.faults.activations import exact_gelu
from ldmref.locate.faults.attention import find_padding
from ldmref.locate.faults.embedding import ROUNDED, changed_times
from ldmref.locate.faults.variants import Given
from ldmref.locate.replay.points import FollowedRun, OperationChange, Point

JOINED = re.compile(r"up_blocks\.\d+\.resnets\.\d+(\.(norm1|conv_shortcut))?")
FIRST_OF_TEXT = re.compile(
    r"(.*\.)?(embeddings|layers\.0(\.(layer_norm1|self_attn_layer_norm))?)", re.ASCII
)
STEPS = 1000.0  # of times that are not in 0..1
POSITIONS = ("position_embedding", "embed_positions")


def other_skip(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield concatenations with another skip connection, and with none."""
    computed = np.asarray(point.computed)
    if point.role != "input" or not JOINED.fullmatch(point.call.name) or computed.ndim != 4:
        return
    fitting = {
        name: x
        for name, x in replay.skips.items()
        if x.shape[0] == computed.shape[0]
        and x.shape[2:] == computed.shape[2:]
        and x.shape[1] < computed.shape[1]
    }
    right = next((name for name, x in fitting.items() if _ends_with(computed, x)), "")
    for name, x in fitting.items():
        if not _ends_with(computed, x):
            text = f"the skip connection is the output of {name}"
            before = computed[:, : -x.shape[1]]
            yield (
                f"{text} instead of {right}" if right else text,
                np.concatenate([before, x], axis=1),
            )
    if right:
        width = fitting[right].shape[1]
        zeros = np.zeros_like(fitting[right])
        before = computed[:, :-width]
        yield f"the skip connection of {right} is zero", np.concatenate([before, zeros], axis=1)
        if before.shape == zeros.shape:
            text = f"the input is joined with itself instead of the skip connection of {right}"
            yield text, np.concatenate([before, before], axis=1)


def _ends_with(joined: np.ndarray, part: np.ndarray) -> bool:
    return np.array_equal(joined[:, -part.shape[1] :], part)


def rounded_times(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield what is computed of times, (n,), that were rounded before."""
    if not point.role or np.ndim(point.computed) != 1 or point.frame.name:
        return
    for name, x in point.frame.inputs.items():
        if isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind == "f":
            for words, change in ROUNDED.items():
                found = replay.rerun(point, arguments={name: change(x)})
                if found is not None:
                    yield f"the timestep is {words} before it is converted", found


def other_times(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield times, (n,), that are scaled, reversed or shifted before they are embedded."""
    times = np.asarray(point.computed)
    if not point.role or times.ndim != 1 or times.dtype.kind != "f" or point.frame.name:
        return
    name = point.call.name
    nouns = ("guidance", "target timestep")
    noun = next((noun for noun in nouns if noun.partition(" ")[0] in name), "timestep")
    for argument, x in point.frame.inputs.items():
        small = isinstance(x, np.ndarray) and x.ndim == 1 and 0.0 <= x.min() <= x.max() <= 1.0
        longer = replay.rerun(point, arguments={argument: STEPS * x}) if small else None
        if longer is not None:  # the times are in 0..1
            for text, change in changed_times(noun).items():
                yield text, change(longer)
    for text, change in changed_times(noun).items():
        yield text, change(times)


def shifted_positions(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield tokens with the embeddings of other positions, and with none."""
    computed = np.asarray(point.computed)
    table = replay.parameters_of(*POSITIONS)
    if table is None or not FIRST_OF_TEXT.fullmatch(point.call.name) or computed.ndim != 3:
        return
    rows, d = table.shape
    length = computed.shape[1]
    if point.role not in ("", "input") or computed.shape[2] != d or length > rows:
        return
    tokens = computed - table[:length]
    positions = np.arange(length)
    orders = {
        "positions are larger by one": np.minimum(positions + 1, rows - 1),
        "positions are larger by one, and the last is 0": (positions + 1) % rows,
        "positions are larger by one, and the last of the text is 0": (positions + 1) % length,
        "positions are smaller by one": np.maximum(positions - 1, 0),
        "positions are smaller by one, and the first is the last": (positions - 1) % rows,
        "positions are in reverse order": positions[::-1],
        "all positions are 0": np.zeros_like(positions),
    }
    if replay.ids is not None and replay.ids.shape == computed.shape[:2]:
        end = length - find_padding(replay.ids, replay.config).sum(axis=1, keepdims=True) - 1
        stopped = np.minimum(positions, end)
        orders["the padding has the position of the end token: positions do not count on"] = stopped
        orders["the padding has position 0"] = np.where(positions > end, 0, positions)
    for text, order in orders.items():
        yield text, tokens + table[order]
    yield "positions are not added", tokens
    yield "positions are added twice", computed + table[:length]


def other_gate(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield what a layer reads with another function of its gate than the sigmoid."""
    computed = np.asarray(point.computed)
    for name, gate in reversed(replay.recent):
        if "gate" not in name.rpartition(".")[2] or gate.shape != computed.shape:
            continue
        without = computed * (1.0 + np.exp(-gate))
        yield f"tanh instead of sigmoid in {name}", without * np.tanh(gate)
        yield f"no sigmoid in {name}", without * gate
        yield f"the gate is missing in {name}", without


def other_half(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield GEGLU with GELU on the value, or on both halves, and with other halves."""
    computed = np.asarray(point.computed)
    near = {call.kind for call in (*point.suspects, point.call)}
    latest = [x for name, x in replay.recent if name.endswith(".proj")]
    width = computed.shape[-1] if computed.ndim else 0
    if not near & {"gelu", "geglu"} or not latest or latest[-1].shape[-1] != 2 * width:
        return
    projected = latest[-1]
    value, gate = projected[..., :width], projected[..., width:]
    even, odd = projected[..., ::2], projected[..., 1::2]
    if point.call.kind == "gelu" and point.role:
        yield "GELU is applied to the value instead of the gate", value
        yield "gate and value are interleaved", odd
    elif point.call.kind != "gelu":
        wrong = exact_gelu(value) * gate
        yield "GELU is applied to the value instead of the gate", wrong
        yield "GELU is applied to value and gate", exact_gelu(value) * exact_gelu(gate)
        yield "gate and value are interleaved", even * exact_gelu(odd)
        text = "gate and value are interleaved, and GELU is applied to the value"
        yield text, exact_gelu(even) * odd


def missing_residual(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield what a block returns whose tokens are not added before one of its inner norms."""
    shape = np.shape(point.computed)
    if point.role or not point.frame.name or len(shape) != 3:
        return
    streams = {role: x for role, x in point.frame.inputs.items() if np.shape(x) == shape}
    for call in point.suspects:
        inner = "norm" in call.name.rpartition(".")[2]
        if not inner or np.shape(call.inputs.get("input")) != shape:
            continue
        for role, x in streams.items():
            found = replay.rerun(point, {call.name: _without(x)})
            if found is not None:
                text = f"the residual is missing before {call.name}"
                yield f"{text}: the input of {point.frame.name} ({role})", found - x


def _without(stream: np.ndarray) -> OperationChange:
    """Return a norm of what it reads less the tokens that were added."""
    return lambda call, x: call.compute({**x, "input": x["input"] - stream})
