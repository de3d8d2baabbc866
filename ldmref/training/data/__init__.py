"""Captioned training images: what every data set offers, and the one that a recipe names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np

from ldmref.errors import InputError
from ldmref.training.checkpoint import DataSummary
from ldmref.training.data.augmentation import Augmentation
from ldmref.training.data.folder import FolderDataset, captioned_files
from ldmref.training.data.shards import ShardDataset, shards_of, unread_beside_shards
from ldmref.training.recipe import EMOJI, SCENES, DataConfig

DIGEST_BATCH = 256  # images
DIGEST_CAPTIONS = 5000  # how many stand for all


class ImageArray(Protocol):
    """uint8 images (n, 3, H, W): an array, or what reads or draws them when they are indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """The images of a slice or of an integer array, (k, 3, H, W)."""
        ...


class Dataset(Protocol):
    """Images with random captions."""

    weights: np.ndarray
    """(n,) relative sampling frequencies; 0 for images that are held out."""
    held_out: np.ndarray
    """Indices of the images on which nothing is trained."""
    warnings: list[str]
    """One line for each kind of thing that was left out."""
    augmentation: Augmentation

    @property
    def images(self) -> ImageArray:
        """The images, which are read or drawn when they are indexed."""
        ...

    @property
    def classes(self) -> list[str]:
        """(n,) the name of each image's class, "" without one."""
        ...

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """A random caption of image `i`."""
        ...

    def vocabulary(self) -> list[str]:
        """Texts with every word of the captions, in proportion to its importance."""
        ...


def load_dataset(config: DataConfig, cancel: Event | None = None) -> Dataset:
    """The emoji font, scenes composed of it, tar files, or a folder of images.

    Raises:
        InputError: images or captions that cannot be read.
        Cancelled: `cancel` was set before all images were read.
    """
    data = _load(config, cancel)
    data.augmentation = Augmentation(config.flips, config.crop)
    data.held_out = hold_out(data, config.held_out)
    return data


def hold_out(data: Dataset, count: int) -> np.ndarray:
    """Take `count` images out of the training, always the same ones of a data set.

    Returns:
        Their indices, sorted; their weights are set to 0.

    Raises:
        InputError: No image would be left.
    """
    used = np.flatnonzero(data.weights)
    if count >= len(used):
        message = f"data.held_out = {count} leaves none of {len(used)} images to train on"
        raise InputError(message, code="E-DATA", hint="hold out fewer")
    indices = np.sort(np.random.default_rng(0).choice(used, count, replace=False))
    weights = np.array(data.weights, np.float64)
    weights[indices] = 0.0
    data.weights = weights
    return indices


def _load(config: DataConfig, cancel: Event | None) -> Dataset:
    if config.source == EMOJI:
        from ldmref.training.data.emoji import EmojiDataset

        return EmojiDataset(config.size)
    if config.source == SCENES:
        from ldmref.training.data.scene_dataset import SceneDataset

        return SceneDataset(config.size, config.images)
    if not shards_of(Path(config.source)):
        return FolderDataset(config.source, config.size, cancel)
    data = ShardDataset(config.source, config.size, cancel)
    data.warnings += unread_beside_shards(Path(config.source))
    return data


def check_data(config: DataConfig) -> None:
    """Refuse what `load_dataset` would refuse, but for the images themselves, in no time."""
    if config.source in (EMOJI, SCENES):
        from ldmref.training.data.emoji import check_font

        check_font()
    elif not shards_of(Path(config.source)):
        captioned_files(Path(config.source))


def summarize(data: Dataset) -> DataSummary:
    """The number of images, and the digest of all that is sampled from.

    A data set whose images are drawn when they are needed has a `digest` of its own.
    """
    digest = hashlib.sha256()
    known = getattr(data, "digest", None)
    if known is None:
        for start in range(0, len(data.images), DIGEST_BATCH):
            batch = data.images[start : start + DIGEST_BATCH]
            digest.update(np.ascontiguousarray(batch).data)
    else:
        digest.update(known().encode())
    digest.update(np.asarray(data.weights, np.float64).tobytes())
    rng = np.random.default_rng(0)
    captions = [data.caption(i, rng) for i in range(len(data.images))[:DIGEST_CAPTIONS]]
    digest.update("\n".join([*data.vocabulary(), *captions]).encode())
    return DataSummary(len(data.images), digest.hexdigest())
