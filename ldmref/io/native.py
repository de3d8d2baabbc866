"""ldmref's own model folders: `config.json`, `model.safetensors` and `tokenizer.json`.

The tensors are named `unet.*`, `vae.*` and `text_encoder.*`, and below that as in diffusers and
transformers. Nothing in the folder can run code.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, OutputError
from ldmref.io.identify import FOLDER, foreign_class
from ldmref.io.key_report import Shape, compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.io.tokenizers import tokenizer_for
from ldmref.mapped import forget
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Params, flatten
from ldmref.models.validate import config_from_dict
from ldmref.prompts.tokenizer import PromptTokenizer

SCHEMA = 1
CONFIG, WEIGHTS, TOKENIZER = FILES = ("config.json", "model.safetensors", "tokenizer.json")
SECOND_TOKENIZER = "tokenizer_2.json"  # of models with two text encoders


def load_folder(
    folder: Path,
) -> tuple[ModelConfig, dict[str, np.ndarray], list[PromptTokenizer], str]:
    """Read configuration, tensors and tokenizers, and the SHA-256 of the weights' file.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    _require_file(folder, CONFIG)
    config = read_config(folder / CONFIG)
    _require_file(folder, WEIGHTS)
    _require_file(folder, TOKENIZER)
    file = TensorFile(folder / WEIGHTS)
    _require_fit(file.shapes, config)
    require_finite(file)
    tokenizers = [tokenizer_for(config.text_encoder, folder / TOKENIZER)]
    second = folder / SECOND_TOKENIZER
    if config.text_encoder_2 is not None and second.is_file():
        tokenizers.append(tokenizer_for(config.text_encoder_2, second))
    return config, dict(file), tokenizers, file.sha256()


def _require_file(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        message = f"{folder.name!r} is not a model folder: {name} is missing"
        hint = "a model folder holds " + ", ".join(FILES)
        raise InputError(message, code="E-MODEL", hint=hint)


def read_config(path: Path) -> ModelConfig:
    """Read and check a `config.json` of ldmref.

    Raises:
        CorruptModelError: it is damaged, of another program or version, or inconsistent.
    """
    data: Any = None
    try:
        data = json.loads(path.read_text("utf-8"))
        schema = data.pop("schema")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        kind = foreign_class(data) if isinstance(data, dict) else ""
        message = f"{path.name} is not a configuration of ldmref"
        message += f" but that of a {kind}" if kind else ""
        hint = f"of diffusers, {FOLDER}" if kind else ""
        raise CorruptModelError(message, code="E-CONFIG", hint=hint) from error
    if schema != SCHEMA:
        message = f"{path.name} has schema {schema!r}, this version reads {SCHEMA}"
        raise CorruptModelError(message, code="E-SCHEMA", hint="pip install --upgrade ldmref")
    return config_from_dict(data)


def _require_fit(shapes: Mapping[str, Shape], config: ModelConfig) -> None:
    compare(shapes, flatten(model_spec(config))).require(
        "the model's tensors do not fit its configuration",
        hint="the file and its config.json must come from the same model",
    )


def require_finite(flat: Mapping[str, np.ndarray]) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        CorruptModelError: names the first few.
    """
    bad = []
    for name, tensor in flat.items():
        if not np.isfinite(tensor).all():
            bad.append(name)
        forget(tensor)
    if bad:
        message = f"{len(bad)} tensors hold NaN or infinity: {', '.join(bad[:5])}"
        raise CorruptModelError(message, code="E-NONFINITE")


def save_folder(
    folder: Path, config: ModelConfig, params: Params, tokenizer_json: str,
    dtype: type = np.float16, extra: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a model folder; it appears complete or not at all.

    `extra`: further text files (name -> content), such as a model card.

    Raises:
        OutputError: it cannot be written.
    """
    flat = flatten(params)
    _require_fit({name: tuple(leaf.shape) for name, leaf in flat.items()}, config)
    settings = json.dumps({"schema": SCHEMA} | config.to_dict(), indent=2) + "\n"
    texts = {CONFIG: settings, TOKENIZER: tokenizer_json} | (extra or {})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary, old = (
            folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.part") for _ in range(2)
        )
        try:
            temporary.mkdir()
            tensors = {name: source(np.asarray(leaf, dtype)) for name, leaf in flat.items()}
            write_tensors(temporary / WEIGHTS, tensors)
            for name, text in texts.items():
                (temporary / name).write_text(text, "utf-8")
            if folder.is_dir():
                os.replace(folder, old)
            os.replace(temporary, folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.strerror or error
        message = f"cannot write the model to {str(folder)!r}: {reason}"
        raise OutputError(message, code="E-WRITE") from error
