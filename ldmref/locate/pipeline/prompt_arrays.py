"""What the denoiser should be given of each image's prompts, from the recorded text encoders.

What the port's text encoders returned is joined as the family of the model joins it, so a fault of
an encoder is not blamed on what reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import LdmrefError, short_repr
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.tokens import pad_in_front, tokenize
from ldmref.locate.precision import exact_backend
from ldmref.models.conditioning import choose_columns, get_hidden_states
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.text import text_encoder_pooled
from ldmref.prompts.tokens import Tokens

SIDES = {"cond": "", "uncond": "negative_"}
EMPTY = "empty"  # the side of the empty prompt, whatever was asked for
GIVEN = {"cond": ("prompt_embeds", "pooled_prompt_embeds"),
         "uncond": ("negative_prompt_embeds", "negative_pooled_prompt_embeds")}  # fmt: skip
Prompts = tuple[str, ...]  # one for each text encoder


class PromptArrays(NamedTuple):
    """What the denoiser is given of a prompt.

    Attributes:
        states: Hidden states, (l, d).
        pooled: The pooled output, (d,), or None.
        mask: 1 for hidden states that are read, 0 for padding, (l,), or None.
    """

    states: np.ndarray
    pooled: np.ndarray | None
    mask: np.ndarray | None = None

    def at_length(self, length: int) -> PromptArrays:
        """Return the arrays with more or less padding, if all tokens have room."""
        if self.mask is None or length == len(self.mask) or length < max(np.sum(self.mask != 0), 1):
            return self
        kept = choose_columns(self.mask != 0, length)
        more = ((0, length - len(kept)),)
        states = np.pad(self.states[kept], (*more, (0, 0)))
        return self._replace(states=states, mask=np.pad(self.mask[kept], more))


class NotKnown(Exception):
    """What the denoiser should be given cannot be said; the message is the reason."""


class NotRead(NotKnown):
    """The encoders were recorded, and none of their calls read the tokens of a prompt."""


def prompts_of(
    context: PipelineContext, request: Mapping[str, Any], side: str
) -> list[Prompts] | None:
    """Return the prompts of a request, each for all text encoders; None if there are none.

    A prompt of a later encoder that was not given is that of the first.

    Args:
        context: The run.
        request: Its request.
        side: "cond" or "uncond".
    """
    if side == EMPTY:
        asked = prompts_of(context, request, "cond")
        return None if asked is None else [("",) * len(prompts) for prompts in asked]
    prefix = SIDES[side]
    encoders = len(context.model.config.text_encoders)
    names = [f"{prefix}prompt" + (f"_{i + 1}" if i else "") for i in range(encoders)]
    texts = [_as_list(request.get(name)) for name in names]
    main = _as_list(request.get("prompt"))
    if side == "cond" and texts[0] is None:
        return None
    if side == "uncond" and texts[0] is None:
        texts[0] = [""] * len(main or [""])
    count = max(len(main or []), *(len(x) for x in texts if x is not None))
    filled = [texts[0] if x is None else x for x in texts]
    spread = [x * count if len(x) == 1 else x for x in filled if x is not None]
    if any(len(x) != count for x in spread):
        return None
    return list(zip(*spread, strict=True))


def _as_list(value: object) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    found = list(value) if isinstance(value, list | tuple) else []
    return found if found and all(isinstance(x, str) for x in found) else None


def arrays_of_side(
    context: PipelineContext, request: Mapping[str, Any], side: str, images: int, length: int
) -> list[PromptArrays]:
    """Return what the denoiser is given of the prompts of one side, for each image of a batch.

    Args:
        context: The run.
        request: Its request.
        side: "cond" or "uncond".
        images: The number of images.
        length: The number of tokens that the denoiser was given.

    Raises:
        NotKnown: The prompts or the outputs of their encoders were not recorded.
    """
    requested = _given(context, side)
    if requested is not None:
        return _spread(requested, images)
    prompts = prompts_of(context, request, side)
    if prompts is None:
        raise NotKnown("the prompts were not recorded")
    if side == "uncond" and _zeros(context, request):
        one = arrays_of_prompts(context, request, prompts_of(context, request, "cond")[0], length)  # type: ignore[index]
        pooled = None if one.pooled is None else np.zeros_like(one.pooled)
        return [PromptArrays(np.zeros_like(one.states), pooled, one.mask)] * images
    found = []
    for each in prompts:
        try:
            found.append(arrays_of_prompts(context, request, each, length))
        except NotRead as error:
            shown = short_repr(each[0])
            raise NotRead(f"the prompt {shown} was not encoded: {error}") from error
    return _spread(found, images)


def _spread(found: list[PromptArrays], images: int) -> list[PromptArrays]:
    """Return the arrays of k prompts, each for as many images that follow each other."""
    if not found or images % len(found):
        raise NotKnown(f"{images} images do not follow from {len(found)} prompts")
    return [x for x in found for _ in range(images // len(found))]


def _given(context: PipelineContext, side: str) -> list[PromptArrays] | None:
    """Return hidden states that the request gave in place of a prompt."""
    states, pooled = (context.requested(name) for name in GIVEN.get(side, ("", "")))
    if states is None:
        return None
    return [PromptArrays(x, None if pooled is None else pooled[i]) for i, x in enumerate(states)]


def _zeros(context: PipelineContext, request: Mapping[str, Any]) -> bool:
    """Return whether the negative side is zero: some models zero that of an empty prompt.

    In diffusers only a prompt that is not given is, not an empty text.
    """
    if not context.model.config.zero_empty_negative:
        return False
    negative = request.get("negative_prompt")
    return negative is None or (negative == "" and not context.is_diffusers)


def arrays_of_prompts(
    context: PipelineContext, request: Mapping[str, Any], prompts: Prompts, length: int = 0
) -> PromptArrays:
    """Return what the denoiser is given of one image's prompts.

    Raises:
        NotKnown: An encoder did not read them, or was not recorded.
    """
    model = context.model
    configs = model.config.text_encoders
    if request.get("prompt_weights", "none") != "none":
        raise NotKnown("weights of prompts are not recomputed")
    try:
        tokens = [_tokens(context, request, i, prompt) for i, prompt in enumerate(prompts)]
        ops = exact_backend()
        encoded = model.family.text.encode(ops, configs, tokens, _recorded_encoder(context))
        condition = model.family.text.condition_text(ops, model.config, encoded, (0, 0))
    except LdmrefError as error:
        raise NotKnown(str(error)) from error
    if condition.context is None:
        raise NotKnown("the denoiser reads no text")
    states = np.asarray(get_hidden_states(condition.context))[0]
    pooled = None if condition.pooled is None else np.asarray(condition.pooled)[0]
    mask = np.asarray(condition.more["mask"])[0] if "mask" in condition.more else None
    found = PromptArrays(_without_zeros(states, length, request), pooled, mask)
    return found.at_length(length)  # a pipeline chooses how much padding it keeps


def _without_zeros(states: np.ndarray, length: int, request: Mapping[str, Any]) -> np.ndarray:
    """Return hidden states with as many tokens as asked for, where zeros stand for an encoder."""
    asked = request.get("max_sequence_length")
    if not isinstance(asked, int) or len(states) == length or not length:
        return states
    shorter = min(length, len(states))
    if states[shorter:].any():
        return states
    more = np.zeros((length - shorter, states.shape[1]))
    return np.concatenate([states[:shorter], more])


def _tokens(
    context: PipelineContext, request: Mapping[str, Any], number: int, prompt: str
) -> Tokens:
    """Return the tokens of a prompt for one encoder, as many as the call that read them has.

    Pipelines may fill up prompt and negative prompt to different lengths. The longest that fits is
    taken, because a text that is cut to fewer tokens may be another one. Without such a call, the
    tokens are as many as in the first one.
    """
    name = TEXT_ENCODERS[number]
    names = roles_of(context, "ids", name)
    found = [context.read(entry, *names) for entry in context.texts(name)]
    recorded = [np.asarray(ids) for ids in found if ids is not None]
    if not recorded:
        raise NotKnown(f"the ids of {name} were not recorded")
    tried: dict[int, Tokens] = {}
    for ids in sorted(recorded, key=lambda ids: -ids.shape[-1]):
        length = ids.shape[-1]
        if length not in tried:
            tried[length] = tokenize(context, number, [prompt], request, length)
        tokens = tried[length]
        if tokens.ids.shape[-1] == length and _reads(ids, tokens.ids[0], tokens.mask[0]):
            break
    else:
        length = recorded[0].shape[-1]
        tokens = tried[length]
    if tokens.ids.shape[-1] != length:
        raise NotKnown(f"{name} read {length} tokens")
    return replace(tokens, weights=np.ones(tokens.ids.shape, np.float32))


def _reads(ids: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> bool:
    """Return whether a call with these ids reads all chunks of a prompt, (chunks, l)."""
    rows = {tuple(row) for row in ids.reshape(-1, ids.shape[-1]).tolist()}
    moved = (pad_in_front(*pair).ids for pair in zip(wanted, mask, strict=True))
    pairs = zip(wanted.tolist(), moved, strict=True)
    return all(tuple(row) in rows or tuple(other.tolist()) in rows for row, other in pairs)


def _recorded_encoder(context: PipelineContext) -> Callable[[Callable, str], Callable]:
    """Return what stands for `compile_network`: networks that return what was recorded."""

    def compile_network(function: Callable, name: str) -> Callable:
        def encode(
            config: object, ids: np.ndarray, skip: int = 0, mask: np.ndarray | None = None
        ) -> Any:
            masks = np.ones_like(ids) if mask is None else np.asarray(mask)
            pairs = zip(np.asarray(ids), masks, strict=True)
            rows = [_recorded_row(context, name, *pair) for pair in pairs]
            hidden = np.stack([hidden for hidden, _ in rows])
            if function is not text_encoder_pooled:
                return hidden
            vectors = [vector for _, vector in rows if vector is not None]
            if len(vectors) < len(rows):
                raise NotKnown(f"the pooled output of {name} was not recorded")
            return hidden, np.stack(vectors)

        return encode

    return compile_network


def _recorded_row(
    context: PipelineContext, name: str, ids: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return hidden states (l, d) and pooled vector that an encoder returned for ids (l,).

    States of padding that the program has in front of the tokens are moved behind them.
    """
    known = True
    moved = pad_in_front(ids, mask)
    names = roles_of(context, "ids", name)
    for entry in context.texts(name):
        arrays = context.read(entry, *names)
        hidden = context.read_output(entry)
        if arrays is None or hidden is None:
            known = False
            continue
        if hidden.ndim != 3:
            continue
        vectors = context.read_output(entry, "pooled")
        for i, row in enumerate(np.asarray(arrays).reshape(-1, np.shape(arrays)[-1])):
            in_front = np.array_equal(row, moved.ids)
            if i < len(hidden) and (in_front or np.array_equal(row, ids)):
                states = np.roll(hidden[i], -moved.shift if in_front else 0, axis=0)
                return states, None if vectors is None else vectors[i]
    if not known:
        raise NotKnown(f"the ids or the output of a call of {name} were not recorded")
    raise NotRead(f"no call of {name} read these tokens")
