"""The classifier beside a model: `classifier.safetensors` in the model's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.key_report import compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.classifier import ClassifierConfig, classifier_spec
from ldmref.models.params import Params, flatten, unflatten

FILE, CONFIG = "classifier.safetensors", "classifier"  # the file, and the key of its metadata
MAX_CLASSES, MAX_LEVELS, MAX_WIDTH = 65536, 10, 65536


def save_classifier(folder: Path, config: ClassifierConfig, params: Params) -> None:
    """Write the classifier into a model folder; the file appears complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    sources = {name: source(np.asarray(a, np.float32)) for name, a in flatten(params).items()}
    metadata = {CONFIG: json.dumps(asdict(config))}
    write_tensors(folder / FILE, sources, metadata, overwrite=True)


def load_classifier(folder: Path) -> tuple[ClassifierConfig, Params]:
    """The classifier of a model folder, with arrays on the host.

    Raises:
        InputError: the folder has none.
        CorruptModelError: its tensors do not fit its configuration.
    """
    path = folder / FILE
    if not path.is_file():
        message = f"{folder.name!r} has no {FILE}"
        hint = 'train one: stages = ["autoencoder", "diffusion", "classifier"] in the recipe'
        raise InputError(message, code="E-CLASSIFIER", hint=hint)
    file = TensorFile(path)
    config = _config(file.metadata.get(CONFIG, ""))
    compare(file.shapes, flatten(classifier_spec(config))).require(
        "the classifier's tensors do not fit its configuration", hint="train it again"
    )
    return config, unflatten({name: np.asarray(array) for name, array in file.items()})


def _config(text: str) -> ClassifierConfig:
    """The configuration in the metadata, with every field checked."""
    try:
        data: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        config = ClassifierConfig(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise _error(f"no configuration of a classifier: {error}") from error
    default = ClassifierConfig()
    for field in fields(config):
        value, kind = getattr(config, field.name), type(getattr(default, field.name))
        if type(value) is not kind:
            raise _error(f"{field.name} must be of type {kind.__name__}")
    widths, groups, names = config.block_out_channels, config.norm_num_groups, config.class_names
    sizes = (config.in_channels, config.layers_per_block, groups, *widths)
    if not (0 < len(widths) <= MAX_LEVELS and all(type(n) is int for n in sizes)):
        raise _error("sizes must be whole numbers, of at least one level")
    if not all(0 < n <= MAX_WIDTH for n in sizes) or any(width % groups for width in widths):
        raise _error("sizes must be from 1 to 65536, and the groups divide every width")
    if not (1 < len(names) <= MAX_CLASSES and all(isinstance(name, str) for name in names)):
        raise _error("classes must have names")
    return config


def _error(message: str) -> CorruptModelError:
    return CorruptModelError(f"bad classifier: {message}", code="E-CONFIG")
