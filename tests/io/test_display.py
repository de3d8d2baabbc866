"""A `Result` displays itself: a grid of its images, and a page for notebooks."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ldmref import modes
from ldmref.errors import UsageError
from ldmref.io.images.metadata import read_parameters
from ldmref.modes.result import Result


def coloured(n, size=(4, 3)):
    return [Image.new("RGB", size, (10 * i, 0, 0)) for i in range(n)]


def result_of(images, **params):
    return Result(images, np.zeros((len(images), 1)), list(range(len(images))), params)


@pytest.mark.parametrize(
    ("n", "columns", "size"),
    [(1, None, (4, 3)), (4, None, (16, 3)), (5, None, (12, 6)), (10, None, (16, 9)),
     (3, 2, (8, 6)), (3, 1, (4, 9)), (2, 9, (8, 3))],
)  # fmt: skip
def test_the_shape_of_a_grid(n, columns, size):
    grid = result_of(coloured(n)).grid(columns)
    assert grid.size == size
    across = size[0] // 4
    for i in range(n):
        corner = grid.getpixel((i % across * 4, i // across * 3))
        assert corner == (10 * i, 0, 0)


def test_images_of_unequal_size_have_equal_cells():
    images = [Image.new("RGB", size, "red") for size in ((3, 5), (2, 7), (4, 1))]
    assert result_of(images).grid(2).size == (8, 14)


@pytest.mark.parametrize("columns", [0, -1, 1.5, True, "2"])
def test_columns_are_counted(columns):
    with pytest.raises(UsageError, match="columns must be a whole number"):
        result_of(coloured(2)).grid(columns)


def test_a_result_without_images_shows_its_warnings():
    empty = Result([], np.zeros((0, 1)), [], {}, ["stopped"])
    assert empty._repr_png_() is None and "stopped" in empty._repr_html_()
    with pytest.raises(UsageError, match="at least one image"):
        empty.grid()


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.images, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_seeds_and_images_that_record_their_parameters(tiny):
    result = modes.txt2img(tiny, "red cat", seed=[7, 3], count=2, steps=1)
    page = Page(result._repr_html_())
    assert not page.open
    assert [text for text in page.texts if text.startswith("seed")] == ["seed 7", "seed 3"]
    for i, shown in enumerate(page.images):
        assert shown["alt"] == "red cat" and shown["width"] == "32"
        data = base64.b64decode(shown["src"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).tobytes() == result[i].tobytes()
        assert read_parameters(io.BytesIO(data))["ldmref"] == result.params_of(i)


def test_prompts_that_differ_are_shown(tiny):
    result = modes.txt2img(tiny, ["red cat", "blue cat"], seed=7, steps=1)
    page = Page(result._repr_html_())
    assert page.texts[1:3] == ["red cat, seed 7", "blue cat, seed 8"]
    assert [shown["alt"] for shown in page.images] == ["red cat", "blue cat"]


def test_everything_is_escaped():
    evil = '"><script>alert(1)</script>\ud800'
    result = Result(coloured(1), np.zeros((1, 1)), [1], {"prompt": evil}, [evil])
    html = result._repr_html_()
    page = Page(html)
    assert set(page.tags) == {"div", "figure", "img", "figcaption", "ul", "li"}
    assert page.images[0]["alt"] == evil.replace("\ud800", "?")
    html.encode("utf-8")
    assert not re.search(r"https?:|<script", html)


def test_interpolations_show_positions_and_long_pages_are_cut(tiny):
    between = modes.interpolate(tiny, "red cat", "blue cat", positions=3, seed=1, steps=1)
    texts = Page(between._repr_html_()).texts
    assert [t for t in texts if t.startswith("pos")] == [f"position {p}" for p in ("0", "0.5", "1")]
    many = Page(result_of(coloured(30))._repr_html_())
    assert len(many.images) == 24 and "6 further images" in many.texts
