"""Qwen's tokenizer: byte-level BPE, and the template of a chat around the prompt.

A vocabulary is a `tokenizer.json`, or `vocab.json` and `merges.txt`. Only pieces, merges and added
tokens are used; the rules that split text are those of transformers' Qwen2Tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.families import TextConfig
from ldmref.prompts import PromptOptions, PromptTokenizer, SpecialTokens, Tokens

BEFORE = "<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
PAD = "<|endoftext|>"
SPECIAL = SpecialTokens("", PAD, PAD, PAD)
MARKS = (PAD, "<|im_start|>", "<|im_end|>")  # the first added tokens, after the vocabulary
FILES = ("tokenizer.json", "vocab.json")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class ChatTokenizer(PromptTokenizer):
    """A tokenizer of prompts within the template of a chat, of which the end is cut."""

    def with_length(self, length: int) -> ChatTokenizer:
        """Return this tokenizer with another number of tokens."""
        return ChatTokenizer(self.tokenizer, length, self.special_tokens)

    def tokenize(
        self, prompts: str | Sequence[str], options: PromptOptions | None = None
    ) -> Tokens:
        """Return the ids of prompts, padded on the right; their weights are 1."""
        options = options or PromptOptions()
        if options.long_prompts == "chunk" or options.prompt_weights != "none":
            message = "a chat has neither chunks nor weights"
            raise UsageError(message, code="E-PROMPT", hint="leave these options out")
        prompts = [prompts] if isinstance(prompts, str) else prompts
        ids = np.full((len(prompts), 1, self.length), self.pad, np.int64)
        truncated = []
        warnings = []
        for row, prompt in zip(ids, prompts, strict=True):
            encoding = self.tokenizer.encode(BEFORE + prompt + AFTER, add_special_tokens=False)
            kept = encoding.ids[: self.length]
            row[0, : len(kept)] = kept
            truncated.append(len(encoding.ids) - len(kept))
            if truncated[-1]:
                message = f"{truncated[-1]} of {len(encoding.ids)} tokens do not fit"
                if options.strict:
                    raise UsageError(message, code="E-PROMPT-TRUNCATED", hint="shorten the prompt")
                warnings.append(message)
        weights = np.ones(ids.shape, np.float32)
        return Tokens(ids, weights, [1] * len(prompts), truncated, warnings)


def qwen_tokenizer(
    config: TextConfig, source: str | Path | None, pad: int | None
) -> PromptTokenizer:
    """Return the tokenizer of a folder or file; its padding is <|endoftext|>.

    Raises:
        InputError: No vocabulary was found.
        CorruptModelError: It is damaged, or of another kind.
    """
    tokenizer = build_tokenizer(*read_vocabulary(find_vocabulary(source)))
    return ChatTokenizer(tokenizer, config.max_position_embeddings, SPECIAL)


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
        CorruptModelError: It is damaged, or of another kind.
    """
    try:
        data: Any = json.loads(path.read_text("utf-8"))
        if path.name == "vocab.json":
            lines = (path.parent / "merges.txt").read_text("utf-8").splitlines()
            merges: Any = [line for line in lines if line and not line.startswith("#version")]
            vocab: Mapping[str, int] = data
            added = {mark: len(vocab) + i for i, mark in enumerate(MARKS)}
        else:
            vocab, merges = data["model"]["vocab"], data["model"]["merges"]
            added = {token["content"]: int(token["id"]) for token in data["added_tokens"]}
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        kept = {str(piece): int(id) for piece, id in vocab.items() if piece not in added}
        return kept, [(str(left), str(right)) for left, right in pairs], added
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
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
