"""Prompts as hidden states, encoded as the pipelines of diffusers encode them.

Negative prompts are encoded without clip skip, and a missing negative prompt of SDXL is all zeros.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ldmref.compat.diffusers.arrays import to_host
from ldmref.errors import UsageError, short_repr
from ldmref.models.model import LatentDiffusion
from ldmref.prompts.tokenizer import PromptOptions

LOGGER = logging.getLogger("ldmref.compat.diffusers")
CODE = "E-PROMPT"


class Embedded(NamedTuple):
    """Hidden states (n, l, d) and, for SDXL, pooled outputs (n, d), on the host."""

    states: np.ndarray
    pooled: np.ndarray | None

    def repeated(self, times: int) -> Embedded:
        """Return every row several times."""
        pooled = None if self.pooled is None else np.repeat(self.pooled, times, axis=0)
        return Embedded(np.repeat(self.states, times, axis=0), pooled)


class EmbeddedPrompts(NamedTuple):
    """Prompts and negative prompts, with a row per image."""

    cond: Embedded
    uncond: Embedded

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.cond.states)


def encode_prompts(model: LatentDiffusion, arguments: Any, guided: bool) -> EmbeddedPrompts:
    """Return the prompts of a call, or its embeddings, with a row for each image.

    Args:
        model: The model.
        arguments: With `prompt`, `negative_prompt`, their embeddings, `num_images_per_prompt` and
            `clip_skip`.
        guided: Whether the negative prompt is needed; otherwise it is not encoded.

    Raises:
        UsageError: A prompt and embeddings, neither of them, or another number of negative prompts.
    """
    cond = _given(arguments, "")
    prompts = _texts("prompt", arguments.prompt)
    if (cond is None) == (prompts is None):
        both = "both" if cond is not None else "neither"
        raise UsageError(f"give either prompt or prompt_embeds, not {both}", code=CODE)
    if cond is None:
        cond = _encode(model, prompts or [], arguments.clip_skip or 0)
    uncond = _given(arguments, "negative_") if guided else cond
    if uncond is None:
        uncond = _negative(model, arguments, cond)
    elif guided and arguments.negative_prompt is not None:
        raise UsageError("give either negative_prompt or negative_prompt_embeds", code=CODE)
    if uncond.states.shape != cond.states.shape:
        raise UsageError(
            f"prompt_embeds have shape {cond.states.shape} and negative_prompt_embeds "
            f"{uncond.states.shape}",
            code="E-PROMPT-EMBEDS",
            hint="give both, of one shape",
        )
    count = arguments.num_images_per_prompt
    return EmbeddedPrompts(cond.repeated(count), uncond.repeated(count))


def _given(arguments: object, negative: str) -> Embedded | None:
    """Return given embeddings, or None."""
    states = getattr(arguments, f"{negative}prompt_embeds")
    pooled = getattr(arguments, f"{negative}pooled_prompt_embeds", None)
    if states is None:
        return None
    name = f"{negative}prompt_embeds"
    array = to_host(name, states)
    if array.ndim != 3:
        message = f"{name} must have shape (n, tokens, width), not {array.shape}"
        raise UsageError(message, code="E-PROMPT-EMBEDS")
    return Embedded(array, None if pooled is None else to_host(f"pooled {name}", pooled))


def _negative(model: LatentDiffusion, arguments: Any, cond: Embedded) -> Embedded:
    """Encode the negative prompts; one text serves all prompts."""
    n = len(cond.states)
    texts = _texts("negative_prompt", arguments.negative_prompt)
    if texts is None and model.config.zero_empty_negative:
        pooled = None if cond.pooled is None else np.zeros_like(cond.pooled)
        return Embedded(np.zeros_like(cond.states), pooled)
    texts = texts or [""]
    if len(texts) not in (1, n):
        message = f"negative_prompt holds {len(texts)} texts for {n} prompts"
        raise UsageError(message, code=CODE, hint="give one, or one for each prompt")
    uncond = _encode(model, texts, 0)
    return uncond.repeated(n) if len(texts) == 1 else uncond


def _texts(name: str, value: object) -> list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    texts = list(value) if isinstance(value, list | tuple) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        message = f"{name} must be a text or a list of texts, not {short_repr(value)}"
        raise UsageError(message, code=CODE)
    return texts


def _encode(model: LatentDiffusion, texts: Sequence[str], clip_skip: int) -> Embedded:
    """Encode texts and log the tokenizer's warnings, as diffusers logs them."""
    encoded = model.encode_prompts(texts, clip_skip, PromptOptions())
    for line in encoded.tokens.warnings:
        LOGGER.warning(line)
    ops = model.backend
    states = np.asarray(ops.to_numpy(encoded.states), np.float32)
    pooled = encoded.pooled
    return Embedded(
        states, None if pooled is None else np.asarray(ops.to_numpy(pooled), np.float32)
    )
