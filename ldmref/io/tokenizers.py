"""The tokenizers of text encoders."""

from __future__ import annotations

from pathlib import Path

from ldmref.errors import CorruptModelError
from ldmref.models.config import TEXT_ENCODERS, TOKENIZERS, ModelConfig, TextConfig
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.prompts.prompt_template import PLAIN, PromptTemplate
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import holds_words, load_word_tokenizer

PROCESSOR = "processor"  # of text encoders that also read images: it holds their tokenizer


def tokenizer_for(
    text: TextConfig,
    source: str | Path | None = None,
    pad: int | None = None,
    network: str = "text_encoder",
    template: PromptTemplate = PLAIN,
) -> PromptTokenizer:
    """Return the tokenizer of a text encoder.

    Class-conditional and unconditional models need no files. The text encoders of a model that
    ldmref trained read whole words, whatever their type.

    Args:
        text: The configuration of the text encoder.
        source: The location of the vocabulary, as for `load_tokenizer`,
            `wordpiece_tokenizer` and `unigram_tokenizer`.
        pad: The id of the padding token, as for `load_tokenizer`.
        network: The name of the text encoder, for errors.
        template: What stands around a prompt. Tokenizers of whole words have none.

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
        tokenizer = kind.tokenizer(text, source, pad).with_template(template)
    last = max(tokenizer.tokenizer.get_vocab().values(), default=0)
    if last >= text.vocab_size:
        encoder = f"{text.model_type} of width {text.hidden_size}"
        raise CorruptModelError(
            f"the vocabulary for {network} ({encoder}) has tokens up to number {last:,}, and the "
            f"encoder knows {text.vocab_size:,}",
            code="E-TOKENIZER",
            hint="give the vocabulary of this encoder: tokenizer= (--tokenizer), a folder with a "
            "tokenizer, tokenizer_2, ... for each encoder of the model",
        )
    return tokenizer


def find_tokenizers(
    config: ModelConfig, folder: Path | None, source: str | Path | None = None
) -> list[PromptTokenizer]:
    """Return a tokenizer for each text encoder: of `source`, `folder` or an installed vocabulary.

    Args:
        config: The configuration of the model.
        folder: A folder that may hold one for each: `tokenizer`, `tokenizer_2`, `tokenizer_3`; or
            `processor` instead of the first.
        source: The location of the vocabulary, as for `tokenizer_for`; or such a folder, which then
            counts instead. None: none was given.

    Raises:
        InputError, CorruptModelError: As for `tokenizer_for`.
    """
    if not config.text_encoders:
        return [tokenizer_for(config.text_encoder)]
    place = folder if source is None else Path(source)
    templates = family_of(config).text.templates(config)
    tokenizers = []
    parts = zip(config.text_encoders, TOKENIZERS, TEXT_ENCODERS, strict=False)
    for text, name, network in parts:
        own = _find_folder(place, name)
        # OpenCLIP pads with 0; a folder's tokenizer configuration names its own padding
        pad = kind_of(text).padding(text) if own is None else None
        found = source if own is None else own
        tokenizers.append(tokenizer_for(text, found, pad, network, templates.get(network, PLAIN)))
    return tokenizers


def _find_folder(place: Path | None, name: str) -> Path | None:
    """Return the folder of a tokenizer within that of a model; None if there is none."""
    names = (name, PROCESSOR) if name == TOKENIZERS[0] else (name,)
    folders = (place / name for name in names) if place is not None else ()
    return next((folder for folder in folders if folder.is_dir()), None)
