"""Words that complete the one before the cursor."""

from __future__ import annotations

import pytest
from page_checks import PHONE, find_serious

from ldmref.prompts.completion import complete_word, list_words


@pytest.fixture
def open_page(new_context, serve_page, emoji, tmp_path):
    (tmp_path / "colour.txt").write_text("red\n")
    (tmp_path / "thing.txt").write_text("cat\n")

    def make(**options):
        page = new_context(**options).new_page()
        page.goto(serve_page({"emoji": emoji}, wildcards=str(tmp_path)).url)
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


def group(page):
    return page.get_by_role("group", name="Words that complete this one").first


def test_a_word_is_completed_by_the_keyboard(open_page, emoji):
    page = open_page()
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.focus()
    page.keyboard.type("a red hea")
    group(page).get_by_role("button", name="heart", exact=True).wait_for()
    expected = complete_word(list_words(emoji.tokenizer), "hea")[:6]
    assert group(page).get_by_role("button").all_inner_texts() == expected
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert prompt.input_value() == "a red heart "
    assert prompt.evaluate("element => element === document.activeElement")
    page.keyboard.type("ca")
    group(page).wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert prompt.evaluate("element => element === document.activeElement")
    page.keyboard.type("zzz")
    group(page).wait_for(state="hidden")
    page.wait_for_url("**p.prompt=a+red+heart+cazzz**")


def test_wildcards_are_completed_in_the_middle_of_a_text(open_page):
    page = open_page()
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a  cat")
    prompt.evaluate("element => element.setSelectionRange(2, 2)")
    page.keyboard.type("__")
    group(page).get_by_role("button", name="__colour__").wait_for()
    assert group(page).get_by_role("button").all_inner_texts() == ["__colour__", "__thing__"]
    group(page).get_by_role("button", name="__thing__").click()
    assert prompt.input_value() == "a __thing__ cat"


def test_other_modes_keep_one_row_of_words(open_page):
    page = open_page()
    page.get_by_role("radio", name="Image", exact=True).check(force=True)
    page.get_by_role("radio", name="Text", exact=True).check(force=True)
    assert page.locator("[data-parameter=prompt] .completion").count() == 1
    page.get_by_label("Negative prompt", exact=True).focus()
    page.keyboard.type("hea")
    row = page.locator("[data-parameter=negative_prompt] .completion")
    row.get_by_role("button", name="heart", exact=True).click()
    assert page.get_by_label("Negative prompt", exact=True).input_value() == "heart "


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_the_words_look_right(options, open_page):
    page = open_page(**options)
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.type("a re")
    group(page).wait_for()
    assert find_serious(page) == []
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
