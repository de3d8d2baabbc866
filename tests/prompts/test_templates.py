"""Styles and wildcards: files as other programs write them, and draws that a seed repeats."""

from __future__ import annotations

import hashlib

import pytest

from ldmref.errors import InputError, UsageError
from ldmref.prompts import PromptStyle, Wildcards, read_styles, read_wildcards

TABLE = "name,prompt,negative_prompt\r\n"


def test_a_table_of_a1111_is_read(tmp_path):
    path = tmp_path / "styles.csv"
    rows = 'ink,"{prompt}, ink, ""fine""",colour\r\n,,\r\nPlain,"two\nlines",\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + (TABLE + rows).replace('\\"', '"').encode())
    assert read_styles(path) == [
        PromptStyle("ink", '{prompt}, ink, "fine"', "colour"),
        PromptStyle("Plain", "two\nlines", ""),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\r\n1,2\r\n", "no columns name and prompt"),
        (TABLE.encode() + b"x,a,\r\nx,b,\r\n", "two styles 'x'"),
        (b"name,prompt\n\xff,x\n", "not text in UTF-8"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path, content, words):
    (tmp_path / "styles.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_styles(tmp_path / "styles.csv")


def test_files_become_wildcards(tmp_path):
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cat.txt").write_text("tabby\n  siamese  \n")
    (tmp_path / "colour.txt").write_text("# warm\nred\n\norange\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "notes.md").write_text("no\n")
    found = read_wildcards(tmp_path)
    assert found.lines == {"animals/cat": ("tabby", "siamese"), "colour": ("red", "orange")}
    with pytest.raises(InputError, match="not a folder"):
        read_wildcards(tmp_path / "gone")


def test_the_draw_is_the_one_of_the_docstring():
    lines = [f"line {i}" for i in range(7)]
    for seed in (0, 5, 2**64 - 1):
        text = Wildcards({"a": lines}).expand("__a__ and __a__", seed)
        drawn = []
        for i in range(2):
            digest = hashlib.sha256(b"wildcard %d %d" % (seed, i)).hexdigest()
            drawn.append(lines[int(digest[:16], 16) % 7])
        assert text == " and ".join(drawn)


def test_draws_are_uniform_and_differ_by_seed():
    wildcards = Wildcards({"a": "red green blue".split()})
    texts = [wildcards.expand("__a__", seed) for seed in range(3000)]
    assert all(900 < texts.count(word) < 1100 for word in ("red", "green", "blue"))


def test_wildcards_name_others_and_unknown_ones_are_refused():
    wildcards = Wildcards({"thing": ["__colour__ heart"], "colour": ["red"], "loop": ["__loop__"]})
    assert wildcards.expand("a __thing__, __thing__", 1) == "a red heart, red heart"
    assert wildcards.expand("no_wild__card", 1) == "no_wild__card"
    assert Wildcards().expand("a __thing__", 1) == "a __thing__"
    with pytest.raises(UsageError, match="unknown wildcard __colr__") as caught:
        wildcards.expand("__colr__", 1)
    assert "colour" in caught.value.hint
    with pytest.raises(UsageError, match="leads back to itself"):
        wildcards.expand("__loop__", 1)
