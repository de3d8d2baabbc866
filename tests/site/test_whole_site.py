"""The site that `make docs` builds: complete, without a dead link, and read in a browser."""

from __future__ import annotations

import re

import navigation
import pages
import pytest

pytestmark = pytest.mark.slow

KINDS = """
    index.html start.html course/index.html course/notation.html modes.html math/index.html
    math/samplers.html math/differences.html performance.html reading.html api/index.html
    api/ldmref.math.html api/ldmref.math/forward.html api/ldmref.modes.html commands.html
    configuration.html changelog.html embedded-model.html training.html genindex.html
    search.html?q=variational source/ldmref/math/forward.py.html source/ldmref/math/index.html
""".split()


def test_every_page_is_on_the_site_with_its_markdown(whole_site):
    places = {*pages.Site().places.values()}
    for place in places:
        assert (whole_site / place).is_file(), place
        assert (whole_site / place).with_suffix(".html").is_file(), place


def test_every_chapter_is_in_the_sidebar(whole_site):
    index = pages.Site().text_of("docs/course/README.md")
    chapters = navigation.LINK.findall(index)
    sidebar = (whole_site / "index.html").read_text("utf-8").partition('class="sidebar-tree"')[2]
    assert len(chapters) >= 13
    for chapter in chapters:
        assert f'href="course/{chapter.replace(".md", ".html")}"' in sidebar


def test_no_marker_and_no_raw_formula_is_left(whole_site):
    for path in whole_site.rglob("*.html"):
        if path.relative_to(whole_site).parts[0] in ("source", "_static"):
            continue
        article = path.read_text("utf-8").partition("<article")[2].partition("</article>")[0]
        article = re.sub(r"<(pre|code)\b.*?</\1>", "", article, flags=re.DOTALL)
        assert not re.search(r"checked by:|definition --|\$`|\\frac|<merror", article), path.name


def test_every_kind_of_page_asks_no_other_host(whole_site, read):
    reader = read(whole_site)
    for kind in KINDS:
        page = reader.open(kind)
        page.locator("h1, #search-results").first.wait_for()
        # Everything on the page is loaded, also what is further down.
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_load_state("networkidle")


def test_chapters_ask_no_other_host(whole_site, read):
    reader = read(whole_site)
    for path in sorted((whole_site / "course").glob("*.html")):
        reader.open(f"course/{path.name}").wait_for_load_state("networkidle")


def test_no_page_of_the_course_is_wider_than_a_phone(whole_site, read):
    reader = read(whole_site)
    reader.page.set_viewport_size({"width": 375, "height": 800})
    script = "document.documentElement.scrollWidth > innerWidth"
    names = [f"course/{path.name}" for path in (whole_site / "course").glob("*.html")]
    assert [name for name in [*names, *KINDS] if reader.open(name).evaluate(script)] == []
