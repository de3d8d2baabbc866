"""How captions condition Z-Image: Qwen3's hidden states of their tokens, without the padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.backends import Backend
from ldmref.families import EncodedText, TextConfig
from ldmref.models import Conditioning, ModelConfig
from ldmref.models.text import encode_tokens
from ldmref.prompts import Tokens

Array = Any


def encode_captions(
    ops: Backend,
    configs: Sequence[TextConfig],
    tokens: Sequence[Tokens],
    compile_network: Callable[[Callable, str], Callable],
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Encode tokenized captions; the mask of their tokens is a last channel of the states."""
    found = encode_tokens(ops, configs, tokens, compile_network, clip_skip, weighted)
    ids = tokens[0].ids[:, 0, :]
    kept = np.ones(ids.shape)
    for row, mask in zip(ids, kept, strict=True):
        length = len(row)
        while length > 1 and row[length - 1] == row[-1] and row[length - 2] == row[-1]:
            length -= 1
        mask[length - 1 :] = 0.0
    mask = ops.xp.astype(ops.asarray(kept), found.states.dtype)[:, :, None]
    return found._replace(states=ops.xp.concat([found.states, mask], axis=2))


def condition_on_captions(
    ops: Backend, config: ModelConfig, states: Array, pooled: Array | None, size: tuple[int, int]
) -> Conditioning:
    """Return the conditioning on the hidden states and the mask of `encode_captions`."""
    mask = ops.xp.astype(states[:, :, -1] > 0.5, ops.xp.int64)
    return Conditioning(states[:, :, :-1], more={"mask": mask})


def with_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of a caption."""
    return replace(
        config, text_encoder=replace(config.text_encoder, max_position_embeddings=length)
    )
