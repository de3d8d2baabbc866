"""The tour of the explorer: questions that are tried, and both pictures beside them."""

from __future__ import annotations

import numpy as np
import pytest
from page_checks import READY, find_serious, step_of
from small_models import save_flow

import ldmref
from ldmref import explore
from ldmref.apps.server import static_files

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
WITH_RUNS = {1, 2, 3, 4, 5, 8}  # stops whose answer is a run
# Everything that a question needs, as boxes in the window.
SEEN = """
() => {
  const selectors = [".ex-question", ".ex-tour button.primary"];
  const parts = selectors.map((one) => document.querySelector(one));
  const pictures = [...document.querySelectorAll(".ex-tour-pictures:first-child .ex-frame")];
  const top = document.querySelector("header.top").getBoundingClientRect().bottom;
  return [...parts, ...pictures].map((element) => {
    const box = element.getBoundingClientRect();
    const middle = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
    return box.top >= top && box.bottom <= innerHeight && box.right <= innerWidth
      && element.contains(middle);
  });
}
"""
PIXELS = """
(canvas) => {
  const {width, height} = canvas;
  return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
}
"""


@pytest.fixture(autouse=True)
def reading_pixels(watch):
    """The tests read canvases more often than the page does."""
    watch.allow("willReadFrequently")


def answer(page):
    """Press the button of a stop, and wait for the answer."""
    tour = page.locator(".ex-tour")
    tour.locator("button.primary").click()
    tour.locator(".ex-answer:not(:empty)").wait_for(timeout=90_000)
    return tour.locator(".ex-answer").inner_text()


def pictures_of(page):
    """Return the pictures of the stop, without the maps of words."""
    found = []
    for canvas in page.locator(".ex-tour-pictures:first-child canvas").all():
        width, height, data = canvas.evaluate(PIXELS)
        found.append(np.reshape(data, (height, width, 4))[..., :3])
    return found


def captions_of(page):
    return page.locator(".ex-tour-pictures:first-child figcaption").all_inner_texts()


def image_of(page, letter):
    """Return the finished image of a run, from its record."""
    with page.expect_download() as got:
        page.get_by_role("button", name=f"Save the record of run {letter}").click()
    return np.asarray(explore.load_record(got.value.path().read_bytes()).image)


def jobs_of(page):
    return [job for job in page.server.engine.jobs() if job.kind in ("record", "branch")]


def test_the_tour_asks_eight_questions_and_can_be_left(open_ready):
    page = open_ready(READY + "&step=5")
    page.get_by_role("button", name="Take the tour").click()
    titles = []
    for i in range(1, 9):
        page.wait_for_function(f"() => location.hash.includes('tour={i}')")
        tour = page.locator(".ex-tour")
        titles.append(tour.locator("h2").inner_text())
        assert tour.locator("h2").evaluate("e => e === document.activeElement")
        assert tour.locator(".ex-question").inner_text().endswith("?")
        assert tour.locator(".ex-answer").inner_text() == ""
        if i == 3:
            assert find_serious(page) == []
        if i < 8:
            tour.get_by_role("button", name="Next").click()
    assert titles[0] == "Tour, 1 of 8: Noise" and len(set(titles)) == 8
    page.get_by_role("button", name="Leave the tour").click()
    assert page.locator(".ex-tour").is_hidden()
    assert page.locator(".ex-story").is_visible()
    page.wait_for_function("() => !location.hash.includes('tour')")


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_question_button_and_pictures_are_visible_at_once(open_ready, options):
    """At each stop, before and after the answer, without scrolling and with nothing over them."""
    page = open_ready(READY, **options)
    page.get_by_role("button", name="Take the tour").click()
    for i in range(1, 9):
        seen = page.evaluate(SEEN)
        assert len(seen) == 4 and all(seen), i
        answer(page)
        seen = page.evaluate(SEEN)
        assert len(seen) == (5 if i == 7 else 4) and all(seen), i
        assert len(pictures_of(page)) == len(seen) - 2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if i < 8:
            page.locator(".ex-tour").get_by_role("button", name="Next").click()


def test_the_pictures_are_those_of_both_records(open_ready):
    page = open_ready(READY + "&tour=3")
    [before] = pictures_of(page)
    ready = explore.load_record(static_files.read_files()["ready/run.safetensors"].content)
    assert np.array_equal(before, np.asarray(ready.image))
    assert "your words do nothing" in answer(page)
    pictures = pictures_of(page)
    assert np.array_equal(pictures[0], before)
    assert np.array_equal(pictures[1], image_of(page, "B"))
    assert captions_of(page) == ["Guidance 2.5", "Guidance 0"]
    [job] = jobs_of(page)
    assert job.request["cfg_scale"] == 0 and job.request["seed"] == ready.params["seed"]
    page.wait_for_function("() => location.hash.includes('compare.cfg_scale=0')")


