"""The page in its own words: labels in errors and help, limits said once, links that are wrong."""

from __future__ import annotations

import re

import pytest

import ldmref
from ldmref import modes

OTHER_DOORS = re.compile(r"--[a-z]|\bload\(|base64|ldmref\.|Pillow")


@pytest.fixture(scope="module")
def emoji():
    """Return the embedded model, whose capabilities the page shows; nothing is generated."""
    return ldmref.load()


@pytest.fixture
def page_of(serve_page, new_context):
    """`page_of(model, hash)` opens a page of a server of a model."""

    def make(model, link=""):
        page = new_context().new_page()
        page.goto(serve_page({"model": model}).url + "/" + link)
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


def set_field(page, label, text):
    page.get_by_label(label, exact=True).fill(text)


def error_of(page, parameter):
    return page.locator(f"[data-parameter={parameter}] .error").inner_text()


def test_errors_name_fields_and_limits_of_the_page(page_of, tiny):
    page = page_of(tiny)
    set_field(page, "Prompt", "a cat")
    wrong = {
        ("Guidance scale", "cfg_scale"): (
            "much",
            "Guidance scale must be a number from -1000 to 1000, not “much”.",
        ),
        ("Images", "count"): ("65", "Images must be a whole number from 1 to 64, not “65”."),
        ("Steps", "steps"): ("2.5", "Steps must be a whole number from 1 to 1000, not “2.5”."),
    }
    for (label, _), (text, _) in wrong.items():
        set_field(page, label, text)
    page.get_by_role("button", name="Generate", exact=True).click()
    assert {error_of(page, name): 0 for _, name in wrong} == {said: 0 for _, said in wrong.values()}


def test_the_limit_of_steps_is_that_of_the_model(page_of, emoji):
    page = page_of(emoji)
    set_field(page, "Prompt", "a cat")
    set_field(page, "Steps", "2000")
    page.get_by_role("button", name="Generate", exact=True).click()
    assert error_of(page, "steps") == "Steps must be a whole number from 1 to 983, not “2000”."


def test_a_decimal_comma_is_read(page_of, tiny):
    page = page_of(tiny)
    set_field(page, "Prompt", "a cat")
    set_field(page, "Guidance scale", "2,5")
    set_field(page, "Steps", "1")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("guidance 2.5").wait_for()


def test_help_and_fields_of_every_mode_speak_of_the_page(page_of, emoji):
    page = page_of(emoji)
    names = [name for name in modes.schema("inpaint")["properties"] if "_" in name]
    for link in ("#mode=txt2img", "#mode=img2img", "#view=paint", "#mode=interpolate"):
        page.goto(page.url.partition("#")[0] + link)
        page.get_by_label("Prompt", exact=True).first.wait_for()
        for text in page.locator(".help").all_text_contents():
            assert not OTHER_DOORS.search(text), text
            assert not [name for name in names if name in text], text
        assert page.locator("[data-parameter$=_embeds]").count() == 0


MESSAGES = {
    "cfg_scale must be a number from -1000 to 1000, not 'x'": (
        "Guidance scale must be a number from -1000 to 1000, not 'x'."
    ),
    "count must be from 1 to 10000": "Images must be from 1 to 10000.",
    "(red:1.3) is read as text: prompt_weights=a1111 reads weights": (
        "(red:1.3) is read as text: “Prompt weights: a1111” reads weights."
    ),
    "<lora:x:1> in a prompt is read as text: load(lora=) and --lora apply LoRAs": (
        "<lora:x:1> in a prompt is read as text."
    ),
    "allowed are intact PNG, JPEG and WebP files; paths and URLs are not opened: send the bytes "
    "of the file, as base64 in JSON": "Allowed are intact PNG, JPEG and WebP files.",
    "Image i has seed + i (modulo 2^64); a list gives each image its own.": (
        "Image i has seed + i (modulo 2^64)."
    ),
    "at that size; only_masked=False generates the whole": (
        "At that size; “Only masked: off” generates the whole."
    ),
    "config.json is missing": "config.json is missing.",
    "photo-2.tar.gz is no image": "photo-2.tar.gz is no image.",
    "e.g. a cat": "E.g. a cat.",
    "0.5 is too small. it must be 1": "0.5 is too small. it must be 1.",
    "seed is wrong.": "Seed is wrong.",
}


