"""The emoji font and scenes composed of it as one data set."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from ldmref.prompts.emoji import named_emoji
from ldmref.training.data.augmentation import Augmentation
from ldmref.training.data.captions import scene_caption, scene_vocabulary
from ldmref.training.data.composing import training_scene
from ldmref.training.data.emoji import FONT, EmojiDataset
from ldmref.training.data.rendering import render_scene
from ldmref.training.data.scene import Scene

NAMES_SHARE = 0.5  # of the samples are single emoji, as the font draws them
DIGEST_SAMPLES = 200  # scenes that stand for all


class SceneDataset:
    """All emoji with their names, then scenes; `images` in all. Scenes are drawn when indexed."""

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(self, size: int, images: int, seed: int = 0):
        self.names = EmojiDataset(size)
        self.seed = seed
        self.images = SceneImages(self.names.images, size, images, seed)
        self.warnings = self.names.warnings
        named = self.names.weights
        scenes = images - len(named)
        shares = NAMES_SHARE * named / named.sum(), np.full(scenes, (1 - NAMES_SHARE) / scenes)
        self.weights = np.concatenate(shares)

    @property
    def classes(self) -> list[str]:
        """The subgroups of the emoji, and the kinds of the scenes."""
        scenes = len(self.images) - len(self.names.images)
        return self.names.classes + [cached_scene(self.seed, i).kind for i in range(scenes)]

    def caption(self, i: int, rng: np.random.Generator) -> str:
        count = len(self.names.images)
        if i < count:
            return self.names.caption(i, rng)
        return scene_caption(cached_scene(self.seed, i - count), rng)

    def vocabulary(self) -> list[str]:
        return self.names.vocabulary() + scene_vocabulary()

    def digest(self) -> str:
        """Of the font, the names, and a sample of the images."""
        digest = hashlib.sha256(FONT.read_bytes() + repr(named_emoji()).encode())
        sample = np.linspace(0, len(self.images) - 1, DIGEST_SAMPLES).astype(int)
        digest.update(repr((self.images.shape, self.seed)).encode())
        digest.update(self.images[sample].tobytes())
        return digest.hexdigest()


class SceneImages:
    """uint8 (n, 3, size, size): those of `first`, then scenes, drawn when they are indexed."""

    def __init__(self, first: np.ndarray, size: int, count: int, seed: int):
        self.first = first
        self.size = size
        self.seed = seed
        self.shape = (count, 3, size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return np.stack([self._image(int(i)) for i in np.arange(len(self))[index]])

    def _image(self, i: int) -> np.ndarray:
        if i < len(self.first):
            return self.first[i]
        scene = cached_scene(self.seed, i - len(self.first))
        return render_scene(scene, self.size).transpose(2, 0, 1)


@lru_cache(maxsize=200_000)
def cached_scene(seed: int, index: int) -> Scene:
    return training_scene(seed, index)
