"""The protocol of a data set, and the object that an entry point of `ldmref.datasets` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple, Protocol

import numpy as np

from ldmref.datasets.config import DataConfig


class Augmentation(NamedTuple):
    """Changes of a batch that the autoencoder sees.

    Args:
        flips: Whether half of the batches are mirrored.
        crop: Side of the random squares in pixels; 0: whole images.

    >>> from ldmref.datasets import Augmentation
    >>> Augmentation(crop=64)
    Augmentation(flips=True, crop=64)
    """

    flips: bool = True
    crop: int = 0


class ImageArray(Protocol):
    """uint8 images (n, 3, H, W): an array, or an object that makes images when it is indexed.

    >>> import numpy as np
    >>> images = np.zeros((10, 3, 32, 32), np.uint8)  # an array is one
    >>> images[2:4].shape
    (2, 3, 32, 32)
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Return the images of a slice or of an integer array, (k, 3, H, W) uint8."""
        ...


class StyledImages(NamedTuple):
    """Several images of each name, one in each style, for the evaluation of a model.

    Args:
        names: Of each image.
        styles: Of each image.
        shown: (n,) bool, whether training shows it.
        images: The images, (n, 3, size, size) uint8.

    >>> import numpy as np
    >>> from ldmref.datasets import StyledImages
    >>> images = np.zeros((2, 3, 8, 8), np.uint8)
    >>> StyledImages(["cat", "cat"], ["flat", "noto"], np.array([True, False]), images).styles
    ['flat', 'noto']
    """

    names: list[str]
    styles: list[str]
    shown: np.ndarray
    images: ImageArray


class Dataset(Protocol):
    """n images of one size with captions, which may be random.

    A data set whose images are made when they are indexed should also have a method
    `digest() -> str`, which identifies all of them without making them. Otherwise every image is
    read once to compute the digest that a resumed training is compared with.

    A data set of latents instead of images has `moments`, (n, 2, z, h, w) float32: mean and
    log-variance of each image's latents, as an autoencoder would encode it. The autoencoder is then
    not trained.

    A data set with several images of each name has `styled`, a `StyledImages`, and `evaluate`
    asks the model for names in their styles.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from ldmref.datasets import FolderDataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (40, 32), "red").save(folder / "a_red_square.png")
    >>> data = FolderDataset(folder, size=16)  # a data set of one image
    >>> data.images.shape, data.vocabulary()
    ((1, 3, 16, 16), ['a red square'])
    """

    weights: np.ndarray
    """(n,) relative sampling frequencies >= 0; `load_dataset` sets 0 for held-out images."""
    held_out: np.ndarray
    """(k,) int64: indices of the images on which nothing is trained; set by `load_dataset`."""
    warnings: list[str]
    """Lines for the user, one for each kind of thing that was left out."""
    augmentation: Augmentation
    """Set by `load_dataset` from the recipe."""

    @property
    def images(self) -> ImageArray:
        """The images, (n, 3, size, size) uint8."""
        ...

    @property
    def classes(self) -> list[str]:
        """(n,) the name of each image's class; "" for an image without one."""
        ...

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a caption of image `i`, chosen with `rng` if there are several."""
        ...

    def vocabulary(self) -> list[str]:
        """Return texts that contain every word of the captions, frequent words more often."""
        ...


@dataclass(frozen=True)
class DatasetSource:
    """A data set that can be loaded by name: what an entry point of `ldmref.datasets` names.

    Args:
        load: `load(config, cancel)` reads the images at `config.size` pixels and returns a
            `Dataset`. `cancel` is None or an event; once it is set, a long loading should raise
            `ldmref.errors.Cancelled`. Raises `ldmref.errors.InputError` if the images cannot be
            read.
        check: `check(config)` raises the errors of `load` that can be found within
            milliseconds, before anything is loaded. Without it there are none.

    >>> from ldmref.datasets import DatasetSource, FolderDataset
    >>> photos = DatasetSource(lambda config, cancel: FolderDataset("photos", config.size, cancel))
    """

    load: Callable[[DataConfig, Event | None], Dataset]
    check: Callable[[DataConfig], None] = lambda config: None
