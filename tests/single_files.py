"""Single files of small models: every kind that a flag of the command line reads, with numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldmref.io.adapters.lora_keys import lora_file_name, lora_names
from ldmref.io.compvis.keys import clip_table, original_autoencoder_table
from ldmref.io.diffusers.folder import diffusers_autoencoder_table
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import list_presets, preset

TINY = [name for name in list_presets() if name.endswith("tiny")]


class SmallFile(NamedTuple):
    """A file: the flag that reads it, what it is, and its tensors."""

    flag: str
    what: str
    tensors: dict[str, np.ndarray]


def _fill(tables):
    rng = np.random.default_rng(0)
    shapes = {
        entry.name: entry.stored_shape
        for table in tables
        for entry in table.values()
        if isinstance(entry, KeyEntry)
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def list_files(name):
    """Yield the single files of a preset, and a LoRA for it."""
    config = preset(name)
    for number, layout in enumerate(family_of(config).files):
        own, others = layout.table(config), layout.others(config)
        if own and not layout.whole:
            yield SmallFile("-m", f"denoiser {number}", _fill([own]))
        if own and others:
            yield SmallFile("-m", f"complete {number}", _fill([own, *others.values()]))
    for number, table in enumerate(
        (original_autoencoder_table(config.vae), diffusers_autoencoder_table(config.vae))
    ):
        if table:
            yield SmallFile("--vae", f"autoencoder {number}", _fill([table]))
    for network, text in zip(TEXT_ENCODERS, config.text_encoders, strict=False):
        yield SmallFile("--text-encoder", network, _fill([clip_table(text)]))
    yield SmallFile("--lora", "lora", make_lora(config))


def make_lora(config):
    """Return a LoRA of rank 2 for the first matrix of the denoiser's attention."""
    rng = np.random.default_rng(0)
    shapes = flatten(model_spec(config))
    tensor = next(x for x in lora_names(config).list_tensors() if x.endswith("to_q.weight"))
    rows, columns = shapes[tensor]
    down, up = (lora_file_name(config, tensor, role) for role in ("down", "up"))
    return {
        down: rng.normal(size=(2, columns)).astype(np.float32),
        up: rng.normal(size=(rows, 2)).astype(np.float32),
    }
