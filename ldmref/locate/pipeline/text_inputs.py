"""Judge the text that the denoiser is given: hidden states and pooled vectors of the prompts.

Every row of every call is compared with what the prompt of its image and of its half gives, so rows
of two prompts that are exchanged, or halves, are faults although each row is that of some prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ldmref.locate.faults.text import pool_elsewhere
from ldmref.locate.findings import DIFFERS, UNKNOWN, Row
from ldmref.locate.layouts import relative_error
from ldmref.locate.parts.token_faults import mask_faults
from ldmref.locate.pipeline.branches import split_branches
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import RunEvaluation, state_of
from ldmref.locate.pipeline.prompt_arrays import (
    EMPTY,
    SIDES,
    NotKnown,
    NotRead,
    PromptArrays,
    Prompts,
    arrays_of_prompts,
    arrays_of_side,
    prompts_of,
)
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.tokens import known_prompts
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.text_kind import kind_of
from ldmref.samplers.predictions import read_prediction
from ldmref.trace.model import TraceEntry

SETTINGS = ("scale", "rescale", "sigma", "skip_scale", "perturbed_scale")


class TextArray(NamedTuple):
    """An array of the text that a denoiser reads.

    Attributes:
        argument: The argument of the denoiser.
        field: Its name in `PromptArrays`.
        parameter: The parameter of a request that replaces it.
    """

    argument: str
    field: str
    parameter: str


KINDS = {
    "text": TextArray("context", "states", "prompt_embeds"),
    "pooled text": TextArray("pooled", "pooled", "pooled_prompt_embeds"),
    "mask of the text": TextArray("mask", "mask", "prompt_mask"),
}


class ExpectedText(NamedTuple):
    """What a call of the denoiser should be given.

    Attributes:
        roles: "cond" or "uncond" for each part of the batch.
        sides: The arrays of each image, by role.
        request: The request of the run; empty if it is not known.
        prompts: The prompts of each row of the batch; () if they were not recorded.
    """

    roles: tuple[str, ...]
    sides: Mapping[str, list[PromptArrays]]
    request: Mapping[str, Any] = MappingProxyType({})
    prompts: tuple[Prompts, ...] = ()

    def array(self, kind: str, roles: tuple[str, ...] | None = None) -> np.ndarray | None:
        """Return hidden states (n, l, d), pooled vectors (n, d) or masks (n, l) of the batch."""
        rows = [x for role in roles or self.roles for x in self.sides[role]]
        parts = [getattr(x, KINDS[kind].field) for x in rows]
        known = [x for x in parts if x is not None]
        same = len({x.shape for x in known}) == 1
        return np.stack(known) if same and len(known) == len(parts) else None


def judge_text(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for hidden states and pooled text, once for all calls that were given the same."""
    yield from _judge_networks_alone(context)
    seen: list[tuple[str, tuple[str, ...], np.ndarray]] = []
    for evaluation in context.evaluations:
        state = state_of(context, evaluation)
        if state is None:
            continue
        parts = parts_of_batch(context, evaluation, len(state))
        for number, network in enumerate(evaluation.networks):
            for kind in KINDS:
                names = roles_of(context, KINDS[kind].argument)
                got = context.read(network, *names)
                if got is None:
                    continue
                if _gave_states(context):  # which no text encoder of the run computed
                    context.compared(network, *names)
                    continue
                key = (kind, parts[number] if parts else (), got)
                if any(key[:2] == x[:2] and np.array_equal(got, x[2]) for x in seen):
                    context.compared(network, *names)
                    continue
                try:
                    if not parts:
                        raise NotKnown("how its batch is made of prompts is not known")
                    length = 0 if KINDS[kind].argument == "pooled" else got.shape[1]
                    expected = _expected(context, network, parts[number], len(state), length)
                    row = _judge_rows(context, network, kind, got, expected)
                    name = KINDS[kind].parameter
                    yield context.unless_changed(row, name)
                except NotRead as error:
                    if context.ledger.wrong_tokens:
                        context.compared(network, *names)  # as the row of the tokens says
                        continue
                    context.compared(network, *names)
                    seen.append(key)
                    values = {"error": math.inf, "verdict": DIFFERS, "note": str(error)}
                    yield Row(network.call, "", kind, **values)
                except NotKnown as error:
                    context.ledger.explain(network, str(error), *names)
                else:
                    context.compared(network, *names)
                    seen.append(key)


