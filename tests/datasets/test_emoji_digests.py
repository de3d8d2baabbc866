"""The embedded model's data sets are what they were: a training on them can be resumed."""

from __future__ import annotations

import hashlib

import PIL
import pytest

from ldmref.datasets import DataConfig, load_dataset, summarize
from ldmref.datasets.emoji.emoji_dataset import KEYWORDS
from ldmref.datasets.emoji.font import FONT

FONT_DIGEST = "e5899ed38b8ed83e"  # Noto Color Emoji of Unicode 15.0, beginning of its SHA-256
DIGESTS = {
    ("emoji", 16, 60_000): "2fa50b04b141d4c1e394a9ba141798a6a04832463b7704ba687c36e9feb31486",
    ("scenes", 16, 5000): "ce5e61583e9ac6f92a6971064f54cff5f42f5166e694067642021dd350571fb0",
}


@pytest.mark.parametrize(("source", "size", "images"), DIGESTS)
def test_digests(source, size, images, skip):
    if not (FONT.exists() and KEYWORDS.exists()):
        skip("the emoji font and keywords", "of Debian are not on this machine")
    if hashlib.sha256(FONT.read_bytes()).hexdigest()[:16] != FONT_DIGEST:
        skip("digests of the emoji data", "the font is of another version")
    if PIL.__version__.split(".")[0] != "13":
        skip("digests of the emoji data", "Pillow is of another version")
    data = load_dataset(DataConfig(source, size, images))
    assert summarize(data).sha256 == DIGESTS[source, size, images]
