"""Text encoders of every kind by one interface, and prompts encoded by all those of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.params import Params, Spec
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokens import Tokens
from ldmref.prompts.weights import emphasize


class EncodedText(NamedTuple):
    """Prompts as the U-Net reads them.

    Attributes:
        states: Hidden states, (n, chunks * l, d).
        pooled: The last encoder's pooled output, (n, d_pooled); None if it has none.
        tokens: The tokens of the encoder whose hidden states the denoiser reads; of several, the
            first one's.

    >>> import ldmref
    >>> from ldmref.prompts.tokenizer import PromptOptions
    >>> model = ldmref.random_model("tiny")
    >>> model.encode_prompts(["a red cat"], 0, PromptOptions()).states.shape
    (1, 16, 32)
    """

    states: Array
    pooled: Array | None
    tokens: Tokens


def text_spec(config: TextConfig) -> Spec:
    """Return the shapes of every parameter of a text encoder."""
    return kind_of(config).spec(config)


def text_encoder(ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0) -> Array:
    """Compute hidden states; ids: (n, l) int64 -> (n, l, hidden_size).

    `skip` is the number of final layers to leave out (clip skip: 1 uses the penultimate layer), in
    addition to the configuration's `skipped_layers`.
    """
    function = kind_of(config).function
    assert function is not None  # otherwise there is no such network
    return function(ops, p, config, ids, skip + config.skipped_layers)


def text_encoder_pooled(
    ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0
) -> tuple[Array, Array]:
    """Compute the hidden states of `text_encoder`, and the pooled output.

    ids: (n, l) int64 -> (n, l, hidden_size), (n, projection_dim).
    """
    function = kind_of(config).pooled
    assert function is not None  # `check_config` refuses a projection of another kind
    return function(ops, p, config, ids, skip + config.skipped_layers)


def encode_tokens(
    ops: Backend,
    configs: Sequence[TextConfig],
    tokens: Sequence[Tokens],
    compile_network: Callable[[Callable, str], Callable],
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Encode tokenized prompts with every text encoder and join their hidden states.

    Args:
        ops: The backend.
        configs: One configuration per text encoder.
        tokens: The prompts as each encoder's tokenizer splits them, in equally many chunks.
        compile_network: A function of a network's definition and name that returns it with its
            parameters, as `Backend.compile` does.
        clip_skip: The number of final layers to leave out.
        weighted: Whether to scale the hidden states by the prompt weights.
    """
    states = []
    pooled = None
    for config, part, name in zip(configs, tokens, TEXT_ENCODERS, strict=False):
        n, chunks, length = part.ids.shape
        ids = ops.asarray(part.ids.reshape(n * chunks, length))
        if config.projection_dim:
            encode = compile_network(text_encoder_pooled, name)
            hidden, pooled = encode(config, ids, clip_skip)
            pooled = pooled[::chunks, ...]  # the first chunk's, as A1111 does
        else:
            hidden = compile_network(text_encoder, name)(config, ids, clip_skip)
        if weighted:
            hidden = emphasize(hidden, ops.asarray(part.weights.reshape(ids.shape)))
        states.append(ops.xp.reshape(hidden, (n, chunks * length, config.hidden_size)))
    joined = states[0] if len(states) == 1 else ops.xp.concat(states, axis=2)
    return EncodedText(joined, pooled, tokens[0])