def _gave_states(context: PipelineContext) -> bool:
    """Return whether a request of ldmref gave hidden states, which its record does not hold."""
    names = ("prompt_embeds", "negative_prompt_embeds")
    return not context.is_diffusers and any(context.params.get(name) is not None for name in names)


# -- which prompt each row is of ------------------------------------------------------------------


def parts_of_batch(
    context: PipelineContext, evaluation: RunEvaluation, images: int
) -> list[tuple[str, ...]]:
    """Return the roles of the parts of each call's batch; [] if they are not known."""
    sizes = []
    found: list[tuple[str, ...]] = []
    for network in evaluation.networks:
        sample = context.read(network, *roles_of(context, "x"))
        if sample is None or len(sample) % images:
            return []
        sizes.append(len(sample) // images)
    guidance = evaluation.guidance
    roles = [] if guidance is None else [r for r in guidance.inputs if r not in SETTINGS]
    halves = context.halves(guidance)
    if sizes == [1] and len(roles) != 1:
        return [("cond",)]
    if sizes == [2]:
        alone = len(roles) > 1 and "uncond" not in roles
        return [("cond", "cond") if alone else halves]
    if sizes == [1, 1] and context.is_diffusers:
        return [("cond",), ("uncond",)]
    if sizes == [2, 1]:
        return [halves, ("cond",)]
    if sizes == [3] and "perturbed" in roles:
        return [(*halves, "cond")]
    if len(roles) == sum(sizes):  # in the order of the guidance's predictions
        sides = [_texts_of(role) for role in roles]
        for size in sizes:
            found.append(tuple(side for role in sides[:size] for side in role))
            sides = sides[size:]
        return found
    return []


def _texts_of(role: str) -> tuple[str, ...]:
    """Return the halves whose texts a prediction reads; attention may combine two of them."""
    if role in (*SIDES, EMPTY):
        return (role,)
    prediction = read_prediction(role)
    read = ("cond",) if prediction is None else prediction.texts
    return tuple(text if text in SIDES else "cond" for text in read)


def request_at(context: PipelineContext, network: TraceEntry) -> Mapping[str, Any]:
    """Return the request that holds at a call; a branch changes it."""
    parts = split_branches(context.port).requests
    if len(parts) > 1:
        for part in parts:
            if part.find(network.call) is not None:
                return dict(part.manifest.get("params") or {})
    return context.request


def _expected(
    context: PipelineContext,
    network: TraceEntry,
    roles: tuple[str, ...],
    images: int,
    length: int,
) -> ExpectedText:
    """Return what a call should be given.

    Raises:
        NotKnown: It cannot be said.
    """
    requests = context.port.manifest.get("requests") or ()
    if context.whole is None and len(requests) > 1:
        raise NotKnown("the recording holds several runs, of which the last request is known")
    request = request_at(context, network)
    sides = {
        side: arrays_of_side(context, request, side, images, length) for side in sorted({*roles})
    }
    for side in {*SIDES} - {*sides}:  # to recognise it where it does not belong
        try:
            sides[side] = arrays_of_side(context, request, side, images, length)
        except NotKnown:
            sides[side] = sides[roles[0]]
    prompts = [prompts_of(context, request, role) or [] for role in roles]
    rows = [x for side in prompts for x in side for _ in range(images // len(side))]
    return ExpectedText(roles, sides, request, (*rows,))


# -- comparison -----------------------------------------------------------------------------------


def _judge_rows(
    context: PipelineContext,
    network: TraceEntry,
    kind: str,
    got: np.ndarray,
    expected: ExpectedText,
) -> Row:
    right = expected.array(kind)
    if right is None:
        raise NotKnown("the prompts have no such array, or arrays of several shapes")
    segment = f"from the text encoders to the denoiser's {kind}"
    if got.shape != right.shape:
        note = f"shape {got.shape} instead of {right.shape}"
        row = Row(network.call, "", kind, math.inf, verdict=DIFFERS, note=note)
        return replace(row, segment=segment)
    arranged = [*_arranged(kind, got, expected, right)]
    changed = [*_changed(context, kind, right)]
    exchanged = [arranged.pop(0)] if len({*expected.roles}) > 1 and arranged else []
    # rows of a mask have two values, so many are that of some prompt
    last = [*changed, *arranged] if KINDS[kind].argument == "mask" else [*arranged, *changed]
    variants = [*exchanged, *last]
    mask = expected.array("mask of the text") if kind == "text" else None
    if mask is not None:  # of padding, nothing is read
        got, right = (np.where(mask[:, :, None] != 0, x, 0.0) for x in (got, right))
        fits = ((words, x) for words, x in variants if x.shape == right.shape)
        variants = [(words, np.where(mask[:, :, None] != 0, x, 0.0)) for words, x in fits]
    rare = chain(_of_other_prompts(context, kind, got, expected), _pooled(context, kind, got))
    tried = chain(variants, rare)
    return context.judge(network, kind, got, right, variants=tried, segment=segment)


def _of_other_prompts(
    context: PipelineContext, kind: str, got: np.ndarray, expected: ExpectedText
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield texts of which one of several encoders read the prompts of other rows."""
    encoders = TEXT_ENCODERS[: len(context.model.config.text_encoders)]
    if len(encoders) < 2 or len(expected.prompts) != len(got):
        return
    length = got.shape[1] if got.ndim == 3 else 0
    found: dict[Prompts, PromptArrays] = {}

    def array(prompts: Prompts) -> np.ndarray:
        if prompts not in found:
            found[prompts] = arrays_of_prompts(context, expected.request, prompts, length)
        return np.asarray(getattr(found[prompts], KINDS[kind].field))

    for number, name in enumerate(encoders):
        others = [*dict.fromkeys(prompts[number] for prompts in expected.prompts)]
        rows = []
        for row, own in zip(got, expected.prompts, strict=True):
            try:
                mixed = [array((*own[:number], other, *own[number + 1 :])) for other in others]
            except NotKnown:  # a faulty run need not have encoded them
                return
            rows.append(min(mixed, key=lambda x, row=row: relative_error(row, x)))
        if len({x.shape for x in rows}) == 1:
            yield f"rows of prompts are exchanged in {name}", np.stack(rows)


def _pooled(
    context: PipelineContext, kind: str, got: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the states of other tokens, where a pipeline itself pools those of an encoder."""
    if KINDS[kind].argument != "pooled":
        return
    for name, config in zip(TEXT_ENCODERS, context.model.config.text_encoders, strict=False):
        found: dict[str, list[np.ndarray]] = {}
        for entry in context.texts(name):
            ids = context.read(entry, *roles_of(context, "ids", name))
            states = context.read_output(entry)
            if ids is None or states is None or states.shape[::2] != (len(ids), got.shape[1]):
                continue
            for words, x in pool_elsewhere(config, np.asarray(ids), states):
                found.setdefault(words, []).extend(x)
        for words, rows in found.items():
            nearest = [min(rows, key=lambda x, y=y: relative_error(y, x)) for y in got]
            yield words, np.stack(nearest)


def _arranged(
    kind: str, got: np.ndarray, expected: ExpectedText, right: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the texts of other prompts and halves."""
    others = {"cond": "uncond", "uncond": "cond", EMPTY: EMPTY}
    swapped = expected.array(kind, tuple(others[role] for role in expected.roles))
    if swapped is not None:
        several = len({*expected.roles}) > 1
        words = "the text is that of the other half: prompt instead of negative prompt, or reverse"
        yield "prompt and negative prompt are exchanged" if several else words, swapped
    for role, words in (("cond", "prompt"), ("uncond", "negative prompt")):
        alike = expected.array(kind, (role,) * len(expected.roles))
        if alike is not None and len(expected.roles) > 1:
            yield f"both halves are those of the {words}", alike
    known = [x for side in expected.sides.values() for x in side]
    fits = [x for x in known if np.shape(getattr(x, KINDS[kind].field)) == right.shape[1:]]
    if fits:
        tried = [[_row_of(x, kind, row) for x in fits] for row in got]
        nearest = [
            rows[int(np.argmin([relative_error(row, x) for x in rows]))]
            for row, rows in zip(got, tried, strict=True)
        ]
        yield "rows of prompts are exchanged", np.stack(nearest)


def _row_of(prompt: PromptArrays, kind: str, got: np.ndarray) -> np.ndarray:
    """Return a prompt's array; states of padding, which nobody reads, are those of `got`."""
    x = np.asarray(getattr(prompt, KINDS[kind].field))
    if kind != "text" or prompt.mask is None:
        return x
    return np.where(prompt.mask[:, None] != 0, x, got)


def _changed(
    context: PipelineContext, kind: str, x: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield known faults of a text, (n, l, d) or (n, d)."""
    yield f"the {kind} is zero", np.zeros_like(x)
    if KINDS[kind].argument == "mask":
        yield from mask_faults(x)
    if x.ndim == 3:
        yield "the tokens are one place later", np.roll(x, 1, axis=1)
        yield "the tokens are one place earlier", np.roll(x, -1, axis=1)
    for width in _widths(context, kind):
        yield "the text encoders are joined in another order", _exchanged(x, width)


def _widths(context: PipelineContext, kind: str) -> Iterator[tuple[int, int]]:
    """Yield the widths of two encoders side by side."""
    clip = [text for text in context.model.config.text_encoders if kind_of(text).pooled]
    if len(clip) == 2 and KINDS[kind].argument != "mask":
        pooled = kind != "text"
        first, second = (text.projection_dim if pooled else text.hidden_size for text in clip)
        yield first, second


def _exchanged(x: np.ndarray, widths: tuple[int, int]) -> np.ndarray:
    first, second = widths
    parts = x[..., first : first + second], x[..., :first], x[..., first + second :]
    return np.concatenate(parts, axis=-1)


# -- a trace without steps ------------------------------------------------------------------------


def _judge_networks_alone(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the text of a trace that has text encoders and a denoiser, and no steps.

    Nothing says how many images there are, so each row is compared with the nearest prompt. It may
    be that of a prompt whose text is not known, so such a trace has no fault here.
    """
    if context.calls("sampler") or not context.model.config.text_encoders:
        return
    found: list[PromptArrays] = []
    unknown = ""
    for prompt in known_prompts(context):
        prompts = (prompt,) * len(context.model.config.text_encoders)
        try:
            found.append(arrays_of_prompts(context, context.request, prompts))
        except NotKnown:
            unknown = f"the text of {prompt!r:.40} was not recorded"
    for kind in KINDS if found else ():
        arrays = [getattr(x, KINDS[kind].field) for x in found]
        known = [x for x in arrays if x is not None]
        names = roles_of(context, KINDS[kind].argument)
        for network in context.calls(context.denoiser):
            got = context.read(network, *names)
            if got is None or not known or got.shape[1:] != known[0].shape:
                continue
            zero = [np.zeros_like(known[0])] if context.model.config.zero_empty_negative else []
            allowed = [*known, *zero]
            nearest = [
                allowed[int(np.argmin([relative_error(row, x) for x in allowed]))] for row in got
            ]
            right = np.stack(nearest)
            segment = f"from the text encoders to the denoiser's {kind}"
            variants = _changed(context, kind, right)
            row = context.judge(network, kind, got, right, variants=variants, segment=segment)
            other = unknown and row.verdict == DIFFERS
            yield replace(row, verdict=UNKNOWN, cause="", note=unknown) if other else row
