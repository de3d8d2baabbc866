"""Modifications of a model by the user's files: text encoders, autoencoder, LoRAs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.io.adapters.autoencoder import AutoencoderFile, read_vae, swap_vae
from ldmref.io.adapters.bundled_words import bundled_words
from ldmref.io.adapters.control_lora import widen_config, widen_tensors
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import hash_loras, open_loras
from ldmref.io.text_encoder_files import TextEncoderFile, add_text_encoders
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.taesd import TinyConfig
from ldmref.prompts.textual_inversion import Embedding

Tensors = Mapping[str, np.ndarray]


class Modification(ABC):
    """Files that complete or change a model.

    Attributes:
        networks: The networks that the files bring.
        tiny: The small autoencoder that replaces the model's own. None: there is none.
        words: Words that the prompts can then use.
        warnings: Warnings about the files.
    """

    networks: Collection[str] = ()
    tiny: AutoencoderFile | None = None
    words: Sequence[Embedding] = ()
    warnings: Sequence[str] = ()

    def configure(self, config: ModelConfig, held: Collection[str] | None) -> ModelConfig:
        """Return the configuration of the modified model, as a plan needs it.

        It is called before `apply`. Files are opened, and none of their tensors is read.

        Args:
            config: The configuration of the model.
            held: The networks in the single file of the model, if nothing else determines its
                configuration. None: something does.

        Raises:
            InputError, CorruptModelError, KeyMismatchError, UsageError: A file is missing,
                damaged, or of another model.
        """
        return config

    @abstractmethod
    def apply(self, config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, Tensors]:
        """Return the configuration and the tensors of the modified model.

        Args:
            config: The configuration of the tensors.
            tensors: The tensors of the model by our names.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: A file does not fit the model.
        """

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return the entry in an image's metadata; a function computes what takes long."""


class ReplacedAutoencoder(Modification):
    """Another autoencoder, or TAESD; see `read_vae`."""

    networks = ("vae",)

    def __init__(self, path: str | Path):
        self._path = path
        self._recorded: dict[str, str] = {}

    def apply(self, config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, Tensors]:
        vae = read_vae(self._path, config.vae)
        self._recorded = vae.record
        if isinstance(vae.config, TinyConfig):
            self.tiny = vae
        return swap_vae(config, tensors, vae)

    def record(self) -> dict[str, Any]:
        return {"vae": self._recorded}


class AddedTextEncoders(Modification):
    """Text encoders in files, which replace or complete the model's own."""

    def __init__(self, paths: Sequence[str | Path]):
        self._paths = paths
        self._files: Sequence[TextEncoderFile] = ()
        self._texts: dict[str, Any] = {}

    def configure(self, config: ModelConfig, held: Collection[str] | None) -> ModelConfig:
        found, self._files = add_text_encoders(self._paths, config, held)
        self.networks = [file.network for file in self._files]
        self._texts = {name: getattr(found, name) for name in TEXT_ENCODERS}
        self.warnings = [line for file in self._files for line in file.file.warnings]
        return found

    def apply(self, config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, Tensors]:
        replaced = tuple(f"{name}." for name in self.networks)
        kept = {name: x for name, x in tensors.items() if not name.startswith(replaced)}
        for file in self._files:
            kept |= file.read()
        return replace(config, **self._texts), kept

    def record(self) -> dict[str, Any]:
        return {"text_encoders": partial(_record_files, self._files)}


def _record_files(files: Sequence[TextEncoderFile]) -> list[dict[str, str]]:
    """Return the entries of files in an image's metadata; their digests need the whole files."""
    return [file.record() for file in files]


class MergedLoras(Modification):
    """LoRAs, merged into the weights; their words are added.

    Those that read a control image change the configuration.
    """

    def __init__(self, loras: Sequence[str | Path | tuple[str | Path, float]]):
        self._loras = open_loras(loras)

    def configure(self, config: ModelConfig, held: Collection[str] | None) -> ModelConfig:
        return widen_config(config, self._loras)

    def apply(self, config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, Tensors]:
        self._loras = hash_loras(self._loras)
        wide = widen_config(config, self._loras)
        self.words, self.warnings = bundled_words(wide, self._loras)
        return wide, apply_loras(wide, widen_tensors(config, wide, tensors), self._loras)

    def record(self) -> dict[str, Any]:
        return {"loras": [lora.record for lora in self._loras]} if self._loras else {}
