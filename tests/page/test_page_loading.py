"""What the page fetches, and in which order: scripts at once, and nothing twice."""

from __future__ import annotations

import re

import pytest

VIEWS = {"generate": ".teaser-text", "grids": ".grid-result", "explore": ".ex-strips canvas"}
LINK = re.compile(r'<link rel="modulepreload" href="(.*?)">')


@pytest.fixture
def requested(new_context, server):
    """A page, and the list of the paths that it has requested."""
    page = new_context().new_page()
    paths: list[str] = []
    page.on("request", lambda request: paths.append(request.url.removeprefix(server.url)))
    return page, paths


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_names_the_scripts_of_a_view(requested, server, view):
    """The browser is the oracle: without the links it finds the imports by itself."""
    page, paths = requested
    plain = []

    def strip(route):
        plain.append(route.fetch().text())
        route.fulfill(body=LINK.sub("", plain[0]), content_type="text/html")

    page.route(f"{server.url}/", strip)
    page.goto(f"{server.url}/#view={view}")
    page.locator(VIEWS[view]).first.wait_for(state="attached")
    shell, *templates = plain[0].split("<template data-views=")
    [own] = [text for text in templates if view in text.partition(">")[0]]
    linked = {*LINK.findall(shell), *LINK.findall(own)}
    scripts = [path for path in paths if path.endswith(".js")]
    assert sorted(scripts) == sorted(linked)


def test_no_script_is_fetched_twice(requested, server):
    page, paths = requested
    page.goto(server.url)
    for view, seen in VIEWS.items():
        page.goto(f"{server.url}/#view={view}")
        page.locator(seen).first.wait_for(state="attached")
    scripts = [path for path in paths if path.endswith(".js")]
    assert len(scripts) > 70
    assert len(scripts) == len(set(scripts))


def test_the_frames_of_the_ready_run_are_fetched_once(requested, server):
    page, paths = requested
    page.goto(server.url)
    page.get_by_role("img", name="Noise becomes a picture of a face").wait_for()
    page.get_by_role("link", name="see how").click()
    page.locator(".ex-strips canvas").first.wait_for()
    page.wait_for_timeout(300)
    for name in ("frames.webp", "run.safetensors"):
        assert len([path for path in paths if path.endswith(f"/ready/{name}")]) == 1
