"""What remains of a picture at a strength, before it is run."""

from __future__ import annotations

import re

import numpy as np
import pytest
from page_checks import PHONE, find_serious
from PIL import Image

from ldmref.explore import noised_image

SIZE = 16


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def open_form(new_context, server):
    def make(**options):
        page = new_context(**options).new_page()
        page.goto(server.url + "/#mode=img2img&p.steps=10&p.seed=7&p.strength=0.5")
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


def shown(page):
    """Return the pixels of the preview."""
    data = page.locator(".remains img").evaluate("""async (image) => {
      await image.decode();
      const {naturalWidth: width, naturalHeight: height} = image;
      const canvas = new OffscreenCanvas(width, height).getContext("2d");
      canvas.drawImage(image, 0, 0);
      return [...canvas.getImageData(0, 0, width, height).data];
    }""")
    return np.array(data, np.uint8).reshape(SIZE, SIZE, 4)[..., :3]


def test_the_picture_at_the_strength_of_the_slider(open_form, server, photo, tiny):
    page = open_form()
    page.get_by_text("What remains of the picture").click()
    page.get_by_text("Choose the image first.").wait_for()
    assert server.engine.jobs() == []
    page.locator("[data-parameter=image] input[type=file]").set_input_files(photo)
    page.get_by_text("takes 5 of 10 steps").wait_for()
    asked = {"prompt": "", "image": Image.open(photo), "steps": 10, "seed": 7}
    half = noised_image(tiny, strength=0.5, **asked)
    assert np.array_equal(shown(page), np.asarray(half.image))
    text = page.locator(".remains p").inner_text()
    assert f"{half.share:.2f} × the picture + {half.noise:.2f} × noise" in text
    slider = page.get_by_label("Strength, slider")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.get_by_text("takes 8 of 10 steps").wait_for()
    more = noised_image(tiny, strength=0.8, **asked)
    assert np.array_equal(shown(page), np.asarray(more.image))
    assert len(server.engine.jobs()) == 2  # one for the slider, when it rests
    page.get_by_label("Strength", exact=True).fill("7")
    page.get_by_text("A setting is wrong.").wait_for()
    page.get_by_label("Strength", exact=True).fill("0")
    page.get_by_text("No step is taken").wait_for()
    assert np.array_equal(shown(page), np.asarray(asked["image"].convert("RGB")))


def test_nothing_is_computed_while_it_is_closed(open_form, server, photo):
    page = open_form()
    page.locator("[data-parameter=image] input[type=file]").set_input_files(photo)
    page.get_by_label("Strength", exact=True).fill("0.3")
    page.wait_for_url(re.compile("p.strength=0.3"))
    page.wait_for_timeout(500)
    assert server.engine.jobs() == []
    page.get_by_role("radio", name="Text", exact=True).check(force=True)
    assert page.get_by_text("What remains of the picture").count() == 0


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_the_preview_looks_right(options, open_form, photo):
    page = open_form(**options)
    page.locator("[data-parameter=image] input[type=file]").set_input_files(photo)
    page.get_by_text("What remains of the picture").click()
    page.get_by_text("takes 5 of 10 steps").wait_for()
    assert find_serious(page) == []
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
