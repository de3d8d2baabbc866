"""Judge the text that the denoiser is arrays: hidden states and pooled vectors of the prompts.

What the port's text encoders returned is joined as the family of the model joins it, so a fault of
an encoder is not blamed on what reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.layouts import relative_error
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.tokens import expected_ids, known_prompts
from ldmref.locate.precision import exact_backend
from ldmref.models.conditioning import Conditioning, get_hidden_states
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.text import text_encoder_pooled
from ldmref.prompts.tokenizer import PromptOptions, tokenize_for_encoders
from ldmref.trace.model import TraceEntry

EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds")  # parameters of a request


class PromptArrays(NamedTuple):
    """What the denoiser is given of a prompt: hidden states (l, d), and a vector or None."""

    states: np.ndarray
    pooled: np.ndarray | None


def judge_text(context: PipelineContext, networks: list[TraceEntry]) -> Iterator[Row]:
    """Yield rows for hidden states and pooled text, once for all calls that were given the same.

    There are none if the request gave hidden states, which no text encoder of the run computed.
    """
    if any(context.params.get(name) is not None for name in EMBEDDINGS):
        return
    arrays = _arrays_of_prompts(context)
    names = _roles(context, "context")
    if arrays:
        found = [context.read(network, *names) for network in networks]
        shapes = {states.shape[1:] for states in found if states is not None}
        if shapes <= {next(iter(arrays.values())).states.shape}:
            yield from _judge_all(context, networks, "text", names, _states_of(arrays))
            pooled = {prompt: x.pooled for prompt, x in arrays.items() if x.pooled is not None}
            if pooled:
                names = _roles(context, "pooled")
                yield from _judge_all(context, networks, "pooled text", names, pooled)
            return
    texts = _encoded(context)
    if texts:
        yield from _judge_all(context, networks, "text", names, dict(enumerate(texts)))


def _states_of(arrays: dict[str, PromptArrays]) -> dict[Any, np.ndarray]:
    return {prompt: x.states for prompt, x in arrays.items()}


def _roles(context: PipelineContext, argument: str) -> tuple[str, ...]:
    """Return the names under which an argument of the denoiser may be recorded."""
    inputs = [x for x in context.model.denoiser.inputs if x.argument == argument]
    return (*(name for x in inputs for name in (x.role, *x.also)), argument)


def _judge_all(
    context: PipelineContext,
    networks: list[TraceEntry],
    kind: str,
    names: tuple[str, ...],
    known: dict[Any, np.ndarray],
) -> Iterator[Row]:
    seen: list[np.ndarray] = []
    for network in networks:
        got = context.read(network, *names)
        if got is None or any(np.array_equal(got, x) for x in seen):
            continue
        seen.append(got)
        yield _judge_one(context, network, kind, got, known)


def _judge_one(
    context: PipelineContext,
    network: TraceEntry,
    kind: str,
    got: np.ndarray,
    known: dict[Any, np.ndarray],
) -> Row:
    """Judge one array, whose rows are those of prompts.

    Each is compared with the nearest, or, if the negative prompt and the prompt are known and
    guidance combines their halves, with that of its half.
    """
    first = next(iter(known.values()))
    if got.shape[1:] != first.shape:
        note = f"shape {got.shape[1:]} instead of {first.shape}"
        return Row(network.call, "", kind, math.inf, verdict=DIFFERS, note=note)
    zero = [np.zeros_like(first)] if context.model.config.zero_empty_negative else []
    allowed = [*known.values(), *zero]
    nearest = [allowed[int(np.argmin([relative_error(row, x) for x in allowed]))] for row in got]
    expected = np.stack(nearest)
    order = _right_order(context, known)
    bases = [expected]
    variants: list[tuple[str, np.ndarray]] = []
    if order is not None and len(got) % 2 == 0:
        ordered, swapped = (np.repeat(x, len(got) // 2, axis=0) for x in (order, order[::-1]))
        alike = [np.broadcast_to(x, got.shape) for x in order[::-1]]
        words = ("prompt and negative prompt are exchanged", "both halves are those of the {}")
        variants = [
            (words[0], swapped),
            (words[1].format("prompt"), alike[0]),
            (words[1].format("negative prompt"), alike[1]),
        ]
        bases.append(ordered)
        exchanged = relative_error(swapped, ordered) > 1e-3 and relative_error(got, swapped) < 1e-3
        if exchanged or (not zero and _has_halves(context, got)):
            expected = ordered
    for base in bases:
        variants += _changed(context, kind, base)
    segment = f"from the text encoders to the denoiser's {kind}"
    return context.judge(network, kind, got, expected, variants=variants, segment=segment)


def _has_halves(context: PipelineContext, got: np.ndarray) -> bool:
    """Return whether each evaluation is given two halves, which guidance combines."""
    steps = context.calls("sampler")
    state = context.read(steps[0], "sample", "x") if steps else None
    combined = len(context.calls("guidance")) == len(context.calls(context.denoiser))
    return combined and state is not None and len(got) == 2 * len(state)


def _changed(
    context: PipelineContext, kind: str, x: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield known faults of a text, (n, l, d) or (n, d)."""
    yield f"the {kind} is zero", np.zeros_like(x)
    if x.ndim == 3:
        yield "the tokens are one place later", np.roll(x, 1, axis=1)
        yield "the tokens are one place earlier", np.roll(x, -1, axis=1)
    for width in _widths(context, kind):
        yield "the text encoders are joined in another order", _exchanged(x, width)


