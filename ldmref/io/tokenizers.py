"""The tokenizer of a text encoder."""

from __future__ import annotations

from pathlib import Path

from ldmref.errors import CorruptModelError
from ldmref.models.config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import holds_words, load_word_tokenizer


def tokenizer_for(
    text: TextConfig, source: str | Path | None = None, pad: int | None = None
) -> PromptTokenizer:
    """Return the tokenizer of a text encoder.

    Class-conditional and unconditional models need no files. The text encoders of a model that
    ldmref trained read whole words, whatever their type.

    Args:
        text: The configuration of the text encoder.
        source: The location of the vocabulary, as for `load_tokenizer`,
            `wordpiece_tokenizer` and `unigram_tokenizer`.
        pad: The id of the padding token, as for `load_tokenizer`.

    Raises:
        InputError: No vocabulary was found.
        CorruptModelError: A file is damaged, or the vocabulary is larger than the encoder's.
    """
    kind = kind_of(text)
    if kind.reads != "text":
        return kind.tokenizer(text, source, pad)
    if isinstance(source, str | Path) and holds_words(Path(source)):
        tokenizer = load_word_tokenizer(Path(source), text.max_position_embeddings)
    else:
        tokenizer = kind.tokenizer(text, source, pad)
    if max(tokenizer.tokenizer.get_vocab().values(), default=0) >= text.vocab_size:
        message = "the tokenizer knows more tokens than the text encoder"
        raise CorruptModelError(message, code="E-TOKENIZER")
    return tokenizer
