"""Text encoders of every kind by one interface, and prompts encoded by all those of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.params import Params, Spec
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokens import Tokens
from ldmref.prompts.weights import emphasize


@dataclass(frozen=True)
class EncodedText:
    """Prompts as a denoiser reads them.

    Attributes:
        states: Hidden states, (n, chunks * l, d).
        pooled: The last encoder's pooled output, (n, d_pooled); None if it has none.
        tokens: The tokens of the encoder whose hidden states the denoiser reads; of several, the
            first one's.
        more: Further arrays of the text, (n, chunks * l, ...), by the argument of the denoiser that
            takes them, such as the `mask` of the tokens.

    >>> import ldmref
    >>> from ldmref.prompts.tokenizer import PromptOptions
    >>> model = ldmref.random_model("tiny")
    >>> model.encode_prompts(["a red cat"], 0, PromptOptions()).states.shape
    (1, 16, 32)
    """

    states: Array
    pooled: Array | None
    tokens: Tokens
    more: Mapping[str, Array] = field(default_factory=dict)

    def followed_by(self, ops: Backend, others: Sequence[EncodedText]) -> EncodedText:
        """Return these prompts with the chunks of others behind their own; `ops` joins them."""

        def join(arrays: Sequence[Array | None]) -> Array:
            return arrays[0] if len(arrays) == 1 else ops.xp.concat(arrays, axis=1)

        every = [self, *others]
        more = {name: join([one.more[name] for one in every]) for name in self.more}
        return replace(self, states=join([one.states for one in every]), more=more)


def join_rows(ops: Backend, texts: Sequence[EncodedText]) -> EncodedText:
    """Return encoded prompts of as many tokens as one batch, with the tokens of the first."""

    def join(arrays: Sequence[Array | None]) -> Array:
        return ops.xp.concat(arrays, axis=0)

    first = texts[0]
    pooled = None if first.pooled is None else join([text.pooled for text in texts])
    more = {name: join([text.more[name] for text in texts]) for name in first.more}
    return EncodedText(join([text.states for text in texts]), pooled, first.tokens, more)


def text_spec(config: TextConfig) -> Spec:
    """Return the shapes of every parameter of a text encoder."""
    return kind_of(config).spec(config)


def _mask_argument(mask: Array | None) -> tuple[Array, ...]:
    """Return the further argument of encoders that read a mask; () for those that do not."""
    return () if mask is None else (mask,)


def text_encoder(
    ops: Backend,
    p: Params,
    config: TextConfig,
    ids: Array,
    skip: int = 0,
    mask: Array | None = None,
) -> Array:
    """Compute hidden states; ids: (n, l) int64 -> (n, l, hidden_size).

    `skip` is the number of final layers to leave out (clip skip: 1 uses the penultimate layer), in
    addition to the configuration's `skipped_layers`. `mask`, (n, l), is 1 for tokens that others
    attend to and 0 for padding; kinds take it whose configuration sets `use_attention_mask`.
    """
    function = kind_of(config).function
    assert function is not None  # otherwise there is no such network
    return function(ops, p, config, ids, skip + config.skipped_layers, *_mask_argument(mask))


def text_encoder_pooled(
    ops: Backend,
    p: Params,
    config: TextConfig,
    ids: Array,
    skip: int = 0,
    mask: Array | None = None,
) -> tuple[Array, Array]:
    """Compute the hidden states of `text_encoder`, and the pooled output.

    ids: (n, l) int64 -> (n, l, hidden_size), (n, projection_dim). `mask` as for `text_encoder`.
    """
    function = kind_of(config).pooled
    assert function is not None  # `check_config` refuses a projection of another kind
    return function(ops, p, config, ids, skip + config.skipped_layers, *_mask_argument(mask))


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

    Returns:
        The hidden states side by side, without those of the tokens that a template drops. If an
        encoder does not attend to padding, `more` has the `mask` of its tokens.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> def compile_network(function, name):
    ...     return model.backend.compile(function, model.params[name])
    >>> tokens = [model.tokenize(["a red cat"])]
    >>> encode_tokens(
    ...     model.backend, model.config.text_encoders, tokens, compile_network).states.shape
    (1, 16, 32)
    """
    states = []
    pooled = None
    masks = []
    for config, part, name in zip(configs, tokens, TEXT_ENCODERS, strict=False):
        n, chunks, length = part.ids.shape
        ids = ops.asarray(part.ids.reshape(n * chunks, length))
        mask = ops.asarray(part.mask.reshape(ids.shape)) if config.use_attention_mask else None
        if config.projection_dim:
            encode = compile_network(text_encoder_pooled, name)
            hidden, pooled = encode(config, ids, clip_skip, *_mask_argument(mask))
            pooled = pooled[::chunks, ...]  # the first chunk's, as A1111 does
        else:
            hidden = compile_network(text_encoder, name)(
                config, ids, clip_skip, *_mask_argument(mask)
            )
        if weighted:
            hidden = emphasize(hidden, ops.asarray(part.weights.reshape(ids.shape)))
        if mask is not None:
            masks.append(ops.xp.reshape(mask[:, part.dropped :], (n, -1)))
        hidden = hidden[:, part.dropped :, :] if part.dropped else hidden
        states.append(ops.xp.reshape(hidden, (n, -1, hidden.shape[2])))
    joined = states[0] if len(states) == 1 else ops.xp.concat(states, axis=2)
    return EncodedText(joined, pooled, tokens[0], {"mask": masks[0]} if masks else {})
