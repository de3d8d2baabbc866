"""Known faults of the arguments of a network or of a part: conditioning, clip skip, final norm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.locate.faults.modulation import other_modulation_of_block
from ldmref.locate.faults.variants import Given
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.names import read_output
from ldmref.locate.replay.points import FollowedRun, Point
from ldmref.models.config import TextConfig
from ldmref.models.text_kind import kind_of

BLOCK = re.compile(
    r"(text_model\.)?"
    r"(embeddings|shared|embed_tokens|(encoder\.)?(layers|block)\.(?P<block>\d+))"
)
FINAL_NORMS = ("norm", "text_model.final_layer_norm", "final_layer_norm")
OTHER_STATE = 0.5  # of the error of a part, below which it is another state
Changed = tuple[str, Mapping[str, Any], bool]  # words, arguments, whether nothing is recorded


def argument_changes(replay: FollowedRun, point: Point) -> Iterator[Changed]:
    """Yield other arguments of the part: in words, by name, and whether they change layers.

    Arguments that change which layers run need a run that ignores what was recorded.
    """
    inputs: Mapping[str, Any] = point.frame.inputs
    if isinstance(inputs.get("guidance"), np.ndarray):  # also of the layer that embeds it
        yield "the guidance is not used", {"guidance": None}, False
    for text, changed in other_modulation_of_block(replay, point):
        yield text, changed, False
    if isinstance(inputs.get("seen"), np.ndarray) and "positions" in inputs:
        first = {role: _of_first(inputs[role]) for role in ("positions", "seen")}
        yield "every row has the positions of the first", first, False
    if point.frame.name:
        return
    if "sizes" in inputs:
        yield from _micro_conditioning(inputs["sizes"])
    if "pooled" in inputs:
        yield "the pooled text is zero", {"pooled": np.zeros_like(inputs["pooled"])}, False
    if isinstance(inputs.get("context"), np.ndarray):
        yield from _context(inputs["context"])
    if "ids" in inputs and not point.role:
        yield from _text(inputs.get("config"))


def hidden_states(replay: FollowedRun, point: Point) -> Iterator[Given]:
    """Yield the other hidden states of a text encoder that the port recorded.

    Number 0 is that of the embeddings, as in transformers.
    """
    config = point.frame.inputs.get("config")
    if point.call.name or point.role or not isinstance(config, TextConfig):
        return
    right = config.num_hidden_layers - config.later_layers
    parts: list[Given] = []
    for entry in replay.port.of_call(replay.call):
        found = BLOCK.fullmatch(entry.layer)
        if found is None and entry.layer not in FINAL_NORMS:
            continue
        state = read_output(replay.port, entry)
        if state is None:
            continue
        number = "" if found is None else str(int(found["block"]) + 1 if found["block"] else 0)
        name = f"hidden state {number}" if number else "the state after the final norm"
        parts.append((name, state))
        if number and state.shape == np.shape(point.computed):
            wanted = f"{right}{' after the final norm' if config.final_norm else ''}"
            yield f"equals {name} instead of {wanted}: the output of {entry.layer}", state
    yield from _joined_states(point, parts)


def _joined_states(point: Point, states: Sequence[Given]) -> Iterator[Given]:
    """Yield states side by side, (n, l, k d), some of which are other states than they should be.

    Args:
        point: The output of a text encoder that joins the states of k layers.
        states: Those of all layers, (n, l, d), in words.
    """
    right, got = np.asarray(point.computed), point.recorded
    fits = [(words, x) for words, x in states if x.shape[:-1] == right.shape[:-1]]
    if not fits:
        return
    width = fits[0][1].shape[-1]
    count, rest = divmod(right.shape[-1], width)
    if count < 2 or rest or got.shape != right.shape:
        return
    changed, named = right.copy(), []
    for part in range(count):
        at = slice(part * width, (part + 1) * width)
        words, nearest = min(fits, key=lambda x, at=at: relative_error(got[..., at], x[1]))
        left = relative_error(got[..., at], nearest)
        if left < relative_error(got[..., at], right[..., at]) * OTHER_STATE:
            changed[..., at] = nearest
            named.append(f"part {part + 1} of {count} is {words}")
    if named:
        yield "; ".join(named), changed


def _of_first(x: np.ndarray) -> np.ndarray:
    """Return an array (n, ...) whose rows are the first; what has no position there is 0."""
    return np.repeat(x[:1], len(x), axis=0)


def _micro_conditioning(sizes: np.ndarray) -> Iterator[Changed]:
    yield "the micro-conditioning (sizes) is zero", {"sizes": np.zeros_like(sizes)}, False
    exchanged = sizes[:, [1, 0, 3, 2, 5, 4]]
    yield "width and height are exchanged in the micro-conditioning", {"sizes": exchanged}, False
    for order in ([2, 3, 0, 1, 4, 5], [4, 5, 2, 3, 0, 1], [0, 1, 4, 5, 2, 3]):
        text = f"the micro-conditioning is in the order {order}"
        yield text, {"sizes": sizes[:, order]}, False


def _context(context: np.ndarray) -> Iterator[Changed]:
    yield "the text is zero", {"context": np.zeros_like(context)}, False
    n = context.shape[0]
    if n % 2 == 0:
        swapped = np.roll(context, n // 2, axis=0)
        yield "the halves of the batch of texts are swapped", {"context": swapped}, False


def _text(config: TextConfig | None) -> Iterator[Changed]:
    if config is None:
        return
    most = config.num_hidden_layers - config.later_layers
    for skip in range(-config.later_layers, min(most, 4)):
        if skip:
            layers = f"{abs(skip)} layer{'s' if abs(skip) > 1 else ''}"
            text = f"clip skip: {layers} {'fewer' if skip > 0 else 'more'}"
            yield text, {"skip": skip}, True
            other = replace(config, final_norm=not config.final_norm)
            norm = "without" if config.final_norm else "with"
            yield f"{text}, {norm} the final norm", {"skip": skip, "config": other}, True
    other = replace(config, final_norm=not config.final_norm)
    norm = "the final norm is missing" if config.final_norm else "a final norm is applied"
    yield norm, {"config": other}, True
    for name in kind_of(config).activations:
        if name == config.hidden_act:
            continue
        yield f"activation {name} in all layers", {"config": replace(config, hidden_act=name)}, True
    if config.projection_dim:
        ends = {2: "the largest id", 0: "id 0"}
        for end, words in ends.items():
            if end != config.eos_token_id:
                text = f"pooled at {words} instead of the end token"
                yield text, {"config": replace(config, eos_token_id=end)}, True
