"""Open a model of any layout: a folder of ldmref or diffusers, or a CompVis single file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.compvis.single_file import describe_ema, read_compvis, select_ema
from ldmref.io.denoiser_file import (
    find_layout,
    read_networks,
    require_text_encoders,
)
from ldmref.io.diffusers.folder import load_diffusers
from ldmref.io.embedded import require_published
from ldmref.io.locate import (
    NATIVE_WEIGHTS,
    configure_single_file,
    find_model,
    is_diffusers,
    is_native,
    read_model_config,
)
from ldmref.io.native import check_weights, load_folder, require_digests
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.text_encoder_files import TextEncoderFile, add_text_encoders
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import TEXT_ENCODERS, TOKENIZERS, ModelConfig
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.prompts.prompt_template import PLAIN
from ldmref.prompts.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, whose tensors are read when they are used.

    Attributes:
        path: The file or folder.
        config: The configuration of all networks.
        tensors: The tensors by our names, such as `unet.conv_in.weight`.
        tokenizers: One tokenizer per text encoder, or one for both; none if not asked for.
        digest: SHA-256 of the file of the weights, or a function that computes it.
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
    tensors: Mapping[str, np.ndarray]
    tokenizers: Sequence[PromptTokenizer]
    digest: str | Callable[[], str]
    ema: bool | None = None
    warnings: Sequence[str] = ()
    text_encoders: Sequence[TextEncoderFile] = ()

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
        if is_native(self.path):
            require_digests(self.path, self.sha256)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.config.name!r} of {len(self.tensors)} tensors in {self.path}>"


def open_checkpoint(
    name: str | Path,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    *,
    with_tokenizers: bool = True,
    variant: str | None = None,
    ema: bool | None = None,
    text_encoders: Sequence[str | Path] = (),
) -> Checkpoint:
    """Open a model and check that its tensors fit its configuration, without reading them.

    Args:
        name: The model's name, file or folder, as for `ldmref.load`.
        config: A configuration for a single file, as for `ldmref.load`. None: the family is
            recognised.
        tokenizer: The location of CLIP's vocabulary, as for `ldmref.load`. None: the model's
            own folder, then the usual places.
        with_tokenizers: Whether to search for the tokenizers of layouts other than ldmref's own.
        variant: The variant of the weights in a diffusers folder, such as `fp16`. None: the
            files without a variant.
        ema: Whether to read the averaged weights. None: the family's published default.
        text_encoders: Files of text encoders, as for `ldmref.load`.

    Returns:
        The checkpoint; its tensors are read when they are used.

    Raises:
        InputError: There is no such model, or it is damaged.
        UnsafeFileError: It is a pickle.
        KeyMismatchError: Its tensors do not fit its configuration.
        UsageError: A configuration, tokenizer, variant or average that the model does not take.

    >>> from ldmref.io import open_checkpoint
    >>> open_checkpoint("emoji").config.unet.in_channels
    16
    """
    path = find_model(name)
    if ema and path.is_dir():
        message = f"{path.name!r} is a folder; only single files hold averages and last weights"
        hint = "a diffusers folder has the averages without a variant, the last weights as non_ema"
        raise UsageError(message, code="E-EMA", hint=hint)
    file = None if path.is_dir() else open_model_file(path)
    found = configure_single_file(file, config, ema) if file else read_model_config(path, config)
    found, added = add_text_encoders(text_encoders, found, None if config else file)
    if tokenizer is not None and (is_native(path) or kind_of(found.text_encoder).reads != "text"):
        message = f"{path.name!r} has its own tokenizer"
        hint = "leave out tokenizer= (--tokenizer)"
        raise UsageError(message, code="E-TOKENIZER", hint=hint)
    if is_native(path):
        _, tensors, tokenizers, sha256 = load_folder(path)
        require_published(path, sha256)
        return _with_text_encoders(Checkpoint(path, found, tensors, tokenizers, sha256), added)
    folder = path if path.is_dir() else Path(config) if config and Path(config).is_dir() else None

    def find_tokenizers() -> list[PromptTokenizer]:
        if not with_tokenizers:
            return []
        if tokenizer is None and folder is not None and _has_own_weights(folder):
            return load_folder(folder)[2]
        return _find_tokenizers(found, folder, tokenizer)

    if file is None:
        tokenizers = find_tokenizers()
        _, tensors, compute_sha256 = load_diffusers(path, variant)
        return _with_text_encoders(
            Checkpoint(path, found, tensors, tokenizers, compute_sha256), added
        )
    averaged = select_ema(file, found, ema)
    layout = find_layout(file, found)
    if layout is None:
        tensors = read_compvis(file, found, bool(averaged))
    else:
        tensors = read_networks(file, layout, found)
        if folder is not None and (is_diffusers(folder) or _has_own_weights(folder)):
            tensors = _read_other_networks(folder, found) | tensors
        if with_tokenizers:  # text encoders that are missing need none
            require_text_encoders(path.name, [*tensors, *(f"{x.network}." for x in added)], found)
    tokenizers = find_tokenizers()
    averaged = averaged if layout is None else None  # only files of whole models have averages
    warnings = [describe_ema(file, found)] if averaged is not None and ema is None else []
    return _with_text_encoders(
        Checkpoint(path, found, tensors, tokenizers, file.sha256, averaged, warnings), added
    )


def _with_text_encoders(checkpoint: Checkpoint, added: Sequence[TextEncoderFile]) -> Checkpoint:
    """Return a checkpoint whose text encoders are those of files, where these hold one."""
    replaced = tuple(f"{one.network}." for one in added)
    tensors = {n: x for n, x in checkpoint.tensors.items() if not n.startswith(replaced)}
    for one in added:
        tensors |= one.read()
    return replace(checkpoint, tensors=tensors, text_encoders=added) if added else checkpoint


def _has_own_weights(folder: Path) -> bool:
    """Return whether a folder of ldmref holds weights, and not only a configuration."""
    return is_native(folder) and (folder / NATIVE_WEIGHTS).is_file()


def _read_other_networks(folder: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the tensors of a model's folder (our names) without those of the denoiser.

    Args:
        folder: A folder of diffusers, or of ldmref.
        config: The configuration of the model.
    """
    flat = load_folder(folder)[1] if is_native(folder) else load_diffusers(folder)[1]
    prefix = config.denoiser.network + "."
    return {name: tensor for name, tensor in flat.items() if not name.startswith(prefix)}


def _find_tokenizers(
    config: ModelConfig, folder: Path | None, source: str | Path | None
) -> list[PromptTokenizer]:
    """Return a tokenizer per text encoder: from `source`, `folder` or an installed vocabulary.

    Both may be folders that hold one for each encoder: `tokenizer`, `tokenizer_2`, `tokenizer_3`.
    """
    if not config.text_encoders:
        return [tokenizer_for(config.text_encoder)]
    place = folder if source is None else Path(source)
    templates = family_of(config).text.templates(config)
    tokenizers = []
    parts = zip(config.text_encoders, TOKENIZERS, TEXT_ENCODERS, strict=False)
    for text, name, network in parts:
        own = place / name if place is not None and (place / name).is_dir() else None
        # OpenCLIP pads with 0; a folder's tokenizer configuration names its own padding
        pad = kind_of(text).padding(text) if own is None else None
        found = source if own is None else own
        tokenizers.append(tokenizer_for(text, found, pad, network, templates.get(network, PLAIN)))
    return tokenizers
