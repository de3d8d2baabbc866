"""Textual inversion: only the vectors of a new word are trained.

They minimise the denoiser's loss for prompts in which the word describes the images (Gal et al.
2022, arXiv:2208.01618, eq. 2).
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

# similar to the templates of CLIP's authors, which the paper uses
TEMPLATES = (
    "a photo of {}", "an image of {}", "a close-up photo of {}", "a bright photo of {}",
    "a dark photo of {}", "a cropped photo of {}", "a good photo of {}", "a rendition of {}",
    "a photo of one {}", "a photo of the {}", "{}",
)  # fmt: skip


def random_prompt(word: str, rng: np.random.Generator) -> str:
    """Return a random prompt that contains the word."""
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(word)


def initial_vectors(
    table: np.ndarray, tokenizer: PromptTokenizer, word: str, count: int
) -> np.ndarray:
    """Return the rows of a known word's tokens, repeated until there are `count`, (count, d).

    Raises:
        UsageError: The word is not in the vocabulary.
    """
    ids = tokenizer.encode([word])[0][0]
    inner = [int(i) for i in ids[1:] if i not in (tokenizer.end, tokenizer.pad)]
    if not inner or tokenizer.tokenize([word]).warnings:
        message = f"textual_inversion.initial: the model does not know the word {word!r}"
        raise UsageError(f"recipe: {message}", code="E-RECIPE", hint="name a kind of thing")
    return np.stack([table[inner[i % len(inner)]] for i in range(count)]).astype(np.float32)


def with_vectors(text_encoder: Params, vectors: torch.Tensor) -> Params:
    """Return the text encoder with its last k token embeddings replaced by `vectors`, (k, d)."""
    flat = flatten(text_encoder)
    table = flat[TOKEN_TABLE]
    flat[TOKEN_TABLE] = torch.cat([table[: -len(vectors)], vectors.to(table.dtype)])
    return unflatten(flat)


def write_embedding(path: Path, word: str, vectors: np.ndarray) -> None:
    """Write the word in the format of diffusers: one tensor, named after the word.

    Raises:
        OutputError: The file cannot be written.
    """
    tensor = np.ascontiguousarray(vectors, np.float32)
    write_tensors(path, {word: source(tensor)}, overwrite=True)
