"""Each letter of a formula has one meaning: docs/course/notation.md says which, and where."""

from __future__ import annotations

import re

import pytest
from course_pages import COURSE, number_of, pages

PAGE = COURSE / "notation.md"
ROW = re.compile(
    r"^\| \$`(?P<letter>[^`]+)`\$ \| (?P<meaning>[^|]+) \| (?P<chapters>[^|]+) \|$", re.M
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"\$`([^`]+)`\$")
# Words in a formula, and indices that are words, are no letters.
WORD = re.compile(r"\\(?:text|mathrm|begin|end)\s*\{[^{}]*\}|_\{[\d,]*[a-z]{2,}\}")
LETTER = re.compile(r"\\math(?:cal|bb)\s*\{?[A-Za-z]\}?|\\[A-Za-z]+|[A-Za-z]")
GREEK = frozenset(
    rf"\{name}"
    for name in (
        "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho "
        "sigma tau phi varphi chi psi omega varpi ell Gamma Delta Theta Lambda Xi Pi Sigma Phi "
        "Psi Omega"
    ).split()
)


def formulas(text):
    """Return the TeX of every formula, displayed or in a sentence."""
    shown = [block[2] for block in FENCE.finditer(text) if block[1] == "math"]
    return shown + INLINE.findall(FENCE.sub("", text))


def letters(tex):
    """Return the letters of a formula: Latin, Greek, calligraphic; commands have none."""
    found = LETTER.findall(WORD.sub(" ", tex))
    return {f for f in found if len(f) == 1 or f in GREEK or f.startswith(r"\math")}


def used():
    """Return the chapters that use each letter."""
    where = {}
    for page in pages():
        for letter in set().union(*map(letters, formulas(page.read_text("utf-8")))):
            where.setdefault(letter, []).append(str(int(number_of(page))))
    return {letter: ", ".join(chapters) for letter, chapters in where.items()}


def index():
    text = PAGE.read_text("utf-8").split("## Index of letters")[1].split("\n## ")[0]
    return [(row["letter"], row["meaning"], row["chapters"]) for row in ROW.finditer(text)]


def test_every_letter_has_one_row():
    rows = [letter for letter, _, _ in index()]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(used()), set(rows) ^ set(used())


def test_a_letter_is_used_in_the_chapters_of_its_row():
    """A letter in another chapter: look whether it means the same there, then extend the row."""
    where = used()
    wrong = {
        letter: f"{where[letter]} instead of {chapters}"
        for letter, _, chapters in index()
        if chapters != "local" and chapters != where[letter]
    }
    assert not wrong


def test_few_letters_are_local():
    local = {letter for letter, _, chapters in index() if chapters == "local"}
    assert local == {"a", "b", "i", "j", "k", "n", "r", r"\delta", r"\rho"}


@pytest.mark.parametrize("page", pages(), ids=number_of)
def test_letters_keep_their_indices(page):
    """T is a number of steps, never a transpose; W is a width, and weights have an index."""
    tex = "\n".join(formulas(page.read_text("utf-8")))
    assert not re.search(r"[A-Za-z)\]]\^\{?T(?![A-Za-z])", tex)
    assert set(re.findall(r"(?<![A-Za-z])W_\{?(\w)", tex)) <= set("QKV")
    assert not re.search(r"(?<![A-Za-z\\])z\s*=\s*\\gamma", tex)  # z is not scaled


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\mathcal{E}(x) + \mathrm{std}(z)", {r"\mathcal{E}", "x", "z"}),
        (r"\sigma_{down} \text{ if } h", {r"\sigma", "h"}),
        (r"\begin{aligned} \frac{a}{\bar\alpha_t} \end{aligned}", {"a", r"\alpha", "t"}),
    ],
)
def test_letters_of_a_formula(tex, expected):
    assert letters(tex) == expected
