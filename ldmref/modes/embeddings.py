"""Hidden states instead of prompts: `prompt_embeds` and the other parameters, as in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import UsageError
from ldmref.models.conditioning import Conditioning, add_arrays
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.modes import validation
from ldmref.modes.guidance_parameter import texts_read
from ldmref.modes.job import Job
from ldmref.modes.requests import FromPrompts
from ldmref.modes.text import TextConditioning


class EmbeddingNames(NamedTuple):
    """The parameters that stand for a prompt.

    Args:
        states: Hidden states, (n, l, d).
        pooled: Pooled output, (n, d).
        mask: 1 for hidden states that are read, 0 for padding, (n, l).
    """

    states: str
    pooled: str
    mask: str


EMBEDDINGS = {  # by the prompt that they replace
    "prompt": EmbeddingNames("prompt_embeds", "pooled_prompt_embeds", "prompt_mask"),
    "negative_prompt": EmbeddingNames(
        "negative_prompt_embeds", "negative_pooled_prompt_embeds", "negative_prompt_mask"
    ),
}
NAMES = tuple(name for names in EMBEDDINGS.values() for name in names)
CODE = "E-PROMPT-EMBEDS"


def resolve_embeddings(
    config: ModelConfig, request: FromPrompts
) -> tuple[FromPrompts, dict[str, np.ndarray]]:
    """Return the request with empty prompts for its embeddings, and the embeddings.

    The embeddings are by name, with a row per image.

    Raises:
        UsageError: Neither a prompt nor embeddings, or both; embeddings of a wrong shape.
    """
    values = {name: getattr(request, name) for name in (*EMBEDDINGS, *NAMES)}
    leading = values["prompt"] if values["prompt_embeds"] is None else values["prompt_embeds"]
    if leading is None:
        raise UsageError("a prompt is missing", code="E-PROMPT", hint="or give prompt_embeds")
    replaced = {}
    rows = {}
    n = len(leading)
    for prompt, names in EMBEDDINGS.items():
        if values[names.states] is None:
            for name in (names.pooled, names.mask):
                if values[name] is not None:
                    raise UsageError(f"{name} needs {names.states}", code=CODE)
            continue
        if values[prompt] not in (None, "", [""]):
            raise UsageError(f"give either {prompt} or {names.states}, not both", code=CODE)
        _check_shapes(config, values, names, (n,) if prompt == "prompt" else (1, n))
        replaced[prompt] = [""] * len(values[names.states])
        rows |= {name: values[name] for name in names if values[name] is not None}
    count = request.count
    if n * count > validation.MAX_COUNT:
        raise validation.too_many_images(n, count)
    rows = {name: np.repeat(x, count * n // len(x), axis=0) for name, x in rows.items()}
    return replace(request, **replaced), rows


def _check_shapes(
    config: ModelConfig, values: Mapping[str, Any], names: EmbeddingNames, rows: tuple[int, ...]
) -> None:
    """Refuse hidden states (n, l, d), pooled outputs (n, d) and masks (n, l) that do not fit."""
    encoders = config.text_encoders
    if not encoders or kind_of(encoders[0]).function is None:
        raise UsageError(f"{config.name!r} takes no prompt", code=CODE)
    denoiser = family_of(config).declared(config, config.denoiser.network)
    width, pooled_width = (_width_of(denoiser, name) for name in ("context", "pooled"))
    states, pooled, mask = names
    shape = values[states].shape
    if len(shape) != 3 or shape[0] not in rows or not shape[1] or shape[2] != width:
        raise UsageError(
            f"{states} has shape {shape}, {config.name!r} reads ({rows[-1]}, l, {width})", code=CODE
        )
    if (values[pooled] is not None) != bool(pooled_width):
        needs = f"needs {pooled} with {states}" if pooled_width else f"reads no {pooled}"
        raise UsageError(f"{config.name!r} {needs}", code=CODE)
    if pooled_width and values[pooled].shape != (shape[0], pooled_width):
        raise UsageError(
            f"{pooled} has shape {values[pooled].shape}, not {(shape[0], pooled_width)}", code=CODE
        )
    if values[mask] is not None:
        _check_mask(config, denoiser, mask, values[mask], shape[:2])


def _check_mask(
    config: ModelConfig,
    denoiser: DeclaredNetwork,
    name: str,
    mask: np.ndarray,
    shape: tuple[int, ...],
) -> None:
    """Refuse a mask that the denoiser does not read, of another shape, or with other numbers."""
    if denoiser.input_of("mask") is None:
        raise UsageError(
            f"{config.name!r} reads all hidden states, and no {name}",
            code=CODE,
            hint=f"leave {name} out",
        )
    if mask.shape != shape:
        raise UsageError(f"{name} has shape {mask.shape}, not {shape}", code=CODE)
    if not mask.any(axis=1).all():
        raise UsageError(f"{name} has a row without a 1: nothing would be read", code=CODE)


def _width_of(denoiser: DeclaredNetwork, argument: str) -> int:
    """Return the width of an input of a denoiser; 0 if it does not take this input."""
    found = denoiser.input_of(argument)
    return 0 if found is None else found.shape_at({"batch": 1, "tokens": 1})[-1]


def _count_tokens(config: ModelConfig) -> int:
    """Return the number of hidden states of a prompt in one chunk."""
    attention = family_of(config).declared(config, config.denoiser.network).text_attention
    numbers = (0,) if attention is None else attention.encoders
    lengths = [config.text_encoders[number].max_position_embeddings for number in numbers]
    return sum(lengths) + (0 if attention is None else attention.padding)


def check_lengths(config: ModelConfig, job: Job) -> None:
    """Refuse hidden states of another length than those of the other prompt, if a run reads both.

    A model that reads the guidance scale, such as Flux.1 [dev], predicts from the prompt alone, and
    so does any model at scale 1.
    """
    if not {"cond", "uncond"} <= texts_read(job.guidance, job.sampler, job.cfg_scale):
        return
    denoiser = family_of(config).declared(config, config.denoiser.network)
    if denoiser.input_of("mask") is not None:
        return  # shorter texts are filled up
    hidden = [(job.embeddings or {}).get(names.states) for names in EMBEDDINGS.values()]
    if any(states is None for states in hidden) and job.long_prompts == "chunk":
        raise UsageError(
            "embeddings and a prompt in chunks would have different lengths",
            code=CODE,
            hint="give embeddings for both, or long_prompts=truncate",
        )
    length = _count_tokens(config)
    lengths = [length if states is None else states.shape[1] for states in hidden]
    if len({*lengths}) > 1:
        raise UsageError(
            f"prompt_embeds and negative_prompt_embeds have {lengths[0]} and {lengths[1]} tokens",
            code=CODE,
            hint=f"both must be equally long; a prompt has {length}",
        )


@dataclass(frozen=True)
class EmbeddedText(TextConditioning):
    """Conditioning with some parts given: `embeddings` by name, with a row per image."""

    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)

    def repeated(self, times: int, size: tuple[int, int]) -> TextConditioning:
        """Return the text and its embeddings repeated for several images, at a size."""
        rows = {name: np.concatenate([x] * times) for name, x in self.embeddings.items()}
        return replace(super().repeated(times, size), embeddings=rows)

    def _of_texts(self, batch: slice) -> dict[str, Conditioning]:
        """Return the conditionings of the texts of a batch, some of them given."""
        parts = super()._of_texts(batch)
        for name, names in zip(("cond", "uncond"), EMBEDDINGS.values(), strict=True):
            if names.states in self.embeddings:
                parts[name] = self._given(names, batch)
        return parts

    def _given(self, names: EmbeddingNames, batch: slice) -> Conditioning:
        """Return the conditioning of given hidden states, pooled outputs and masks."""
        model = self.model
        ops = model.backend
        context, pooled = (
            ops.asarray(self.embeddings[name][batch]) if name in self.embeddings else None
            for name in names[:2]
        )
        part = model.family.text.condition(ops, model.config, context, pooled, self.size)
        part = part._replace(context=context, pooled=pooled)
        if model.denoiser.input_of("mask") is None:
            return part
        mask = self.embeddings.get(names.mask)
        ones = np.ones(self.embeddings[names.states].shape[:2], np.int64)
        rows = (ones if mask is None else mask)[batch]
        return add_arrays(part, {"mask": ops.asarray(rows)})


def texts_given(embeddings: Mapping[str, np.ndarray] | None) -> set[str]:
    """Return the texts, of `cond` and `uncond`, that embeddings stand for."""
    pairs = zip(("cond", "uncond"), EMBEDDINGS.values(), strict=True)
    return {name for name, names in pairs if names.states in (embeddings or {})}


def apply_embeddings(
    text: TextConditioning, embeddings: Mapping[str, np.ndarray]
) -> TextConditioning:
    """Return the conditioning with embeddings instead of the prompts that they replace."""
    values = {f.name: getattr(text, f.name) for f in fields(text)}
    return EmbeddedText(**values, embeddings=embeddings)
