"""The second pass on the page: a finished image is made larger, where the model has sizes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from page_checks import PHONE, find_serious
from PIL import Image

from ldmref import modes
from ldmref.models.model import LatentDiffusion

LINK = "/#p.prompt=a+cat&p.steps=3&p.seed=7"


def generate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()


@pytest.fixture
def open_page(new_context, server):
    def make(link=LINK, **options):
        page = new_context(**options).new_page()
        page.server = server
        page.goto(server.url + link)
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


def test_an_image_is_made_larger_with_a_chosen_strength(open_page, tiny):
    page = open_page()
    generate(page)
    page.get_by_text("Enlarge", exact=True).click()
    assert page.get_by_label("Strength of the change").input_value() == "0.7"
    page.get_by_label("Factor").select_option("1.5")
    page.get_by_label("Strength of the change").fill("2")
    page.get_by_role("button", name="Make it larger").click()
    page.get_by_text("The strength must be above 0 and at most 1, not “2”.").wait_for()
    page.get_by_label("Strength of the change").fill("0.5")
    page.get_by_role("button", name="Make it larger").click()
    page.get_by_text("24 × 24").wait_for()
    assert page.get_by_text("Enlarge", exact=True).count() == 0
    code = page.locator("pre").inner_text()
    assert "upscale=1.5" in code and "upscale_strength=0.5" in code
    made, _ = page.server.engine.jobs()
    asked = {"steps": 3, "seed": 7, "upscale": 1.5, "upscale_strength": 0.5}
    expected = modes.txt2img(tiny, "a cat", **asked)
    found = Image.open(io.BytesIO(made.images[0].png))
    assert np.array_equal(np.asarray(found), np.asarray(expected[0]))
    page.get_by_role("button", name="Explore", exact=True).click()  # the first pass
    page.locator(".ex-strips canvas").first.wait_for()
    [record] = [job for job in page.server.engine.jobs() if job.kind == "record"]
    assert "upscale" not in record.request and record.state == "done"


def test_the_form_has_a_second_pass_whose_image_restores_it(open_page, tmp_path):
    page = open_page(LINK + "&p.upscale=2&p.upscale_steps=2")
    generate(page)
    page.get_by_text("32 × 32").wait_for()
    [job] = page.server.engine.jobs()
    assert (job.request["upscale"], job.request["upscale_steps"]) == (2.0, 2)
    assert job.progress["steps"] == 5
    file = tmp_path / "large.png"
    file.write_bytes(job.images[0].png)
    page.goto(page.server.url + "/#p.prompt=")
    page.get_by_label("Open an image to restore its settings").set_input_files(file)
    page.get_by_text("The settings of the image are restored").wait_for()
    page.get_by_text("More settings").click()
    assert page.get_by_label("Upscale", exact=True).input_value() in ("2", "2.0")
    assert page.get_by_label("Upscale steps").input_value() == "2"


def test_a_model_of_one_size_shows_nothing_of_it(new_context, serve_page, tiny):
    defaults = replace(tiny.config.defaults, one_size=True)
    config = replace(tiny.config, defaults=defaults)
    model = LatentDiffusion(tiny.backend, config, tiny.params, tiny.tokenizer)
    page = new_context().new_page()
    page.goto(serve_page({"tiny": model}).url + LINK)
    page.get_by_label("Prompt", exact=True).wait_for()
    generate(page)
    page.get_by_text("More settings").click()
    assert page.get_by_text("Enlarge", exact=True).count() == 0
    assert page.get_by_label("Upscale", exact=True).count() == 0
    assert page.get_by_label("Upscaler").count() == 0


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_it_looks_right(options, open_page):
    page = open_page(**options)
    generate(page)
    page.get_by_text("Enlarge", exact=True).click()
    assert find_serious(page) == []
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
