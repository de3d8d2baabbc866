"""The panel with the flow schedules of other programs, beside the noise levels of the run."""

from __future__ import annotations

import numpy as np
import pytest
from page_checks import TALL_PHONE, find_serious

from ldmref import atlas, explore
from ldmref.apps.server import static_files
from ldmref.math import flow_time_from_sigma

LINK = (
    "#view=explore&step=5&atlas.family=FLUX.1&atlas.beside=ComfyUI&atlas.width=512&atlas.height=512"
)
PANEL = ".ex-atlas"
NUMBERS = """
table => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent))
"""


def numbers_of(page):
    """Return the columns of the table by name."""
    page.locator(f"{PANEL} table td").first.wait_for(state="attached")
    head, *rows = page.locator(f"{PANEL} table").evaluate(NUMBERS)
    columns = zip(*rows, strict=True)
    return {
        name: np.array([float(text) for text in column if text])
        for name, column in zip(head, columns, strict=True)
    }


def flow_times(family, program, steps, width=1024, height=1024):
    row = atlas.find_flow_schedule(family, program)
    return atlas.make_flow_sigmas(row, steps, atlas.count_tokens(width, height))


def test_two_programs_and_the_run_in_numbers(open_ready):
    page = open_ready(LINK)
    found = numbers_of(page)
    assert list(found) == ["step", "BFL", "ComfyUI", "difference", "run A"]
    ours, theirs = (flow_times("FLUX.1", name, 20, 512, 512) for name in ("BFL", "ComfyUI"))
    record = explore.load_record(static_files.read_files()["ready/run.safetensors"].content)
    for name, wanted in [
        ("BFL", ours),
        ("ComfyUI", theirs),
        ("difference", theirs - ours),
        ("run A", flow_time_from_sigma(np.asarray(record.sigmas, float))),
    ]:
        assert np.abs(found[name] - wanted).max() <= 5.1e-7, name
    said = page.locator(f"{PANEL} li").last.inner_text()
    most = np.abs(theirs - ours)
    assert said == f"BFL and ComfyUI differ by at most {most.max():.3g}, at step {most.argmax()}."
    assert page.locator(f"{PANEL} path.chart-line").count() == 3
    assert [job.kind for job in page.server.engine.jobs() if job.kind != "decode"] == []


def test_by_keyboard_and_in_the_address(open_ready):
    page = open_ready("#view=explore&step=5")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator(f"{PANEL} > summary").focus()
    assert not any("/v1/schedules" in url for url in asked)
    page.keyboard.press("Enter")
    page.get_by_label("Family").wait_for()
    page.get_by_label("Family").select_option("Wan")
    page.get_by_label("Steps").last.fill("8")
    page.keyboard.press("Tab")
    page.wait_for_function("() => location.hash.includes('atlas.family=Wan&atlas.program=&')")
    page.wait_for_function("() => location.hash.includes('atlas.steps=8')")
    page.locator(f"{PANEL} .chart-box").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    first = page.get_by_label("Program", exact=True).input_value()
    value = flow_times("Wan", first, 8)[2]
    page.wait_for_function(
        "text => document.querySelector('.ex-atlas .chart-reading').textContent.startsWith(text)",
        arg=f"step 2: {first} {float(f'{value:.3g}'):g}",
    )
    assert page.locator(".explorer").get_attribute("data-step") == "5"  # the run stays where it is
    page.reload()
    assert np.array_equal(numbers_of(page)[first], flow_times("Wan", first, 8).round(6))
    page.locator(f"{PANEL} > summary").click()
    page.wait_for_function("() => !location.hash.includes('atlas')")


def test_an_explicit_list_has_its_own_steps(open_ready):
    row = atlas.find_flow_schedule("HiDream-O1 dev", "DiffSynth")
    assert row.positions == "list"
    page = open_ready(f"#view=explore&step=5&atlas.family={row.family}".replace(" ", "+"))
    found = numbers_of(page)
    assert list(found) == ["step", row.program, "run A"]
    assert found[row.program].tolist() == [*row.sigmas, 0.0]
    assert len(found["run A"]) == 21


def test_lists_of_other_lengths_are_not_subtracted(new_context, serve_page, emoji):
    page = new_context().new_page()
    server = serve_page({"emoji": emoji})

    def shorten(route):
        if route.request.method == "GET":
            route.continue_()
            return
        answer = route.fetch().json()
        del answer["answer"][1]["made"][6:]
        route.fulfill(json=answer)

    page.route("**/v1/schedules", shorten)
    page.goto(f"{server.url}/#view=explore&step=5&atlas.family=FLUX.1")
    found = numbers_of(page)
    assert list(found) == ["step", "BFL", "diffusers", "run A"]
    assert [len(found[name]) for name in ("BFL", "diffusers")] == [21, 6]
    assert "different lengths" in page.locator(f"{PANEL} li").last.text_content()


def test_a_wrong_link_is_told(open_ready):
    page = open_ready("#view=explore&step=5&atlas.family=FLUX.9&atlas.program=nobody")
    page.get_by_text("There is no family “FLUX.9” in the atlas").wait_for()
    assert page.get_by_label("Program", exact=True).input_value() != "nobody"


def test_a_refusal_is_told(open_ready, watch):
    watch.allow("422")
    page = open_ready("#view=explore&step=5&atlas.family=FLUX.1&atlas.steps=100000")
    page.locator(PANEL).get_by_text("steps must be").wait_for()
    assert page.locator(f"{PANEL} .chart-box").is_hidden()


def test_grids_open_it(open_ready):
    page = open_ready("#view=explore&step=5")
    page.get_by_role("link", name="Grids").click()
    page.get_by_role("link", name="schedules of other programs").click()
    assert page.get_by_label("Family").is_visible()
    assert len(numbers_of(page)) == 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, TALL_PHONE], ids=["desktop", "phone"])
def test_it_fits_and_axe_finds_nothing_serious(open_ready, options, scheme):
    page = open_ready(LINK, color_scheme=scheme, **options)
    page.locator(f"{PANEL} path.chart-line").first.wait_for()
    page.locator(f"{PANEL} .ex-atlas-result summary").click()
    assert find_serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
