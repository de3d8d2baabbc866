"""Hidden states in place of prompts: `prompt_embeds` and its kin, named as in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypedDict

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.io.images.arrays import host_array
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import ModelConfig
from ldmref.modes import validation
from ldmref.modes.declaration import Parameter
from ldmref.modes.notation import read_noise
from ldmref.modes.text import TextConditioning

EMBEDDINGS = {  # by the prompt that they replace: hidden states, pooled output
    "prompt": ("prompt_embeds", "pooled_prompt_embeds"),
    "negative_prompt": ("negative_prompt_embeds", "negative_pooled_prompt_embeds"),
}
NAMES = tuple(name for names in EMBEDDINGS.values() for name in names)
CODE = "E-PROMPT-EMBEDS"


def embeddings(name: str, value: Array) -> np.ndarray:
    """A copy of finite floating-point numbers of any library, float32 or float64.

    Raises:
        UsageError: something else.
    """
    try:
        array = host_array(value)
    except (TypeError, ValueError, BufferError, RuntimeError):
        array = np.asarray(None)
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or not array.size:
        raise UsageError(
            f"{name} must be an array of floating-point numbers, not {short_repr(value)}",
            code=CODE,
            hint="model.encode_text gives hidden states",
        )
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds NaN or infinity", code=CODE)
    return np.array(array, np.float64 if array.dtype == np.float64 else np.float32)


def _embeddings(help: str) -> Parameter:
    return Parameter(
        help,
        check=embeddings,
        parse=read_noise,
        metavar="FILE",
        json={"type": "array"},
        recorded=False,
    )


class EmbeddingParameters(TypedDict, total=False):
    """Hidden states in place of prompts."""

    prompt_embeds: Annotated[
        np.ndarray | None,
        _embeddings("Hidden states (n, l, d) in place of n prompts; prompt is then None."),
    ]
    negative_prompt_embeds: Annotated[
        np.ndarray | None, _embeddings("The same for negative prompts, equally long.")
    ]
    pooled_prompt_embeds: Annotated[
        np.ndarray | None, _embeddings("Pooled output (n, d) that belongs to them (SDXL).")
    ]
    negative_pooled_prompt_embeds: Annotated[
        np.ndarray | None, _embeddings("Pooled output of the negative ones (SDXL).")
    ]


def resolve_embeddings(config: ModelConfig, v: Mapping[str, Any]) -> dict[str, Any]:
    """What embeddings change in a request: empty prompts, and `embeddings` with a row per image.

    Raises:
        UsageError: neither a prompt nor embeddings, or both; embeddings of a wrong shape.
    """
    leading = v["prompt"] if v["prompt_embeds"] is None else v["prompt_embeds"]
    if leading is None:
        raise UsageError("a prompt is missing", code="E-PROMPT", hint="or give prompt_embeds")
    replaced = {}
    rows = {}
    n = len(leading)
    for prompt, (states, pooled) in EMBEDDINGS.items():
        if v[states] is None:
            if v[pooled] is not None:
                raise UsageError(f"{pooled} needs {states}", code=CODE)
            continue
        if v[prompt] not in (None, "", [""]):
            raise UsageError(f"give either {prompt} or {states}, not both", code=CODE)
        _check_shapes(config, v, states, pooled, (n,) if prompt == "prompt" else (1, n))
        replaced[prompt] = [""] * len(v[states])
        rows |= {name: v[name] for name in (states, pooled) if v[name] is not None}
    _check_lengths(config, v)
    validation.images(n, v["count"])
    rows = {name: np.repeat(x, v["count"] * n // len(x), axis=0) for name, x in rows.items()}
    return replaced | {"embeddings": rows}


def _check_shapes(
    config: ModelConfig, v: Mapping[str, Any], states: str, pooled: str, rows: tuple[int, ...]
) -> None:
    """Refuse hidden states (n, l, d) and pooled outputs (n, d) that the U-Net cannot take."""
    encoders = config.text_encoders
    if not encoders:
        raise UsageError(f"{config.name!r} takes no prompt", code=CODE)
    width = sum(t.hidden_size for t in encoders)
    pooled_width = encoders[-1].projection_dim
    if not config.unet.addition_embed_type:
        pooled_width = 0
    shape = v[states].shape
    if len(shape) != 3 or shape[0] not in rows or not shape[1] or shape[2] != width:
        raise UsageError(
            f"{states} has shape {shape}, {config.name!r} reads ({rows[-1]}, l, {width})", code=CODE
        )
    if (v[pooled] is not None) != bool(pooled_width):
        needs = f"needs {pooled} with {states}" if pooled_width else f"reads no {pooled}"
        raise UsageError(f"{config.name!r} {needs}", code=CODE)
    if pooled_width and v[pooled].shape != (shape[0], pooled_width):
        raise UsageError(
            f"{pooled} has shape {v[pooled].shape}, not {(shape[0], pooled_width)}", code=CODE
        )


def _check_lengths(config: ModelConfig, v: Mapping[str, Any]) -> None:
    """Refuse hidden states of another length than those they are guided against."""
    prompts = any(v[name] is None for name, _ in EMBEDDINGS.values())
    if prompts and v["long_prompts"] == "chunk":
        raise UsageError(
            "embeddings beside a prompt in chunks would be of another length",
            code=CODE,
            hint="give embeddings for both, or long_prompts=truncate",
        )
    length = config.text_encoder.max_position_embeddings
    lengths = [length if v[name] is None else v[name].shape[1] for name, _ in EMBEDDINGS.values()]
    if len({*lengths}) > 1:
        raise UsageError(
            f"prompt_embeds and negative_prompt_embeds have {lengths[0]} and {lengths[1]} tokens",
            code=CODE,
            hint=f"both must be equally long; a prompt has {length}",
        )


@dataclass(frozen=True)
class EmbeddedText(TextConditioning):
    """Conditioning of which some parts are given: `embeddings` by name, a row per image."""

    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)

    def conditioning(self, batch: slice) -> tuple[Conditioning, Conditioning]:
        """The conditional and the unconditional (negative) part for the U-Net."""
        pair = zip(super().conditioning(batch), EMBEDDINGS.values(), strict=True)
        cond, uncond = (self._replaced(part, names, batch) for part, names in pair)
        return cond, uncond

    def _replaced(self, part: Conditioning, names: tuple[str, str], batch: slice) -> Conditioning:
        for key, name in zip(("context", "pooled"), names, strict=True):
            if name in self.embeddings:
                rows = self.model.backend.asarray(self.embeddings[name][batch])
                part = part._replace(**{key: rows})
        return part


def with_embeddings(
    text: TextConditioning, embeddings: Mapping[str, np.ndarray]
) -> TextConditioning:
    """The conditioning with embeddings in place of the prompts that they replace."""
    values = {f.name: getattr(text, f.name) for f in fields(text)}
    return EmbeddedText(**values, embeddings=embeddings)