def test_messages_of_the_server_are_in_words_of_the_page(page):
    said = page.evaluate(
        """async (messages) => {
          const {src} = document.querySelector("script[type=module]");
          const {sentence} = await import(src.replace("main.js", "notify.js"));
          return messages.map(sentence);
        }""",
        list(MESSAGES),
    )
    assert dict(zip(MESSAGES, said, strict=True)) == MESSAGES


def test_the_advice_of_a_model_stands_beside_its_field(page_of, emoji, tiny):
    page = page_of(emoji, "#mode=img2img")
    strength = page.locator("[data-parameter=strength]")
    assert "from 0.4 on only the emoji on white is left" in strength.inner_text()
    page = page_of(tiny, "#mode=img2img")
    assert "emoji" not in page.locator("[data-parameter=strength]").inner_text()


def test_a_link_with_wrong_values_says_so(page_of, tiny):
    page = page_of(tiny, "#mode=foo&p.steps=abc&p.sampler=nope&p.foo=1&view=zzz&model=other")
    said = "\n".join(page.locator(".message.error").all_inner_texts())
    for part in ("view “zzz”", "model “other”", "mode “foo”", "setting “foo”"):
        assert part in said
    assert "Steps must be a whole number" in error_of(page, "steps")
    assert error_of(page, "sampler") == "Sampler “nope” is not known here."
    address = page.url.partition("#")[0]
    page.goto(address + "#mode=txt2img&p.bar=1")
    page.get_by_text("there is no setting “bar”").wait_for()
    assert page.locator(".message.error").count() == 1
    page.goto(address + "#mode=txt2img&p.sampler=euler_ancestral&p.steps=3")
    page.locator(".message.error").wait_for(state="hidden")
    assert page.locator(".error:visible").count() == 0


def test_each_view_has_one_name(page):
    page.get_by_role("link", name="Paint").click()
    page.locator("#generate .painter").wait_for()
    assert page.get_by_role("radio", name="Paint").count() == 0
    page.get_by_role("link", name="Generate").click()
    page.get_by_role("radio", name="Text", exact=True).wait_for()


def test_the_guidance_scale_has_one_name(server, new_context):
    """In the form, on the cells and the flip-book of a grid, and for the runs of the explorer."""
    page = new_context().new_page()
    page.goto(
        f"{server.url}/#view=grids&p.prompt=a+cat&p.seed=5&p.steps=2&x.name=cfg_scale&x.values=1,+2"
    )
    page.get_by_label("Parameter").nth(1).select_option("")
    page.get_by_label("Measure the distance").uncheck()
    page.get_by_role("button", name="Generate the grid").click()
    page.get_by_role("link", name="Download sheet.png").wait_for()
    assert page.locator(".grid-cell").first.get_attribute("aria-label") == "guidance scale 1"
    page.locator(".grid-cell").first.click()
    page.locator(".grid-flip").get_by_text("guidance scale 1, seed 5").wait_for()
    page.get_by_label("Values").first.fill("-1001")
    page.get_by_role("button", name="Generate the grid").click()
    page.get_by_text("-1001 is too small: guidance scale is at least -1000.").wait_for()
    page.goto(f"{server.url}/#view=explore&p.prompt=a+cat&p.steps=2&p.seed=1&step=1")
    page.reload()
    page.locator(".ex-strips canvas").first.wait_for()
    assert "guidance scale 2" in page.locator(".ex-run-text").first.inner_text()
    page.locator(".ex-branching").get_by_label("Guidance scale").fill("4")
    page.get_by_role("button", name="Branch here, at step 1").click()
    page.get_by_text("from step 1: guidance scale 4").first.wait_for()
