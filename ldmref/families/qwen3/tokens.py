"""Qwen's tokenizer: byte-level BPE.

A vocabulary is a `tokenizer.json`, or `vocab.json` and `merges.txt`. Only pieces, merges and added
tokens are used; the rules that split text are those of transformers' Qwen2Tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ldmref.errors import CorruptModelError, InputError
from ldmref.models.text_config import TextConfig
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.tokens import SpecialTokens
from ldmref.support.files import read_file

PAD = "<|endoftext|>"
SPECIAL = SpecialTokens("", PAD, PAD, PAD)
MARKS = (  # the added tokens of Qwen3, which follow the vocabulary
    PAD, "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
    "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
MAX_BYTES = 64 << 20  # of a file; Qwen3's tokenizer.json has 11 million
FILES = ("tokenizer.json", "vocab.json")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_tokenizer(
    config: TextConfig, source: str | Path | None, pad: int | None
) -> PromptTokenizer:
    """Return the tokenizer of a folder or file; its padding is <|endoftext|>.

    Raises:
        InputError: No vocabulary was found.
        CorruptModelError: It is damaged, or of another kind.
    """
    tokenizer = build_tokenizer(*read_vocabulary(find_vocabulary(source)))
    return PromptTokenizer(tokenizer, config.max_position_embeddings, SPECIAL)


def find_vocabulary(source: str | Path | None) -> Path:
    """Return the file of a vocabulary.

    Raises:
        InputError: There is none.
    """
    message = "this model needs the vocabulary of Qwen"
    if source is not None:
        path = Path(source)
        names = ("", *FILES, *(f"tokenizer/{name}" for name in FILES))
        for file in (path / name for name in names):
            if file.is_file():
                return file
        message += f", which {path.name!r} does not hold"
    hint = "give the tokenizer folder of the model: tokenizer.json, or vocab.json and merges.txt"
    raise InputError(message, code="E-TOKENIZER-FILES", hint=hint)


def read_vocabulary(
    path: Path,
) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    """Return the ids of the pieces, the merges, and the ids of the added tokens.

    Raises:
        InputError: A file is missing or cannot be read.
        CorruptModelError: It is damaged, too large, or of another kind.
    """
    text = read_text(path)
    beside = read_text(path.parent / "merges.txt") if path.name == "vocab.json" else ""
    try:
        data: Any = json.loads(text)
        if path.name == "vocab.json":
            lines = beside.splitlines()
            merges: Any = [line for line in lines if line and not line.startswith("#version")]
            vocab: Mapping[str, int] = data
            added = {mark: len(vocab) + i for i, mark in enumerate(MARKS)}
        else:
            vocab, merges = data["model"]["vocab"], data["model"]["merges"]
            added = {token["content"]: int(token["id"]) for token in data["added_tokens"]}
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        kept = {str(piece): int(id) for piece, id in vocab.items() if piece not in added}
        return kept, [(str(left), str(right)) for left, right in pairs], added
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{path.name} is not a vocabulary of Qwen ({error})"
        raise CorruptModelError(message, code="E-TOKENIZER") from error


def read_text(path: Path) -> str:
    """Read a file of a vocabulary.

    Raises:
        InputError: It is missing or cannot be read.
        CorruptModelError: It is too large, or no text in UTF-8.
    """
    data = read_file(path, MAX_BYTES, "E-TOKENIZER")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{path.name} is not a vocabulary of Qwen ({error})"
        raise CorruptModelError(message, code="E-TOKENIZER") from error


def build_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], added: Mapping[str, int]
) -> Tokenizer:
    """Build the tokenizer of a vocabulary.

    Raises:
        CorruptModelError: A merge has pieces that are not in the vocabulary, or an added token
            another id than the next one.
    """
    try:
        tokenizer = Tokenizer(BPE(vocab, merges))
    except Exception as error:  # the library raises nothing more specific
        message = f"the vocabulary of Qwen is damaged ({error})"
        raise CorruptModelError(message, code="E-TOKENIZER") from error
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    for token in sorted(added, key=lambda token: added[token]):
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        if tokenizer.token_to_id(token) != added[token]:
            message = f"the added token {token!r} has the number {added[token]}, not the next one"
            raise CorruptModelError(message, code="E-TOKENIZER")
    return tokenizer


def small_vocabulary() -> dict[str, str]:
    """Return the files of a small vocabulary: all bytes, and a few merges, for golden runs."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("e", "d"), ("r", "ed"), ("a", "t"), ("h", "e"), ("Ġ", "red"), ("Ġ", "he")]
    pieces = [*letters, *("".join(pair) for pair in merges)]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    lines = "\n".join(" ".join(pair) for pair in merges)
    return {"vocab.json": json.dumps(vocab), "merges.txt": f"#version: 0.2\n{lines}\n"}
