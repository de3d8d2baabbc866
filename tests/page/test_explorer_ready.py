"""The first minute of the explorer: a run that moves, sentences, and words of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page_checks import READY, TALL_PHONE, find_serious, step_of

from ldmref import explore
from ldmref.apps.server import static_files

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_explorer_images.py"

SEEN = """
() => {
  const canvas = document.querySelector(".ex-story canvas");
  const sentence = document.querySelector(".ex-sentence")?.textContent;
  if (!canvas || canvas.width < 2 || !sentence) return false;
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(data).size > 20 && {after: performance.now(), sentence};
}
"""


def test_a_moving_picture_and_a_sentence_are_there_at_once(open_ready):
    page = open_ready(READY)
    seen = page.wait_for_function(SEEN, polling=20).json_value()
    assert "pure noise" in seen["sentence"] or "guesses the finished picture" in seen["sentence"]
    first = step_of(page)
    page.wait_for_function(
        "s => Number(document.querySelector('.explorer').dataset.step) > s", arg=first
    )
    # Nobody computed anything for it, and the address is the one that was opened.
    assert page.server.engine.jobs() == []
    assert page.evaluate("location.hash") == READY
    page.reload()
    seen = page.wait_for_function(SEEN, polling=20).json_value()
    assert seen["after"] < 3000  # milliseconds after the load; about 300 on a quiet machine


def test_it_ends_with_the_picture_of_the_record(open_ready):
    page = open_ready(READY)
    page.locator(".explorer[data-step='20']").wait_for()
    found = page.locator(".ex-story canvas").first.evaluate(
        "c => [c.width, c.height, "
        "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    ready = static_files.read_files()["ready/run.safetensors"].content
    image = explore.load_record(ready).image.convert("RGBA")
    assert found == [*image.size, list(image.tobytes())]
    assert "finished picture" in page.locator(".ex-story .ex-sentence").inner_text()
    page.get_by_role("button", name="Play").wait_for()


def test_whoever_touches_it_takes_over(open_ready):
    """Once somebody moves, the page stays where it is and the address says so."""
    page = open_ready(READY)
    page.get_by_role("button", name="Pause").click()
    step = step_of(page)
    page.wait_for_timeout(500)
    assert step_of(page) == step
    page.get_by_role("button", name="Step forward").click()
    page.wait_for_function(f"() => location.hash === '{READY}&step={step + 1}'")
    page.reload()
    page.locator(f".explorer[data-step='{step + 1}']").wait_for()
    page.wait_for_timeout(500)
    assert step_of(page) == step + 1
    assert [job.kind for job in page.server.engine.jobs() if job.kind != "decode"] == []


def test_without_motion_the_end_is_shown(open_ready):
    page = open_ready(READY, reduced_motion="reduce")
    assert step_of(page) == 20
    page.wait_for_timeout(500)
    assert step_of(page) == 20
    assert page.locator(".ex-strips [role=gridcell]").count() == 21
    assert page.get_by_role("button", name="Play").is_visible()


def test_other_words_replace_it_with_a_live_run(open_ready):
    page = open_ready(READY)
    page.locator(".ex-intro").get_by_label("Prompt", exact=True).fill("a blue fish")
    page.locator(".ex-intro").get_by_text("Settings, or a record file").click()
    page.locator(".ex-intro").get_by_label("Steps").fill("4")
    page.keyboard.press("Enter")
    page.locator(".ex-waiting").wait_for()
    page.wait_for_function("() => location.hash.includes('p.prompt=a+blue+fish')")
    page.get_by_text("“a blue fish”, step 4 of 4").wait_for()
    assert page.locator(".ex-strips tr").count() == 1
    [job] = [job for job in page.server.engine.jobs() if job.kind == "record"]
    assert job.state == "done"


def test_a_branch_of_it_is_made_by_the_server(open_ready):
    page = open_ready(READY + "&step=8")
    assert step_of(page) == 8
    form = page.locator(".ex-branching")
    form.get_by_label("Prompt", exact=True).fill("a blue dog")
    form.get_by_role("button", name="Branch here, at step 8").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for(timeout=60_000)
    page.wait_for_function("() => location.hash.includes('compare.prompt=a+blue+dog')")
    shown = page.url
    with page.expect_download() as got:
        page.get_by_role("button", name="Save the record of run B").click()
    branch = explore.load_record(got.value.path().read_bytes())
    ready = explore.load_record(static_files.read_files()["ready/run.safetensors"].content)
    assert branch.meta["branch"]["step"] == 8
    assert abs(branch.x[8] - ready.x[8]).max() < 0.02
    # The link makes the branch only: run A comes with the page.
    page.goto("about:blank")
    page.goto(shown)
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for(timeout=60_000)
    kinds = [job.kind for job in page.server.engine.jobs() if job.kind != "decode"]
    assert kinds == ["branch", "branch"]


def test_another_model_says_who_made_it(server, new_context):
    page = new_context().new_page()
    page.goto(f"{server.url}/{READY}&step=5")
    page.get_by_text("This run was made by the model emoji-128, which comes with ldmref").wait_for()
    assert page.locator(".ex-branching").is_hidden()
    page.wait_for_timeout(500)
    assert server.engine.jobs() == []  # nobody decodes latents of another model
    page.locator(".ex-intro").get_by_label("Prompt", exact=True).fill("a cat")
    page.get_by_role("button", name="Record a run").click()
    page.locator(".ex-branching").wait_for()
    assert page.get_by_text("This run was made by").count() == 0


def test_without_the_file_the_form_is_there(server, new_context, watch):
    watch.allow("404")
    page = new_context().new_page()
    page.route("**/ready/run.safetensors", lambda route: route.fulfill(status=404))
    page.goto(f"{server.url}/{READY}")
    page.locator(".ex-intro").get_by_label("Prompt", exact=True).wait_for()
    assert page.locator(".ex-story").is_hidden()


def test_a_number_is_explained_to_mouse_and_keyboard(open_ready):
    page = open_ready(READY + "&step=5")
    tip = page.get_by_role("tooltip")
    number = page.locator("[data-row='0'] [data-image='x'] .ex-numbers")
    number.focus()
    assert "standard deviation" in tip.inner_text()
    assert number.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator(".ex-position").hover()
    assert "how strong the noise is" in tip.inner_text()


def test_every_number_of_a_step_has_an_explanation(open_ready):
    page = open_ready(READY + "&step=5")
    numbers = page.locator(".ex-panel .numbers:visible, .ex-scrubber .numbers:visible")
    assert numbers.count() > 8
    for one in numbers.all():
        assert one.get_attribute("data-explain"), one.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, TALL_PHONE], ids=["desktop", "phone"])
def test_it_fits_and_axe_finds_nothing_serious(open_ready, options, scheme):
    page = open_ready(READY + "&step=5", color_scheme=scheme, **options)
    assert find_serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    frames = page.locator(".ex-strips [role=gridcell]")
    boxes = [frames.nth(i).bounding_box() for i in range(21)]
    width = page.viewport_size["width"]
    assert sum(0 < box["x"] < width - box["width"] for box in boxes) >= 4  # the film is visible


def test_a_click_is_painted_within_a_frame_or_two(open_ready):
    page = open_ready(READY + "&step=5")
    clicks = re.search(r"CLICKS = \"\"\"(.*?)\"\"\"", SCRIPT.read_text(), re.DOTALL)
    times = page.evaluate(clicks[1])
    assert times[50] < 200, json.dumps(times)  # 40 ms on a quiet machine


GUESSES = """
() => {
  const [now, guess] = document.querySelectorAll(".ex-story .ex-picture");
  const canvas = guess.querySelector("canvas");
  window.seen = new Set();
  const look = () => now.hidden && !guess.hidden && canvas.width > 1 && seen.add(canvas.ariaLabel);
  new MutationObserver(look).observe(now.parentElement, {subtree: true, attributes: true});
}
"""


def test_a_run_that_is_made_shows_its_guesses_as_they_come(open_ready, hold):
    page = open_ready(READY + "&step=5")
    go_on = hold("record")
    form = page.locator(".ex-intro")
    form.get_by_label("Prompt", exact=True).fill("a blue dog")
    form.get_by_role("button", name="Record a run").click()
    story = page.locator(".ex-story")
    story.get_by_text("Step 1 of 20.").wait_for()
    assert story.locator(".ex-asked").inner_text() == "“a blue dog”"
    assert story.get_by_role("button", include_hidden=True).first.is_hidden()  # the tour
    page.evaluate(GUESSES)
    go_on.set()
    story.locator("[data-image=x]").wait_for()
    seen = page.evaluate("() => [...seen]")
    assert seen and all(re.fullmatch(r"The guess: Step \d+ of 20", label) for label in seen)
    story.get_by_role("button", name="Take the tour").wait_for()


def test_a_run_without_previews_says_how_far_it_is(server, new_context, hold):
    hold("record")
    page = new_context().new_page()
    page.goto(f"{server.url}/#view=explore&p.prompt=a+cat&p.steps=20")
    story = page.locator(".ex-story")
    story.get_by_text("Step 1 of 20.").wait_for()
    assert story.locator("canvas:visible").count() == 0
    page.get_by_role("button", name="Cancel").click()
    page.locator(".ex-failed").wait_for()
    assert story.is_hidden()
