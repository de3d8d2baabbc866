"""The explorer as a beginner meets it: keys without a focus, the first run, words of two runs."""

from __future__ import annotations

import threading

import pytest
from page_checks import step_of

from ldmref.apps.server import native
from ldmref.apps.server.jobs import JobReport

RUN = "#view=explore&p.prompt=a+red+cat&p.seed=3&p.steps=6"


@pytest.fixture
def open_link(server, new_context, watch):
    """`open_link(hash)` opens the explorer and waits for its runs."""
    watch.allow("willReadFrequently")

    def open_page(link, runs=1):
        page = new_context().new_page()
        page.goto(f"{server.url}/{link}")
        page.locator(".ex-strips tr").nth(runs - 1).locator("canvas").first.wait_for()
        return page

    return open_page


FOCUS = {
    "body": "() => document.activeElement.blur()",
    "main": "() => document.querySelector('main').focus()",
    "step slider": "() => document.querySelector('.ex-scrubber input').focus()",
    "frame": "() => document.querySelector('.ex-strips [tabindex=\"0\"]').focus()",
}


def test_keys_work_wherever_the_focus_is(open_link):
    page = open_link(RUN + "&step=2")
    play = page.locator(".ex-scrubber button").nth(1)
    for place, focus in FOCUS.items():
        page.keyboard.press("Home")
        page.evaluate(focus)
        page.keyboard.press("ArrowRight")
        assert step_of(page) == 1, place
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        assert step_of(page) == 1, place
        page.keyboard.press("Space")
        assert play.get_attribute("aria-label") == "Pause", place
        page.keyboard.press("Space")
        assert play.get_attribute("aria-label") == "Play", place


def test_a_click_on_an_image_leaves_the_keys_to_the_explorer(open_link):
    page = open_link(RUN + "&step=2")
    page.locator(".ex-panels canvas").first.click()
    page.keyboard.press("ArrowRight")
    assert step_of(page) == 3


def test_other_sliders_and_views_keep_their_keys(open_link):
    page = open_link(RUN + "&step=2")
    opacity = page.get_by_label("Opacity of the map")
    opacity.focus()
    page.keyboard.press("ArrowRight")
    assert (opacity.input_value(), step_of(page)) == ("66", 2)
    page.get_by_role("link", name="Generate").click()
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    page.evaluate(FOCUS["body"])
    page.keyboard.press("ArrowRight")
    assert step_of(page) == 2


def test_the_first_run_shows_its_row_and_a_preview_only(server, new_context, monkeypatch):
    go_on = threading.Event()
    publish = JobReport.preview

    def preview(report, *arguments):
        publish(report, *arguments)
        while not go_on.is_set() and not report.job.cancelled.wait(0.02):
            pass

    monkeypatch.setattr(JobReport, "preview", preview)
    page = new_context().new_page()
    page.goto(f"{server.url}/{RUN}")
    preview = page.locator(".ex-waiting img")
    preview.wait_for()
    assert preview.get_attribute("alt").startswith("Prediction of the image after step")
    assert page.locator(".ex-panels:visible, .ex-scrubber:visible, .ex-words:visible").count() == 0
    go_on.set()
    page.locator(".ex-strips canvas").first.wait_for()
    assert page.locator(".ex-panels[data-row='0']").is_visible()
    assert page.locator(".ex-panels[data-row='1']").is_hidden()


def test_a_formula_links_to_its_page(open_link, monkeypatch):
    address = "https://example.org/blob/v1/docs/README.md"
    monkeypatch.setattr(native, "documentation_address", lambda: address)
    page = open_link(RUN)
    page.get_by_role("button", name="Formula: The noisy state x").first.click()
    link = page.locator("dialog a").get_attribute("href")
    assert link == "https://example.org/blob/v1/docs/math/samplers.md#one-coordinate-system"


PROMPTS = {
    "a red cat": "cat",
    "two blue dogs on yellow": "dogs",
    "a photo of an astronaut riding a horse": "astronaut",
    "smiling face with heart eyes": "face",
    "the": "the",
    "a small house above a big tree": "house",
    "red": "red",
}


def test_the_first_map_is_that_of_a_noun(page):
    found = page.evaluate(
        """async (prompts) => {
          const {findTelling} = await import("/page/js/explorer/telling.js");
          return prompts.map((prompt) => prompt.split(" ")[findTelling(prompt.split(" "))]);
        }""",
        list(PROMPTS),
    )
    assert dict(zip(PROMPTS, found, strict=True)) == PROMPTS


def maps_of(page):
    labels = page.locator(".ex-maps canvas").evaluate_all(
        "(all) => all.map((one) => one.ariaLabel)"
    )
    return [label.partition(" at step")[0] for label in labels]


def test_a_word_that_the_other_prompt_lacks_is_said(open_link):
    page = open_link(RUN + "&word=cat&compare.prompt=a+blue+dog", runs=2)
    note = page.get_by_text("The prompt of run B has no “cat”: “dog” is shown.")
    note.wait_for()
    assert maps_of(page) == ['Attention to "cat" in run A', 'Attention to "dog" in run B']
    words = page.get_by_role("group", name="Words of run B")
    words.get_by_role("button", name="blue").click()
    note.wait_for(state="hidden")
    assert maps_of(page) == ['Attention to "cat" in run A', 'Attention to "blue" in run B']
    page.wait_for_function("() => location.hash.includes('word2=blue')")
    page.reload()
    page.locator(".ex-maps canvas").nth(1).wait_for()
    assert maps_of(page) == ['Attention to "cat" in run A', 'Attention to "blue" in run B']


def test_a_setting_that_does_not_exist_is_named_in_its_row(open_link):
    page = open_link(RUN + "&compare.foo=1")
    page.get_by_text("There is no setting “foo”.").wait_for()
