"""Judge the token ids of the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.faults.attention import NOT_WANTED
from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.parts.token_faults import explain, mask_faults
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray, names_of
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.run.calls import INPUT
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.prompts.tokens import Tokens
from ldmref.trace.model import TraceEntry

PROMPTS = (
    "prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3",
)  # fmt: skip
MASK = "attention_mask"
POSITIONS = "position_ids"


def judge_tokens(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the ids that each text encoder was given, as far as prompts are known."""
    prompts = known_prompts(context)
    for number, name in enumerate(TEXT_ENCODERS[: len(context.model.config.text_encoders)]):
        for entry in context.calls(name):
            names = roles_of(context, "ids", name)
            ids = context.recorded(entry, *names)
            if ids is None:
                continue
            if prompts:
                yield from _judge_ids(context, entry, number, ids, prompts)
            else:  # the tokens are what was given, with their mask and positions
                roles = (*names, MASK, *roles_of(context, "mask", name), POSITIONS)
                context.coverage.give(x for x in names_of(entry, INPUT) if x.role in roles)
    yield from _judge_given(context)


def _judge_given(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for ids that were recorded before they were given to an encoder.

    They are those of a call of it; ldmref records those of one encoder for each prompt, of T5 if
    that one reads the words of the prompt. Weights of prompts that are not all 1 are not compared.
    """
    for number, name in enumerate(TEXT_ENCODERS):
        tokens = "tokens" if not number else f"tokens_{number + 1}"
        for entry in context.calls(tokens):
            ids = context.recorded_output(entry, "ids")
            weights = context.recorded_output(entry, "weights")
            if weights is not None:
                context.agrees(weights, np.ones_like(weights.array))
            if ids is None or not ids.array.size:
                continue
            of_any = isinstance(entry.attributes.get("prompt"), str)
            encoders = [e for n in (TEXT_ENCODERS if of_any else [name]) for e in context.calls(n)]
            requested = [context.read(e, *roles_of(context, "ids", e.call.kind)) for e in encoders]
            known = [x.reshape(-1, x.shape[-1]) for x in requested if x is not None and x.size]
            rows = ids.array.reshape(-1, ids.array.shape[-1])
            alike = [x for x in known if x.shape[1] == rows.shape[1]]
            if not encoders:  # nothing reads them
                context.coverage.give(ids.names)
            elif alike and context.agrees(ids.made(rows), _nearest(rows, np.concatenate(alike))):
                continue
            elif any(x is None for x in requested):
                why = f"the ids of a call of {name} were not recorded"
                context.coverage.explain(ids.names, why)
            else:
                note = f"no call of {name} read these tokens"
                values = {"error": float("inf"), "verdict": DIFFERS, "note": note}
                yield context.row(ids, "tokens", **values)


def _nearest(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return for each row the known one that has the most of its tokens."""
    return np.stack([known[np.argmax((known == row).sum(axis=1))] for row in rows])


def known_prompts(context: PipelineContext) -> list[str]:
    """Return the prompts of the run; none if they were not recorded."""
    found: list[str] = []
    for entry in context.calls("tokens"):
        prompt = entry.attributes.get("prompt")
        found += [prompt] if isinstance(prompt, str) else []
    requests = [context.params, *(context.port.manifest.get("requests") or ())]
    texts = [request.get(name) for request in requests for name in PROMPTS]
    for value in texts:
        found += [value] if isinstance(value, str) else []
        found += [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else []
    return list(dict.fromkeys([*found, ""])) if found else []


def tokenize(
    context: PipelineContext,
    number: int,
    prompts: Sequence[str],
    request: Mapping[str, Any],
    length: int = 0,
) -> Tokens:
    """Return the tokens of prompts for a text encoder.

    Args:
        context: The run.
        number: Which text encoder.
        prompts: The prompts.
        request: How long prompts and weights are treated.
        length: The number of tokens, for encoders that read any number. 0: the usual one.

    Raises:
        LdmrefError: They cannot be tokenized.
    """
    options = PromptOptions()
    for name in ("long_prompts", "prompt_weights"):
        if isinstance(request.get(name), str):
            options = replace(options, **{name: request[name]})
    tokenizer = context.model.tokenizers[number]
    flexible = kind_of(context.model.config.text_encoders[number]).any_length
    if flexible and length and tokenizer.length != length:
        tokenizer = tokenizer.with_length(length)
    return tokenizer.tokenize(list(prompts), options)


def expected_tokens(
    context: PipelineContext, number: int, prompts: Sequence[str], length: int
) -> Tokens | None:
    """Return the tokens of prompts by the tokenizer of a text encoder; None if it cannot read them.

    The arguments are those of `tokenize`.
    """
    try:
        return tokenize(context, number, prompts, {}, length)
    except LdmrefError as error:
        context.notes.append(f"the prompts cannot be tokenized: {error}")
        return None


def _judge_ids(
    context: PipelineContext,
    entry: TraceEntry,
    number: int,
    recorded: RecordedArray,
    prompts: Sequence[str],
) -> Iterator[Row]:
    """Yield a row for the ids of a call, and one for the mask of their padding."""
    asked = context.request.get("max_sequence_length")
    ids = np.asarray(recorded.array)
    length = ids.shape[-1]
    wanted = _find_length(context, number, asked) if isinstance(asked, int) else length
    tokens = expected_tokens(context, number, prompts, wanted)
    if tokens is None:
        context.coverage.explain(recorded.names, "the prompts cannot be tokenized")
        return
    known, masks = (x.reshape(len(prompts), -1) for x in (tokens.ids, tokens.mask))
    masked = context.model.config.text_encoders[number].use_attention_mask
    if masked:  # padding that nobody reads may be on either side
        in_front = [*map(pad_in_front, known, masks)]
        known = np.concatenate([known, *(x.ids[None] for x in in_front)])
        masks = np.concatenate([masks, *(x.mask[None] for x in in_front)])
    read: list[int] = []  # the known row of each row
    for got in ids.reshape(-1, length):
        if known.shape[1] != len(got):
            note = f"{len(got)} tokens instead of {known.shape[1]}"
            values = {"error": float("inf"), "verdict": DIFFERS, "note": note}
            yield context.row(recorded, "tokens", **values)
            return
        wrong = (known != got).sum(axis=1)
        order = [int(i) for i in np.argsort(wrong, kind="stable")]
        nearest = order[0]
        if wrong[nearest]:
            tried = [explain(got, known[i], prompts[i % len(prompts)]) for i in order]
            cause, note = next((found for found in tried if found[0]), tried[0])
            error = float(wrong[nearest] / len(got))
            values = {"error": error, "verdict": DIFFERS, "cause": cause, "note": note}
            yield context.row(recorded, "tokens", **values)
            return
        read.append(nearest)
    yield context.row(recorded, "tokens")
    yield from _judge_mask(context, entry, masks[read], masked)


def _find_length(context: PipelineContext, number: int, asked: int) -> int:
    """Return how many tokens a text encoder reads of a request, which may choose the number."""
    change = context.model.family.text.with_length
    if change is None:
        return asked
    return change(context.model.config, asked).text_encoders[number].max_position_embeddings


def _judge_mask(
    context: PipelineContext, entry: TraceEntry, tokens: np.ndarray, masked: bool
) -> Iterator[Row]:
    """Yield a row for the mask with which an encoder read its tokens, if it was recorded.

    Args:
        context: The run.
        entry: The call of the encoder.
        tokens: 1 for tokens, and 0 for padding, (n, l).
        masked: Whether the encoder hides padding; if not, a mask must hide nothing.
    """
    names = (MASK, *roles_of(context, "mask", entry.call.kind))
    mask = context.recorded(entry, *names)
    if mask is None or (not masked and mask.array.shape != tokens.shape):
        return
    got = mask.array.reshape(-1, mask.array.shape[-1]) != 0
    right = tokens != 0 if masked else np.ones_like(tokens, bool)
    if np.array_equal(got, right):
        yield context.row(mask, "tokens", MASK)
        return
    causes = [*mask_faults(tokens)]
    if not masked:
        causes = [(NOT_WANTED, tokens), *((f"{NOT_WANTED}: {words}", x) for words, x in causes)]
    cause = next((cause for cause, x in causes if np.array_equal(got, x != 0)), "")
    error = float("inf") if got.shape != right.shape else float((got != right).mean())
    yield context.row(mask, "tokens", MASK, error=error, verdict=DIFFERS, cause=cause)


class PlacedTokens(NamedTuple):
    """The ids and the mask of one text, (l,) each, and how many places its tokens are moved."""

    ids: np.ndarray
    mask: np.ndarray
    shift: int


def pad_in_front(ids: np.ndarray, mask: np.ndarray) -> PlacedTokens:
    """Return the tokens of a text, (l,), with its padding in front of them instead of behind.

    They stay as they are if padding is within them.

    >>> pad_in_front(np.array([5, 6, 0]), np.array([1, 1, 0])).ids.tolist()
    [0, 5, 6]
    """
    count = int(np.count_nonzero(mask))
    shift = len(mask) - count if mask[:count].all() else 0
    return PlacedTokens(np.roll(ids, shift), np.roll(mask, shift), shift)