def _widths(context: PipelineContext, kind: str) -> Iterator[tuple[int, int]]:
    """Yield the widths of two encoders side by side."""
    clip = [text for text in context.model.config.text_encoders if text.model_type == "clip"]
    if len(clip) == 2:
        pooled = kind != "text"
        yield tuple(text.projection_dim if pooled else text.hidden_size for text in clip)  # type: ignore[misc]


def _exchanged(x: np.ndarray, widths: tuple[int, int]) -> np.ndarray:
    first, second = widths
    parts = x[..., first : first + second], x[..., :first], x[..., first + second :]
    return np.concatenate(parts, axis=-1)


# -- what the denoiser should be given ------------------------------------------------------------


class MissingOutput(Exception):
    """The output of a text encoder for some ids was not recorded."""


def _arrays_of_prompts(context: PipelineContext) -> dict[str, PromptArrays]:
    """Return what the denoiser is given of every known prompt; {} if one was not encoded."""
    model = context.model
    if not model.config.text_encoders or context.params.get("prompt_weights", "none") != "none":
        return {}
    found: dict[str, PromptArrays] = {}
    ops = exact_backend()
    for prompt in known_prompts(context):
        try:
            tokens = tokenize_for_encoders(model.tokenizers, [prompt], PromptOptions())
            configs = model.config.text_encoders
            encoded = model.family.encode(ops, configs, tokens, _recorded_encoder(context))
            condition: Conditioning = model.family.condition(
                ops, model.config, encoded.states, encoded.pooled, (0, 0)
            )
        except (MissingOutput, LdmrefError):
            if prompt:  # of one encoder only, such as `prompt_2`
                return {}
            continue
        if condition.context is not None:
            states = np.asarray(get_hidden_states(condition.context))[0]
            pooled = None if condition.pooled is None else np.asarray(condition.pooled)[0]
            found[prompt] = PromptArrays(states, pooled)
    return found


def _recorded_encoder(context: PipelineContext) -> Callable[[Callable, str], Callable]:
    """Return what stands for `compile_network`: networks that return what was recorded."""

    def compile_network(function: Callable, name: str) -> Callable:
        def encode(config: Any, ids: np.ndarray, *_: Any) -> Any:
            rows = [_recorded_row(context, name, row) for row in np.asarray(ids)]
            hidden = np.stack([hidden for hidden, _ in rows])
            if function is not text_encoder_pooled:
                return hidden
            vectors = [vector for _, vector in rows if vector is not None]
            if len(vectors) < len(rows):
                raise MissingOutput
            return hidden, np.stack(vectors)

        return encode

    return compile_network


def _recorded_row(
    context: PipelineContext, name: str, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return hidden states (l, d) and pooled vector that an encoder returned for ids (l,)."""
    for entry in context.calls(name):
        arrays = context.read(entry, "input_ids", "input", "ids")
        hidden = context.read_output(entry)
        if arrays is None or hidden is None or hidden.ndim != 3:
            continue
        vectors = context.read_output(entry, "pooled")
        for i, row in enumerate(np.asarray(arrays).reshape(-1, np.shape(arrays)[-1])):
            if np.array_equal(row, ids) and i < len(hidden):
                return hidden[i], None if vectors is None else vectors[i]
    raise MissingOutput


def _encoded(context: PipelineContext) -> list[np.ndarray]:
    """Return the hidden states of every prompt, (l, d), from the recorded text encoders."""
    rows: list[list[np.ndarray]] = []
    encoders = context.model.config.text_encoders
    if len(encoders) > 1 and any(encoder.model_type != "clip" for encoder in encoders):
        return []  # the family joins their states in its own way
    for name, _ in zip(TEXT_ENCODERS, encoders, strict=False):
        outputs = [context.read_output(entry) for entry in context.calls(name)]
        rows.append([row for x in outputs if x is not None and x.ndim == 3 for row in x])
    if not rows or not all(rows):
        return []
    lengths = {row.shape[0] for part in rows for row in part}
    if len(lengths) != 1:
        return []
    if len(rows) == 1:
        return rows[0]
    return [_condition(context, np.concatenate(pair, axis=1)) for pair in product(*rows)]


def _condition(context: PipelineContext, states: np.ndarray) -> np.ndarray:
    """Return the hidden states of a prompt, (l, d), as the family gives them to the denoiser."""
    ops = exact_backend()
    condition = context.model.family.condition
    found = condition(ops, context.model.config, states[None], None, (0, 0)).context
    return states if found is None else np.asarray(get_hidden_states(found))[0]


def _right_order(context: PipelineContext, known: dict[Any, np.ndarray]) -> np.ndarray | None:
    """Return the arrays of the negative prompt and of the prompt; None if they are not known."""
    prompt = context.params.get("prompt")
    negative = context.params.get("negative_prompt") or ""
    if not isinstance(prompt, str) or not isinstance(negative, str) or prompt == negative:
        return None
    if prompt in known and negative in known:
        return np.stack([known[negative], known[prompt]])
    if len(context.model.config.text_encoders) != 1 or len(known) != 2:
        return None
    wanted = expected_ids(context, 0, [negative, prompt])
    entries = context.calls("text_encoder")
    found = [context.read(entry, "input_ids", "input", "ids") for entry in entries]
    ids = [row for x in found if x is not None for row in np.asarray(x).reshape(-1, x.shape[-1])]
    if wanted is None or len(ids) != len(known):
        return None
    pairs = list(zip(known.values(), ids, strict=True))
    states = [next((t for t, row in pairs if np.array_equal(row, w)), None) for w in wanted]
    return None if any(s is None for s in states) else np.stack(states)  # type: ignore[arg-type]
