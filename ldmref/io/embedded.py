"""The models inside the package, and the published SHA-256 of each of their files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.native import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    NativeFolder,
    hash_file,
    require_file,
    require_fit,
)
from ldmref.io.stored_model import OpeningOptions, refuse_choices
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import ModelConfig
from ldmref.prompts.tokenizer import PromptTokenizer

PUBLISHED = {
    "emoji": {
        CONFIG: "0c9c747fee72930a9a725c7607d1f4ab099a3e54083a19d99db9c4a3bfbe6fd1",
        WEIGHTS: "1cbc0411324daf2cf833aee939dc20c04dfe32de4b36959c6ca7ff2646d0482f",
        TOKENIZER: "ebf3c744cf19a3510ca30f605917134036f8719e5d2fb6eadc6fd707ef36252a",
    },
    "emoji-map": {
        CONFIG: "c53be7ed56eb8c058b0980bb17529d28f46b0f3bb80fdfa2c4c079327cb86d45",
        WEIGHTS: "e6cf38dac035698324f959c3b607049639eba263688997d94459e5cca1a994fd",
    },
}
EMBEDDED = tuple(PUBLISHED)
Value = TypeVar("Value")
BASES = {"emoji-map": "emoji"}  # whose text encoder, autoencoder and tokenizer a model shares


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded model."""
    return Path(str(files("ldmref") / "assets" / name))


class EmbeddedFolder(NativeFolder):
    """The folder of an embedded model, whose files are the published ones."""

    @classmethod
    def open(cls, path: Path, options: OpeningOptions) -> EmbeddedFolder:
        refuse_choices(path, options)
        return open_embedded(path.name)

    @classmethod
    def is_at(cls, path: Path) -> bool:
        return path in map(embedded_folder, EMBEDDED)

    @property
    def is_published(self) -> bool:
        return True

    def read(self) -> dict[str, np.ndarray]:
        tensors = super().read()
        require_published(self.path, self.digest)
        return tensors


class SharingFolder(EmbeddedFolder):
    """The folder of an embedded model that holds a denoiser alone; a base has the rest."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._base = EmbeddedFolder(embedded_folder(BASES[path.name]))

    @cached_property
    def _file(self) -> TensorFile:
        require_file(self.path, WEIGHTS)
        file = TensorFile(self.path / WEIGHTS)
        require_fit(_complete(file.shapes, self._base.shapes), self.config)
        return file

    def read(self) -> dict[str, np.ndarray]:
        own = super().read()
        require_published(self._base.path, self._base.digest)
        return _complete(own, self._base._file)

    def load_tokenizers(
        self, config: ModelConfig, vocabulary: str | Path | None
    ) -> list[PromptTokenizer]:
        return self._base.load_tokenizers(config, vocabulary)


def open_embedded(name: str) -> EmbeddedFolder:
    """Open an embedded model by its name."""
    folder = SharingFolder if name in BASES else EmbeddedFolder
    return folder(embedded_folder(name))


def _complete(own: Mapping[str, Value], base: Mapping[str, Value]) -> dict[str, Value]:
    """Return a model's own values by tensor name, and those of the base's other networks."""
    networks = {name.split(".")[0] for name in own}
    return {k: base[k] for k in base if k.split(".")[0] not in networks} | dict(own)


def require_published(folder: Path, weights: str = "") -> None:
    """Refuse an embedded model whose files are not the published ones; others pass.

    Args:
        folder: The model's folder.
        weights: SHA-256 of the file of the weights; "": compute it.

    Raises:
        CorruptModelError: Names the first file that differs.
        InputError: A file is missing.
    """
    for name, digests in PUBLISHED.items():
        if folder == embedded_folder(name):
            _require_digests(name, folder, digests, {WEIGHTS: weights} if weights else {})


def _require_digests(
    model: str, folder: Path, digests: Mapping[str, str], known: Mapping[str, str]
) -> None:
    hint = "install ldmref again; in a checkout, restore ldmref/assets"
    for name, published in digests.items():
        if not (folder / name).is_file():
            message = f"{name} of the embedded model {model!r} is missing"
            raise InputError(message, code="E-MODEL", hint=hint)
        actual = known.get(name) or hash_file(folder / name)
        if actual != published:
            message = f"{name} of the embedded model {model!r} is not the published file: its "
            message += f"SHA-256 is {actual}, not {published}"
            raise CorruptModelError(message, code="E-DIGEST", hint=hint)
