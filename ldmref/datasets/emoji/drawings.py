"""The drawings of several emoji sets, each a style: openly licensed SVG from the npm registry.

A folder holds the packages as `npm pack @iconify-json/NAME@VERSION` writes them; `STYLES` names
them with their digests and licences. resvg (`pip install resvg-py`) draws them. Sets under
share-alike licences are left out.

One in ten pairs of a name and a style is held out by a hash of its words, if at least `KNOWN` sets
draw the name: of these pairs training has shown the name in other styles, and the style in other
names.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.datasets.emoji.font import CELL, Emoji, emoji_list
from ldmref.datasets.emoji.scene import is_held_out
from ldmref.datasets.memory import data_error
from ldmref.datasets.parallel import make_in_parallel
from ldmref.support.files import read_file

DRAWN = 128  # pixels of a drawing, centred in a cell of `CELL` pixels as the font's bitmaps are
LARGEST = 2**26  # bytes of a package
KNOWN = 3  # a pair is held out only if so many sets draw the name


@dataclass(frozen=True)
class Style:
    """A set of drawings: its word in captions, its package of the npm registry, its licence."""

    word: str
    package: str
    version: str
    sha256: str
    licence: str
    author: str

    @property
    def file(self) -> str:
        """The name of the file that `npm pack` writes."""
        return f"iconify-json-{self.package}-{self.version}.tgz"


STYLES = (
    Style("noto", "noto", "1.2.9",
          "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
          "Apache-2.0", "Google (Noto Emoji)"),
    Style("blob", "noto-v1", "1.2.5",
          "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
          "Apache-2.0", "Google (Noto Emoji, first version)"),
    Style("fluent", "fluent-emoji", "1.2.7",
          "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
          "MIT", "Microsoft (Fluent Emoji)"),
    Style("flat", "fluent-emoji-flat", "1.2.6",
          "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
          "MIT", "Microsoft (Fluent Emoji, flat)"),
    Style("twemoji", "twemoji", "1.2.5",
          "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
          "CC-BY-4.0", "Twitter and contributors (Twemoji)"),
    Style("firefox", "fxemoji", "1.2.2",
          "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
          "Apache-2.0", "Mozilla (Firefox OS Emojis)"),
)  # fmt: skip
STYLE_WORDS = tuple(style.word for style in STYLES)


class Drawings:
    """The drawings of all styles that have a name of Unicode.

    Args:
        folder: The folder of the packages.

    Raises:
        InputError: A package is missing, is another version, or cannot be read.
    """

    def __init__(self, folder: str):
        self.svg: dict[tuple[str, str], str] = {}
        for style in STYLES:
            icons = _read_icons(Path(folder), style)
            for emoji in emoji_list():
                drawing = _find_drawing(icons, emoji.name)
                if drawing:
                    self.svg[emoji.name, style.word] = drawing
        self._keys = [*self.svg]
        self._sprites: dict[tuple[str, str], np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all sprites, in the order of `svg`."""
        return len(self._keys), CELL, CELL, 4

    def __getitem__(self, index: slice) -> np.ndarray:
        """Draw some of them, (k, 136, 136, 4) uint8."""
        return np.stack([_draw(self.svg[key]) for key in self._keys[index]])

    def draw_all(self, processes: int) -> None:
        """Draw all sprites by several processes; otherwise each is drawn when it is needed."""
        if len(self._sprites) < len(self._keys):
            sprites = make_in_parallel(self, processes)
            self._sprites = dict(zip(self._keys, sprites, strict=True))

    def styles_of(self, name: str) -> tuple[str, ...]:
        """Return the styles in which an emoji of that name is drawn."""
        return tuple(word for word in STYLE_WORDS if (name, word) in self.svg)

    def trained_styles(self, name: str) -> tuple[str, ...]:
        """Return the styles in which training shows it: those that are not held out."""
        return tuple(w for w in self.styles_of(name) if not self.is_held_out(name, w))

    def is_held_out(self, name: str, style: str) -> bool:
        """Return whether training never shows the name in this style."""
        known = len(self.styles_of(name)) >= KNOWN and "skin tone" not in name
        return known and is_held_out(("style", style, name))

    def sprite(self, name: str, style: str) -> np.ndarray:
        """Return the drawing of a name, premultiplied (136, 136, 4) uint8."""
        found = self._sprites.get((name, style))
        if found is None:
            found = self._sprites[name, style] = _draw(self.svg[name, style])
        return found


