"""The recipe's table `[data]`, and the summary of the images that a checkpoint records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Formerly, Range

EMOJI = "emoji"  # data sets that come with ldmref, by name
SCENES = "scenes"
SMALL_EMOJI = "small-emoji"
MAX_SIZE = 1024  # pixels


@dataclass(frozen=True)
class DataConfig:
    """The images of a training.

    `source`: the name of a data set ("small-emoji", "emoji", "scenes", or a plug-in's), or a
    folder. `size`: width and height in pixels; 0: the model's. `images`: the number of images in
    "scenes", emoji included. `font`: the file of the emoji font for "emoji" and "scenes", and
    `keywords`: CLDR's file annotations/en.xml with further words for their captions; "": where
    Debian installs them. `flips`: the autoencoder sees half of the batches mirrored. `crop`: it
    sees random squares of that many pixels; 0: whole images. `held_out`: the number of images that
    no stage trains on; the denoiser's loss on them is in metrics.jsonl.
    """

    source: str = EMOJI
    size: Annotated[int, Range(0, MAX_SIZE)] = 0
    images: Annotated[int, Range(5000, 10_000_000), Formerly("pictures")] = 60_000
    font: str = ""
    keywords: str = ""
    flips: bool = True
    crop: Annotated[int, Range(0, MAX_SIZE)] = 0
    held_out: Annotated[int, Range(0, 100_000)] = 0


@dataclass(frozen=True)
class DataSummary:
    """The data of a training, as its checkpoints identify them.

    `images`: how many there are. `sha256`: the digest of images and captions. `base`: the digest of
    the model that is fine-tuned, or "". `classes`: the digest of the classes if a stage learns
    them, or "".
    """

    images: Annotated[int, Range(1), Formerly("pictures")]
    sha256: str
    base: str = ""
    classes: str = ""
