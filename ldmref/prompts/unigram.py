"""T5's tokenizer: the most probable pieces of words, as in transformers' T5Tokenizer.

Kudo 2018, arXiv:1804.10959, section 3.2; Kudo and Richardson 2018, arXiv:1808.06226. A vocabulary
is a `tokenizer.json` or SentencePiece's `spiece.model`. Of both, only the pieces, their scores and
the table of the normalization are used.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from itertools import count as count_from
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from ldmref.errors import InputError
from ldmref.prompts.text_checks import MAX_PIECES, MAX_VALUES, check_pieces
from ldmref.prompts.tokenizer import PromptTokenizer, errors_as_corrupt
from ldmref.prompts.tokens import SpecialTokens
from ldmref.support.files import check_input_path, read_file, read_json, require_size

T5_SPECIAL_TOKENS = SpecialTokens("", "</s>", "<pad>", "<unk>")  # nothing before the text
LENGTH = 512
EXTRA_IDS = 100  # the marks of T5's training, which follow the pieces of spiece.model
MAX_BYTES = 64 * 2**20
MAX_FIELDS = MAX_PIECES + 1000  # of a message: the pieces, and a few of the training
FILES = ("tokenizer.json", "spiece.model")
MARK = re.compile(r"<pad>|</s>|<unk>|<extra_id_\d+>")  # tokens that are never a part of a word
UNIGRAM = 1  # the type of a model in spiece.model


class Pieces(NamedTuple):
    """The vocabulary of a Unigram model.

    Args:
        scores: Each piece with the logarithm of its probability, by id.
        unknown: The id of what no piece covers.
        charsmap: SentencePiece's table of the normalization; empty for none.
    """

    scores: list[tuple[str, float]]
    unknown: int
    charsmap: bytes


def unigram_tokenizer(source: str | Path | None, length: int = LENGTH) -> PromptTokenizer:
    """Build T5's tokenizer for prompts.

    Ids equal those of transformers' T5Tokenizer; also a literal </s> in a prompt is the end token.

    Args:
        source: A tokenizer.json, a spiece.model, a folder with one of them, or a checkpoint
            folder that contains it as `tokenizer`. None: no vocabulary is found.
        length: The sequence length of the text encoder, including the end token.

    Returns:
        The tokenizer; `tokenize(prompts)` returns ids and weights.

    Raises:
        InputError: No vocabulary was found.
        CorruptModelError: The vocabulary is damaged, or of another kind.

    >>> from ldmref.prompts import unigram_tokenizer
    >>> tokenizer = unigram_tokenizer("flux/tokenizer_2")  # doctest: +SKIP
    >>> tokenizer.tokenize(["a cat"]).ids.shape  # doctest: +SKIP
    (1, 1, 512)
    """
    path = _find_vocabulary(source)
    with errors_as_corrupt(f"{path.name} is not a vocabulary of T5"):
        require_size(path, MAX_BYTES, "E-TOKENIZER")
        if path.suffix == ".json":
            pieces = _read_json(path)
        else:
            pieces = _read_model(read_file(path, MAX_BYTES, "E-TOKENIZER"))
        check_pieces([piece for piece, _ in pieces.scores])
        tokenizer = Tokenizer(Unigram(pieces.scores, pieces.unknown, byte_fallback=False))
        if pieces.charsmap:
            tokenizer.normalizer = normalizers.Precompiled(pieces.charsmap)
    words = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    marks = [piece for piece, _ in pieces.scores if MARK.fullmatch(piece)]
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return PromptTokenizer(tokenizer, length, T5_SPECIAL_TOKENS)


def _find_vocabulary(source: str | Path | None) -> Path:
    message = "this model needs the vocabulary of T5"
    if source is not None:
        path = check_input_path(source, "the path of a vocabulary", "E-TOKENIZER-FILES")
        names = ("", *FILES, *(f"tokenizer/{name}" for name in FILES))
        for file in (path / name for name in names):
            if file.is_file():
                return file
        message += f", which {path.name!r} does not hold"
    hint = "give the tokenizer folder of the model: tokenizer.json or spiece.model"
    raise InputError(message, code="E-TOKENIZER-FILES", hint=hint)


def _read_json(path: Path) -> Pieces:
    """Read a tokenizer.json."""
    data = read_json(path, "E-TOKENIZER", MAX_VALUES)
    model = data["model"]
    if model.get("type", "Unigram") != "Unigram":
        raise ValueError(f"a model of type {model['type']}")
    scores = [(str(piece), float(score)) for piece, score in model["vocab"]]
    tables = [*_find_charsmaps(data.get("normalizer") or {})]
    return Pieces(
        scores, int(model["unk_id"]), base64.b64decode(tables[0], validate=True) if tables else b""
    )


def _find_charsmaps(normalizer: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of a normalizer, which may be a sequence of several."""
    if normalizer.get("type") == "Sequence":
        for part in normalizer["normalizers"]:
            yield from _find_charsmaps(part)
    elif normalizer.get("precompiled_charsmap"):
        yield normalizer["precompiled_charsmap"]


def _read_model(data: bytes) -> Pieces:
    """Read a spiece.model: sentencepiece_model.proto, ModelProto."""
    scores = []
    unknown = 0
    charsmap = b""
    for number, value in _read_message(data):
        if number == 1:
            piece = dict(_read_message(value))
            scores.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0]))
        elif number == 2:
            trainer = dict(_read_message(value))
            unknown = trainer.get(40, 0)
            if trainer.get(3, UNIGRAM) != UNIGRAM:
                raise ValueError(f"a model of type {trainer[3]}, not Unigram")
        elif number == 3:
            charsmap = dict(_read_message(value)).get(2, b"")
    scores += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(EXTRA_IDS))]
    return Pieces(scores, unknown, charsmap)


def _read_message(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message in the wire format of Protocol Buffers.

    Whole numbers are int; texts, messages and numbers of a fixed size are bytes.
    """
    at = 0
    for count in count_from(1):
        if at >= len(data):
            return
        if count > MAX_FIELDS:
            raise ValueError(f"more than {MAX_FIELDS:,} fields")
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        sizes = {1: 8, 5: 4}
        if kind == 2:
            size, at = _read_varint(data, at)
        elif kind in sizes:
            size = sizes[kind]
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(data):
            raise ValueError("a field ends after the file")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a whole number, whose bytes have 7 bits each, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")
