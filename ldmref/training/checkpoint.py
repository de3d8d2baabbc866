"""Checkpoint files: the state of a stage, and what it was trained from. No torch is needed to read.

A checkpoint is a safetensors file that appears complete or not at all, readable by everyone whom
the umask allows. Its metadata hold the step, the recipe, the data's digest and the tokenizer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from ldmref.declare import Formerly, Range, read
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
    """Identifies the data of a training: the number of images, and digests of images and
    captions, of the model that is fine-tuned, and of the classes if a stage learns them."""

    images: Annotated[int, Range(1), Formerly("pictures")]
    sha256: str
    base: str = ""
    classes: str = ""


class Settings(NamedTuple):
    """What a training is made from."""

    recipe: AnyRecipe
    data: DataSummary

    def to_dict(self) -> dict[str, Any]:
        """Nested tables, the inverse of `from_dict`."""
        return {"recipe": self.recipe.to_dict(), "data": asdict(self.data)}

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Settings:
        return cls(recipe_from_dict(tables["recipe"]), read(DataSummary, tables["data"]))


@dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint. `tokenizer`: its JSON, in that of the denoiser.

    `recipe` and `data` are those of the last steps. `history` has an entry for each time that a
    training went on with others: the number of `steps` until then, and their `recipe` and `data`.
    `accepted` are settings that were accepted after the last step, which no step was made with.
    """

    step: int
    recipe: AnyRecipe
    data: DataSummary
    tokenizer: str
    history: tuple[dict[str, Any], ...] = ()  # as written: older versions may have other keys
    accepted: Settings | None = None

    @property
    def agreed(self) -> Settings:
        """The settings that a resumed training is compared with."""
        return self.accepted or Settings(self.recipe, self.data)

    def accepting(self, settings: Settings) -> Header:
        """The header of a finished stage, for which other settings are accepted."""
        return self if settings == self.agreed else replace(self, accepted=settings)

    def continued(self, settings: Settings) -> tuple[dict[str, Any], ...]:
        """The history of a stage that goes on from here with these settings."""
        until_now = Settings(self.recipe, self.data)
        if settings == until_now:
            return self.history
        return (*self.history, {"steps": self.step, **until_now.to_dict()})

    def to_metadata(self) -> dict[str, str]:
        values = {"step": self.step, **Settings(self.recipe, self.data).to_dict()}
        if self.history:
            values["history"] = list(self.history)
        if self.accepted is not None:
            values["accepted"] = self.accepted.to_dict()
        return {k: json.dumps(v) for k, v in values.items()} | {"tokenizer": self.tokenizer}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Header:
        names = {"step", "recipe", "data", *({"history", "accepted"} & metadata.keys())}
        values = {key: parse_json(metadata[key], key) for key in sorted(names)}
        step = values["step"]
        accepted = values.get("accepted")
        if type(step) is not int or step < 0:
            raise ValueError(f"the step {step!r:.40} is none")
        if accepted is not None:
            accepted = Settings.from_dict(accepted)
        history = values.get("history", [])
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise TypeError("the history is not a list of tables")
        return cls(
            step, *Settings.from_dict(values), metadata["tokenizer"], tuple(history), accepted
        )


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
        self.config = config
        self._next = -float("inf")

    def due(self, step: int) -> bool:
        """Whether to save after that step."""
        by_step = self.config.steps > 0 and step % self.config.steps == 0
        return by_step or time.monotonic() >= self._next

    def saved(self, seconds: float) -> None:
        """A checkpoint has just been saved, in so many seconds."""
        wait = max(self.config.seconds, seconds / MAX_SAVING)
        self._next = time.monotonic() + (wait if self.config.seconds else float("inf"))
