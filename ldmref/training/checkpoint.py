"""Checkpoint files: the state of a stage, and what it was trained from. No torch is needed to read.

A checkpoint is a safetensors file that appears complete or not at all, readable by everyone whom
the umask allows. Its metadata hold the step, the recipe, the data's digest and the tokenizer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ldmref.errors import InputError, LdmrefError
from ldmref.files import parse_json
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.training.recipe import STAGES, CheckpointConfig
from ldmref.training.recipe_file import AnyRecipe, recipe_from_dict

CHECKPOINTS = ("features", *STAGES)
MAX_SAVING = 0.05  # the largest share of the time that is spent on checkpoints by time


@dataclass(frozen=True)
class DataSummary:
    """Identifies the data of a training: the number of pictures, and digests of pictures and
    captions, of the model that is fine-tuned, and of the classes if a stage learns them."""

    pictures: int
    sha256: str
    base: str = ""
    classes: str = ""


@dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint. `tokenizer`: its JSON, in that of the denoiser."""

    step: int
    recipe: AnyRecipe
    data: DataSummary
    tokenizer: str

    def to_metadata(self) -> dict[str, str]:
        values = {"step": self.step, "recipe": self.recipe.to_dict(), "data": asdict(self.data)}
        return {k: json.dumps(v) for k, v in values.items()} | {"tokenizer": self.tokenizer}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Header:
        values = {key: parse_json(metadata[key], key) for key in ("step", "recipe", "data")}
        recipe, data = recipe_from_dict(values["recipe"]), DataSummary(**values["data"])
        step = values["step"]
        if type(step) is not int or step < 0:
            raise ValueError(f"the step {step!r:.40} is none")
        return cls(step, recipe, data, metadata["tokenizer"])


def checkpoint_path(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.safetensors"


def write_checkpoint(path: Path, header: Header, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace the checkpoint at `path`.

    Raises:
        OutputError: it cannot be written; the one before is kept.
    """
    sources = {name: source(array) for name, array in arrays.items()}
    write_tensors(path, sources, header.to_metadata(), overwrite=True)


def read_checkpoint(path: Path) -> tuple[Header, Mapping[str, np.ndarray]]:
    """The header and the memory-mapped arrays.

    Raises:
        InputError: the file is damaged, or was not written by this version.
    """
    try:
        file = TensorFile(path)
        return Header.from_metadata(file.metadata), file
    except (LdmrefError, KeyError, ValueError, TypeError) as error:
        message = f"the checkpoint {str(path)!r} cannot be resumed: {error}"
        hint = "it is damaged, or of another version; delete it to restart this stage"
        raise InputError(message, code="E-RESUME", hint=hint) from error


def read_headers(folder: Path) -> dict[str, Header]:
    """The headers of the checkpoints in a folder, by stage."""
    paths = {stage: checkpoint_path(folder, stage) for stage in CHECKPOINTS}
    return {stage: read_checkpoint(path)[0] for stage, path in paths.items() if path.exists()}


class Timer:
    """Says when a checkpoint is due: after the first step, then as the recipe says.

    Checkpoints by time keep at least so far apart that saving takes 5 % of the time.
    """

    def __init__(self, config: CheckpointConfig):
        self.config, self._next = config, -float("inf")

    def due(self, step: int) -> bool:
        """Whether to save after that step."""
        by_step = self.config.steps > 0 and step % self.config.steps == 0
        return by_step or time.monotonic() >= self._next

    def saved(self, seconds: float) -> None:
        """A checkpoint has just been saved, in so many seconds."""
        wait = max(self.config.seconds, seconds / MAX_SAVING)
        self._next = time.monotonic() + (wait if self.config.seconds else float("inf"))
