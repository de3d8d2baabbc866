"""Styles and wildcards of the server, in the form of the page."""

from __future__ import annotations

import io
import re

import pytest
from page_checks import PHONE, find_serious

from ldmref.io.images.metadata import read_parameters

STYLES = """name,prompt,negative_prompt
ink,"{prompt}, ink on paper","colour"
big,huge,
"""


@pytest.fixture
def open_page(new_context, serve_page, tiny, tmp_path):
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild" / "colour.txt").write_text("red\nblue\ngreen\n")
    (tmp_path / "styles.csv").write_text(STYLES)
    files = {"wildcards": str(tmp_path / "wild"), "styles": str(tmp_path / "styles.csv")}

    def make(**options):
        page = new_context(**options).new_page()
        page.server = serve_page({"tiny": tiny}, **files)
        page.goto(page.server.url + "/#p.steps=2")
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


def test_a_style_is_added_to_the_texts(open_page):
    page = open_page()
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a cat")
    menu = page.get_by_label("Apply a style")
    menu.select_option("ink")
    assert prompt.input_value() == "a cat, ink on paper"
    negative = page.get_by_label("Negative prompt", exact=True)
    assert negative.input_value() == "colour"
    assert menu.input_value() == ""
    menu.select_option("big")
    assert prompt.input_value() == "a cat, ink on paper, huge"
    assert negative.input_value() == "colour"
    assert prompt.evaluate("element => element === document.activeElement")
    page.wait_for_url(re.compile("p.negative_prompt=colour"))


def test_a_wildcard_is_drawn_by_the_seed_and_the_code_has_the_drawn_prompt(open_page):
    page = open_page()
    page.get_by_label("Prompt", exact=True).fill("a")
    page.get_by_label("Insert a wildcard").select_option("colour")
    assert page.get_by_label("Prompt", exact=True).input_value() == "a __colour__"
    page.get_by_label("Images", exact=True).fill("3")
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Show image 3, seed 7").click()
    with page.expect_download() as got:
        page.get_by_role("button", name="Download", exact=True).click()
    recorded = read_parameters(io.BytesIO(got.value.path().read_bytes()))["ldmref"]
    assert recorded["seed"] == 7 and recorded["prompt"] in ("a red", "a blue", "a green")
    code = page.locator("pre").inner_text()
    assert f'"{recorded["prompt"]}"' in code and "seed=7" in code
    assert "count" not in code and "__" not in code
    page.get_by_role("button", name="Use its settings").click()
    assert page.get_by_label("Prompt", exact=True).input_value() == "a __colour__"
    page.get_by_role("button", name="Explore", exact=True).click()
    page.locator(".ex-strips canvas").first.wait_for()
    assert f"p.prompt={recorded['prompt'].replace(' ', '+')}" in page.url


def test_an_unknown_wildcard_is_an_error(open_page, watch):
    watch.allow("422")
    page = open_page()
    page.get_by_label("Prompt", exact=True).fill("a __colur__")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("Unknown wildcard __colur__").first.wait_for()


def test_a_server_without_files_shows_no_menus(page):
    assert page.get_by_label("Apply a style").is_hidden()
    assert page.get_by_label("Insert a wildcard").is_hidden()


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_the_menus_look_right(options, open_page):
    page = open_page(**options)
    assert find_serious(page) == []
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
