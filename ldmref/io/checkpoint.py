"""Open a model of any layout, once: a folder of ldmref or diffusers, or a single file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ldmref.errors import InputError, UsageError, did_you_mean
from ldmref.io.diffusers.folder import DiffusersFolder
from ldmref.io.embedded import require_published
from ldmref.io.locate import NATIVE_INDEX, find_model, is_diffusers, is_model
from ldmref.io.native import NativeFolder, check_weights, read_config
from ldmref.io.single_file import (
    SingleCheckpoint,
    list_missing,
    recognise_file,
    require_text_encoders,
)
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.text_encoder_files import TextEncoderFile, add_text_encoders
from ldmref.io.tokenizers import find_tokenizers
from ldmref.models.config import ModelConfig
from ldmref.models.presets import PRESETS, list_presets
from ldmref.models.text_kind import kind_of
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.support.files import check_input_path

Folder = NativeFolder | DiffusersFolder


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A model on disk, opened once, to plan with its configuration and to load it.

    Attributes:
        path: The file or folder.
        config: The configuration of all networks.
        source: The folder with its configuration, or the file with the layout that it fits.
        beside: The folder with the configuration of a single file, which may also have networks
            that the file lacks, and tokenizers. None: there is none.
        vocabulary: The location of CLIP's vocabulary, or a folder with tokenizers. None: that of
            the folder, then the usual places.
        ema: Whether the averaged weights of a training checkpoint are read; None if it has none.
        warnings: Warnings about the choice of the weights.
        text_encoders: Files whose text encoders replace or complete the model's own.

    >>> from ldmref.io import open_checkpoint
    >>> checkpoint = open_checkpoint("emoji")
    >>> checkpoint.config.name, checkpoint.tensors["unet.conv_in.weight"].shape
    ('emoji-128', (96, 16, 3, 3))
    """

    path: Path
    config: ModelConfig
    source: Folder | SingleCheckpoint
    beside: Folder | Path | None = None
    vocabulary: str | Path | None = None
    ema: bool | None = None
    warnings: Sequence[str] = ()
    text_encoders: Sequence[TextEncoderFile] = ()

    @cached_property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """The tensors by our names, such as `unet.conv_in.weight`, each read when it is used.

        The first use opens the weights of a folder and checks that they fit the configuration.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: A file is missing, damaged, or does
                not fit.
        """
        tensors = self.source.read()
        if isinstance(self.source, NativeFolder):
            require_published(self.path, self.source.digest)
        replaced = tuple(f"{one.network}." for one in self.text_encoders)
        tensors = {name: x for name, x in tensors.items() if not name.startswith(replaced)}
        for one in self.text_encoders:
            tensors |= one.read()
        missing = tuple(f"{network}." for network in list_missing(tensors, self.config))
        if missing and isinstance(self.beside, Folder) and self.beside.has_weights:
            others = self.beside.read()
            tensors |= {name: x for name, x in others.items() if name.startswith(missing)}
        return tensors

    @cached_property
    def tokenizers(self) -> Sequence[PromptTokenizer]:
        """One tokenizer per text encoder, or one for all.

        Raises:
            InputError: No vocabulary was found, or a file is damaged.
            UsageError: The file of the model lacks a text encoder.
        """
        folder: Folder | Path | None
        if isinstance(self.source, SingleCheckpoint):
            require_text_encoders(self.path.name, self.tensors, self.config)
            folder = self.beside
        else:
            folder = self.source
        if isinstance(folder, NativeFolder) and folder.has_weights and self.vocabulary is None:
            return folder.load_tokenizers()
        place = folder.path if isinstance(folder, Folder) else folder
        return find_tokenizers(self.config, place, self.vocabulary)

    def require_fit(self) -> None:
        """Check that the tensors fit the configuration, without reading them.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: As for `tensors`.
        """
        self.source.read()

    @property
    def unused(self) -> Sequence[str]:
        """The names of the tensors of a single file that the model does not use."""
        return self.source.unused if isinstance(self.source, SingleCheckpoint) else ()

    @property
    def digest(self) -> str | Callable[[], str]:
        """SHA-256 of the file of the weights, or a function that computes it."""
        return self.source.digest

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file of the weights; the first use reads the whole file."""
        return self.digest if isinstance(self.digest, str) else self.digest()

    def check_weights(self, allow_nonfinite: bool = False) -> list[str]:
        """Check all weights and, in a folder of ldmref, the recorded digests of its files.

        Args:
            allow_nonfinite: Whether NaN and infinity are only warned about.

        Returns:
            Warnings about the weights.

        Raises:
            CorruptModelError: A weight is NaN or infinite, or a file has changed.
        """
        warnings = check_weights(self.tensors, allow_nonfinite)
        self.check_digests()
        return warnings

    def check_digests(self) -> None:
        """Check the recorded digests of the files in a folder of ldmref.

        Raises:
            CorruptModelError: A file has changed.
        """
        if isinstance(self.source, NativeFolder):
            self.source.require_digests()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.config.name!r} in {self.path}>"


def open_checkpoint(
    name: str | Path,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    *,
    fetch: bool = False,
    variant: str | None = None,
    ema: bool | None = None,
    text_encoders: Sequence[str | Path] = (),
) -> Checkpoint:
    """Find a model and its configuration, without reading its weights.

    A single file is compared with its configuration, tensor by tensor. The weights of a folder are
    compared when `Checkpoint.tensors` is first used.

    Args:
        name: The model's name, file or folder, as for `ldmref.load`.
        config: A configuration for a single file, as for `ldmref.load`. None: the family is
            recognised.
        tokenizer: The location of CLIP's vocabulary, as for `ldmref.load`. None: the model's
            own folder, then the usual places.
        fetch: Whether to download a model that the cache of Hugging Face lacks.
        variant: The variant of the weights in a diffusers folder, such as `fp16`. None: the
            files without a variant.
        ema: Whether to read the averaged weights. None: the family's published default.
        text_encoders: Files of text encoders, as for `ldmref.load`.

    Returns:
        The checkpoint; its tensors are read when they are used.

    Raises:
        InputError: There is no such model, or it is damaged.
        UnsafeFileError: It is a pickle.
        KeyMismatchError: A single file does not fit its configuration.
        UsageError: A configuration, tokenizer, variant or average that the model does not take.

    >>> from ldmref.io import open_checkpoint
    >>> open_checkpoint("emoji").config.unet.in_channels
    16
    """
    path = find_model(name, fetch, variant)
    if path.is_dir():
        return _open_folder(path, config, tokenizer, variant, ema, text_encoders)
    file = open_model_file(path)
    wanted, beside = (None, None) if config is None else find_named_config(config)
    source = recognise_file(file, wanted, ema)
    held = None if config else source.networks
    found, added = add_text_encoders(text_encoders, source.config, held)
    if tokenizer is not None and kind_of(found.text_encoder).reads != "text":
        raise _own_tokenizer(path)
    warnings = source.warnings
    return Checkpoint(path, found, source, beside, tokenizer, source.averaged, warnings, added)


def _open_folder(
    path: Path,
    config: str | Path | None,
    tokenizer: str | Path | None,
    variant: str | None,
    ema: bool | None,
    text_encoders: Sequence[str | Path],
) -> Checkpoint:
    """Open the folder of a model; the arguments and errors are those of `open_checkpoint`."""
    if ema:
        message = f"{path.name!r} is a folder; only single files hold averages and last weights"
        hint = "a diffusers folder has the averages without a variant, the last weights as non_ema"
        raise UsageError(message, code="E-EMA", hint=hint)
    if config is not None:
        raise UsageError(
            f"{path.name!r} has its own configuration",
            code="E-MODEL-CONFIG",
            hint="config= (--model-config) is for single files; leave it out",
        )
    folder = DiffusersFolder(path, variant) if is_diffusers(path) else NativeFolder(path)
    found, added = add_text_encoders(text_encoders, folder.config)
    reads_text = kind_of(found.text_encoder).reads == "text"
    if tokenizer is not None and (isinstance(folder, NativeFolder) or not reads_text):
        raise _own_tokenizer(path)
    return Checkpoint(path, found, folder, vocabulary=tokenizer, text_encoders=added)


def _own_tokenizer(path: Path) -> UsageError:
    message = f"{path.name!r} has its own tokenizer"
    return UsageError(message, code="E-TOKENIZER", hint="leave out tokenizer= (--tokenizer)")


def find_named_config(name: str | Path) -> tuple[ModelConfig, Folder | Path | None]:
    """Read the configuration of a folder or config.json, or return a preset.

    The folder of a model stands for itself, even with the name of a preset, such as `flux-dev`: the
    networks that a single file lacks are read from it as well.

    Returns:
        The configuration, and the folder: of a model, or one that may hold tokenizers.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = check_input_path(name, "the name of a configuration", "E-CONFIG")
    if is_model(path):
        folder = DiffusersFolder(path) if is_diffusers(path) else NativeFolder(path)
        return folder.config, folder
    presets = PRESETS if str(name) in PRESETS else list_presets()
    if str(name) in presets:
        return presets[str(name)], path if path.is_dir() else None
    file = path if path.suffix == ".json" else path / NATIVE_INDEX
    if not file.is_file():
        hint = did_you_mean(str(name), list_presets())
        raise InputError(f"no configuration {str(name)!r}", code="E-CONFIG", hint=hint)
    return read_config(file), None


def read_model_config(
    name: str | Path,
    config: str | Path | None = None,
    ema: bool | None = None,
    text_encoders: Sequence[str | Path] = (),
) -> ModelConfig:
    """Return the configuration of a model, without reading its weights.

    It takes milliseconds, and is what `modes.plan` needs. `open_checkpoint` also keeps what it
    found, to load the model.

    Args:
        name: The model's name, file or folder.
        config: A configuration for a single file. None: the family is recognised.
        ema: Whether the averaged weights must fit. None: the family's published default.
        text_encoders: Files of text encoders, as for `ldmref.load`.

    Returns:
        The configuration of all networks.

    Raises:
        InputError: There is no such model, or it is damaged.
        UsageError: A configuration for a model that has its own, or `ema=True` without averages.
        KeyMismatchError: A single file fits no configuration.

    >>> from ldmref.io import read_model_config
    >>> read_model_config("emoji").defaults.width
    128
    """
    return open_checkpoint(name, config, ema=ema, text_encoders=text_encoders).config
