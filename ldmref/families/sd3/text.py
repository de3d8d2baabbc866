"""How text conditions Stable Diffusion 3: two CLIP encoders side by side, and T5 after them.

A small model may have one CLIP encoder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ldmref.backends.base import Backend
from ldmref.families.sd3.config import transformer_of
from ldmref.math.arrays import Array
from ldmref.models.clip import CLIP
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.text import EncodedText, text_encoder, text_encoder_pooled
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokens import Tokens
from ldmref.prompts.weights import emphasize

MOST_T5_TOKENS = 512  # that T5 may read there
T5_TOKENS = 256  # that T5 reads in diffusers' pipeline


def encode_prompts(
    ops: Backend,
    configs: Sequence[TextConfig],
    tokens: Sequence[Tokens],
    compile_network: Callable[[Callable, str], Callable],
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Encode tokenized prompts with every text encoder; the arguments are those of `encode_tokens`.

    CLIP's hidden states are joined along the width and filled up with zeros to the width of T5's,
    which follow as further tokens. Pooled outputs are joined. `clip_skip` leaves out layers of CLIP
    only.
    """
    clip = []
    pooled = []
    t5 = []
    for config, part, name in zip(configs, tokens, TEXT_ENCODERS, strict=False):
        n, chunks, length = part.ids.shape
        ids = ops.asarray(part.ids.reshape(n * chunks, length))
        is_clip = kind_of(config) is CLIP
        if is_clip:
            hidden, vector = compile_network(text_encoder_pooled, name)(config, ids, clip_skip)
            pooled.append(vector[::chunks, ...])  # the first chunk's
        else:
            hidden = compile_network(text_encoder, name)(config, ids)
        if weighted:
            hidden = emphasize(hidden, ops.asarray(part.weights.reshape(ids.shape)))
        states = ops.xp.reshape(hidden, (n, chunks * length, config.hidden_size))
        (clip if is_clip else t5).append(states)
    joined = ops.xp.concat(clip, axis=2)
    if t5:
        joined = ops.xp.concat([widen(ops, joined, t5[0].shape[2]), *t5], axis=1)
    return EncodedText(joined, ops.xp.concat(pooled, axis=1), tokens[0])


def with_text_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of T5, or of zeros in its place."""
    if config.text_encoder_3 is None:
        return replace(config, denoiser=replace(transformer_of(config), empty_tokens=length))
    t5 = replace(config.text_encoder_3, max_position_embeddings=length)
    return replace(config, text_encoder_3=t5)


def condition_on_text(
    ops: Backend, config: ModelConfig, states: Array, pooled: Array | None, size: tuple[int, int]
) -> Conditioning:
    """Return the conditioning of the transformer; without T5, zeros stand for its hidden states."""
    network = transformer_of(config)
    states = widen(ops, states, network.joint_attention_dim)
    if config.text_encoder_3 is None:
        zeros = ops.zeros((states.shape[0], network.empty_tokens, states.shape[2]), states)
        states = ops.xp.concat([states, zeros], axis=1)
    return Conditioning(states, pooled)


def widen(ops: Backend, states: Array, width: int) -> Array:
    """Fill up hidden states (n, l, d) with zeros: (n, l, width)."""
    n, length, d = states.shape
    if d == width:
        return states
    return ops.xp.concat([states, ops.zeros((n, length, width - d), states)], axis=2)
