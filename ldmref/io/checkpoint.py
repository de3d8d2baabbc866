"""Open a model of any layout, once: a folder of ldmref or diffusers, or a single file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.diffusers.folder import DiffusersFolder
from ldmref.io.embedded import EmbeddedFolder
from ldmref.io.kit_folder import KitFolder
from ldmref.io.locate import find_model
from ldmref.io.native import NativeFolder, check_weights
from ldmref.io.single_file import SingleCheckpoint, require_autoencoder, require_text_encoders
from ldmref.io.stored_model import OpeningChoices, OpeningOptions, StoredModel
from ldmref.models.config import ModelConfig
from ldmref.prompts.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from ldmref.io.modifications import Modification

LAYOUTS: tuple[type[StoredModel], ...] = (
    EmbeddedFolder,
    KitFolder,
    DiffusersFolder,
    NativeFolder,
    SingleCheckpoint,
)  # the first that a file or folder has counts


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A model on disk, opened once, to plan with its configuration and to load it.

    Attributes:
        source: The file or folder in its layout.
        config: The configuration of all networks with the modifications, for a plan.
        modifications: Other files that complete or change the model, in this order.
        vocabulary: The location of CLIP's vocabulary, or a folder with tokenizers. None: that of
            the folder, then the usual places.
        ineffective: Warnings about choices that the model does not have.

    >>> from ldmref.io import open_checkpoint
    >>> checkpoint = open_checkpoint("emoji")
    >>> checkpoint.config.name, checkpoint.tensors["unet.conv_in.weight"].shape
    ('emoji-128', (96, 16, 3, 3))
    """

    source: StoredModel
    config: ModelConfig
    modifications: Sequence[Modification] = ()
    vocabulary: str | Path | None = None
    ineffective: Sequence[str] = ()

    @classmethod
    def open(cls, name: str | Path, options: OpeningOptions) -> Checkpoint:
        """Find a model and its configuration; `open_checkpoint` takes the options by name.

        Args:
            name: The model's name, file or folder, as for `ldmref.load`.
            options: What it is opened with.

        Returns:
            The checkpoint; its tensors are read when they are used.

        Raises:
            InputError, UnsafeFileError, KeyMismatchError, UsageError: As for `open_checkpoint`.
        """
        modifications = _list_modifications(options)
        path = find_model(name, options.fetch, options.variant)
        layout = next(layout for layout in LAYOUTS if layout.is_at(path))
        source = layout.open(path, options)
        if options.tokenizer is not None and not source.takes_vocabulary:
            raise UsageError(
                f"{path.name!r} has its own tokenizer",
                code="E-TOKENIZER",
                hint="leave out tokenizer= (--tokenizer)",
            )
        modified = source.config
        for change in modifications:
            modified = change.configure(modified, None if source.certain else source.networks)
        ineffective = [*_note_ineffective(source, options)]
        return cls(source, modified, modifications, options.tokenizer, ineffective)

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.source.path

    @property
    def ema(self) -> bool | None:
        """Whether the averages of a training checkpoint are read; None if it has none."""
        return self.source.averaged

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings about the choice of the weights, and choices that the model does not have."""
        return [*self.source.warnings, *self.ineffective]

    def read(self) -> tuple[ModelConfig, Mapping[str, np.ndarray]]:
        """Return the configuration and the tensors of the modified model.

        The weights of a folder are opened and compared with the configuration.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: A file is missing, damaged, or does
                not fit.
        """
        config = self.source.config
        tensors: Mapping[str, np.ndarray] = self.source.read()
        for change in self.modifications:
            config, tensors = change.apply(config, tensors)
        return config, tensors

    @cached_property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """The tensors by our names, such as `unet.conv_in.weight`, each read when it is used.

        Raises:
            InputError, CorruptModelError, KeyMismatchError: As for `read`.
        """
        return self.read()[1]

    @cached_property
    def tokenizers(self) -> Sequence[PromptTokenizer]:
        """One tokenizer per text encoder, or one for all.

        Raises:
            InputError: No vocabulary was found, or a file is damaged.
        """
        return self.source.load_tokenizers(self.config, self.vocabulary)

    def require_networks(self) -> None:
        """Refuse a single file without text encoders or an autoencoder, if no other file has them.

        Raises:
            UsageError: A network is missing.
        """
        networks = {*self.source.networks}
        for change in self.modifications:
            networks.update(change.networks)
        require_text_encoders(self.path.name, networks, self.config)
        require_autoencoder(self.path.name, networks, self.config)

    @property
    def is_known(self) -> bool:
        """Whether its weights are the published ones of an embedded model, without changes."""
        return self.source.is_published and not self.modifications

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
            self.source.check_digests()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.config.name!r} in {self.path}>"


def open_checkpoint(
    name: str | Path,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    **choices: Unpack[OpeningChoices],
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
        choices: `fetch`, `variant` and `ema`, which decide what is read, and the files that
            complete or change the model, `text_encoders`, `vae` and `lora`; as for `ldmref.load`.

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
    return Checkpoint.open(name, OpeningOptions(config, tokenizer, **choices))


def _list_modifications(options: OpeningOptions) -> list[Modification]:
    """Return what the user's files change, in the order in which they are applied."""
    if options.vae is None and not options.text_encoders and options.lora in ((), []):
        return []
    from ldmref.io import modifications  # a model without such files does not need it

    changes: list[Modification] = []
    if options.vae is not None:
        changes.append(modifications.ReplacedAutoencoder(options.vae))
    if options.text_encoders:
        changes.append(modifications.AddedTextEncoders(options.text_encoders))
    if options.lora not in ((), []):
        changes.append(modifications.MergedLoras(options.lora))
    return changes


def _note_ineffective(source: StoredModel, options: OpeningOptions) -> Iterator[str]:
    """Yield a line for each choice of weights that a model does not have, and that is harmless."""
    if options.variant is not None and not source.has_variants:
        kind = "a single file" if source.path.is_file() else "no diffusers folder"
        yield f"variant={options.variant} changes nothing: {source.path.name!r} is {kind}"
    if options.ema is False and source.averaged is None:
        yield f"ema=False changes nothing: {source.path.name!r} has no averages beside its weights"


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
