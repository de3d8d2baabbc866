"""`StoredModel`: what the layouts of models on disk have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.tokenizers import find_tokenizers
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokenizer import PromptTokenizer

LoraSource = str | Path | tuple[str | Path, float]  # a file or folder, with its weight or not


@dataclass(frozen=True)
class OpeningOptions:
    """What a model is opened with: which of its files are read, and what completes or changes it.

    Attributes:
        config: The configuration of a single file, by name or path. None: it is recognised.
        tokenizer: The location of CLIP's vocabulary. None: the model's own folder, then the usual
            places.
        fetch: Whether a model that the cache of Hugging Face lacks is downloaded.
        variant: The variant of the weights in a diffusers folder. None: the files without one.
        ema: Whether the averages of a single file are read. None: the family's published default.
        text_encoders: Files of text encoders that the model lacks, or has others of.
        vae: Another autoencoder, or TAESD. None: the model's own.
        lora: LoRA files, to merge into the weights.
    """

    config: str | Path | None = None
    tokenizer: str | Path | None = None
    fetch: bool = False
    variant: str | None = None
    ema: bool | None = None
    text_encoders: Sequence[str | Path] = ()
    vae: str | Path | None = None
    lora: Sequence[LoraSource] = ()


class OpeningChoices(TypedDict, total=False):
    """The options of `open_checkpoint` that are given by name, as in `OpeningOptions`."""

    fetch: bool
    variant: str | None
    ema: bool | None
    text_encoders: Sequence[str | Path]
    vae: str | Path | None
    lora: Sequence[LoraSource]


class StoredModel(ABC):
    """A model on disk in one layout; its weights are opened when they are first used.

    Attributes:
        path: The file or folder.
        config: The configuration of all networks.
        averaged: Whether the averages of a single file are read; None if it has none.
        warnings: Warnings about the choice of the weights.
        has_variants: Whether its weights may be there in several variants.
        certain: Whether the files say which of the networks that its family may lack the model has.
    """

    path: Path
    config: ModelConfig
    averaged: bool | None = None
    warnings: Sequence[str] = ()
    has_variants: bool = False
    certain: bool = True

    @classmethod
    @abstractmethod
    def is_at(cls, path: Path) -> bool:
        """Return whether a file or folder has this layout, unless one before has it."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, options: OpeningOptions) -> Self:
        """Open a model: read its configuration, and compare a single file with it.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: It is damaged or does not fit.
            UsageError: The options have a value that the model does not take.
        """

    @property
    def networks(self) -> Collection[str]:
        """The networks whose weights are there."""
        return {network.params for network in family_of(self.config).networks(self.config)}

    @property
    def takes_vocabulary(self) -> bool:
        """Whether the user may say where the vocabulary of its text encoder is."""
        return kind_of(self.config.text_encoder).reads == "text"

    @property
    def unused(self) -> Sequence[str]:
        """The names of the tensors of a single file that the model does not use."""
        return ()

    @property
    def is_published(self) -> bool:
        """Whether `read` compares the weights with published digests, so that they are known."""
        return False

    @property
    @abstractmethod
    def digest(self) -> str | Callable[[], str]:
        """SHA-256 of the file of the weights, or a function that computes it."""

    @abstractmethod
    def read(self) -> dict[str, np.ndarray]:
        """Return the tensors by our names, each read when it is used.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: A file is missing, damaged, or does
                not fit the configuration.
        """

    def load_tokenizers(
        self, config: ModelConfig, vocabulary: str | Path | None
    ) -> list[PromptTokenizer]:
        """Return a tokenizer for each text encoder, or one for all.

        Args:
            config: The configuration of the model with its modifications.
            vocabulary: As for `find_tokenizers`.

        Raises:
            InputError: No vocabulary was found, or a file is damaged.
        """
        return find_tokenizers(config, self.path, vocabulary)


def refuse_choices(path: Path, options: OpeningOptions) -> None:
    """Refuse what only single files take, for a folder.

    Raises:
        UsageError: The options have a configuration, or asks for averages.
    """
    if options.ema:
        message = f"{path.name!r} is a folder; only single files hold averages and last weights"
        hint = "a diffusers folder has the averages without a variant, the last weights as non_ema"
        raise UsageError(message, code="E-EMA", hint=hint)
    if options.config is not None:
        raise UsageError(
            f"{path.name!r} has its own configuration",
            code="E-MODEL-CONFIG",
            hint="config= (--model-config) is for single files; leave it out",
        )
