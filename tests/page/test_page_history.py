"""The prompts that were used: searched, used again, forgotten, and there after a reload."""

from __future__ import annotations

import pytest
from page_checks import PHONE, find_serious


def generate(page, prompt, negative=""):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Negative prompt", exact=True).fill(negative)
    page.get_by_label("Steps", exact=True).fill("1")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("region", name="Gallery").get_by_role(
        "button", name=f"{prompt}, seed"
    ).first.wait_for()


def open_history(page):
    page.get_by_role("button", name="History", exact=True).click()
    return page.get_by_role("dialog", name="Prompts that you have used")


def shown(dialog):
    return dialog.locator(".history-prompt span:first-child").all_inner_texts()


@pytest.fixture
def used(page):
    """The page after three prompts, one of them used twice, and a reload."""
    generate(page, "a red cat")
    generate(page, "a blue dog", negative="fog")
    generate(page, "a <b>red</b> hen")
    generate(page, "a red cat")
    page.reload()
    page.get_by_label("Prompt", exact=True).wait_for()
    return page


def test_the_history_is_searched_and_used(used):
    dialog = open_history(used)
    dialog.get_by_text("3 of 3 prompts").wait_for()
    assert shown(dialog) == ["a red cat", "a <b>red</b> hen", "a blue dog"]
    assert "2 times" in dialog.locator(".history-prompt").first.inner_text()
    used.keyboard.type("RED a")  # the search has the focus
    assert shown(dialog) == ["a red cat", "a <b>red</b> hen"]
    dialog.get_by_label("Search the prompts").fill("fog")
    dialog.get_by_text("1 of 3 prompts").wait_for()
    used.keyboard.press("Enter")
    assert used.get_by_label("Prompt", exact=True).input_value() == "a blue dog"
    assert used.get_by_label("Negative prompt", exact=True).input_value() == "fog"
    assert dialog.is_hidden()
    used.wait_for_url("**p.prompt=a+blue+dog**")


def test_prompts_are_forgotten(used):
    dialog = open_history(used)
    dialog.get_by_role("button", name="Forget a blue dog", exact=True).click()
    dialog.get_by_text("2 of 2 prompts").wait_for()
    dialog.get_by_role("button", name="Forget all", exact=True).click()
    dialog.get_by_text("are kept here, in this browser").wait_for()
    used.reload()
    assert shown(open_history(used)) == []


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_queue_and_history_look_right(options, new_context, server, hold):
    page = new_context(**options).new_page()
    page.goto(server.url + "/#p.steps=2")
    go_on = hold("generate")
    for prompt in ("a cat", "a dog", "a fox and a very long text that no line of a phone can hold"):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("region", name="Queue").wait_for()
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert find_serious(page) == []
    open_history(page)
    assert find_serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    go_on.set()
