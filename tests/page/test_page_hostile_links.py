"""Links and texts with names that JavaScript knows, patterns, and parts that no run has."""

from __future__ import annotations

import io
import re

import pytest

from ldmref.explore import load_record
from ldmref.io.images.metadata import read_parameters

NAMES = ("__proto__", "toString", "constructor", "hasOwnProperty", "valueOf")
STYLES = """name,prompt,negative_prompt
odd,"{prompt}, $& $$ $1","$&"
"""


@pytest.fixture
def open_page(new_context, serve_page, tiny, tmp_path):
    (tmp_path / "styles.csv").write_text(STYLES)

    def make(state):
        page = new_context().new_page()
        page.server = serve_page({"tiny": tiny}, styles=str(tmp_path / "styles.csv"))
        page.goto(f"{page.server.url}/#{state}")
        return page

    return make


@pytest.mark.parametrize("name", NAMES)
def test_names_of_javascript_are_no_modes_and_views(open_page, watch, name):
    page = open_page(f"mode={name}&view={name}&p.steps=2&p.{name}=1")
    page.get_by_text(f"there is no mode “{name}”").wait_for()
    page.get_by_text(f"there is no view “{name}”").wait_for()
    assert page.get_by_label("Prompt", exact=True).is_visible()


def test_a_style_is_no_pattern(open_page):
    page = open_page("p.steps=2")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("$& b $$ c")
    page.get_by_label("Apply a style").select_option("odd")
    assert prompt.input_value() == "$& b $$ c, $& $$ $1"


@pytest.mark.parametrize("prompt", ["__proto__", "$&"])
def test_an_image_of_any_prompt_is_downloaded(open_page, prompt):
    page = open_page("p.steps=2")
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate", exact=True).click()
    with page.expect_download() as got:
        page.get_by_role("button", name="Download", exact=True).click()
    recorded = read_parameters(io.BytesIO(got.value.path().read_bytes()))["ldmref"]
    assert recorded["prompt"] == prompt


def test_a_link_to_parts_that_no_run_has_is_said(open_page):
    page = open_page("view=explore&p.prompt=cat&p.steps=2&p.seed=1&open=attic&tour=99&step=x")
    page.get_by_text(re.compile("no part “attic”.*no stop “99”.*no step “x”")).wait_for()
    page = open_page("view=explore&p.prompt=cat&p.steps=2&p.seed=1&step=7")
    page.get_by_text("the run has 2 steps, not 7").wait_for()


def test_a_run_of_any_prompt_is_saved(open_page):
    page = open_page("view=explore&p.prompt=__proto__&p.steps=2&p.seed=1")
    page.locator(".ex-strips tr canvas").first.wait_for()
    with page.expect_download() as got:
        page.get_by_role("button", name="Save the record of run A").click()
    assert load_record(got.value.path().read_bytes()).params["prompt"] == "__proto__"
