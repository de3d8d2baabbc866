"""BERT's tokenizer: word pieces of lower-case text, as transformers' BertTokenizer runs it.

Devlin et al. 2018, arXiv:1810.04805, section 3; Wu et al. 2016, arXiv:1609.08144, section 4.1.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from ldmref.errors import CorruptModelError, InputError
from ldmref.prompts.tokenizer import PromptTokenizer, SpecialTokens

BERT_MARKS = SpecialTokens("[CLS]", "[SEP]", "[PAD]", "[UNK]")
LENGTH = 77


def wordpiece_tokenizer(source: str | Path | None, length: int = LENGTH) -> PromptTokenizer:
    """BERT's uncased tokenizer for prompts.

    Args:
        source: a vocab.txt (a token per line), a tokenizer.json, a folder with one of them, or the
            folder of a checkpoint that holds that as `tokenizer`.
        length: tokens that the text encoder reads at once, [CLS] and [SEP] included.

    Ids equal those of transformers' BertTokenizer, but for literal marks such as [SEP]: they are
    split as any other text.

    Raises:
        InputError: there is no vocabulary.
        CorruptModelError: it is damaged.
    """
    vocabulary = _vocabulary(_find(source))
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=BERT_MARKS.unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PromptTokenizer(tokenizer, length, BERT_MARKS)


def _find(source: str | Path | None) -> Path:
    path = Path(source) if source is not None else None
    if path is not None and path.is_file():
        return path
    folders = [] if path is None else [path, path / "tokenizer"]
    for folder in folders:
        for name in ("vocab.txt", "tokenizer.json"):
            if (folder / name).is_file():
                return folder / name
    raise InputError(
        "this model needs the vocabulary of BERT"
        + ("" if path is None else f", which {path.name!r} does not hold"),
        code="E-TOKENIZER-FILES",
        hint="give the tokenizer folder, or vocab.txt, of bert-base-uncased",
    )


def _vocabulary(path: Path) -> dict[str, int]:
    """Token -> id."""
    try:
        if path.suffix != ".json":
            return WordPiece.read_file(str(path))
        model = json.loads(path.read_text("utf-8"))["model"]
        vocabulary = {str(token): int(id) for token, id in model["vocab"].items()}
        if model.get("type", "WordPiece") != "WordPiece":
            raise ValueError(f"a model of type {model['type']}")
        return vocabulary
    except Exception as error:  # the library raises bare Exceptions
        raise CorruptModelError(
            f"{path.name} is no vocabulary of word pieces: {error}", code="E-TOKENIZER"
        ) from error
