"""Judge the token ids of the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.models.config import TEXT_ENCODERS
from ldmref.trace.model import TraceEntry

PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")


def judge_tokens(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the ids that each text encoder was given, as far as prompts are known."""
    prompts = known_prompts(context)
    if not prompts:
        return
    for number, name in enumerate(TEXT_ENCODERS):
        for entry in context.calls(name):
            ids = context.read(entry, "input_ids", "input", "ids")
            if ids is not None:
                yield from _judge_ids(context, entry, number, np.asarray(ids), prompts)


def known_prompts(context: PipelineContext) -> list[str]:
    """Return the prompts of the run; none if they were not recorded."""
    found: list[str] = []
    for entry in context.calls("tokens"):
        prompt = entry.attributes.get("prompt")
        found += [prompt] if isinstance(prompt, str) else []
    texts = [context.params.get(name) for name in PROMPTS]
    for value in texts:
        found += [value] if isinstance(value, str) else []
        found += [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else []
    return list(dict.fromkeys([*found, ""])) if found else []


def expected_ids(
    context: PipelineContext, number: int, prompts: Sequence[str]
) -> np.ndarray | None:
    """Return the ids of prompts by the tokenizer of a text encoder, (n, l)."""
    model = context.model
    try:
        ids = model.tokenizers[number].tokenize(list(prompts)).ids
    except LdmrefError as error:
        context.notes.append(f"the prompts cannot be tokenized: {error}")
        return None
    return ids.reshape(ids.shape[0], -1)


def _judge_ids(
    context: PipelineContext,
    entry: TraceEntry,
    number: int,
    ids: np.ndarray,
    prompts: Sequence[str],
) -> Iterator[Row]:
    known = expected_ids(context, number, prompts)
    if known is None:
        return
    for got in ids.reshape(-1, ids.shape[-1]):
        same_length = known.shape[1] == len(got)
        if not same_length:
            note = f"{len(got)} tokens instead of {known.shape[1]}"
            yield Row(entry.call, "", "tokens", float("inf"), verdict=DIFFERS, note=note)
            return
        equal = (known == got).sum(axis=1)
        nearest = int(np.argmax(equal))
        wrong = np.flatnonzero(known[nearest] != got)
        if wrong.size:
            cause, note = explain(got, known[nearest], prompts[nearest])
            error = wrong.size / len(got)
            yield Row(entry.call, "", "tokens", error, verdict=DIFFERS, cause=cause, note=note)
            return
    yield Row(entry.call, "", "tokens")


def explain(got: np.ndarray, expected: np.ndarray, prompt: str) -> tuple[str, str]:
    """Return the cause of wrong ids, "" if it is not known, and where they begin.

    >>> explain(np.array([1, 5, 2, 2]), np.array([1, 5, 2, 0]), "cat")
    ('padded with id 2 instead of 0', "first at token 3 of 'cat': id 2 instead of 0")
    """
    wrong = np.flatnonzero(got != expected)
    first = int(wrong[0])
    note = (
        f"first at token {first} of {prompt!r}: id {int(got[first])} instead of "
        f"{int(expected[first])}"
    )
    tail = expected[first:]
    padding = len(set(tail.tolist())) == 1 and first > 0
    if padding and len(set(got[first:].tolist())) == 1:
        return f"padded with id {int(got[first])} instead of {int(tail[0])}", note
    for shift, text in ((1, "the first token is missing"), (-1, "one token too many at the start")):
        rolled = np.roll(expected, -shift)
        inner = slice(0, -1) if shift > 0 else slice(1, None)
        if np.array_equal(rolled[inner], got[inner]):
            return text, note
    difference = np.unique(got.astype(np.int64) - expected.astype(np.int64))
    if difference.size == 1:
        return f"all ids differ by {int(difference[0])}", note
    if wrong.size == 1:
        return f"a single token: id {int(got[first])} instead of {int(expected[first])}", note
    return "", note
