"""Styles: whether an image has the name and the style of its prompt, and which style it has.

The image is compared with all drawings of a data set, in features that the caller chooses: the
nearest drawing says what it shows. A name in a style that training never showed is the question
that a model cannot answer by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldmref.datasets.base import StyledImages
from ldmref.evaluate.intervals import estimate, proportion
from ldmref.evaluate.report import Section

ASKED = "{0} in {1} style"
KNOWN = 3  # styles in which training shows a name whose style is left open


class AskedPairs(NamedTuple):
    """Names with the style of each, both of one length."""

    names: list[str]
    styles: list[str]

    @property
    def prompts(self) -> list[str]:
        """The prompts that ask for them."""
        return [ASKED.format(*pair) for pair in zip(self.names, self.styles, strict=True)]


def choose_pairs(
    styled: StyledImages, shown: bool, count: int, rng: np.random.Generator
) -> AskedPairs:
    """Return at most `count` random pairs that training shows, or that it never shows.

    Args:
        styled: The drawings.
        shown: Which of the two.
        count: The number of pairs.
        rng: Chooses them.
    """
    among = np.flatnonzero(styled.shown == shown)
    numbers = rng.permutation(among)[:count]
    names, styles = ([column[i] for i in numbers] for column in (styled.names, styled.styles))
    return AskedPairs(names, styles)


def choose_names(
    styled: StyledImages, count: int, rng: np.random.Generator
) -> tuple[list[str], dict[str, float]]:
    """Return random names that training shows in at least `KNOWN` styles, and their styles' shares.

    Args:
        styled: The drawings.
        count: The number of names; a name may occur several times.
        rng: Chooses them.

    Returns:
        The names; and of each style the share that it has if every style of a name is as likely.
    """
    styles: dict[str, list[str]] = {}
    for name, style, shown in zip(styled.names, styled.styles, styled.shown, strict=True):
        if shown:
            styles.setdefault(name, []).append(style)
    known = [name for name, found in styles.items() if len(found) >= KNOWN]
    names = [known[i] for i in rng.integers(0, len(known), count)]
    shares = dict.fromkeys(dict.fromkeys(styled.styles), 0.0)
    for name in names:
        for style in styles[name]:
            shares[style] += 1 / (len(styles[name]) * count)
    return names, shares


def measure_asked(
    features: np.ndarray, asked: AskedPairs, styled: StyledImages, gallery: np.ndarray, of: str
) -> Section:
    """Measure how often an image has the name and the style that were asked for.

    Args:
        features: Of an image for each pair, (n, d).
        asked: The pairs.
        styled: The drawings, N of them.
        gallery: Their features, (N, d). Where several are equally near, one that is right counts.
        of: What the pairs have in common.

    Returns:
        A section: shares with intervals, and the mean distance to the nearest drawing that training
        shows.
    """
    section = Section(f"Style asked for: {of}", "by the nearest drawing", len(features))
    names, styles = np.asarray(styled.names), np.asarray(styled.styles)
    found, nearest = [], []
    for x, name, style in zip(features, *asked, strict=True):
        distance = np.sqrt(((gallery - x) ** 2).sum(axis=1))
        at = distance <= distance.min()
        named, in_style = names == name, styles == style
        found.append(((at & named).any(), (at & in_style).any(), (at & named & in_style).any()))
        nearest.append(distance[styled.shown].min())
    for title, right in zip(("name", "style", "both"), np.asarray(found).T, strict=True):
        section.add(title, proportion(right))
    title = "distance to the nearest drawing that training shows"
    section.add(title, estimate(np.asarray(nearest)))
    return section


def measure_shares(
    features: np.ndarray,
    names: Sequence[str],
    shares: dict[str, float],
    styled: StyledImages,
    gallery: np.ndarray,
) -> Section:
    """Measure how often each style appears where no style is asked for.

    Args:
        features: Of an image for each name, (n, d).
        names: The names.
        shares: Of each style, the share that is expected.
        styled: The drawings, N of them.
        gallery: Their features, (N, d).

    Returns:
        A section with the share of each style; its row also names the share that is expected. The
        style is that of the nearest drawing of the same name.
    """
    section = Section("Style left open", "by the nearest drawing of the name", len(features))
    every_name = np.asarray(styled.names)
    found = []
    for x, name in zip(features, names, strict=True):
        own = np.flatnonzero(every_name == name)
        found.append(styled.styles[own[((gallery[own] - x) ** 2).sum(axis=1).argmin()]])
    for style, share in shares.items():
        section.add(f"{style}, {share:.2f} expected", proportion(np.asarray(found) == style))
    return section
