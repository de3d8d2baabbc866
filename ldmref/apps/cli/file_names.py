"""File names of images: from prompts, seeds and the name given with -o."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ldmref.errors import UsageError
from ldmref.prompts.emoji import with_emoji_names

FIELD = re.compile(r"\{([^{}]*)\}")  # in a file's name, such as {prompt}


def slugify(text: str) -> str:
    """Return a safe file name: at most 80 letters, digits and hyphens, or `image` if none is left.

    >>> slugify("A red heart! ../../x"), slugify("🐶")
    ('a-red-heart-x', 'dog-face')
    """
    named = unicodedata.normalize("NFKD", with_emoji_names(text[:1000]))
    plain = named.encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:80].strip("-") or "image"


def expand_name(to: str, labels: Sequence[str], seeds: Sequence[int] | None) -> list[Path]:
    """Return the file of each image for a name that may contain {prompt}, {seed} and {index}.

    If files would share a name, all are numbered from 0, with as many digits as the last one has.

    Args:
        to: The name given with -o.
        labels: Label of each image, which replaces {prompt}.
        seeds: Seed of each image, or None if the images have no seeds.

    Raises:
        UsageError: The name contains another field, %d, or {seed} without seeds.
    """
    images = len(labels)
    values = {"prompt": lambda i: labels[i], "index": lambda i: zero_pad(i, images - 1)}
    if seeds is not None:
        values["seed"] = lambda i: str(seeds[i])
    number = re.search(r"%0?\d*d", to)
    unknown = [field for field in FIELD.findall(to) if field not in values]
    if number or unknown:
        known = ", ".join(f"{{{name}}}" for name in sorted(values))
        raise UsageError(
            f"{(number[0] if number else f'{{{unknown[0]}}}')!r} in the name {to!r} has no meaning",
            code="E-OUTPUT",
            hint=f"use {to.replace(number[0], '{index}')}" if number else f"known fields: {known}",
        )
    names = [FIELD.sub(lambda match, i=i: values[match[1]](i), to) for i in range(images)]
    paths = [Path(name) for name in names]
    if len({*paths}) < images:
        paths = [p.with_stem(f"{p.stem}-{zero_pad(i, images - 1)}") for i, p in enumerate(paths)]
    return paths


def number_stems(labels: Sequence[str], seeds: Sequence[int] | None) -> list[tuple[str, str]]:
    """Return (label and seed, number) for each image in a folder.

    Images with the same label and seed are numbered from 01, so their files sort by name.

    >>> number_stems(["cat", "cat", "dog"], [7, 7, 8])
    [('cat-7', '-01'), ('cat-7', '-02'), ('dog-8', '')]
    """
    starts = [f"{label}-{seeds[i]}" if seeds else label for i, label in enumerate(labels)]
    total = Counter(starts)
    seen = Counter()
    named = []
    for start in starts:
        seen[start] += 1
        number = f"-{zero_pad(seen[start], max(total[start], 10))}" if total[start] > 1 else ""
        named.append((start, number))
    return named


def zero_pad(number: int, largest: int) -> str:
    """Return a number with as many digits as the largest one."""
    return str(number).zfill(len(str(largest)))
