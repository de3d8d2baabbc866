"""A site of a few pages, built as the whole one is, and read in a browser."""

from __future__ import annotations

import json

import pytest
from browser import copy_pages, write_absence

KINDS = [
    "index.html", "start.html", "math/forward.html", "api/ldmref.math/forward.html",
    "api/ldmref.backends.html", "configuration.html", "reading.html", "search.html?q=posterior",
    "genindex.html", "source/ldmref/math/forward.py.html#L37",
]  # fmt: skip
WIDE = "document.documentElement.scrollWidth > innerWidth"


def test_every_kind_of_page_loads_from_files_alone(small_site, read):
    reader = read(small_site)
    for kind in KINDS:
        page = reader.open(kind)
        page.locator("h1, #search-results").first.wait_for()
        assert page.locator(".sidebar-tree").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(small_site, read, browser, scheme):
    reader = read(small_site)
    reader.page.emulate_media(color_scheme=scheme)
    reader.page.set_viewport_size({"width": 375, "height": 800})
    wide = [kind for kind in KINDS if reader.open(kind).evaluate(WIDE)]
    assert wide == []


CUT = """
() => [...document.querySelectorAll(".highlight pre, .formula, .table-wrapper")]
  .filter((block) => block.scrollWidth > block.clientWidth)
  .map((block) => [block.tabIndex, block.getAttribute("aria-label"), block.innerText])
"""
LINE = 100  # characters of code that a page may have in a line


@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_nothing_serious(small_site, read, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    reader = read(small_site)
    reader.page.set_viewport_size({"width": width, "height": 800})
    found = {}
    for kind in KINDS:
        page = reader.open(kind)
        page.locator("h1, #search-results").first.wait_for()
        page.wait_for_load_state("networkidle")
        found[kind] = [
            (rule["id"], rule["nodes"][0]["html"])
            for rule in axe.run(page).response["violations"]
            if rule["impact"] in ("critical", "serious")
        ]
    assert {kind: rules for kind, rules in found.items() if rules} == {}


@pytest.mark.parametrize("width", [375, 1280])
def test_a_keyboard_scrolls_whatever_is_wider_than_its_place(small_site, read, width):
    """On a laptop no line of code is cut that has the length which this project allows."""
    reader = read(small_site)
    reader.page.set_viewport_size({"width": width, "height": 800})
    count = 0
    for kind in KINDS:
        page = reader.open(kind)
        page.wait_for_load_state("networkidle")
        for index, name, text in page.evaluate(CUT):
            count += 1
            assert index == 0 and name, (kind, text)
            if name.startswith("Code") and width == 1280 and not kind.startswith("source"):
                assert max(map(len, text.splitlines())) > LINE, (kind, text)
    assert count or width == 1280


def test_a_block_that_fits_again_leaves_the_order_of_the_keyboard(small_site, read):
    reader = read(small_site)
    reader.page.set_viewport_size({"width": 375, "height": 800})
    page = reader.open("math/forward.html")
    page.locator("[data-scrolls]").first.wait_for()
    page.set_viewport_size({"width": 2500, "height": 800})
    page.wait_for_function("!document.querySelector('.formula[data-scrolls]')")
    assert page.locator(".formula[tabindex]").count() == 0


def test_a_site_without_the_model_says_what_adds_it(read, tmp_path):
    copy_pages(tmp_path)
    write_absence(tmp_path)
    page = read(tmp_path).open("knobs.html")
    page.get_by_text("make browser").wait_for()


def test_formulas_are_laid_out_by_the_browser(small_site, read):
    page = read(small_site).open("math/forward.html")
    root = page.locator("math msqrt").first
    assert root.evaluate("e => e.namespaceURI") == "http://www.w3.org/1998/Math/MathML"
    box = root.bounding_box()
    assert box["width"] > 10 and box["height"] > 10
    text = page.locator("article").inner_text()
    assert "$" not in text and "\\bar" not in text
    assert "<!--" not in page.locator("article").inner_html()


def test_search_finds_a_function_and_a_page_without_a_server(small_site, read):
    page = read(small_site).open("search.html?q=posterior")
    results = page.locator("#search-results li")
    results.first.wait_for()
    found = page.locator("#search-results").inner_text()
    assert "q_posterior" in found and "The forward process" in found


def test_names_link_to_their_entries_and_entries_to_their_lines(small_site, read):
    page = read(small_site).open("math/forward.html")
    page.locator("a", has=page.locator("code", has_text="q_posterior")).first.click()
    assert page.url.endswith("api/ldmref.math/forward.html#ldmref.math.q_posterior")
    entry = page.locator("dl", has=page.locator("[id='ldmref.math.q_posterior']"))
    entry.locator("a", has_text="ldmref/math/forward.py").click()
    line = page.locator(f"[id='{page.url.partition('#')[2]}']")
    assert "def q_posterior" in line.inner_text()


def test_a_page_is_also_markdown_and_a_notebook(small_site, read):
    reader = read(small_site)
    links = reader.open("start.html").locator(".formats a")
    assert links.all_inner_texts() == ["Markdown", "Notebook"]
    markdown = (small_site / "start.md").read_text("utf-8")
    assert markdown.startswith("# First steps") and "{toctree}" not in markdown
    notebook = json.loads((small_site / "start.ipynb").read_text("utf-8"))
    outputs = [o["text"] for c in notebook["cells"] for o in c.get("outputs", ())]
    assert any("<Result of txt2img" in "".join(text) for text in outputs)


def test_llms_txt_lists_pages_that_exist(small_site):
    text = (small_site / "llms.txt").read_text("utf-8")
    assert text.startswith("# ldmref\n") and "## Start" in text
    places = [
        line.partition("](")[2].partition(")")[0] for line in text.splitlines() if "](" in line
    ]
    assert "start.md" in places and all((small_site / place).is_file() for place in places)


def test_a_site_without_the_model_says_so_without_a_failing_request(read, tmp_path):
    copy_pages(tmp_path)
    write_absence(tmp_path)
    page = read(tmp_path).open("index.html")
    page.get_by_role("alert").get_by_text("was built without the model").wait_for()