def test_the_answer_comes_with_its_picture(open_ready, hold):
    page = open_ready(READY + "&tour=2")
    go_on = hold("record")
    tour = page.locator(".ex-tour")
    tour.locator("button.primary").click()
    page.locator(".ex-progress").get_by_text("Step 1 of 20").wait_for()
    assert "Step 1 of 20" in tour.locator(".ex-tour-shows").inner_text()
    assert tour.locator(".ex-answer").inner_text() == ""
    assert len(pictures_of(page)) == 1
    go_on.set()
    tour.locator(".ex-answer:not(:empty)").wait_for(timeout=90_000)
    assert len(pictures_of(page)) == 2
    assert tour.locator(".ex-vacant").count() == 0


def test_a_run_that_fails_gives_no_answer(open_ready, hold):
    page = open_ready(READY + "&tour=2")
    hold("record")
    tour = page.locator(".ex-tour")
    tour.locator("button.primary").click()
    page.locator(".ex-progress").get_by_text("Step 1 of 20").wait_for()
    page.get_by_role("button", name="Cancel").click()
    tour.get_by_text("Stopped.").wait_for()
    assert tour.locator(".ex-answer").inner_text() == ""
    answer(page)  # it is tried again


def test_nothing_moves_underneath_and_the_end_is_shown(open_ready):
    page = open_ready(READY)
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Take the tour").click()
    assert step_of(page) == 0 and page.get_by_role("button", name="Play").is_visible()
    for i in range(1, 9):
        started = {1: 0, 7: 0, 8: 15}.get(i, 20)
        page.wait_for_timeout(500)
        assert step_of(page) == started, i
        page.keyboard.press("Space")  # it plays, and is stopped by what comes next
        page.get_by_role("button", name="Pause").wait_for()
        top = page.evaluate("scrollY")
        answer(page)
        page.wait_for_timeout(500)
        assert step_of(page) == {4: 1, 7: 5}.get(i, 20), i
        assert page.get_by_role("button", name="Play").is_visible()
        assert page.evaluate("scrollY") == top
        if i < 8:
            page.locator(".ex-tour").get_by_role("button", name="Next").click()


def test_a_link_to_a_stop_does_not_play(open_ready):
    page = open_ready(READY + "&tour=4")
    page.wait_for_timeout(500)
    assert step_of(page) == 20
    assert page.locator(".ex-story").is_hidden()


def test_the_noise_decides_what_the_words_leave_open(open_ready):
    page = open_ready(READY + "&tour=1")
    said = answer(page)
    assert said.startswith("Two different pictures.")
    [job] = jobs_of(page)
    assert (job.request["prompt"], job.request["seed"]) == ("a face", 8)
    first, second = (one.astype(float) for one in pictures_of(page))
    assert np.sqrt(np.mean((first - second) ** 2)) > 15
    assert captions_of(page) == ["“a face”, seed 7", "“a face”, seed 8"]


def test_other_words_are_compared_from_two_kinds_of_noise(open_ready):
    page = open_ready(READY + "&p.prompt=red+heart&p.seed=3&p.steps=2&tour=1")
    answer(page)
    asked = {(job.request["prompt"], job.request["seed"]) for job in jobs_of(page)}
    assert asked == {("red heart", 3), ("a face", 3), ("a face", 4)}
    rows = page.locator(".ex-strips tr")
    assert rows.nth(2).get_attribute("class") == "shown"
    assert rows.nth(1).get_attribute("class") == "compared"


def test_the_map_of_the_colour_word_is_in_the_tour(open_ready):
    page = open_ready(READY + "&p.prompt=a+red+car&p.seed=3&p.steps=2&tour=5")
    maps = page.locator(".ex-tour-pictures:nth-child(2)")
    maps.get_by_text("Where it looks for “red”").wait_for()
    assert maps.locator("canvas").count() == 1
    answer(page)
    assert captions_of(page) == ["“a red car”", "“a blue car”"]
    assert maps.locator("figcaption").all_inner_texts() == [
        "Where it looks for “red”",
        "Where it looks for “blue”",
    ]
    assert all(canvas.evaluate("c => c.width") > 1 for canvas in maps.locator("canvas").all())


def test_a_guess_in_the_tour_is_decoded(open_ready):
    page = open_ready(READY + "&tour=7")
    assert "Early" in answer(page)
    page.locator(".ex-tour canvas[data-kind=decoded]").nth(2).wait_for()
    assert captions_of(page)[:2] == ["The picture now, at step 5", "The guess, at step 5"]
    guess, finished = pictures_of(page)[1:]
    assert guess.shape == finished.shape == (128, 128, 3)


def test_the_colour_is_changed_by_its_word(page):
    found = page.evaluate(
        """async (prompts) => {
          const {recolour} = await import("/page/js/explorer/tour_stops.js");
          return prompts.map(recolour);
        }""",
        ["a red cat", "a Blue dog", "a cat on a mat"],
    )
    assert found == ["a blue cat", "a red dog", None]


