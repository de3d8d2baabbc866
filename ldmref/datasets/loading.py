"""The data set that a recipe names: read, checked and summarized."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event

import numpy as np

from ldmref.datasets.base import Augmentation, Dataset
from ldmref.datasets.config import DataConfig, DataSummary
from ldmref.datasets.folder import FolderDataset, captioned_files
from ldmref.datasets.memory import data_error
from ldmref.datasets.registry import find_source, suggest_source
from ldmref.datasets.shards import ShardDataset, find_shards, unread_beside_shards

DIGEST_BATCH = 256  # images that are hashed at a time
DIGEST_CAPTIONS = 5000  # captions that represent all in the digest


def load_dataset(config: DataConfig, cancel: Event | None = None) -> Dataset:
    """Return the images and captions that a recipe's table `[data]` describes.

    Args:
        config: `source` is the name of a data set (`dataset_names()`), a folder of images, or a tar
            file or a folder of tar files; `size` is the width and height of the images in pixels.
        cancel: If this event is set, reading stops. None: it cannot be stopped.

    Returns:
        The data set: images (n, 3, size, size) uint8, with `config.held_out` of them held out
        (weight 0) and the augmentation that `config` asks for.

    Raises:
        UsageError: The data set is a plug-in that cannot be imported.
        InputError: Images or captions cannot be read, or there is no such data set or folder.
        Cancelled: `cancel` was set before all images were read.

    >>> from ldmref.datasets import DataConfig, load_dataset
    >>> load_dataset(DataConfig("emoji", size=16)).images.shape  # doctest: +SKIP
    (3655, 3, 16, 16)
    """
    data = _load(config, cancel)
    data.augmentation = Augmentation(config.flips, config.crop)
    data.held_out = hold_out(data, config.held_out)
    return data


def hold_out(data: Dataset, count: int) -> np.ndarray:
    """Exclude `count` images from training, always the same images of a data set.

    Returns:
        Their indices, sorted; their weights are set to 0.

    Raises:
        InputError: No image would be left.
    """
    used = np.flatnonzero(data.weights)
    if count >= len(used):
        message = f"data.held_out = {count} leaves none of {len(used)} images to train on"
        raise data_error(message, "hold out fewer")
    indices = np.sort(np.random.default_rng(0).choice(used, count, replace=False))
    weights = np.array(data.weights, np.float64)
    weights[indices] = 0.0
    data.weights = weights
    return indices


def check_data(config: DataConfig) -> None:
    """Refuse early what `load_dataset` would refuse, without reading any image.

    Args:
        config: The table `[data]` of a recipe, as for `load_dataset`.

    Raises:
        UsageError: The data set is a plug-in that cannot be imported.
        InputError: Captions cannot be read, or there is no such data set or folder.

    >>> from ldmref.datasets import DataConfig, check_data
    >>> from ldmref.errors import InputError
    >>> try:
    ...     check_data(DataConfig("no-such-folder", size=16))
    ... except InputError as error:
    ...     print(error.code)
    E-DATA
    """
    named = find_source(config.source)
    if named is not None:
        named.check(config)
    elif not _find_shards(config.source):
        captioned_files(Path(config.source))


def summarize(data: Dataset) -> DataSummary:
    """Return the number of images, and the digest of everything that is sampled from.

    If the data set has a method `digest`, its result represents the images.

    Args:
        data: A data set.

    Returns:
        The summary, equal for equal data.

    >>> import tempfile
    >>> from PIL import Image
    >>> from ldmref.datasets import FolderDataset, summarize
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (32, 32), "red").save(folder + "/a_red_square.png")
    >>> summarize(FolderDataset(folder, size=16)).images
    1
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


def _load(config: DataConfig, cancel: Event | None) -> Dataset:
    named = find_source(config.source)
    if named is not None:
        data = named.load(config, cancel)
        _check_shapes(data, config)
        return data
    if not _find_shards(config.source):
        return FolderDataset(config.source, config.size, cancel)
    shards = ShardDataset(config.source, config.size, cancel)
    shards.warnings += unread_beside_shards(Path(config.source))
    return shards


def _find_shards(source: str) -> list[Path]:
    """Return the tar files of a source that is not a data set; none if it is a folder of images.

    Raises:
        InputError: There is no such folder, or it holds both images and tar files.
    """
    path = Path(source)
    if not path.exists():
        message = f"the folder of training images {source!r} does not exist"
        raise data_error(message, suggest_source(path.name))
    return find_shards(path)


def _check_shapes(data: Dataset, config: DataConfig) -> None:
    """Refuse a data set that is not what `Dataset` says.

    Raises:
        InputError: It has no image, images of another shape, or weights of another number.
    """
    shape = tuple(data.images.shape)
    expected = (3, config.size, config.size)
    if len(shape) != 4 or shape[0] == 0 or shape[1:] != expected:
        message = f"the data set {config.source!r} has images of shape {shape}, not (n, 3, "
        message += f"{config.size}, {config.size})"
        raise data_error(message)
    if np.shape(data.weights) != shape[:1]:
        message = f"the data set {config.source!r} has {np.size(data.weights)} weights "
        raise data_error(message + f"for {shape[0]} images")
