"""How text conditions Flux.1: T5's hidden states, and one vector of CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ldmref.backends.base import Backend
from ldmref.models.config import TEXT_ENCODERS, TextConfig
from ldmref.models.text import EncodedText, pool_end_token, text_encoder
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
    states = []
    for config, part, name in zip(configs, tokens, TEXT_ENCODERS, strict=False):
        n, chunks, length = part.ids.shape
        ids = ops.asarray(part.ids.reshape(n * chunks, length))
        skip = clip_skip if config.model_type == "t5" else 0
        states.append(compile_network(text_encoder, name)(config, ids, skip))
        if config.model_type == "clip":
            pooled = pool_end_token(ops, config, ids, states[0])[::chunks, ...]
    hidden = states[1]
    if weighted:
        hidden = emphasize(hidden, ops.asarray(part.weights.reshape(ids.shape)))
    joined = ops.xp.reshape(hidden, (n, chunks * length, config.hidden_size))
    return EncodedText(joined, pooled, tokens[1])
