"""The pages of the site: their files in the repository, and their places on the site.

A page of the site has the place of its file in docs/, except that README.md is called index.md; a
few pages come from elsewhere in the repository. Links between pages stay links between pages, and
links to other files become links to `source:PATH` (`sources.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "ldmref/assets/emoji/README.md": "embedded-model.md",
    "ldmref/assets/styles-autoencoder/README.md": "styles-autoencoder.md",
    "examples/plugins/ldmref-dit/README.md": "plugins/ldmref-dit.md",
    "examples/plugins/ldmref-jax/README.md": "plugins/ldmref-jax.md",
    "examples/plugins/ldmref-pixart/README.md": "plugins/ldmref-pixart.md",
    "examples/plugins/ldmref-sa-sampler/README.md": "plugins/ldmref-sa-sampler.md",
    "examples/plugins/ldmref-tangential/README.md": "plugins/ldmref-tangential.md",
}
MOVED = {  # old addresses, which lead on
    "browser.html": "explorer.html#without-a-server",
    "course/coverage.html": "course/index.html",
    "course/running-a-training.html": "training.html#choose-the-settings",
    "error-bounds.html": "evidence.html#rounding",
    "explore.html": "explorer.html#records-in-python",
    "formats.html": "checkpoints.html#files-of-ldmref",
    "fuzzing.html": "evidence.html#fuzzing",
    "mutation.html": "evidence.html#mutation-testing",
    "port-a-transformer.html": "port-a-layer.html#a-block-of-a-transformer-and-the-sampler",
    "reliability.html": "evidence.html#faults",
    "train-it-yourself.html": "training.html#train-it-yourself",
    "transformers.html": "families/index.html",
    "weights.html": "checkpoints.html#lora",
}
HOME = ("docs/README.md", "README.md")  # both are the first page of the site
IMAGES = (".png", ".webp", ".gif", ".svg", ".jpg")

FENCE = re.compile(r" *(?P<fence>`{3,}|~{3,})(?P<rest>[^`]*)$")
CODE = re.compile(r"((`+)(?!`).+?(?<!`)\2(?!`))")
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^()\s]+)\)"
)
HREF = re.compile(r'href="([^"]+)"')
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


class MissingTarget(Exception):
    """A page links to a file that does not exist."""


def find_pages() -> dict[str, str]:
    """Return the place of each page on the site, by its path in the repository."""
    places = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT / "docs").as_posix()
        places[f"docs/{name}"] = re.sub(r"README\.md$", "index.md", name)
    return places | ELSEWHERE | {"README.md": "index.md"}


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Return the text with the parts outside of fenced blocks changed."""
    parts: list[str] = []
    buffer: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        match = FENCE.match(line.rstrip("\n"))
        if not fence and match:
            parts += [change("".join(buffer)), line]
            buffer = []
            fence = match["fence"]
        elif fence:
            parts.append(line)
            if match and match["fence"].startswith(fence) and not match["rest"].strip():
                fence = ""
        else:
            buffer.append(line)
    return "".join([*parts, change("".join(buffer))])


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return the text with the parts outside of `code` changed."""
    parts = CODE.split(text)
    plain, codes = parts[::3], parts[1::3]
    # The code is hidden from `change`, so a link around it is still found.
    marked = "".join(f"{p}\0{i}\0" for i, p in enumerate(plain[:-1])) + plain[-1]
    return re.sub(r"\0(\d+)\0", lambda m: codes[int(m[1])], change(marked))


class Site:
    """The places of all pages, and the links between them.

    `used` collects the files that pages link to, and `images` those that they show, by place.
    """

    def __init__(self, allow_missing: bool = False):
        self.places = find_pages()
        self.allow_missing = allow_missing
        self.used: set[str] = set()
        self.images: dict[str, str] = {}

    def text_of(self, page: str) -> str:
        """Return the text of a page for the site: no comments, and links that hold there."""

        def change(part: str) -> str:
            part = HREF.sub(lambda m: f'href="{self._href(m[1], page)}"', COMMENT.sub("", part))
            return outside_code(part, lambda t: LINK.sub(lambda m: self._link(m, page), t))

        return outside_fences((ROOT / page).read_text("utf-8"), change)

    def _link(self, match: re.Match[str], page: str) -> str:
        text = LINK.sub(lambda m: self._link(m, page), match["text"])  # an image in a link
        target = self.resolve(match["target"], page, image=bool(match["image"]))
        return f"{match['image']}[{text}]({target})" if target else text

    def _href(self, target: str, page: str) -> str:
        """Return the link of an HTML element, which Sphinx does not change."""
        found = self.resolve(target, page)
        if not found.startswith("source:"):
            return found
        file, hash_, anchor = found.removeprefix("source:").partition("#")
        here = PurePosixPath(self.places[page]).parent
        return os.path.relpath(f"source/{file}.html", here) + hash_ + anchor

    def resolve(self, target: str, page: str, image: bool = False) -> str:
        """Return where a link of a page leads on the site; "" if its target does not exist yet.

        Raises:
            MissingTarget: The target does not exist.
        """
        path, hash_, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return target
        file = os.path.normpath(PurePosixPath(page).parent / path)
        if not (ROOT / file).exists():
            if self.allow_missing:
                return ""
            raise MissingTarget(f"{page} links to {target}, which does not exist")
        here = PurePosixPath(self.places[page]).parent
        if image:
            return os.path.relpath(self._image(file), here)
        for candidate in (file, f"{file}/README.md"):
            if candidate in self.places:
                return os.path.relpath(self.places[candidate], here) + hash_ + anchor
        if file.endswith(IMAGES):
            return os.path.relpath(self._image(file), here)
        self.used.add(file)
        return f"source:{file}{hash_}{anchor}"

    def _image(self, file: str) -> str:
        place = file.removeprefix("docs/") if file.startswith("docs/") else f"images/{file}"
        self.images[place] = file
        return place
