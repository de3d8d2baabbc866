"""The dial of evaluations below a finished image: images, distances, and where it is offered."""

from __future__ import annotations

import re

import pytest
from page_checks import PHONE, find_serious

LINK = "/#p.prompt=a+cat&p.steps=3&p.seed=7"


@pytest.fixture
def open_dial(new_context, serve_page, tiny, tiny_map):
    """`open_dial()` generates an image, opens its dial, and waits for the distances."""

    def make(**options):
        page = new_context(**options).new_page()
        page.server = serve_page({"tiny": tiny, "map": tiny_map})
        page.goto(page.server.url + LINK)
        page.get_by_label("Prompt", exact=True).wait_for()
        page.get_by_role("button", name="Generate", exact=True).click()
        page.get_by_text("How many evaluations?").click()
        page.get_by_text(re.compile("The truth took")).wait_for()
        return page

    return make


def test_the_dial_shows_each_image_with_its_distance(open_dial):
    page = open_dial()
    dial = page.get_by_label("Evaluations", exact=True)
    told = page.locator(".dial-range p")
    assert told.inner_text().startswith("1 evaluation, 1 step of map: ")
    [job] = [job for job in page.server.engine.jobs() if job.kind == "dial"]
    assert {job.request["prompt"], job.request["seed"]} == {"a cat", 7}
    dial.focus()
    page.keyboard.press("ArrowRight")
    distance = job.data["stops"][1]["distance"]
    assert f"{distance:.3g}" in told.inner_text()
    assert dial.get_attribute("aria-valuetext") == told.inner_text()
    page.keyboard.press("End")
    assert told.inner_text().startswith("40 evaluations, ")
    shown = page.locator(".dial-content img")
    assert (
        shown.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 16
    )
    assert page.locator(".dial .chart-mark").count() == 1
    assert find_serious(page) == []


def test_a_phone_holds_the_dial(open_dial):
    page = open_dial(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_closing_the_dial_cancels_what_is_left(new_context, serve_page, tiny, tiny_map, hold):
    page = new_context().new_page()
    server = serve_page({"tiny": tiny, "map": tiny_map})
    page.goto(server.url + LINK)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    hold("dial")
    summary = page.get_by_text("How many evaluations?")
    summary.click()
    page.get_by_text("1 image; the distances").wait_for()
    summary.click()
    [job] = [job for job in server.engine.jobs() if job.kind == "dial"]
    assert job.wait(20) and job.state == "cancelled"
    summary.click()
    page.get_by_text(re.compile("The truth took")).wait_for()


def test_no_map_no_dial(page):
    page.get_by_label("Prompt", exact=True).fill("a cat")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    assert page.get_by_text("How many evaluations?").count() == 0
