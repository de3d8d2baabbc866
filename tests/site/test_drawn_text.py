"""The drawings of the course in a browser: the size of their text, and their colours."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from drawings import make_drawings
from PIL import Image

DRAWINGS = make_drawings()
STYLE = Path(__file__).parents[2] / "docs" / "_static" / "site.css"
BOXES = """
() => [...document.querySelectorAll("text")].map((text) => {
  const box = text.getBBox();
  return [box.x, box.x + box.width];
})
"""


@pytest.fixture
def page(browser):
    return browser.new_page(viewport={"width": 375, "height": 800})


def source(name):
    data = base64.b64encode(DRAWINGS[name].svg(name).encode()).decode()
    return f"data:image/svg+xml;base64,{data}"


def corner(page, theme, **media):
    """Return the grey value of a corner of a drawing's paper, on a page of the site."""
    page.emulate_media(**media)
    image = f'<img src="{source("00-system")}#drawing.svg">'
    body = f'<body data-theme="{theme}"><article>{image}</article>'
    page.set_content(f"<style>{STYLE.read_text('utf-8')}</style>{body}")
    page.wait_for_function("document.images[0].complete")
    shot = Image.open(io.BytesIO(page.locator("img").screenshot())).convert("L")
    return shot.getpixel((12, 12))


def test_no_text_is_wider_than_the_layout_assumes(page):
    for name, drawing in DRAWINGS.items():
        page.set_content(drawing.svg(name))
        boxes = page.evaluate(BOXES)
        assert len(boxes) == len(drawing.texts)
        for (left, right), text in zip(boxes, drawing.texts, strict=True):
            assert left >= text.place.left - 1, (name, text.markup)
            assert right <= text.place.right + 1, (name, text.markup)


def test_text_is_legible_on_a_phone(page):
    page.set_content(f'<img style="width: 343px" src="{source("07-unet")}">')
    assert page.locator("img").bounding_box()["width"] == 343
    smallest = min(
        text.place.bottom - text.place.top
        for drawing in DRAWINGS.values()
        for text in drawing.texts
    )
    assert smallest * 343 / 400 >= 11


@pytest.mark.parametrize("system", ["light", "dark"])
@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_colours_follow_the_theme_of_the_page(page, theme, system):
    """A reader may choose another theme for the site than for the system."""
    expected = system if theme == "auto" else theme
    assert (corner(page, theme, color_scheme=system) > 128) == (expected == "light")


@pytest.mark.parametrize("theme", ["auto", "dark"])
def test_paper_is_light(page, theme):
    assert corner(page, theme, color_scheme="dark", media="print") > 128
