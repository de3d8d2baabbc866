"""Everybody can use the page: screen readers, keyboards, small screens, dark rooms."""

from __future__ import annotations

import pytest
from page_checks import PHONE, find_serious

MODES = ("txt2img", "img2img", "inpaint", "interpolate", "invert")


@pytest.mark.parametrize(
    "options", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_no_serious_finding_of_axe(options, new_context, server):
    page = new_context(**options).new_page()
    for mode in MODES if not options else ("txt2img", "inpaint"):
        view = "paint" if mode == "inpaint" else "generate"
        page.goto(f"{server.url}/#view={view}&mode={mode}")
        page.get_by_label("Prompt", exact=True).wait_for()
        page.get_by_text("More settings").click()
        assert find_serious(page) == [], mode
        page.goto("about:blank")


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}], ids=["light", "dark"])
def test_no_serious_finding_in_a_result(options, new_context, server, watch):
    watch.allow("422")
    page = new_context(**options).new_page()
    page.goto(server.url + "/#p.prompt=a+cat&p.steps=2")
    page.get_by_label("Images", exact=True).fill("2")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Paint on it").click()
    page.get_by_role("application", name="Mask").click()
    page.get_by_label("Steps", exact=True).fill("0")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator("[data-parameter=steps] .error").wait_for()
    assert find_serious(page) == []


def test_nothing_is_wider_than_a_phone(new_context, server):
    page = new_context(**PHONE).new_page()
    page.goto(server.url + "/#p.prompt=a+cat&p.steps=2")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Paint on it").click()
    page.get_by_role("application", name="Mask").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.get_by_role("link", name="Generate").click()
    for name in ("Text", "Image", "Between", "Invert"):
        assert page.evaluate("document.documentElement.scrollWidth") == 375, name
        page.get_by_role("radio", name=name, exact=True).check(force=True)


def test_everything_is_reached_by_the_keyboard(page):
    """A whole request without a mouse: skip link, mode, prompt, Generate, Download."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "txt2img"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "img2img"
    page.keyboard.press("ArrowLeft")
    while page.evaluate("document.activeElement.tagName") != "TEXTAREA":
        page.keyboard.press("Tab")
    page.keyboard.type("a cat")
    page.keyboard.press("Control+Enter")
    button = page.get_by_role("button", name="Download", exact=True)
    button.wait_for()
    for _ in range(60):
        page.keyboard.press("Tab")
        if button.evaluate("element => element === document.activeElement"):
            break
    else:
        raise AssertionError("Tab does not reach Download")


def test_focus_is_visible(page):
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Tab")
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


def test_the_page_does_not_put_data_into_html(page, server):
    """A prompt that is HTML stays a text wherever it is shown."""
    prompt = "<img src=x onerror=document.title='broken'><b>bold</b>"
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    page.reload()
    page.locator(".thumb").first.click()
    assert page.title() == "ldmref"
    assert page.locator("b").count() == 0


TEASER = """
() => {
  const canvas = document.querySelector(".frame.vacant canvas");
  if (!canvas || canvas.hidden) return null;
  return [...canvas.getContext("2d").getImageData(0, 0, 128, 128).data].join();
}
"""


def test_the_empty_page_shows_noise_that_becomes_a_picture(new_context, server):
    page = new_context().new_page()
    page.goto(server.url)
    first = page.wait_for_function(TEASER, polling=20).json_value()
    page.wait_for_timeout(900)
    assert page.evaluate(TEASER) != first
    still = new_context(reduced_motion="reduce").new_page()
    still.goto(server.url)
    end = still.wait_for_function(TEASER, polling=20).json_value()
    still.wait_for_timeout(900)
    assert still.evaluate(TEASER) == end
    page.wait_for_timeout(4500)
    assert page.evaluate(TEASER) == end
    page.get_by_role("link", name="see how").click()
    page.locator(".ex-story").wait_for()
    assert server.engine.jobs() == []


def test_reduced_motion_has_no_transitions(new_context, server):
    page = new_context(reduced_motion="reduce").new_page()
    page.goto(server.url)
    page.get_by_label("Prompt", exact=True).wait_for()
    moving = page.evaluate("""[...document.querySelectorAll("*")].filter(
      (element) => getComputedStyle(element).transitionDuration !== "0s"
    ).length""")
    assert moving == 0


def test_what_moves_is_on_the_first_screen_of_a_phone(new_context, server):
    """With the prompt and the button below it; a result then comes below the form."""
    page = new_context(viewport={"width": 390, "height": 844}, has_touch=True).new_page()
    page.goto(server.url)
    picture = page.locator(".frame.vacant canvas")
    picture.wait_for()
    prompt = page.get_by_label("Prompt", exact=True)
    button = page.get_by_role("button", name="Generate", exact=True)
    tops = [one.bounding_box() for one in (picture, prompt, button)]
    ends = [box["y"] + box["height"] for box in tops]
    assert ends == sorted(ends) and ends[-1] <= 844
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    prompt.fill("a cat")
    button.click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    result = page.locator(".stage").bounding_box()
    assert result["y"] > prompt.bounding_box()["y"]
