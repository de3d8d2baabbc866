"""The emoji font and scenes composed of it as one data set."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from ldmref.datasets.base import Augmentation
from ldmref.datasets.emoji.captions import scene_caption, scene_vocabulary
from ldmref.datasets.emoji.composing import training_scene
from ldmref.datasets.emoji.emoji_dataset import EmojiDataset
from ldmref.datasets.emoji.font import font_path
from ldmref.datasets.emoji.rendering import render_scene
from ldmref.datasets.emoji.scene import Scene
from ldmref.prompts.emoji import named_emoji

NAMES_SHARE = 0.5  # share of single emoji among the samples
DIGEST_SAMPLES = 200  # images that represent all in the digest
# characters of the emoji of Unicode 15.0 that Unicode 14.0 does not have
NEW_CHARACTERS = (
    "\U0001f6dc\U0001fa75\U0001fa76\U0001fa77\U0001fa87\U0001fa88\U0001faad\U0001faae\U0001faaf"
    "\U0001fabb\U0001fabc\U0001fabd\U0001fabf\U0001face\U0001facf\U0001fada\U0001fadb\U0001fae8"
    "\U0001faf7\U0001faf8"
)


class SceneDataset:
    """All emoji, then scenes, `images` in total; scenes are rendered when they are indexed."""

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(
        self, size: int, images: int, seed: int = 0, font_file: str = "", keywords_file: str = ""
    ):
        self.names = EmojiDataset(size, font_file, keywords_file)
        self.font_file = font_file
        self.seed = seed
        self.images = SceneImages(self.names.images, size, images, seed, font_file)
        self.warnings = self.names.warnings
        named = self.names.weights
        scenes = images - len(named)
        shares = NAMES_SHARE * named / named.sum(), np.full(scenes, (1 - NAMES_SHARE) / scenes)
        self.weights = np.concatenate(shares)

    @property
    def classes(self) -> list[str]:
        """The subgroups of the emoji, and the kinds of the scenes."""
        scenes = len(self.images) - len(self.names.images)
        return self.names.classes + [
            cached_scene(self.seed, i, self.font_file).kind for i in range(scenes)
        ]

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a random caption of image `i`."""
        count = len(self.names.images)
        if i < count:
            return self.names.caption(i, rng)
        return scene_caption(cached_scene(self.seed, i - count, self.font_file), rng)

    def vocabulary(self) -> list[str]:
        """Return texts with every word of the captions."""
        return self.names.vocabulary() + scene_vocabulary()

    def digest(self) -> str:
        """Return the digest of the font, the names, and a sample of the images."""
        digest = hashlib.sha256(font_path(self.font_file).read_bytes())
        digest.update(_list_names().encode())
        sample = np.linspace(0, len(self.images) - 1, DIGEST_SAMPLES).astype(int)
        digest.update(repr((self.images.shape, self.seed)).encode())
        digest.update(self.images[sample].tobytes())
        return digest.hexdigest()


class SceneImages:
    """uint8 images (n, 3, size, size): `first`, then scenes, which are rendered when indexed."""

    def __init__(self, first: np.ndarray, size: int, count: int, seed: int, font_file: str = ""):
        self.first = first
        self.size = size
        self.seed = seed
        self.font_file = font_file
        self.shape = (count, 3, size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return np.stack([self._image(int(i)) for i in np.arange(len(self))[index]])

    def _image(self, i: int) -> np.ndarray:
        if i < len(self.first):
            return self.first[i]
        scene = cached_scene(self.seed, i - len(self.first), self.font_file)
        return render_scene(scene, self.size, self.font_file).transpose(2, 0, 1)


def _list_names() -> str:
    """Return the names of all emoji as Python 3.11 prints them, on every version of Python.

    `repr` escapes the characters that the Unicode of its version does not have.
    """
    escapes = {ord(c): f"\\U{ord(c):08x}" for c in NEW_CHARACTERS}
    return repr(named_emoji()).translate(escapes)


@lru_cache(maxsize=200_000)
def cached_scene(seed: int, index: int, font_file: str = "") -> Scene:
    """Return the training scene of an index."""
    return training_scene(seed, index, font_file)
