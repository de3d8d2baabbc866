"""The explorer with models of flow matching, and the path of a run: picture against noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from page_checks import READY, TALL_PHONE, find_serious
from record_files import changed_file, read_metadata
from small_models import save_flow
from test_explorer import saved

import ldmref
from ldmref import explore

RUN = "#view=explore&p.prompt=a+red+cat&p.seed=3&p.steps=4"
PLACES = """
() => [...document.querySelectorAll(".ex-path circle.chart-point")].map((circle) =>
  [Number(circle.getAttribute("cx")), Number(circle.getAttribute("cy"))])
"""


@pytest.fixture
def open_run(serve_page, new_context):
    """`open_run(models, link)` opens a run of a server of these models, and waits for it."""

    def make(models, link=RUN, **options):
        page = new_context(**options).new_page()
        page.server = serve_page(models)
        page.goto(f"{page.server.url}/{link}")
        page.locator(".ex-strips canvas").first.wait_for()
        return page

    return make


def reading(page):
    return page.locator(".ex-path output").inner_text()


def curve(page):
    return page.locator(".ex-path [data-curve]").get_attribute("data-curve")


def places(page):
    """The points of the drawing, as alpha and sigma by its axes."""
    points = np.array(page.evaluate(PLACES))
    axes = page.locator(".ex-path .chart-axis")
    left, right, bottom = (float(axes.nth(0).get_attribute(name)) for name in ("x1", "x2", "y1"))
    top = float(axes.nth(1).get_attribute("y2"))
    most = float(page.locator(".ex-path .chart-text").nth(2).text_content())
    alpha = (points[:, 0] - left) / (right - left)
    return alpha, most * (bottom - points[:, 1]) / (bottom - top)


def test_a_flow_runs_straight(open_run, flow):
    page = open_run({"flow": flow}, RUN + "&step=2")
    record = saved(page)
    alpha, sigma = places(page)
    np.testing.assert_allclose(alpha, 1 - record.sigmas, atol=1e-3)
    np.testing.assert_allclose(sigma, record.sigmas, atol=1e-3)
    assert curve(page) == "flow"
    assert reading(page) == "Step 2: the picture counts 0.4, the noise 0.6."
    assert "straight line" in page.locator(".ex-path figcaption").inner_text()
    tip = page.get_by_role("tooltip")
    page.locator(".ex-path output").hover()
    assert "times alpha, plus noise times sigma" in tip.inner_text()
    page.locator(".ex-path output").focus()
    assert tip.is_visible()


def test_the_picture_now_of_a_flow_has_the_scale_of_its_decoder(open_run, flow):
    """At pure noise x is unit noise; it is divided by the spread, not by sqrt(1 + sigma^2)."""
    page = open_run({"flow": flow}, RUN + "&step=0")
    numbers = page.locator("[data-row='0'] [data-image='x'] .ex-numbers").inner_text()
    x = saved(page).x[0]
    assert numbers.startswith(f"mean {x.mean():.3g}, deviation {x.std():.3g}")
    assert page.locator(".ex-sentence").first.inner_text().startswith("This is pure noise")


def test_words_branches_and_the_truth_of_a_flow(open_run, flow):
    page = open_run({"flow": flow}, RUN + "&step=2")
    assert page.locator(".ex-words, [aria-label*=Attention], .ex-maps").first.is_visible()
    page.locator(".ex-branching").get_by_label("Guidance scale").fill("5")
    page.get_by_role("button", name="Branch here, at step 2").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for()
    assert len(page.evaluate(PLACES)) == 10  # both runs
    page.get_by_role("button", name="Compute the truth line of run A").click()
    page.locator(".ex-truth li", has_text="A: ").first.wait_for()  # that of run B may come first
    record = saved(page)
    assert record.truth is not None and record.truth.distance[0] == 0.0


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_a_transformer_of_a_flow(open_run, name):
    model = ldmref.random_model(name, backend="numpy")
    page = open_run({"flow": model}, RUN + "&step=1")
    assert curve(page) == "flow"
    station = page.locator(".ex-station", has_text="Transformer")
    station.click()
    page.get_by_role("button", name="Look inside step 1").click()
    page.get_by_text("A transformer cuts the grid into patches").wait_for()
    levels = saved(page).meta["levels"]
    assert np.allclose(np.add(levels["signal"], levels["noise"]), 1.0)


WORDS = {"sd3-tiny": "CLIP: a | red | cat; T5: a | red | cat", "flux-tiny": "T5: a | red | cat"}


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_words_of_each_text_encoder(open_run, tmp_path, name):
    """The box names the encoders, its inside their pieces, and every word has a map."""
    model = ldmref.load(save_flow(tmp_path / name, name), backend="numpy")
    page = open_run({"flow": model}, RUN + "&step=1&word=cat")
    station = page.locator(".ex-station", has_text="Tokens")
    assert station.locator(".ex-art").inner_text() == WORDS[name]
    record = saved(page)
    chips = page.get_by_role("group", name="Words of the prompt").get_by_role("button")
    assert chips.count() == len(record.words) == record.attention.shape[1]
    drawn = page.locator(".ex-maps canvas")
    encoder = WORDS[name].partition(":")[0]
    assert f'Attention to "cat ({encoder})"' in drawn.get_attribute("aria-label")
    chips.last.click()
    page.locator('.ex-maps canvas[aria-label*="cat (T5)"]').wait_for()
    assert chips.last.get_attribute("aria-pressed") == "true"
    share = f"{100 * record.attention[1, -1].astype(float).mean():.3g} %"
    assert share in chips.last.inner_text()
    assert "to the other places of the image" in page.locator(".ex-words .ex-plain").inner_text()
    station.click()
    page.get_by_role("button", name="Look inside step 1").click()
    page.locator(".ex-pieces").first.wait_for()
    named = page.locator(".ex-inside h4").all_inner_texts()
    assert named == [part.partition(":")[0] for part in WORDS[name].split("; ")]
    assert (
        "".join(page.locator(".ex-pieces").last.locator("li span:first-child").all_inner_texts())
        == "aredcat</s>"
    )


def test_the_model_in_the_package_goes_round_a_circle(open_ready):
    page = open_ready(READY + "&step=5")
    assert curve(page) == "preserving"
    alpha, sigma = places(page)
    np.testing.assert_allclose(np.hypot(alpha, sigma), 1.0, atol=1e-3)
    slider = page.get_by_role("slider", name="Position on the path")
    before = slider.get_attribute("aria-valuetext")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => location.hash.includes('step=6')")
    now = slider.get_attribute("aria-valuetext")
    assert before.startswith("Step 5: the picture counts") and now.startswith("Step 6:")
    assert slider.get_attribute("aria-valuenow") == "6"
    page.keyboard.press("End")
    page.wait_for_function("() => location.hash.includes('step=20')")
    assert "the picture counts 1, the noise" in reading(page)


def test_the_pointer_reads_a_point_and_a_click_goes_there(open_run, flow):
    page = open_run({"flow": flow}, RUN + "&step=2")
    [x, y] = page.evaluate(PLACES)[3]
    box = page.locator(".ex-path svg")
    box.hover(position={"x": x, "y": y})
    assert reading(page).startswith("Step 3:")
    page.locator("h2").first.hover()
    assert reading(page).startswith("Step 2:")
    box.click(position={"x": x, "y": y})
    page.wait_for_function("() => location.hash.includes('step=3')")


def test_a_run_that_asks_for_another_path(open_run, tiny):
    page = open_run({"tiny": tiny}, RUN + "&p.noise_path=ve&step=1")
    assert curve(page) == "exploding"
    alpha, sigma = places(page)
    np.testing.assert_allclose(alpha, 1.0, atol=1e-3)
    np.testing.assert_allclose(sigma, saved(page).sigmas, rtol=1e-2, atol=1e-2)


def test_runs_of_both_kinds_are_aligned_by_noise(open_run, tiny, flow):
    link = RUN + "&compare.model=flow&compare.steps=8&show=0&with=1&by=sigma&step=2"
    page = open_run({"tiny": tiny, "flow": flow}, link)
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for()
    ours, theirs = saved(page, "A"), saved(page, "B")
    wanted = ours.sigmas[2]  # of x0 + sigma eps: the ratio itself
    ratios = theirs.sigmas / np.maximum(1 - theirs.sigmas, 1e-12)
    nearest = int(np.argmin(np.abs(np.log(np.maximum(ratios, 1e-3)) - np.log(wanted))))
    headings = page.locator(".ex-run-heading:visible").all_inner_texts()
    assert f"step {nearest} of 8" in headings[1]
    curves = page.locator(".ex-path [data-curve]").all()
    assert [one.get_attribute("data-curve") for one in curves] == ["preserving", "flow"]


def test_a_record_without_levels_has_no_drawing(server, new_context, tiny, tmp_path):
    record = explore.record_run(tiny, prompt="a cat", seed=1, steps=2)
    entries = json.loads(read_metadata(record.to_bytes())["manifest"])["entries"]
    for entry in entries:
        entry["attributes"].pop("levels", None)
    path = tmp_path / "old.safetensors"
    path.write_bytes(changed_file(record, manifest={"entries": entries}))
    page = new_context().new_page()
    page.goto(f"{server.url}/#view=explore")
    page.get_by_label("Record file").set_input_files(path)
    page.get_by_text("“a cat”").first.wait_for()
    assert page.locator(".ex-path").is_hidden()
    assert page.get_by_text("alpha-bar").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, TALL_PHONE], ids=["desktop", "phone"])
def test_it_fits_and_axe_finds_nothing(open_run, flow, options, scheme):
    page = open_run({"flow": flow}, RUN + "&step=2", color_scheme=scheme, **options)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert find_serious(page) == []