def test_guidance_is_set_as_the_model_reads_it(serve_page, new_context, tmp_path):
    """At 0 the words of Flux.1 [dev] still count, because it reads the number itself."""
    model = ldmref.load(save_flow(tmp_path / "flux", "flux-tiny"), backend="numpy")
    assert model.config.denoiser.reads_guidance
    page = new_context().new_page()
    page.server = serve_page({"flux": model})
    link = "#view=explore&p.prompt=a+cat&p.seed=1&p.steps=2&p.width=32&p.height=32&tour=3"
    page.goto(f"{page.server.url}/{link}")
    page.locator(".ex-tour canvas").first.wait_for()
    said = answer(page)
    assert "do nothing" not in said and "still count" in said
    last = jobs_of(page)[0]
    assert last.request["cfg_scale"] == 1


def test_the_tour_with_another_model_shows_its_answers(server, new_context):
    page = new_context().new_page()
    page.goto(f"{server.url}/{READY}&step=5&tour=1")
    tour = page.locator(".ex-tour")
    tour.get_by_role("button", name="Show the answer").click()
    assert "The noise decides" in tour.locator(".ex-answer").inner_text()
    assert server.engine.jobs() == []


def test_a_link_to_a_stop_is_followed_while_a_run_is_shown(open_ready):
    page = open_ready(READY + "&p.prompt=a+cat&p.seed=3&p.steps=2")
    page.evaluate("() => (location.hash = '#view=explore&tour=4')")
    page.get_by_role("heading", name="Tour, 4 of 8: Steps").wait_for()
    assert captions_of(page)[0] == "“a cat”, seed 3"


@pytest.fixture
def open_run(serve_page, new_context, tiny, tiny_map):
    """`open_run(model, stop)` opens the tour at a stop, with a run of an untrained model."""

    def make(model, stop):
        page = new_context().new_page()
        page.server = serve_page({"tiny": tiny, "map": tiny_map})
        link = f"&model={model}&p.prompt=a+red+cat&p.seed=3&p.steps=4&tour={stop}"
        page.goto(f"{page.server.url}/{READY}{link}")
        page.locator(".ex-strips canvas").first.wait_for()
        return page

    return make


def is_same(page):
    first, second = (one.astype(float) for one in pictures_of(page))
    return np.sqrt(np.mean((first - second) ** 2)) < 10


# What an answer says of two pictures that are nearly the same, and of different ones.
SAID = {
    1: ("Nearly the same picture twice", "Two different pictures"),
    2: ("both pictures are nearly the same", "another thing: the words say"),
    8: ("Hardly anything", "A mixture"),
}


@pytest.mark.parametrize("stop", SAID)
def test_answers_say_what_the_pictures_show(open_run, stop):
    page = open_run("tiny", stop)
    said = answer(page)
    same, different = SAID[stop]
    assert (same in said, different in said) == (is_same(page), not is_same(page))
    assert "face" not in said


@pytest.mark.parametrize("stop", SAID)
def test_answers_without_a_server_say_what_is_usual(server, new_context, stop):
    page = new_context().new_page()
    page.goto(f"{server.url}/{READY}&step=5&tour={stop}")
    page.locator(".ex-tour").get_by_role("button", name="Show the answer").click()
    said = page.locator(".ex-answer").inner_text()
    assert SAID[stop][0] not in said
    assert "different" not in said


def test_a_model_that_learned_nothing_is_not_praised(open_run):
    page = open_run("tiny", 5)
    assert "the colour hardly changes" in answer(page)
    page.locator(".ex-tour").get_by_role("button", name="Next").click()
    assert "it has 256 numbers, and the picture 768" in answer(page)


GUESSES = """
async ([guess, end]) => {
  const {STOPS} = await import("/page/js/explorer/tour_stops.js");
  const slice = (name) => (name === "x" ? end : guess);
  const run = {n: 4, levels: null, alphaBar: () => 0.1, stepOf: (k) => k, slice};
  return STOPS.find(({title}) => title === "Large first").plan(run).answer();
}
"""


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        (
            [1, 2, 3, 5],
            "Early: the guess shows the shape while 90 % of the picture is still noise.",
        ),
        (
            [4, 1, 3, 2],
            "Not yet at step 1: the guess is still unlike the finished picture, and 90 %",
        ),
    ],
)
def test_what_is_decided_early_is_measured(page, guess, said):
    assert page.evaluate(GUESSES, [guess, [1, 2, 3, 4]]).startswith(said)


def test_the_answers_about_the_model_in_the_package(open_ready):
    page = open_ready(READY + "&tour=4")
    assert "it is soft" in answer(page)
    page.locator(".ex-tour").get_by_role("button", name="Next").click()
    assert "the shape stays nearly the same, and the colour changes" in answer(page)


def test_a_map_is_said_to_jump(open_run):
    page = open_run("map", 4)
    tour = page.locator(".ex-tour")
    assert "A flow map has learned" in tour.inner_text()
    assert "A map can jump to the end at once" in answer(page)


def test_a_step_of_a_map_is_said_to_jump(open_run):
    page = open_run("map", "0&step=2")
    assert "jumps along it" in page.locator(".ex-story").inner_text()
    assert "moves a little" not in page.locator("main").inner_text()
