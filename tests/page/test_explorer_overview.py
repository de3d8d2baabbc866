"""The overview of the explorer, and the tour: parts that open, questions that are tried."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
from page_checks import READY, TALL_PHONE, find_serious

from ldmref.apps.server import static_files

RUN = "#view=explore&p.prompt=a+red+cat&p.seed=3&p.steps=4"
# Each part, and what its sentence tells somebody who knows nothing of it.
PARTS = {
    "words": "The words steer every step",
    "tokens": "cut into pieces that the model knows",
    "numbers": "all that the next network learns of your words",
    "noise": "Where the words leave something open, the noise decides it",
    "unet": "moves a little towards the guess and looks again, 20 times",
    "guidance": "At 0 your words do nothing",
    "latent": "a small grid of numbers that stands for a picture",
    "decoder": "turns the small grid into pixels",
    "picture": "128 x 128 pixels",
}


def parts_of(page):
    return page.locator(".ex-station")


def test_each_part_opens_to_a_sentence_and_a_drawing(open_ready):
    page = open_ready(READY + "&step=5")
    assert parts_of(page).count() == len(PARTS)
    for i, name in enumerate(PARTS):
        button = parts_of(page).nth(i)
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
        panel = page.locator("#ex-part")
        assert PARTS[name] in panel.locator(".ex-sentence").inner_text()
        panel.locator(".ex-inside :is(canvas, svg, li, .ex-large)").first.wait_for()
        page.wait_for_function(f"() => location.hash.includes('open={name}')")
        assert find_serious(page) == [], name
    page.get_by_role("button", name="Close").last.click()
    assert page.locator("#ex-part").is_hidden()
    # What is inside the ready run comes with the page as well.
    kinds = [job.kind for job in page.server.engine.jobs() if job.kind != "decode"]
    assert kinds == []


def test_the_tokens_are_those_of_the_prompt(open_ready, emoji):
    page = open_ready(READY + "&step=5&open=tokens")
    page.locator(".ex-pieces li").first.wait_for()
    ids = emoji.tokenizer.encode(["a face"])[0][0]
    shown = page.locator(".ex-pieces li").all_inner_texts()
    assert [text.split("\n")[0] for text in shown[1:3]] == ["a", "face"]
    assert [int(text.rsplit(" ", 1)[1]) for text in shown] == list(ids[: len(shown)])
    assert "The model reads at most 24 pieces" in page.locator("#ex-part").inner_text()


def test_the_levels_are_those_of_the_step(open_ready):
    page = open_ready(READY + "&step=7&open=unet")
    page.locator(".ex-levels canvas").first.wait_for()
    inside = static_files.read_files()["ready/inside.safetensors"].content
    levels = safetensors.numpy.load(inside)
    names = page.locator(".ex-levels li").evaluate_all("all => all.map(li => li.title)")
    assert names[0] == "down_blocks.0" and set(names) == levels.keys() - {"ids", "hidden"}
    width, data = page.locator(".ex-levels canvas").first.evaluate(
        "c => [c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    opacity = np.reshape(data, (-1, width, 4))[..., 3].astype(float)
    strength = levels["down_blocks.0"].astype(float)
    expected = [255 * (0.25 + 0.75 * np.sqrt(one / one.max())) for one in strength]
    far = [np.abs(opacity - one).max() for one in expected]
    assert np.argmin(far) == 7 and far[7] <= 1


def test_a_live_run_is_looked_into_on_demand(server, new_context):
    page = new_context().new_page()
    page.goto(f"{server.url}/{RUN}&step=2&open=unet")
    page.get_by_role("button", name="Look inside step 2").click()
    page.locator(".ex-levels canvas").first.wait_for()
    kinds = [job.kind for job in server.engine.jobs() if job.kind != "decode"]
    assert kinds == ["inside", "record"]
    parts_of(page).nth(1).click()
    assert "red" in page.locator(".ex-pieces").inner_text()  # the text is known by now


def test_the_numbers_of_one_run_are_not_shown_for_another(open_ready):
    page = open_ready(READY + "&step=5")
    width = "() => document.querySelectorAll('.ex-station')[2].querySelector('canvas').width"
    page.wait_for_function(f"() => ({width})() === 192")
    page.locator(".ex-branching").get_by_label("Guidance scale").fill("4")
    page.get_by_role("button", name="Run from the start").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for(timeout=60_000)
    assert page.evaluate(width) == 1
    page.locator(".ex-strips tr").first.locator("[role=gridcell]").nth(3).click()
    assert page.evaluate(width) == 192


def test_guidance_is_drawn_as_far_as_it_goes(open_ready):
    page = open_ready(READY + "&step=5&open=guidance")
    said = page.locator(".ex-arrows").get_attribute("aria-label")
    assert "lies 2.5 times as far" in said


def test_the_parts_are_reached_by_the_keyboard(open_ready):
    page = open_ready(READY + "&step=5")
    parts_of(page).first.focus()
    for i in range(len(PARTS)):
        assert parts_of(page).nth(i).evaluate("e => e === document.activeElement")
        page.keyboard.press("Enter")
        assert parts_of(page).nth(i).get_attribute("aria-expanded") == "true"
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "See it in this run"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Images of the step"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_overview_fits_a_phone(open_ready, scheme):
    page = open_ready(READY + "&step=5&open=unet&tour=4", color_scheme=scheme, **TALL_PHONE)
    page.locator(".ex-levels canvas").first.wait_for()
    assert find_serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
