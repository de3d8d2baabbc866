"""Textual inversion: the vectors of a new word are learned, and nothing else.

Gal et al. 2022, arXiv:2208.01618, eq. 2: the minimum of the denoiser's loss over the vectors, with
prompts in which the word stands for what the images show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ldmref.errors import UsageError
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.learned_words import TOKEN_TABLE
from ldmref.models.params import Params, flatten, unflatten
from ldmref.prompts.tokenizer import PromptTokenizer

# In the manner of the templates of CLIP's authors, which the paper takes.
TEMPLATES = (
    "a photo of {}", "an image of {}", "a close-up photo of {}", "a bright photo of {}",
    "a dark photo of {}", "a cropped photo of {}", "a good photo of {}", "a rendition of {}",
    "a photo of one {}", "a photo of the {}", "{}",
)  # fmt: skip


def random_prompt(word: str, rng: np.random.Generator) -> str:
    """A prompt with the word in it."""
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(word)


def initial_vectors(
    table: np.ndarray, tokenizer: PromptTokenizer, word: str, count: int
) -> np.ndarray:
    """The rows of a known word's tokens, repeated until there are `count`, (count, d).

    Raises:
        UsageError: the tokenizer does not know the word.
    """
    ids = tokenizer.encode([word])[0][0]
    inner = [int(i) for i in ids[1:] if i not in (tokenizer.end, tokenizer.pad)]
    if not inner or tokenizer.tokenize([word]).warnings:
        message = f"textual_inversion.initial: the model does not know the word {word!r}"
        raise UsageError(f"recipe: {message}", code="E-RECIPE", hint="name a kind of thing")
    return np.stack([table[inner[i % len(inner)]] for i in range(count)]).astype(np.float32)


def with_vectors(text_encoder: Params, vectors: torch.Tensor) -> Params:
    """The text encoder with `vectors`, (k, d), in place of its last k token embeddings."""
    flat = flatten(text_encoder)
    table = flat[TOKEN_TABLE]
    flat[TOKEN_TABLE] = torch.cat([table[: -len(vectors)], vectors.to(table.dtype)])
    return unflatten(flat)


def write_embedding(path: Path, word: str, vectors: np.ndarray) -> None:
    """Write the word as diffusers does: one tensor, named after it.

    Raises:
        OutputError: it cannot be written.
    """
    tensor = np.ascontiguousarray(vectors, np.float32)
    write_tensors(path, {word: source(tensor)}, overwrite=True)
