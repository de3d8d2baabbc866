"""Emoji drawn in several styles as a data set: a picture for each pair of a name and a style.

Pairs that `Drawings.is_held_out` names are no part of it. A caption is that of the emoji; in half
of all cases it also names the style.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldmref.datasets.base import Augmentation, StyledImages
from ldmref.datasets.emoji.captions import styled_caption
from ldmref.datasets.emoji.drawings import STYLES, pictures
from ldmref.datasets.emoji.emoji_dataset import EmojiCaptions, relative_weights
from ldmref.datasets.emoji.font import Emoji, emoji_list
from ldmref.datasets.emoji.rendering import RenderedImages, composite, resized, sprite


class StyleDataset:
    """All emoji in the styles of a folder of packages, on white, at one size."""

    augmentation = Augmentation()
    held_out = np.empty(0, np.int64)

    def __init__(self, size: int, packages: str, keywords_file: str = ""):
        self.pictures = pictures(packages)
        self.images = StyleImages(self.pictures, size, packages)
        self.classes = [style for _, style in self.pictures]
        self.weights = relative_weights([emoji for emoji, _ in self.pictures])
        everything = emoji_list()
        self.captions = EmojiCaptions(everything, keywords_file)
        self.warnings = self.captions.warnings
        self._index = {emoji.text: i for i, emoji in enumerate(everything)}

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a random caption of picture `i`."""
        emoji, style = self.pictures[i]
        return styled_caption(self.captions.caption(self._index[emoji.text], rng), style, rng)

    def vocabulary(self) -> list[str]:
        """Return texts with every word of the captions, except for the styles."""
        return self.captions.vocabulary()

    @property
    def styled(self) -> StyledImages:
        """Return all pictures, held-out ones too, without those of skin tones."""
        every = [
            (pair, shown)
            for shown in (True, False)
            for pair in pictures(self.images.packages, held_out=not shown)
            if not pair[0].has_skin_tone
        ]
        images = StyleImages([pair for pair, _ in every], self.images.size, self.images.packages)
        return StyledImages(
            [emoji.name for (emoji, _), _ in every],
            [style for (_, style), _ in every],
            np.asarray([shown for _, shown in every]),
            images,
        )

    def origin(self) -> bytes:
        """Return what identifies the pictures: the digests of the packages."""
        return "".join(style.sha256 for style in STYLES).encode()


class StyleImages(RenderedImages):
    """uint8 images (n, 3, size, size) of drawings on white, which are drawn when indexed."""

    def __init__(self, pictures: Sequence[tuple[Emoji, str]], size: int, packages: str):
        super().__init__(len(pictures), size)
        self.pictures = pictures
        self.packages = packages

    def render(self, i: int) -> np.ndarray:
        emoji, style = self.pictures[i]
        white = np.full((self.size, self.size, 3), 255, np.uint8)
        picture = resized(sprite(emoji, self.packages, style), self.size)
        return composite(picture, white).transpose(2, 0, 1)
