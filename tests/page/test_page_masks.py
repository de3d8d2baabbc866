"""Masks from files on the page mean what they mean everywhere (tests/server/test_mask_doors.py)."""

from __future__ import annotations

import numpy as np
import pytest
from mask_files import SIZE, make_mask_files, make_small_mask, record_masks
from PIL import Image

MASKS = make_mask_files()


@pytest.fixture
def painter(new_context, server, tmp_path):
    """Return a page with an image to paint on."""
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    page = new_context().new_page()
    page.goto(server.url + "/#view=paint&p.prompt=a&p.steps=1&p.seed=1")
    page.locator("[data-parameter=image] input[type=file]").set_input_files(tmp_path / "photo.png")
    page.get_by_label("Size", exact=True).wait_for()
    return page


def load(page, path):
    """Load a mask, wait until it is shown, and return what the page said."""
    page.locator("#messages").evaluate("(element) => element.replaceChildren()")
    page.locator("#announcements").evaluate("(element) => (element.textContent = '')")
    page.get_by_label("Load a mask from a file").last.set_input_files(path)
    page.locator("#announcements", has_text="The mask is loaded").wait_for(state="attached")
    return page.locator("#messages").inner_text()


def generate(page):
    """Generate, and wait for the end."""
    with page.expect_response(lambda answer: answer.url.endswith("/events")):
        page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()


def test_every_format_means_the_same_on_the_page(painter, tmp_path, monkeypatch):
    read_last = record_masks(monkeypatch)
    for title, mask in MASKS.items():
        said = load(painter, mask.save(tmp_path))
        assert (mask.says in said) if mask.says else said == "", title
        if not mask.painted.any():  # there would be nothing to replace
            painter.get_by_role("button", name="Generate", exact=True).click()
            painter.get_by_text("paint over the part to replace first").wait_for()
            continue
        generate(painter)
        assert (read_last() == mask.painted).all(), title


def test_a_mask_of_another_size_is_stretched_on_the_page(painter, tmp_path, monkeypatch):
    read_last = record_masks(monkeypatch)
    small, painted = make_small_mask()
    small.save(tmp_path / "small.png")
    said = load(painter, tmp_path / "small.png")
    assert "The mask is 8 × 8, the image 16 × 16: the mask is stretched" in said
    generate(painter)
    assert (read_last() == painted).all()
