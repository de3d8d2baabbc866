"""BERT's tokenizer: word pieces of lower-case text, as in transformers' BertTokenizer.

Devlin et al. 2018, arXiv:1810.04805, section 3; Wu et al. 2016, arXiv:1609.08144, section 4.1.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from ldmref.errors import InputError
from ldmref.prompts.text_checks import MAX_VALUES, check_lines, check_pieces
from ldmref.prompts.tokenizer import PromptTokenizer, errors_as_corrupt
from ldmref.prompts.tokens import SpecialTokens
from ldmref.support.files import check_input_path, read_file, read_json

BERT_SPECIAL_TOKENS = SpecialTokens("[CLS]", "[SEP]", "[PAD]", "[UNK]")
LENGTH = 77
MAX_BYTES = 64 * 2**20


def wordpiece_tokenizer(source: str | Path | None, length: int = LENGTH) -> PromptTokenizer:
    """Build BERT's uncased tokenizer for prompts.

    Ids equal those of transformers' BertTokenizer, except for literal special tokens such as [SEP]:
    they are split like other text.

    Args:
        source: A vocab.txt (one token per line), a tokenizer.json, a folder with one of them,
            or a checkpoint folder that contains it as `tokenizer`. None: no vocabulary is
            found.
        length: The sequence length of the text encoder, including [CLS] and [SEP].

    Returns:
        The tokenizer; `tokenize(prompts)` returns ids and weights.

    Raises:
        InputError: No vocabulary was found.
        CorruptModelError: The vocabulary is damaged.

    >>> from ldmref.prompts import wordpiece_tokenizer
    >>> tokenizer = wordpiece_tokenizer("bert/vocab.txt")  # doctest: +SKIP
    >>> tokenizer.tokenize(["a cat"]).ids.shape  # doctest: +SKIP
    (1, 1, 77)
    """
    vocabulary = _read_vocabulary(_vocabulary_file(source))
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=BERT_SPECIAL_TOKENS.unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PromptTokenizer(tokenizer, length, BERT_SPECIAL_TOKENS)


def _vocabulary_file(source: str | Path | None) -> Path:
    message = "this model needs the vocabulary of BERT"
    if source is not None:
        path = check_input_path(source, "the path of a vocabulary", "E-TOKENIZER-FILES")
        names = (
            "",
            "vocab.txt",
            "tokenizer.json",
            "tokenizer/vocab.txt",
            "tokenizer/tokenizer.json",
        )
        for file in (path / name for name in names):
            if file.is_file():
                return file
        message += f", which {path.name!r} does not hold"
    hint = "give the tokenizer folder, or vocab.txt, of bert-base-uncased"
    raise InputError(message, code="E-TOKENIZER-FILES", hint=hint)


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Read the id of each token."""
    with errors_as_corrupt(f"{path.name} is not a vocabulary of word pieces"):
        if path.suffix != ".json":
            check_lines(read_file(path, MAX_BYTES, "E-TOKENIZER"))
            return WordPiece.read_file(str(path))
        model = read_json(path, "E-TOKENIZER", MAX_VALUES)["model"]
        if model.get("type", "WordPiece") != "WordPiece":
            raise ValueError(f"a model of type {model['type']}")
        vocabulary = {str(token): int(id) for token, id in model["vocab"].items()}
        if not all(0 <= id < 2**32 for id in vocabulary.values()):
            raise ValueError("an id is negative or above 2^32 - 1")
        check_pieces(vocabulary)
        return vocabulary
