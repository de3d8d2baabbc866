"""The explorer: a run is recorded once, and everything that is shown of it equals the record."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from ldmref import explore

RUN = "#view=explore&p.prompt=a+red+cat&p.seed=3&p.steps=6"
PIXELS = """
([selectors, position]) => {
  if (position !== null) {
    const slider = document.querySelector(".ex-scrubber input");
    slider.value = position;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
  }
  return selectors.map((selector) => {
    const canvas = document.querySelector(selector);
    const {width, height} = canvas;
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
    return {width, height, data: [...data], kind: canvas.dataset.kind};
  });
}
"""
IMAGES = ("x", "x0_uncond", "x0_cond", "x0")


@pytest.fixture(autouse=True)
def reading_pixels(watch):
    """The tests read canvases more often than the page does."""
    watch.allow("willReadFrequently")


def leave_undecoded(route):
    """Leave requests to decode an image without an answer, and let all others pass."""
    if json.loads(route.request.post_data or "{}").get("kind") != "decode":
        route.continue_()


def new_page(new_context, decodes, **options):
    """Return an empty page; without `decodes`, images stay as their linear previews."""
    page = new_context(**options).new_page()
    if not decodes:
        page.route("**/v1/jobs", leave_undecoded)
    return page


@pytest.fixture
def open_link(server, new_context):
    """`open_link(hash)` opens a page of the server and waits for its first run."""

    def open_page(link=RUN, runs=1, decodes=True, **options):
        page = new_page(new_context, decodes, **options)
        page.goto(f"{server.url}/{link}")
        page.locator(".ex-strips tr").nth(runs - 1).locator("canvas").first.wait_for()
        return page

    return open_page


def saved(page, letter="A"):
    """Return the record of a run, as it is saved from the page."""
    with page.expect_download() as got:
        page.get_by_role("button", name=f"Save the record of run {letter}").click()
    return explore.load_record(got.value.path().read_bytes())


def pixels(page, panel, position=None, row=0):
    """Move the scrubber and read a canvas in one task: what is there before the next frame."""
    [found] = all_pixels(page, [panel], position, row)
    return found


def all_pixels(page, panels, position, row=0):
    """Move the scrubber and read several canvases in one task, before an image is decoded."""
    selectors = [f".ex-panels[data-row='{row}'] [data-image='{x}'] canvas" for x in panels]
    return [
        (np.reshape(x["data"], (x["height"], x["width"], 4))[..., :3], x["kind"])
        for x in page.evaluate(PIXELS, [selectors, position])
    ]


def state_of(page):
    return {k: v[0] for k, v in parse_qs(urlsplit(page.url).fragment).items()}


def linear(record, latents):
    rgb = np.einsum("rc,chw->hwr", record.preview.matrix, latents.astype(np.float64))
    return np.rint(np.clip(rgb + record.preview.bias, 0, 1) * 255)


def latents_of(record, name, k):
    if name == "x":
        return record.x[k] / np.hypot(1.0, record.sigmas[k])
    return getattr(record, name)[min(k, record.steps - 1)]


def test_images_of_every_step_are_the_linear_preview(emoji_link):
    page = emoji_link(decodes=False)
    record = saved(page)
    for k in range(record.steps + 1):
        images = all_pixels(page, IMAGES, k)
        for name, (found, kind) in zip(IMAGES, images, strict=True):
            expected = linear(record, latents_of(record, name, k))
            assert kind == "linear"
            assert np.abs(found - expected).max() <= 1, (name, k)


def test_the_film_begins_with_noise_and_shows_guess_and_noise_below(emoji_link):
    page = emoji_link()
    record = saved(page)
    for k in (0, 3, record.steps):
        scale = np.hypot(1.0, record.sigmas[k])
        guess = latents_of(record, "x0", k)
        rows = {"x": record.x[k] / scale, "x0": guess, "noise": (record.x[k] - guess) / scale}
        for name, latents in rows.items():
            cell = page.locator(f".ex-strips canvas[data-row-image={name}]").nth(k)
            size, data = cell.evaluate("""(canvas) => {
              const {width, height} = canvas;
              const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
              return [[height, width, 4], [...data]];
            }""")
            found = np.reshape(data, size)[..., :3]
            assert np.abs(found - linear(record, latents)).max() <= 1, (name, k)


def test_the_difference_and_its_scale(emoji_link):
    page = emoji_link()
    record = saved(page)
    brightness = record.preview.matrix.astype(np.float64).mean(axis=0)
    for k in (0, 3):
        found, _ = pixels(page, "difference", k)
        change = np.einsum("c,chw->hw", brightness, record.x0_cond[k] - record.x0_uncond[k])
        most = np.abs(change).max()
        text = page.locator("[data-row='0'] [data-image='difference'] .ex-legend").inner_text()
        low, high = (float(part.replace("−", "-")) for part in text.split())
        assert high == -low == pytest.approx(most, rel=0.01)
        # Red above zero, blue below it.
        strong = np.abs(change) > 0.3 * most
        redder = found[..., 0] > found[..., 2]
        assert (redder == (change > 0))[strong].all()


def test_a_run_without_a_preview_matrix_has_one_fitted_to_its_image(open_link, tiny):
    page = open_link(decodes=False)
    assert saved(page).preview is None
    found, _ = pixels(page, "x", 6)
    badge = page.locator("[data-row='0'] [data-image='x'] .ex-badge").inner_text()
    assert "fitted" in badge and found.shape == (8, 8, 3) and found.std() > 0


def test_decoded_images_replace_the_preview(open_link, tiny):
    page = open_link(RUN + "&step=4")
    page.locator("[data-row='0'] [data-image='x0'] canvas[data-kind=decoded]").wait_for()
    record = saved(page)
    image = np.asarray(tiny.decode(record.x0[4][None]))[0].transpose(1, 2, 0)
    found, _ = pixels(page, "x0")
    assert np.abs(found - np.clip((image + 1) * 127.5, 0, 255)).max() <= 1


def test_maps_of_the_words(open_link):
    page = open_link(RUN + "&step=2&word=cat")
    record = saved(page)
    chips = page.locator(".ex-words .chip")
    assert [text.split()[0] for text in chips.all_inner_texts()] == ["a", "red", "cat"]
    means = record.attention[2].astype(float).mean(axis=(1, 2))
    shown = [text.split()[1:] for text in chips.all_inner_texts()]
    assert [unit for _, unit in shown] == ["%"] * 3
    assert [float(number) for number, _ in shown] == pytest.approx(100 * means, rel=0.01)
    assert chips.nth(2).get_attribute("aria-pressed") == "true"
    label = page.locator(".ex-maps canvas").get_attribute("aria-label")
    assert label.startswith('Attention to "cat" in run A at step 2')
    chips.nth(1).click()
    page.wait_for_function("() => location.hash.includes('word=red')")


def test_keys_and_buttons_move_through_the_steps(open_link):
    page = open_link(RUN + "&step=2")
    explorer = page.locator(".explorer")

    def step():
        return int(explorer.get_attribute("data-step"))

    page.locator(".ex-strips [tabindex='0']").focus()
    for key, expected in [("ArrowRight", 3), ("End", 6), ("ArrowRight", 6), ("ArrowLeft", 5)]:
        page.keyboard.press(key)
        assert step() == expected
    page.keyboard.press("Home")
    page.get_by_role("button", name="Step forward").click()
    assert step() == 1
    page.locator(".chart-box").first.focus()
    page.keyboard.press("ArrowRight")
    assert step() == 2
    page.locator(".ex-strips [role=gridcell]").nth(4).click()
    assert step() == 4
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('.explorer').dataset.step === '6'")
    page.get_by_role("button", name="Play").wait_for()
    assert state_of(page)["step"] == "6"


def test_keys_in_a_field_stay_there(open_link):
    page = open_link(RUN + "&step=2")
    field = page.locator(".ex-branching .prompt input")
    field.fill("a dog")
    for key in ("ArrowLeft", "Home", "End", " "):
        field.press(key)
    assert page.locator(".explorer").get_attribute("data-step") == "2"


def test_a_branch_keeps_its_trunk(open_link, tiny):
    page = open_link(RUN + "&step=2")
    form = page.locator(".ex-branching")
    assert form.get_by_role("button", name="Branch here").is_disabled()
    form.get_by_label("Guidance scale").fill("7")
    form.get_by_role("button", name="Branch here, at step 2").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for()
    trunk, branch = saved(page, "A"), saved(page, "B")
    expected = explore.branch_run(tiny, trunk, 2, cfg_scale=7.0)
    assert np.array_equal(branch.x, expected.x)
    assert np.array_equal(branch.x[:3], trunk.x[:3])
    assert page.locator(".ex-strips tr").nth(1).locator(".shared").count() == 2
    page.wait_for_function("() => location.hash.includes('compare.cfg_scale=7')")
    state = state_of(page)
    assert state["compare.from"] == "2" and state["show"] == "1" and state["with"] == "0"
    # A branch of the branch, and the tree without it.
    page.locator(".explorer").evaluate(
        "e => e.querySelectorAll('.ex-strips tr')[1].cells[5].click()"
    )
    form.get_by_label("Prompt", exact=True).fill("a blue dog")
    form.get_by_role("button", name="Branch here, at step 4").click()
    page.locator(".ex-strips tr").nth(2).locator("canvas").first.wait_for()
    nested = saved(page, "C")
    assert np.array_equal(nested.x, explore.branch_run(tiny, expected, 4, prompt="a blue dog").x)
    page.get_by_role("button", name="Remove run B").click()
    assert page.locator(".ex-strips tr").count() == 1


def test_a_branch_cannot_have_another_seed(open_link):
    page = open_link(RUN + "&step=2")
    form = page.locator(".ex-branching")
    form.get_by_label("Seed").fill("9")
    assert form.get_by_role("button", name="Branch here").is_disabled()
    assert "A branch keeps its seed" in form.inner_text()
    form.get_by_role("button", name="Run from the start").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for()
    assert saved(page, "B").params["seed"] == 9


def test_two_runs_with_one_scrubber(open_link):
    page = open_link(RUN + "&step=2&compare.steps=12&by=sigma", runs=2)
    first, second = saved(page, "A"), saved(page, "B")
    nearest = np.argmin(np.abs(np.log(second.sigmas[:-1]) - np.log(first.sigmas[2])))
    heading = page.locator(".ex-run-heading").nth(1).inner_text()
    assert f"step {nearest} of 12" in heading
    page.get_by_label("Align runs").select_option("step")
    assert "step 2 of 12" in page.locator(".ex-run-heading").nth(1).inner_text()
    rms = np.sqrt(np.mean((second.x0[2].astype(float) - first.x0[2]) ** 2))
    text = page.locator("[data-row='comparison'] [data-image='x0'] .ex-numbers").inner_text()
    assert float(text.split()[-1]) == pytest.approx(rms, rel=0.01)


def test_a_link_shows_the_same_view_again(open_link):
    page = open_link(
        RUN
        + "&step=4&word=red&pair=guided-cond&part=red&fixed=1&compare.from=2&compare.prompt=a+dog",
        runs=2,
    )
    page.wait_for_function("() => !document.querySelector('.ex-strips progress')")
    again = open_link(urlsplit(page.url).fragment.join(["#", ""]), runs=2)
    for one in (page, again):
        one.locator("[data-row='0'] [data-image='x'] canvas[data-kind=decoded]").wait_for()
    for name in ("x", "difference"):
        first, _ = pixels(page, name)
        second, _ = pixels(again, name)
        assert np.array_equal(first, second)
    assert state_of(again) == state_of(page)
    assert again.get_by_label("Difference of", exact=True).input_value() == "guided-cond"
    assert again.locator(".ex-words .chip[aria-pressed=true]").first.inner_text().startswith("red")


def test_a_random_seed_becomes_part_of_the_link(open_link):
    page = open_link("#view=explore&p.prompt=a+cat&p.steps=3")
    page.wait_for_function("() => location.hash.includes('p.seed=')")
    assert int(state_of(page)["p.seed"]) == saved(page).params["seed"]


def test_recording_from_the_form(server, new_context):
    page = new_context().new_page()
    page.goto(f"{server.url}/#view=explore")
    form = page.locator(".ex-intro form")
    form.get_by_label("Prompt", exact=True).fill("a red cat")
    form.get_by_text("Settings, or a record file").click()
    form.get_by_label("Steps").fill("3")
    form.get_by_role("button", name="Record a run").click()
    page.locator(".ex-waiting").wait_for()  # the ready run is replaced
    page.locator(".ex-strips canvas").first.wait_for()
    assert saved(page).params["prompt"] == "a red cat"


def test_a_wrong_parameter_is_explained_in_its_row(server, new_context, watch):
    watch.allow("422")
    page = new_context().new_page()
    page.goto(f"{server.url}/#view=explore&p.prompt=a+cat&p.steps=0")
    alert = page.locator(".ex-failed")
    alert.wait_for()
    assert alert.inner_text().startswith("Steps must be")


def test_a_record_can_be_stopped(server, new_context, hold):
    hold("record")
    page = new_context().new_page()
    page.goto(f"{server.url}/#view=explore&p.prompt=a+cat&p.steps=20")
    page.locator(".ex-progress button").click()
    page.locator(".ex-failed").wait_for()
    assert page.locator(".ex-failed").inner_text() == "Stopped."
    [job] = server.engine.jobs()
    assert job.wait(10) and job.state == "cancelled"


def test_a_record_stopped_while_it_is_submitted_is_cancelled(server, new_context, hold):
    hold("record")
    page = new_context().new_page()
    submitted = []
    page.route("**/v1/jobs", lambda route: submitted.append(route))
    page.goto(f"{server.url}/{RUN}")
    page.locator(".ex-progress button").click()
    submitted[0].continue_()
    page.locator(".ex-failed").wait_for()
    assert page.locator(".ex-failed").inner_text() == "Stopped."
    [job] = server.engine.jobs()
    assert job.wait(10) and job.state == "cancelled"


def test_a_saved_record_is_opened_again(server, open_link, new_context, tmp_path):
    page = open_link()
    with page.expect_download() as got:
        page.get_by_role("button", name="Save the record of run A").click()
    file = tmp_path / "run.safetensors"
    got.value.save_as(file)
    other = new_context().new_page()
    other.goto(f"{server.url}/#view=explore")
    other.get_by_label("Record file").set_input_files(file)
    other.wait_for_function("() => location.hash.includes('p.prompt=a+red+cat')")
    assert other.locator(".ex-strips tr").count() == 1  # it replaces the ready run
    # It was read from the file instead of made again.
    assert [job.kind for job in server.engine.jobs() if job.kind != "decode"] == ["record"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_nothing_serious_for_axe_and_no_sideways_scrolling(open_link, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_link(
        RUN + "&step=4&compare.from=2&compare.cfg_scale=5",
        runs=2,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
    )
    page.wait_for_function("() => !document.querySelector('.ex-strips progress')")
    results = axe.Axe().run(page).response["violations"]
    serious = [v for v in results if v["impact"] in ("serious", "critical")]
    assert serious == [], [(v["id"], [n["html"][:150] for n in v["nodes"]]) for v in serious]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".formula-button").first.click()
    assert page.locator("dialog.formula math").is_visible()


@pytest.fixture
def emoji_link(serve_page, new_context):
    """As `open_link`, with the embedded model, which has a linear preview."""
    import ldmref

    def open_page(link=RUN, decodes=True):
        server = serve_page({"emoji": ldmref.load("emoji", backend="numpy")})
        page = new_page(new_context, decodes)
        page.goto(f"{server.url}/{link}")
        page.locator(".ex-strips canvas").first.wait_for(timeout=60_000)
        return page

    return open_page


def test_every_formula_names_functions_and_a_section_that_exist(page):
    from pathlib import Path

    import ldmref.math

    docs = Path(__file__).parents[2] / "docs"
    formulas = page.evaluate(
        "import('/page/js/explorer/formulas.js').then(m => "
        "Object.values(m.FORMULAS).map("
        "f => [f.title, f.names, f.page, f.section, f.formula().textContent]))"
    )
    assert len(formulas) >= 12
    for title, names, name, section, text in formulas:
        assert text and all(hasattr(ldmref.math, one) for one in names), title
        headings = re.findall(r"^#+ (.*)$", (docs / f"{name}.md").read_text(), re.M)
        assert section in headings, title


def test_the_truth_line(open_link, tiny):
    page = open_link(RUN + "&step=2")
    record = saved(page)
    section = page.locator(".ex-truth")
    section.get_by_role("button", name="Compute the truth line of run A").click()
    section.locator("li").first.wait_for(timeout=120_000)
    truth = explore.truth_line(tiny, record)
    distance, error = re.match(
        r"A, step 2: distance (\S+), local error of the next step (\S+)",
        section.locator(".chart-reading").inner_text(),
    ).groups()
    assert float(distance) == pytest.approx(truth.distance[2], rel=0.01)
    assert float(error) == pytest.approx(truth.local_error[2], rel=0.01)
    assert f"{truth.description['evaluations']} evaluations" in section.inner_text()
    assert np.array_equal(saved(page).truth.distance, truth.distance)
    # The chart is read by the keyboard, which moves the explorer too.
    section.locator(".chart-box").focus()
    page.keyboard.press("End")
    assert section.locator(".chart-box").get_attribute("aria-valuenow") == "6"
    assert "step 6: distance" in section.locator(".chart-box").get_attribute("aria-valuetext")
    page.wait_for_function("() => location.hash.includes('truth=1')")
    again = open_link("#" + urlsplit(page.url).fragment)
    again.locator(".ex-truth li").first.wait_for(timeout=120_000)


def test_the_truth_line_can_be_stopped(open_link, server, hold):
    hold("truth")
    page = open_link()
    section = page.locator(".ex-truth")
    section.get_by_role("button", name="Compute the truth line of run A").click()
    section.get_by_role("button", name="Stop computing A").click()
    section.get_by_role("button", name="Compute the truth line of run A").wait_for()
    job = next(job for job in server.engine.jobs() if job.kind == "truth")
    assert job.wait(20) and job.state == "cancelled"
    assert section.locator(".chart").is_hidden()


def test_a_run_of_another_model_is_compared(serve_page, new_context, tiny):
    server = serve_page({"one": tiny, "two": tiny})
    page = new_context().new_page()
    page.goto(f"{server.url}/{RUN}&step=3")
    page.locator(".ex-strips canvas").first.wait_for()
    page.locator(".ex-branching").get_by_label("Model").select_option("two")
    page.get_by_role("button", name="Run from the start").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for()
    assert [job.model for job in server.engine.jobs() if job.kind == "record"] == ["two", "one"]
    numbers = page.locator("[data-row='comparison'] [data-image='x0'] .ex-numbers")
    assert numbers.inner_text() == "rms of all channels 0"
    page.wait_for_function("() => location.hash.includes('compare.model=two')")


def test_another_view_that_opens_a_run_means_this_run_alone(open_link):
    page = open_link(RUN + "&step=2&compare.cfg_scale=5", runs=2)
    page.evaluate("""() => import(
      document.querySelector("script[type=module]").src.replace("main.js", "state.js")
    ).then(({writeState}) => {
      writeState({view: "generate"});
      writeState({view: "explore", p: {prompt: "a blue dog", seed: 1, steps: 4}}, {clear: ["p"]});
    })""")
    page.wait_for_function("() => document.querySelectorAll('.ex-strips tr').length === 1")
    page.locator(".ex-strips canvas").first.wait_for()
    assert saved(page).params["prompt"] == "a blue dog"
    page.wait_for_function("() => !location.hash.includes('compare')")