@cache
def drawings(folder: str) -> Drawings:
    """Return the drawings of a folder of packages, read once."""
    return Drawings(folder)


@cache
def find_drawings(source: str) -> Drawings | None:
    """Return the drawings of a source of sprites, None if it is the file of a font."""
    return drawings(source) if source and Path(source).is_dir() else None


def check_packages(folder: str) -> None:
    """Refuse early a folder that lacks a package.

    Raises:
        InputError: A package is missing, or resvg is not installed.
    """
    if not folder:
        message = 'the data set "styles" needs the packages of six emoji sets'
        raise data_error(message, f"set data.packages to a folder with {_pack(STYLES)}")
    missing = [style for style in STYLES if not (Path(folder) / style.file).is_file()]
    if missing:
        names = ", ".join(style.file for style in missing)
        message = f"the folder of packages {folder!r} lacks {names}"
        raise data_error(message, f"in it: {_pack(missing)}")
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        message = "the drawings are SVG, and resvg is not installed"
        raise data_error(message, "pip install 'ldmref[styles]'") from error


def _pack(styles: Iterable[Style]) -> str:
    """Return the command that fetches packages."""
    return "npm pack " + " ".join(f"@iconify-json/{s.package}@{s.version}" for s in styles)


# -- packages --------------------------------------------------------------------------------------


def _read_icons(folder: Path, style: Style) -> dict[str, Any]:
    """Return the icons of a package: `icons` and `aliases` by key, and the default width."""
    path = folder / style.file
    data = read_file(path, LARGEST, "E-DATA")
    if hashlib.sha256(data).hexdigest() != style.sha256:
        message = f"{str(path)!r} is not the package that was published"
        raise data_error(message, f"fetch it again: {_pack([style])}")
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            file = archive.extractfile("package/icons.json")
            assert file is not None
            return json.load(file)
    except (KeyError, tarfile.TarError, ValueError) as error:
        message = f"the package {str(path)!r} cannot be read: {error}"
        raise data_error(message, f"fetch it again: {_pack([style])}") from error


def _find_drawing(icons: dict[str, Any], name: str) -> str:
    """Return the SVG of the emoji of that name, or "" if the set does not have it."""
    keys = icons["icons"].keys() | icons.get("aliases", {}).keys()
    slug = key_of(name)
    country = slug.removeprefix("flag-")
    short = slug.removesuffix("-skin-tone")
    for key in (slug, country, f"flag-for-{country}", short, slug.replace("-", "")):
        if key in keys:
            return _svg(icons, key)
    return ""


def key_of(name: str) -> str:
    """Return the key of a name: ASCII letters and digits, joined by hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    for sign, word in {"&": "and", "*": "asterisk", "#": "hash"}.items():
        plain = plain.replace(sign, word)
    return "-".join(re.findall("[a-z0-9]+", plain))


def _svg(icons: dict[str, Any], key: str) -> str:
    """Return an icon as SVG, with the view box that it declares."""
    icon = icons["icons"].get(key)
    if icon is None:
        icon = icons["icons"].get(icons["aliases"][key]["parent"])
    if icon is None:
        return ""
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{box}" width="{width}" height="{height}">{icon["body"]}</svg>'


def _draw(svg: str) -> np.ndarray:
    """Return a drawing, premultiplied (136, 136, 4) uint8, centred, its longer side 128 pixels."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN, height=DRAWN))
    with Image.open(io.BytesIO(png)) as image:
        picture = image.convert("RGBA").convert("RGBa")
    cell = Image.new("RGBa", (CELL, CELL))
    cell.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    return np.frombuffer(cell.tobytes(), np.uint8).reshape(CELL, CELL, 4)


def pictures(folder: str, held_out: bool = False) -> list[tuple[Emoji, str]]:
    """Return all pairs of an emoji and a style that training shows, or that it never shows.

    They are in the order of the styles, and of Unicode within each.
    """
    found = drawings(folder)
    return [
        (emoji, style)
        for style in STYLE_WORDS
        for emoji in emoji_list()
        if style in found.styles_of(emoji.name) and found.is_held_out(emoji.name, style) == held_out
    ]
