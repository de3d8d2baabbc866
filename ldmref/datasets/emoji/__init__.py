"""The embedded model's data set: the emoji font, and scenes composed of it.

small.py          "small-emoji": 156 rendered emoji that come with ldmref, without the font
font.py           the emoji of Unicode, and their bitmaps in the font
emoji_dataset.py  "emoji": every emoji, with captions made of its name and keywords
scene_dataset.py  "scenes" and "styles": every emoji, then composed scenes, which are random
drawings.py       drawings in six styles, from packages; style_dataset.py: each as a picture
scene.py          a scene: its things, their layout, and the combinations that are held out
rendering.py      the image of a scene; colours.py: recoloured emoji and backgrounds
captions.py       the captions of a scene; nouns.py: their words

The data sets are the entry points `emoji`, `scenes`, `styles` and `small-emoji` of the group
`ldmref.datasets`.
"""

from __future__ import annotations

from threading import Event

from ldmref.datasets.base import Dataset, DatasetSource
from ldmref.datasets.config import DataConfig
from ldmref.datasets.emoji.font import emoji_list, render
from ldmref.datasets.emoji.small import load_small, small_emoji


def _check(config: DataConfig) -> None:
    from ldmref.datasets.emoji.emoji_dataset import check_keywords
    from ldmref.datasets.emoji.font import check_font

    check_font(config.font)
    check_keywords(config.keywords)


def _load_emoji(config: DataConfig, cancel: Event | None) -> Dataset:
    from ldmref.datasets.emoji.emoji_dataset import EmojiDataset

    return EmojiDataset(config.size, config.font, config.keywords)


def _load_scenes(config: DataConfig, cancel: Event | None) -> Dataset:
    return _with_scenes(config, font_file=config.font)


def _check_styles(config: DataConfig) -> None:
    from ldmref.datasets.emoji.drawings import check_packages
    from ldmref.datasets.emoji.emoji_dataset import check_keywords

    check_packages(config.packages)
    check_keywords(config.keywords)


def _load_styles(config: DataConfig, cancel: Event | None) -> Dataset:
    from ldmref.datasets.emoji.drawings import drawings

    if config.processes:
        drawings(config.packages).draw_all(config.processes)
    return _with_scenes(config, packages=config.packages)


def _with_scenes(config: DataConfig, font_file: str = "", packages: str = "") -> Dataset:
    """Return emoji and scenes of a font or of packages."""
    from ldmref.datasets.emoji.scene_dataset import SceneDataset

    data = SceneDataset(
        config.size,
        config.images,
        font_file=font_file,
        keywords_file=config.keywords,
        packages=packages,
    )
    if config.processes:
        data.make_images(config.processes)
    return data


emoji = DatasetSource(_load_emoji, _check)
scenes = DatasetSource(_load_scenes, _check)
styles = DatasetSource(_load_styles, _check_styles)
small = DatasetSource(load_small)

__all__ = ["emoji", "emoji_list", "render", "scenes", "small", "small_emoji", "styles"]
