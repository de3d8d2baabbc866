"""Textual-inversion files: the layouts of diffusers and of A1111, as safetensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldmref.errors import CorruptModelError, UsageError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.prompts.textual_inversion import Embedding
from ldmref.support.files import check_input_path

SDXL = ("clip_l", "clip_g")
UNNAMED = (*SDXL, "emb_params", "string_to_param.*")  # tensors that do not name the word


def read_embeddings(path: str | Path, word: str | None = None) -> list[Embedding]:
    """Read the word of a textual-inversion file, with one embedding per text encoder.

    - diffusers (`learned_embeds.safetensors`): one tensor, (d,) or (k, d), named after the word.
    - A1111: the tensor `emb_params` (k, d); the word is the file's name.
    - ComfyUI: the tensor `clip_l` (k, d) alone; the word is the file's name.
    - SDXL: the tensors `clip_l` (k, 768) and `clip_g` (k, 1280), one for each text encoder; the
      word is the file's name.

    Args:
        path: A safetensors file.
        word: The word to use instead of the file's. None: the file's.

    Returns:
        One `Embedding`, or one for each of SDXL's two text encoders.

    Raises:
        UnsafeFileError: It is a pickle, as most .pt and .bin files are.
        InputError: It cannot be read.
        CorruptModelError: It has none of these layouts.

    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from ldmref.io import read_embeddings
    >>> path = os.path.join(tempfile.mkdtemp(), "learned_embeds.safetensors")
    >>> save_file({"<toy>": np.ones((2, 768), np.float32)}, path)
    >>> embedding = read_embeddings(path)[0]
    >>> embedding.word, embedding.vectors.shape, embedding.tokens
    ('<toy>', (2, 768), ['<toy>', '<toy>_1'])
    """
    path = check_input_path(path, "the path of an embedding", "E-EMBEDDING")
    tensors = TensorFile(path)
    names = list(tensors)
    if set(names) == set(SDXL):
        sources = [(name, path.stem, name) for name in SDXL]
    elif len(names) == 1:
        sources = [(names[0], path.stem if names[0] in UNNAMED else names[0], "")]
    else:
        few = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        message = f"{path.name} is not a textual-inversion file: it holds {len(names)} tensors"
        hint = "it should hold emb_params, one tensor named after its word, or clip_l and clip_g"
        raise CorruptModelError(f"{message} ({few})", code="E-EMBEDDING", hint=hint)
    return [
        Embedding(word or own, np.atleast_2d(np.array(tensors[name], np.float32)), encoder)
        for name, own, encoder in sources
    ]


def read_words(paths: Sequence[str | Path]) -> list[Embedding]:
    """Read the embeddings of several files.

    Raises:
        UsageError: The argument is not a list of paths.
        InputError, UnsafeFileError: A file cannot be read, as for `read_embeddings`.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    if not isinstance(paths, Sequence) or isinstance(paths, bytes):
        message = f"embeddings must be a list of files, not {type(paths).__name__}"
        raise UsageError(message, code="E-EMBEDDING", hint='embeddings=["word.safetensors"]')
    return [embedding for path in paths for embedding in read_embeddings(path)]
