"""How text conditions Flux.1: T5's hidden states, and one vector of CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.clip import pool_end_token
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.text import EncodedText, text_encoder
from ldmref.prompts.tokens import Tokens
from ldmref.prompts.weights import emphasize

T5_LENGTH = 512  # that T5 reads in diffusers' pipeline


def encode_prompts(
    ops: Backend,
    configs: Sequence[TextConfig],
    tokens: Sequence[Tokens],
    compile_network: Callable[[Callable, str], Callable],
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Encode tokenized prompts with both encoders; the arguments are those of `encode_tokens`.

    The pooled output is CLIP's last state, after all layers and the norm, at the end of the first
    chunk. `clip_skip` leaves out layers of T5, whose hidden states the transformer reads.
    """
    clip, t5 = tokens
    clip_states, clip_ids = encode(ops, configs[0], clip, compile_network, TEXT_ENCODERS[0], 0)
    states, ids = encode(ops, configs[1], t5, compile_network, TEXT_ENCODERS[1], clip_skip)
    if weighted:
        states = emphasize(states, ops.asarray(t5.weights.reshape(ids.shape)))
    n, chunks, length = t5.ids.shape
    pooled = pool_end_token(ops, configs[0], clip_ids, clip_states)[::chunks, ...]
    joined = ops.xp.reshape(states, (n, chunks * length, configs[1].hidden_size))
    return EncodedText(joined, pooled, t5)


def with_text_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of T5."""
    assert config.text_encoder_2 is not None
    t5 = replace(config.text_encoder_2, max_position_embeddings=length)
    return replace(config, text_encoder_2=t5)


def encode(
    ops: Backend,
    config: TextConfig,
    tokens: Tokens,
    compile_network: Callable[[Callable, str], Callable],
    name: str,
    skip: int,
) -> tuple[Array, Array]:
    """Return the hidden states of every chunk, (n * chunks, l, d), and the ids, (n * chunks, l)."""
    n, chunks, length = tokens.ids.shape
    ids = ops.asarray(tokens.ids.reshape(n * chunks, length))
    return compile_network(text_encoder, name)(config, ids, skip), ids
