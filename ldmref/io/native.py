"""A model on disk: a folder of `config.json`, `model.safetensors` and `tokenizer.json`.

The tensors are named `unet.*`, `vae.*` and `text_encoder.*`, and below that as diffusers and
transformers name them. Nothing in the folder can run code.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ldmref.errors import CorruptModelError, InputError, OutputError
from ldmref.io.identify import foreign_class
from ldmref.io.key_report import compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tokenizers import tokenizer_for
from ldmref.mapped import forget
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Params, flatten, unflatten
from ldmref.models.validate import config_from_dict
from ldmref.prompts.tokenizer import PromptTokenizer

SCHEMA = 1
FILES = ("config.json", "model.safetensors", "tokenizer.json")
SECOND_TOKENIZER = "tokenizer_2.json"  # where there are two text encoders


def load_folder(folder: Path) -> tuple[ModelConfig, Params, PromptTokenizer, str]:
    """Read configuration, parameters and tokenizer, and the SHA-256 of the weights' file.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    config = None
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder.name!r} is no model folder: {name} is missing",
                code="E-MODEL",
                hint="a model folder holds " + ", ".join(FILES),
            )
        config = config or read_config(folder / FILES[0])
    assert config is not None
    file = TensorFile(folder / "model.safetensors")
    _require_fit(file.shapes, config)
    require_finite(file)
    tokenizer = tokenizer_for(config.text_encoder, folder / "tokenizer.json")
    if tokenizer.tokenizer.get_vocab_size() > config.text_encoder.vocab_size:
        raise CorruptModelError(
            "the tokenizer knows more tokens than the text encoder", code="E-TOKENIZER"
        )
    return config, unflatten(file), tokenizer, file.sha256()


def read_config(path: Path) -> ModelConfig:
    """Read and check a `config.json` of this project."""
    data: Any = None
    try:
        data = json.loads(path.read_text("utf-8"))
        schema = data.pop("schema")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        kind = foreign_class(data) if isinstance(data, dict) else ""
        raise CorruptModelError(
            f"{path.name} is no ldmref configuration" + (f" but one of a {kind}" if kind else ""),
            code="E-CONFIG",
            hint="of diffusers, give the folder around it, which has a model_index.json"
            if kind
            else "",
        ) from error
    if schema != SCHEMA:
        raise CorruptModelError(
            f"{path.name} has schema {schema!r}, this version reads {SCHEMA}",
            code="E-SCHEMA",
            hint="pip install --upgrade ldmref",
        )
    return config_from_dict(data)


def _require_fit(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
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
        raise CorruptModelError(
            f"{len(bad)} tensors hold NaN or infinity: {', '.join(bad[:5])}", code="E-NONFINITE"
        )


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
    _require_fit({name: tuple(leaf.shape) for name, leaf in flat.items()}, config)
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
