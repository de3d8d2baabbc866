"""Textual inversion: new words for a text encoder, each with one or several learned vectors.

Gal et al. 2022, arXiv:2208.01618. `ldmref.io.read_embeddings` reads the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace, device
from tokenizers import Tokenizer

from ldmref.errors import CorruptModelError, UsageError
from ldmref.math.arrays import Array
from ldmref.prompts.clip import add_words
from ldmref.prompts.tokenizer import PromptTokenizer

READER = "ldmref.io.read_embeddings(path) reads a file"


@dataclass(frozen=True)
class Embedding:
    """A learned word.

    Attributes:
        word: The word, as prompts write it.
        vectors: (k, d) float32.
        encoder: "clip_l" or "clip_g" for SDXL's two text encoders; "" otherwise.

    Raises:
        CorruptModelError: The vectors are not (k, d) finite floats, or there is no vector.

    >>> import numpy as np
    >>> from ldmref.prompts import Embedding
    >>> Embedding("<toy>", np.ones((2, 768), np.float32)).tokens
    ['<toy>', '<toy>_1']
    """

    word: str
    vectors: np.ndarray = field(repr=False)
    encoder: str = ""

    def __post_init__(self) -> None:
        vectors = self.vectors
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
            message = f"the embedding {self.word!r} must be finite numbers (k, d), not"
            message = f"{message} {vectors.shape} {vectors.dtype}"
            raise CorruptModelError(message, code="E-EMBEDDING")

    @property
    def tokens(self) -> list[str]:
        """The token of each vector: word, word_1, ..., as in diffusers."""
        return [self.word, *(f"{self.word}_{i}" for i in range(1, len(self.vectors)))]

    @property
    def sha256(self) -> str:
        """SHA-256 of the vectors."""
        return hashlib.sha256(np.ascontiguousarray(self.vectors, np.float32).tobytes()).hexdigest()


def add_embeddings(
    table: Array, tokenizer: PromptTokenizer, embeddings: Sequence[Embedding]
) -> tuple[Array, PromptTokenizer]:
    """Return copies of the token table and the tokenizer, extended by the words.

    A word gets the ids vocab_size, vocab_size + 1, ..., one per vector. It is matched regardless of
    case, and as a whole word if it is alphanumeric. Rows that belong to no token are left out.

    Args:
        table: The text encoder's token embeddings, (rows, d); the copy has a row per vector more.
        tokenizer: A tokenizer with vocab_size <= rows tokens.
        embeddings: The words.

    Raises:
        UsageError: A word is empty or already known, or has more vectors than a chunk has tokens.
        CorruptModelError: The width of a vector is not d, or the tokenizer has more tokens than the
            table has rows.
    """
    vocab_size = tokenizer.tokenizer.get_vocab_size()
    if vocab_size > table.shape[0]:
        message = f"the tokenizer knows {vocab_size} tokens, the text encoder {table.shape[0]}"
        raise CorruptModelError(message, code="E-TOKENIZER")
    extended = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    for embedding in embeddings:
        _check(embedding, extended, table.shape[1], tokenizer.room)
        add_words(extended, embedding.tokens)
    xp = array_namespace(table)
    rows = [xp.asarray(e.vectors, dtype=table.dtype, device=device(table)) for e in embeddings]
    special_tokens = tokenizer.special_tokens
    clean, template = tokenizer.clean, tokenizer.template
    result = PromptTokenizer(extended, tokenizer.length, special_tokens, clean, template)
    if tokenizer.tokenizer.padding:
        extended.enable_padding(pad_id=result.pad, pad_token=special_tokens.pad)
    return xp.concat([table[:vocab_size, :], *rows], axis=0), result


def group_by_encoder(embeddings: Sequence[Embedding], encoders: int) -> list[list[Embedding]]:
    """Group embeddings by the text encoders of a model, one or two.

    Raises:
        UsageError: They were trained for another number of text encoders, or a word lacks vectors
            for one of the two.
    """
    if not isinstance(embeddings, Sequence) or {*map(type, embeddings)} - {Embedding}:
        raise UsageError("embeddings must be a list of Embedding", code="E-EMBEDDING", hint=READER)
    names = ("",) if encoders == 1 else ("clip_l", "clip_g")
    groups = [[e for e in embeddings if e.encoder == name] for name in names]
    tokens = [[e.tokens for e in group] for group in groups]
    if sum(map(len, groups)) != len(embeddings) or tokens[0] != tokens[-1]:
        raise UsageError(
            f"the embeddings do not fit a model with {encoders} text encoder"
            f"{'s' if encoders > 1 else ''}: {', '.join(e.word for e in embeddings)}",
            code="E-EMBEDDING",
            hint="a file with clip_l and clip_g belongs to SDXL, every other to one text encoder",
        )
    return groups


def _check(embedding: Embedding, tokenizer: Tokenizer, width: int, max_vectors: int) -> None:
    word = embedding.word
    (k, d) = embedding.vectors.shape
    if d != width:
        message = f"the embedding {word!r} has width {d}, the text encoder {width}"
        hint = "it was trained for another model; 768 is Stable Diffusion 1, 1024 is 2"
        raise CorruptModelError(message, code="E-EMBEDDING", hint=hint)
    if not word.strip():
        raise UsageError(f"the embedding {word!r} has no name", code="E-EMBEDDING")
    if k > max_vectors:
        message = f"the embedding {word!r} has {k} vectors, a prompt has room for {max_vectors}"
        raise UsageError(message, code="E-EMBEDDING")
    known = {token.lower() for token in tokenizer.get_vocab()}
    for token in embedding.tokens:
        if token.lower() in known:
            message = f"the tokenizer already has a token {token!r}"
            hint = f"give the embedding another word, such as '<{word.strip('<>')}-1>'"
            raise UsageError(message, code="E-EMBEDDING", hint=hint)
