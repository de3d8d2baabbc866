"""The classifier of a model: `classifier.safetensors` in the model's folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ldmref.declare import read, verify
from ldmref.errors import CorruptModelError, InputError
from ldmref.io.key_report import compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.classifier import ClassifierConfig, classifier_spec
from ldmref.models.params import Params, flatten, unflatten

# the file, and the key of its metadata
FILE = "classifier.safetensors"
CONFIG = "classifier"


def save_classifier(folder: Path, config: ClassifierConfig, params: Params) -> None:
    """Write the classifier into a model folder; the file appears complete or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    sources = {name: source(np.asarray(a, np.float32)) for name, a in flatten(params).items()}
    metadata = {CONFIG: json.dumps(asdict(config))}
    write_tensors(folder / FILE, sources, metadata, overwrite=True)


def load_classifier(folder: Path) -> tuple[ClassifierConfig, Params]:
    """Load the classifier of a model folder, with arrays on the host.

    Raises:
        InputError: The folder has none.
        CorruptModelError: Its tensors do not fit its configuration.
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
    """Read the configuration in the metadata and check every field."""
    try:
        config = read(ClassifierConfig, json.loads(text))
        verify(config)  # the default of class_names is not a classifier
    except (ValueError, RecursionError) as error:  # Invalid is a ValueError
        raise _error(str(error)) from error
    if any(width % config.norm_num_groups for width in config.block_out_channels):
        raise _error("norm_num_groups must divide every width")
    return config


def _error(message: str) -> CorruptModelError:
    return CorruptModelError(f"bad classifier: {message}", code="E-CONFIG")
