"""Checkpoint files: the state of a stage, and its recipe and images. Reading needs no PyTorch.

A checkpoint is a safetensors file, which is complete or does not exist; the umask decides who may
read it. Its metadata are the step, the recipe, the digest of the data, and the tokenizer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmref.datasets.config import DataSummary
from ldmref.declare import read
from ldmref.errors import InputError, LdmrefError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.support.files import parse_json
from ldmref.training.recipes.file import AnyRecipe, recipe_from_dict
from ldmref.training.recipes.schema import STAGES, CheckpointConfig

CHECKPOINTS = ("features", *STAGES)
MAX_SAVING = 0.05  # the largest share of the time that is spent on checkpoints by time


class TrainingSettings(NamedTuple):
    """The recipe of a training and the summary of its images."""

    recipe: AnyRecipe
    data: DataSummary

    def to_dict(self) -> dict[str, Any]:
        """Return nested tables, the inverse of `from_dict`."""
        return {"recipe": self.recipe.to_dict(), "data": asdict(self.data)}

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> TrainingSettings:
        """Read the tables `recipe` and `data`."""
        return cls(recipe_from_dict(tables["recipe"]), read(DataSummary, tables["data"]))


@dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint.

    `recipe` and `data` are the settings of the last steps. `tokenizer` is its JSON in the
    denoiser's checkpoint, otherwise "". `history` has an entry for each change of the settings: the
    number of `steps` made before it, with their `recipe` and `data`. `accepted` are settings that
    were accepted after the last step; no step was made with them.
    """

    step: int
    recipe: AnyRecipe
    data: DataSummary
    tokenizer: str
    history: tuple[dict[str, Any], ...] = ()  # as written: older versions may have other keys
    accepted: TrainingSettings | None = None

    @property
    def agreed(self) -> TrainingSettings:
        """The settings that a resumed training is compared with."""
        return self.accepted or TrainingSettings(self.recipe, self.data)

    def accepting(self, settings: TrainingSettings) -> Header:
        """Return the header of a finished stage after other settings were accepted."""
        return self if settings == self.agreed else replace(self, accepted=settings)

    def continued(self, settings: TrainingSettings) -> tuple[dict[str, Any], ...]:
        """Return the history of a stage that continues from here with these settings."""
        until_now = TrainingSettings(self.recipe, self.data)
        if settings == until_now:
            return self.history
        return (*self.history, {"steps": self.step, **until_now.to_dict()})

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a safetensors file, the inverse of `from_metadata`."""
        values = {"step": self.step, **TrainingSettings(self.recipe, self.data).to_dict()}
        if self.history:
            values["history"] = list(self.history)
        if self.accepted is not None:
            values["accepted"] = self.accepted.to_dict()
        return {k: json.dumps(v) for k, v in values.items()} | {"tokenizer": self.tokenizer}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Header:
        """Read the metadata of a safetensors file.

        Raises:
            KeyError, TypeError, ValueError, LdmrefError: They are not a checkpoint's.
        """
        names = {"step", "recipe", "data", *({"history", "accepted"} & metadata.keys())}
        values = {key: parse_json(metadata[key], key) for key in sorted(names)}
        step = values["step"]
        accepted = values.get("accepted")
        if type(step) is not int or step < 0:
            raise ValueError(f"the step {step!r:.40} is not a number of steps")
        if accepted is not None:
            accepted = TrainingSettings.from_dict(accepted)
        history = values.get("history", [])
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise TypeError("the history is not a list of tables")
        return cls(
            step,
            *TrainingSettings.from_dict(values),
            metadata["tokenizer"],
            tuple(history),
            accepted,
        )


def checkpoint_path(folder: Path, stage: str) -> Path:
    """Return the path of a stage's checkpoint in a folder."""
    return folder / f"{stage}.safetensors"


def write_checkpoint(path: Path, header: Header, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace the checkpoint at `path`.

    Raises:
        OutputError: It cannot be written; the previous checkpoint is kept.
    """
    sources = {name: source(array) for name, array in arrays.items()}
    write_tensors(path, sources, header.to_metadata(), overwrite=True)


def read_checkpoint(path: Path) -> tuple[Header, Mapping[str, np.ndarray]]:
    """Return the header and the memory-mapped arrays.

    Raises:
        InputError: The file is damaged, or was written by an incompatible version.
    """
    try:
        file = TensorFile(path)
        return Header.from_metadata(file.metadata), file
    except (LdmrefError, KeyError, ValueError, TypeError) as error:
        message = f"the checkpoint {str(path)!r} cannot be resumed: {error}"
        hint = "it is damaged, or of another version; delete it to restart this stage"
        raise InputError(message, code="E-RESUME", hint=hint) from error


def read_headers(folder: Path) -> dict[str, Header]:
    """Return the headers of the checkpoints in a folder, by stage."""
    paths = {stage: checkpoint_path(folder, stage) for stage in CHECKPOINTS}
    return {stage: read_checkpoint(path)[0] for stage, path in paths.items() if path.exists()}


class CheckpointTimer:
    """Decides when a checkpoint is due: after the first step, then as the recipe says.

    Checkpoints by time are at least so far apart that saving takes at most 5 % of the time.
    """

    def __init__(self, config: CheckpointConfig):
        self.config = config
        self._next = -float("inf")

    def due(self, step: int) -> bool:
        """Return whether to save after a step."""
        by_step = self.config.steps > 0 and step % self.config.steps == 0
        return by_step or time.monotonic() >= self._next

    def saved(self, seconds: float) -> None:
        """Schedule the next checkpoint after one that took `seconds` to save."""
        wait = max(self.config.seconds, seconds / MAX_SAVING)
        self._next = time.monotonic() + (wait if self.config.seconds else float("inf"))
