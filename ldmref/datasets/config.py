"""The recipe's table `[data]`, and the summary of the images that a checkpoint records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Formerly, Range

EMOJI = "emoji"  # data sets that come with ldmref, by name
SCENES = "scenes"
STYLES = "styles"
SMALL_EMOJI = "small-emoji"
MIXTURE = "mixture"
MAX_SIZE = 1024  # pixels


@dataclass(frozen=True)
class DataConfig:
    """The images of a training: a recipe's table `[data]`.

    Args:
        source: The name of a data set (`dataset_names()`), or a folder of images or tar files.
        size: Width and height in pixels; 0: the model's.
        images: The number of images in "scenes" and "styles", emoji included.
        font: The file of the emoji font for "emoji" and "scenes"; "": where Debian installs it.
        packages: The folder of the npm packages with the drawings of "styles".
        keywords: CLDR's file annotations/en.xml with further words for the captions of "emoji",
            "scenes" and "styles"; "": where Debian installs it.
        processes: The number of processes that make the images of "scenes" and "styles" before the
            training; 0: an image is made whenever it is needed.
        flips: Whether the autoencoder sees half of the batches mirrored.
        crop: Side in pixels of the random squares that the autoencoder sees; 0: whole images.
        held_out: The number of images that no stage trains on; the denoiser's loss on them is in
            metrics.jsonl.

    >>> from ldmref.datasets import DataConfig
    >>> DataConfig("photos", size=128).held_out
    0
    """

    source: str = EMOJI
    size: Annotated[int, Range(0, MAX_SIZE)] = 0
    images: Annotated[int, Range(5000, 10_000_000), Formerly("pictures")] = 60_000
    font: str = ""
    packages: str = ""
    keywords: str = ""
    processes: Annotated[int, Range(0, 256)] = 0
    flips: bool = True
    crop: Annotated[int, Range(0, MAX_SIZE)] = 0
    held_out: Annotated[int, Range(0, 100_000)] = 0


@dataclass(frozen=True)
class DataSummary:
    """The data of a training, as its checkpoints identify them.

    Args:
        images: The number of images.
        sha256: The digest of images and captions.
        base: The digest of the model that is fine-tuned, or "".
        classes: The digest of the classes if a stage learns them, or "".

    >>> from ldmref.datasets import DataSummary
    >>> DataSummary(3655, "0a" * 32).images
    3655
    """

    images: Annotated[int, Range(1), Formerly("pictures")]
    sha256: str
    base: str = ""
    classes: str = ""
