"""The page with a tiny model of each transformer family: its images, its words, and its switch."""

from __future__ import annotations

import pytest

import ldmref
from ldmref.cases.golden_models import golden_model

PRESETS = ("z-image-tiny", "flux2-tiny", "flux3-tiny", "qwen-image-2.1-tiny", "krea-2-tiny")
DISTILLED = "flux3-klein"
EXPLORE = "#view=explore&p.prompt=a+red+cat&p.steps=2&step=1"


@pytest.fixture(scope="module")
def models():
    made = {name: ldmref.random_model(name, backend="numpy") for name in PRESETS}
    return made | {DISTILLED: golden_model(DISTILLED)}


@pytest.fixture
def open_model(serve_page, models, new_context):
    """`open_model(name, link)` opens the page of all models, and chooses one by the switch."""

    def make(name, link=""):
        page = new_context().new_page()
        page.goto(f"{serve_page(models).url}/#p.steps=2")
        page.get_by_label("Prompt", exact=True).wait_for()
        switch = page.get_by_label("Model", exact=True)
        assert switch.locator("option").all_inner_texts() == list(models)
        switch.select_option(name)
        assert ("model=" in page.url) == (name != PRESETS[0])
        if link:
            chosen = page.url.partition("#")[2].partition("model=")[2].partition("&")[0]
            page.evaluate("link => { location.hash = link }", f"{link}&model={chosen}")
        return page

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PRESETS, DISTILLED])
def test_a_model_of_each_family_draws(name, open_model, models):
    page = open_model(name)
    page.get_by_label("Prompt", exact=True).fill("a red cat")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    side = models[name].config.defaults.width
    assert page.get_by_text(f"{side} × {side} · 2 steps · euler").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_explore_shows_the_words_of_each_family(name, open_model):
    page = open_model(name, EXPLORE)
    page.locator(".ex-strips canvas").first.wait_for()
    chips = page.locator(".ex-words .chip")
    chips.first.wait_for()
    assert [text.split()[0] for text in chips.all_inner_texts()] == ["a", "red", "cat"]


@pytest.mark.slow
def test_a_distilled_model_offers_what_it_can(open_model):
    """A flow map takes samplers of one jump a step, no negative prompt and no scale."""
    page = open_model(DISTILLED)
    options = page.get_by_label("Sampler", exact=True).locator("option").all_inner_texts()
    names = {text.split()[0] for text in options}
    assert {"euler", "lcm"} <= names
    assert not {"heun", "dpmpp_2m"} & names
