"""Textual-inversion words in the text encoders and tokenizers of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldmref.errors import UsageError
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.params import Params, flatten, unflatten
from ldmref.models.text_kind import kind_of
from ldmref.prompts.textual_inversion import Embedding, add_embeddings, group_by_encoder
from ldmref.prompts.tokenizer import PromptTokenizer

TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def add_learned_words(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizers: Sequence[PromptTokenizer],
    embeddings: Sequence[Embedding],
) -> tuple[ModelConfig, dict[str, Params], list[PromptTokenizer]]:
    """Add textual-inversion words to the text encoders and tokenizers of a model.

    Args:
        config: The model's configuration.
        params: The parameters of every network, by name.
        tokenizers: One tokenizer per text encoder, or more.
        embeddings: The words.

    Returns:
        The new configuration, the parameters of the text encoders, and their tokenizers.

    Raises:
        UsageError: A word is already known or was made for other text encoders.
        CorruptModelError: The vectors do not have the width of the text encoder.
    """
    if not all(kind_of(text).learns_words for text in config.text_encoders):
        message = f"{config.name!r} has no CLIP text encoder, for which words are learned"
        raise UsageError(message, code="E-EMBEDDING")
    grown = {}
    extended = []
    words = group_by_encoder(embeddings, len(config.text_encoders))
    for encoder, tokenizer, new in zip(TEXT_ENCODERS, tokenizers, words, strict=False):
        flat = flatten(params[encoder])
        flat[TOKEN_TABLE], longer = add_embeddings(flat[TOKEN_TABLE], tokenizer, new)
        grown[encoder] = unflatten(flat)
        extended.append(longer)
        text = getattr(config, encoder)
        # The end token no longer has the largest id, so it is named.
        end = longer.end if text.eos_token_id == 2 else text.eos_token_id
        text = replace(text, vocab_size=len(flat[TOKEN_TABLE]), eos_token_id=end)
        config = replace(config, **{encoder: text})
    return config, grown, extended
