"""Textual inversion: new words for a text encoder, each one or several learned vectors.

Gal et al. 2022, arXiv:2208.01618. The files are read by `ldmref.io.adapters.textual_inversion`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device
from tokenizers import Tokenizer

from ldmref.errors import CorruptModelError, UsageError
from ldmref.math.arrays import Array
from ldmref.prompts.clip import add_words
from ldmref.prompts.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Embedding:
    """A learned word: `vectors` (k, d) float32; `encoder`: clip_l or clip_g in SDXL, else empty."""

    word: str
    vectors: np.ndarray
    encoder: str = ""

    def __post_init__(self) -> None:
        good = self.vectors.ndim == 2 and self.vectors.size and np.isfinite(self.vectors).all()
        if not good:
            raise CorruptModelError(
                f"the embedding {self.word!r} must be finite numbers (k, d), not "
                f"{self.vectors.shape} {self.vectors.dtype}",
                code="E-EMBEDDING",
            )

    @property
    def sha256(self) -> str:
        """The digest of the vectors."""
        return hashlib.sha256(np.ascontiguousarray(self.vectors, np.float32).tobytes()).hexdigest()


def add_embeddings(
    table: Array, tokenizer: PromptTokenizer, embeddings: Sequence[Embedding]
) -> tuple[Array, PromptTokenizer]:
    """The token table and the tokenizer with more words; the given ones stay as they are.

    A word gets the ids vocab_size, vocab_size + 1, ..., one per vector, named word, word_1, ... as
    diffusers names them. In a prompt it is found whatever its case; a word of letters and digits
    only where it stands alone.

    Args:
        table: the text encoder's token embeddings, (vocab_size, d); gets a row per vector.
        tokenizer: with vocab_size tokens.

    Raises:
        UsageError: a word is known already, is empty or has more vectors than a prompt has room.
        CorruptModelError: a vector's width is not d, or the table's height not vocab_size.
    """
    if tokenizer.tokenizer.get_vocab_size() != table.shape[0]:
        raise CorruptModelError(
            f"the tokenizer knows {tokenizer.tokenizer.get_vocab_size()} tokens, the text encoder "
            f"{table.shape[0]}; words can be added only where these are equal",
            code="E-TOKENIZER",
        )
    copy = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    for embedding in embeddings:
        _check(embedding, copy, table.shape[1], tokenizer.length - 2)
        add_words(copy, _names(embedding))
    xp = array_namespace(table)
    rows = [xp.asarray(e.vectors, dtype=table.dtype, device=device(table)) for e in embeddings]
    grown = PromptTokenizer(copy, tokenizer.length, tokenizer.marks, tokenizer.clean)
    if tokenizer.tokenizer.padding:
        copy.enable_padding(pad_id=grown.pad, pad_token=grown.marks.pad)
    return xp.concat([table, *rows], axis=0), grown


def by_encoder(embeddings: Sequence[Embedding], encoders: int) -> list[list[Embedding]]:
    """The embeddings for each of a model's one or two text encoders.

    Raises:
        UsageError: a word is made for one encoder and the model has two, or the other way round.
    """
    kinds = ("",) if encoders == 1 else ("clip_l", "clip_g")
    parts = [[e for e in embeddings if e.encoder == kind] for kind in kinds]
    words = [[e.word for e in part] for part in parts]
    shapes = [[len(e.vectors) for e in part] for part in parts]
    if sum(map(len, parts)) != len(embeddings) or words[0] != words[-1] or shapes[0] != shapes[-1]:
        raise UsageError(
            f"the embeddings do not fit a model with {encoders} text encoder"
            f"{'s' if encoders > 1 else ''}: {', '.join(e.word for e in embeddings)}",
            code="E-EMBEDDING",
            hint="a file with clip_l and clip_g belongs to SDXL, every other to one text encoder",
        )
    return parts


def _names(embedding: Embedding) -> list[str]:
    k = len(embedding.vectors)
    return [embedding.word, *(f"{embedding.word}_{i}" for i in range(1, k))]


def _check(embedding: Embedding, tokenizer: Tokenizer, width: int, room: int) -> None:
    word, (k, d) = embedding.word, embedding.vectors.shape
    if d != width:
        raise CorruptModelError(
            f"the embedding {word!r} has width {d}, the text encoder {width}",
            code="E-EMBEDDING",
            hint="it was made for another model; 768 is Stable Diffusion 1, 1024 is 2",
        )
    if not word.strip() or k > room:
        what = f"has {k} vectors, a prompt has room for {room}" if word.strip() else "has no name"
        raise UsageError(f"the embedding {word!r} {what}", code="E-EMBEDDING")
    known = {name.lower() for name in tokenizer.get_vocab()}
    taken = [name for name in _names(embedding) if name.lower() in known]
    if taken:
        raise UsageError(
            f"the tokenizer already has a token {taken[0]!r}",
            code="E-EMBEDDING",
            hint=f"give the embedding another word, such as '<{word.strip('<>')}-1>'",
        )
