"""A model on disk: a folder of `config.json`, `model.safetensors` and `tokenizer.json`.

The tensors are named `unet.*`, `vae.*` and `text_encoder.*`, and below that as diffusers and
transformers name them. Nothing in the folder can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from ldmref.errors import CorruptModelError, InputError, OutputError, UnsafeFileError
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Params, check, flatten, unflatten
from ldmref.models.tokenizer import PromptTokenizer

SCHEMA = 1
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def load_folder(folder: Path) -> tuple[ModelConfig, Params, PromptTokenizer, str]:
    """Read configuration, parameters and tokenizer, and the SHA-256 of the weights' file.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder.name!r} is no model folder: {name} is missing",
                code="E-MODEL",
                hint="a model folder holds " + ", ".join(FILES),
            )
    config = read_config(folder / "config.json")
    flat, digest = read_tensors(folder / "model.safetensors")
    check(flat, model_spec(config), "model")
    bad = [name for name, tensor in flat.items() if not np.isfinite(tensor).all()]
    if bad:
        raise CorruptModelError(
            f"{len(bad)} tensors hold NaN or infinity: {', '.join(bad[:5])}", code="E-NONFINITE"
        )
    length = config.text_encoder.max_position_embeddings
    tokenizer = PromptTokenizer.load(folder / "tokenizer.json", length)
    if tokenizer.tokenizer.get_vocab_size() > config.text_encoder.vocab_size:
        raise CorruptModelError(
            "the tokenizer knows more tokens than the text encoder", code="E-TOKENIZER"
        )
    return config, unflatten(flat), tokenizer, digest


def read_config(path: Path) -> ModelConfig:
    """Read and check a `config.json` of this project."""
    try:
        data: Any = json.loads(path.read_text("utf-8"))
        schema = data.pop("schema")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptModelError(
            f"{path.name} is no ldmref configuration", code="E-CONFIG"
        ) from error
    if schema != SCHEMA:
        raise CorruptModelError(
            f"{path.name} has schema {schema!r}, this version reads {SCHEMA}",
            code="E-SCHEMA",
            hint="pip install --upgrade ldmref",
        )
    return ModelConfig.from_dict(data)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Every tensor of a safetensors file as NumPy, floats as float32, and the file's SHA-256.

    Raises:
        UnsafeFileError: the file is a pickle or a zip.
        CorruptModelError: it is something else that is no safetensors file, or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", code="E-MODEL") from error
    header_follows = data[8:9] == b"{"  # its length, before it, may begin with any byte
    if not header_follows and (data[:1] == b"\x80" or data[:2] == b"PK"):
        raise UnsafeFileError(
            f"{path.name} is a pickle, not safetensors; loading it could run code",
            code="E-PICKLE",
            hint="ask for a safetensors file",
        )
    if data[:8] == b"version ":
        raise CorruptModelError(
            f"{path.name} is a Git LFS pointer, not the file", code="E-LFS", hint="run git lfs pull"
        )
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CorruptModelError(
            f"{path.name} is damaged or no safetensors file: {error}", code="E-SAFETENSORS"
        ) from error
    flat = {
        name: tensor.astype(np.float32) if tensor.dtype.kind == "f" else tensor
        for name, tensor in tensors.items()
    }
    return flat, hashlib.sha256(data).hexdigest()


def save_folder(
    folder: Path,
    config: ModelConfig,
    params: Params,
    tokenizer_json: str,
    dtype: type = np.float16,
    extra: dict[str, str] | None = None,
) -> None:
    """Write a model folder, made aside and moved into place, so it is never half there.

    `extra` are further text files (name -> content), such as a model card.
    """
    flat = flatten(params)
    check(flat, model_spec(config), "model")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
        try:
            tensors = {name: np.ascontiguousarray(leaf, dtype) for name, leaf in flat.items()}
            save_file(tensors, str(aside / "model.safetensors"))
            settings = {"schema": SCHEMA} | config.to_dict()
            (aside / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            (aside / "tokenizer.json").write_text(tokenizer_json, "utf-8")
            for name, text in (extra or {}).items():
                (aside / name).write_text(text, "utf-8")
            aside.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot write the model to {str(folder)!r}: {error.strerror or error}", code="E-WRITE"
        ) from error
