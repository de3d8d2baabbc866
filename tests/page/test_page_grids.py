"""Grids: values as they are typed, cells as they arrive, the flip-book, and the wipe."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from ldmref import explore
from ldmref.apps.server.forms import choices_of

GRID = "#view=grids&p.prompt=a+red+cat&p.seed=5&x.name=sampler&x.values=euler,+heun"
BOTH = f"{GRID}&y.name=steps&y.values=2..4"


@pytest.fixture
def grids(server, new_context):
    """`grids(hash)` opens the view."""

    def open_page(link=BOTH, **options):
        page = new_context(**options).new_page()
        page.goto(f"{server.url}/{link}")
        page.get_by_role("button", name="Generate the grid").wait_for()
        return page

    return open_page


def generate(page, cells=6):
    page.get_by_role("button", name="Generate the grid").click()
    page.get_by_role("link", name="Download sheet.png").wait_for(timeout=60_000)
    assert page.locator(".grid-cell").count() == cells


def wait_for_focus(page, label):
    """Wait until the cell whose label begins like this has the focus."""
    page.wait_for_function(
        "label => document.activeElement.ariaLabel?.startsWith(label)", arg=label
    )


@pytest.mark.slow
def test_each_cell_has_its_image_and_distance(grids, tiny):
    page = grids()
    generate(page)
    expected = explore.make_grid(
        tiny, ("sampler", ["euler", "heun"]), ("steps", [2, 3, 4]), prompt="a red cat", seed=5
    )
    cells = [cell for row in expected.cells for cell in row]
    shown = [float(text) for text in page.locator(".grid-under span").all_inner_texts()]
    assert shown == pytest.approx([cell.distance for cell in cells], rel=0.01)
    best = min(range(6), key=lambda i: cells[i].distance)
    assert page.locator("[role=gridcell].best .grid-cell").get_attribute("aria-label") == (
        page.locator(".grid-cell").nth(best).get_attribute("aria-label")
    )
    headers = page.locator(".grid-sheet [role=columnheader]").all_inner_texts()
    assert headers == ["euler", "heun"]
    assert page.get_by_text("the model is evaluated by euler: 1 time; heun: 2 times.").is_visible()
    with page.expect_download() as got:
        page.get_by_role("link", name="Download grid.json").click()
    assert json.loads(got.value.path().read_text()) == expected.to_json()


@pytest.mark.slow
def test_cells_arrive_one_after_the_other(grids):
    page = grids(BOTH.replace("2..4", "30,40,50"))
    page.evaluate("""() => {
      window.counts = [];
      new MutationObserver(() => counts.push(document.querySelectorAll(".grid-cell").length))
        .observe(document.querySelector(".grid-sheets"), {childList: true, subtree: true});
    }""")
    generate(page)
    counts = page.evaluate("counts")
    assert counts == sorted(counts) and len({*counts}) > 2


@pytest.mark.slow
def test_the_flip_book_has_a_slider_for_each_axis(grids):
    page = grids()
    generate(page)
    book = page.locator(".grid-flip")
    image = book.locator(".flip-after")
    first = image.get_attribute("src")
    book.get_by_label("Steps", exact=True).fill("2")
    book.get_by_text("sampler euler, steps 4, seed 5").wait_for()
    assert image.get_attribute("src") != first
    page.locator(".grid-cell.selected[aria-label^='sampler euler, steps 4']").wait_for()
    page.locator(".grid-cell").nth(1).click()
    book.get_by_text("sampler heun, steps 2").wait_for()
    wait_for_focus(page, "sampler heun, steps 2")
    page.keyboard.press("ArrowDown")
    book.get_by_text("sampler heun, steps 3").wait_for()


@pytest.mark.slow
def test_the_wipe_shows_two_cells(grids):
    page = grids()
    generate(page)
    book = page.locator(".grid-flip")
    wipe = book.get_by_label("Wipe between the two images")
    assert wipe.is_hidden()
    before = book.locator(".flip-after").get_attribute("src")
    book.get_by_role("button", name="Compare with this cell").click()
    page.locator(".grid-cell").nth(5).click()
    book.locator(f".flip-before[src='{before}']").wait_for()
    wipe.fill("30")
    assert book.locator(".flip-after").evaluate("e => e.style.clipPath") == "inset(0px 0px 0px 30%)"
    frame = book.locator(".flip-frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 20)
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.8 * frame["width"], frame["y"] + 20)
    page.mouse.up()
    assert 78 <= int(wipe.input_value()) <= 82
    book.get_by_role("button", name="Stop comparing").click()
    wipe.wait_for(state="hidden")


@pytest.mark.slow
def test_a_cell_opens_in_the_explorer(grids, server):
    page = grids()
    generate(page)
    page.get_by_role("link", name="Explore sampler heun, steps 4").click()
    page.locator(".ex-strips canvas").first.wait_for()
    state = parse_qs(urlsplit(page.url).fragment)
    assert state["view"] == ["explore"] and state["p.sampler"] == ["heun"]
    record = next(job for job in server.engine.jobs() if job.kind == "record")
    grid = next(job for job in server.engine.jobs() if job.kind == "grid")
    assert record.images[0].params == grid.images[5].params


@pytest.mark.slow
def test_a_reload_keeps_the_grid(grids):
    page = grids()
    generate(page)
    page.reload()
    page.get_by_role("link", name="Download sheet.png").wait_for()
    assert page.locator(".grid-cell").count() == 6
    assert page.get_by_label("Values").first.input_value() == "euler, heun"


def test_a_third_axis_makes_sheets(grids, server):
    page = grids(f"{GRID.replace('&p.seed=5', '')}&z.name=seed&z.values=5,+6")
    page.get_by_label("Parameter").nth(1).select_option("")
    page.get_by_label("Measure the distance").uncheck()
    generate(page, cells=4)
    assert page.locator(".grid-box h3").all_inner_texts() == ["Seed 5", "Seed 6"]
    names = page.locator(".grid-cell").evaluate_all("all => all.map((e) => e.ariaLabel)")
    assert names == [
        f"sampler {name}, seed {seed}" for seed in (5, 6) for name in ("euler", "heun")
    ]
    [job] = server.engine.jobs()
    assert [image.seed for image in job.images] == [5, 5, 6, 6]
    book = page.locator(".grid-flip")
    book.get_by_label("Seed", exact=True).fill("1")
    book.get_by_text("sampler euler, seed 6").wait_for()
    page.locator(".grid-cell").nth(1).click()
    wait_for_focus(page, "sampler heun, seed 5")
    moves = (
        ("PageDown", "heun, seed 6"),
        ("ArrowLeft", "euler, seed 6"),
        ("PageUp", "euler, seed 5"),
    )
    for key, label in moves:  # a key goes to the cell that has the focus when it is pressed
        page.keyboard.press(key)
        wait_for_focus(page, f"sampler {label}")
    page.reload()
    page.get_by_role("link", name="Download sheet.png").wait_for()
    assert page.locator(".grid-cell").count() == 4
    assert page.get_by_label("Values").last.input_value() == "5, 6"


def test_cells_that_arrive_leave_the_focus_where_it_is(grids):
    """Every image that arrives draws the sheet anew; whoever is on a cell stays there."""
    page = grids(BOTH.replace("2..4", "2,90,120"))
    page.get_by_role("button", name="Generate the grid").click()
    page.locator(".grid-cell").first.wait_for()
    page.locator(".grid-cell").first.click()
    wait_for_focus(page, "sampler euler, steps 2")
    page.get_by_role("link", name="Download sheet.png").wait_for(timeout=60_000)
    wait_for_focus(page, "sampler euler, steps 2")


def test_axes_of_one_parameter_are_refused(grids, server):
    page = grids(f"{BOTH}&z.name=steps&z.values=2")
    page.get_by_role("button", name="Generate the grid").click()
    wrong = page.locator(".grid-axis").nth(2)
    wrong.get_by_text("Choose another parameter than for the rows.").wait_for()
    assert server.engine.jobs() == []


def test_one_axis_and_no_distance(grids):
    page = grids()
    page.get_by_label("Parameter").nth(1).select_option("")
    page.get_by_label("Measure the distance").uncheck()
    generate(page, cells=2)
    assert page.locator(".grid-under span").all_inner_texts() == ["", ""]
    assert page.get_by_text("converged image of the same seed").count() == 0


def test_a_grid_can_be_stopped(grids, server, hold):
    hold("grid")
    page = grids()
    page.get_by_role("button", name="Generate the grid").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")
    [job] = server.engine.jobs()
    assert job.wait(10) and job.state == "cancelled"


@pytest.mark.parametrize(
    ("axis", "values", "part"),
    [
        ("steps", "5, ten", "“ten” is not a number"),
        ("steps", "5, 5", "twice"),
        ("steps", "0", "at least 1"),
        ("steps", "2.5", "whole numbers"),
        ("steps", "1..500", "at most 64"),
        ("steps", "1..9:0", "above 0"),
        ("sampler", "euler, eulr", "“eulr” is not a sampler"),
        ("cfg_scale", "1..2000:500", "at most 1000"),
        ("seed", "", "at least one value"),
        ("sampler", "heun", "another parameter"),
    ],
)
def test_a_wrong_axis_is_explained_before_anything_is_sent(grids, server, axis, values, part):
    page = grids(f"{GRID}&y.name={axis}&y.values={values}")
    page.get_by_role("button", name="Generate the grid").click()
    page.locator(".grid-axis").nth(1).get_by_text(part).wait_for()
    assert server.engine.jobs() == []


READ = """
([name, text]) => Promise.all([import("/page/js/grids/values.js"), import("/page/js/schema.js")])
  .then(async ([values, schema]) => {
    const answer = await (await fetch("/v1/capabilities")).json();
    const field = schema.readFields(answer.modes.txt2img.schema).find((one) => one.name === name);
    return values.readAxis(field, text);
  })
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("steps", "5, 10, 20..50:10", [5, 10, 20, 30, 40, 50]),
        ("steps", "3..1", [3, 2, 1]),
        ("steps", "5..20 step 5", [5, 10, 15, 20]),
        ("cfg_scale", "1..2:0.25", [1, 1.25, 1.5, 1.75, 2]),
        ("cfg_scale", "-1, 0, 7.5", [-1, 0, 7.5]),
        ("seed", "1..3", [1, 2, 3]),
        ("prompt", "a cat, red; a dog", ["a cat, red", "a dog"]),
        ("sampler", "euler, heun\nddim", ["euler", "heun", "ddim"]),
    ],
)
def test_lists_and_ranges(page, name, text, expected):
    assert page.evaluate(READ, [name, text]) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 375, "height": 800}},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"color_scheme": "dark"}, marks=pytest.mark.slow),
    ],
)
def test_nothing_serious_for_axe_in_grids(grids, options):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = grids(**options)
    generate(page)
    page.get_by_role("button", name="Compare with this cell").click()
    results = axe.Axe().run(page).response["violations"]
    serious = [v for v in results if v["impact"] in ("serious", "critical")]
    assert serious == [], [(v["id"], [n["html"][:150] for n in v["nodes"]]) for v in serious]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert re.search("Flip-book", page.inner_text("main"))


COSTS = {
    "euler, heun": "euler: 1 time; heun: 2 times.",
    "euler, dpmpp_2m, heun": "euler, dpmpp_2m: 1 time; heun: 2 times.",
    "euler, dpmpp_2m": "",
    "heun": "",
}


def test_samplers_that_evaluate_the_model_more_often_are_named(page):
    found = page.evaluate(
        """async (all) => {
          const {describeCosts} = await import("/page/js/grids/costs.js");
          const {samplers} = await (await fetch("/v1/capabilities")).json();
          const axis = (text) => ({name: "sampler", values: text.split(", ")});
          const steps = {name: "steps", values: [5]};
          return all.map((text) => describeCosts([steps, axis(text), null], samplers));
        }""",
        list(COSTS),
    )
    for (names, words), said in zip(COSTS.items(), found, strict=True):
        assert words in said and bool(words) == bool(said), names


def open_first_grid(page, url, link=""):
    """Open the view as a visitor does; return the samplers and steps of the grid that it offers."""
    page.goto(f"{url}/#view=grids{link}")
    page.get_by_role("button", name="Generate the grid").wait_for()
    columns, rows = page.get_by_label("Values").all()[:2]
    return columns.input_value().split(", "), [int(n) for n in rows.input_value().split(", ")]


def test_no_column_of_the_first_grid_is_broken(serve_page, new_context, emoji):
    page = new_context().new_page()
    samplers, steps = open_first_grid(page, serve_page({"emoji": emoji}).url)
    request = {"prompt": "a face", "seed": 1}  # leaves much open
    grid = explore.make_grid(
        emoji, ("sampler", [*samplers, "heun"]), ("steps", steps[:1]), **request
    )
    *distances, of_heun = (cell.distance for cell in grid.cells[0])
    assert max(distances) < 25
    assert of_heun > 100  # why it is left out


def test_the_first_grid_of_a_map_has_its_samplers(serve_page, new_context, tiny, tiny_map):
    page = new_context().new_page()
    url = serve_page({"tiny": tiny, "map": tiny_map}).url
    samplers, _ = open_first_grid(page, url, "&model=map")
    assert set(samplers) <= set(choices_of(tiny_map.config)["sampler"])
    assert len(samplers) > 1
    page.get_by_text("9 images").wait_for()
