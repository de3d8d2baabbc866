"""Pictures while one types: after each word by the map, and the full one after a pause."""

from __future__ import annotations

import base64

import pytest
from page_checks import PHONE, find_serious

from ldmref.prompts.completion import list_words

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
REST = "Finished, seed"  # what is said after the picture by the chosen settings


@pytest.fixture
def typing(serve_page, new_context, tiny, tiny_map):
    """`typing(**options)` opens a page of a server of a model and its map."""

    def make(link="", **options):
        page = new_context(**options).new_page()
        page.server = serve_page({"tiny": tiny, "map": tiny_map})
        page.goto(f"{page.server.url}/{link}")
        prompt_of(page).wait_for()
        return page

    return make


def prompt_of(page):
    return page.get_by_label("Prompt", exact=True)


def draft_of(page, text):
    """The draft of a prompt on the stage."""
    return page.locator(".stage").get_by_role("img", name=f"Draft: {text}", exact=True)


def await_rest(page):
    """Wait for the picture by the chosen settings, and return its seed."""
    said = page.locator(".facts strong")
    page.locator(".details:not([inert]) .facts").wait_for()
    return int(said.inner_text().removeprefix("Seed "))


def jobs_of(page, model):
    """The jobs of a model, the oldest first."""
    return [job for job in reversed(page.server.engine.jobs()) if job.model == model]


def wait_until(page, condition):
    """Wait until a condition on the server holds, while the page goes on."""
    for _ in range(1000):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it did not happen")


def watch_announcements(page):
    page.evaluate("""() => {
      window.said = [];
      const region = document.getElementById("announcements");
      const note = () => region.textContent && said.push(region.textContent);
      new MutationObserver(note).observe(region, {childList: true});
    }""")


def test_each_word_is_drawn_with_one_seed_and_a_pause_gives_the_picture(typing):
    page = typing("#p.steps=3")
    watch_announcements(page)
    prompt_of(page).press_sequentially("a ")
    draft_of(page, "a").wait_for()
    prompt_of(page).press_sequentially("red ")
    draft_of(page, "a red").wait_for()
    prompt_of(page).press_sequentially("cat")
    draft_of(page, "a red cat").wait_for()  # no space follows: a short pause is enough
    seed = await_rest(page)
    drawn = jobs_of(page, "map")
    assert {job.request["seed"] for job in drawn} == {seed}
    assert {job.request["steps"] for job in drawn} == {2}
    assert {"a", "a red", "a red cat"} <= {job.request["prompt"].strip() for job in drawn}
    [full] = jobs_of(page, "tiny")
    assert (full.request["prompt"], full.request["steps"]) == ("a red cat", 3)
    assert full.request["seed"] == seed
    assert page.evaluate("said") == [f"{REST} {seed}"]
    assert page.get_by_role("region", name="Gallery").get_by_role("listitem").count() == 1


def test_the_next_words_change_the_picture_that_is_shown(typing):
    page = typing("#p.steps=2")
    prompt_of(page).press_sequentially("a cat ")
    seed = await_rest(page)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator(".facts", has_not_text=f"Seed {seed}").wait_for()
    other = await_rest(page)
    assert other != seed  # nothing was typed since: another picture, as without drafts
    prompt_of(page).press_sequentially("on ")
    draft_of(page, "a cat on").wait_for()
    assert jobs_of(page, "map")[-1].request["seed"] == other
    assert await_rest(page) == other


def test_generate_takes_the_seed_of_the_draft_and_of_the_form(typing):
    page = typing("#p.steps=2&p.seed=11")
    prompt_of(page).press_sequentially("a cat ")
    draft_of(page, "a cat").wait_for()
    page.keyboard.press("Control+Enter")
    assert await_rest(page) == 11
    page.get_by_label("Seed", exact=True).fill("")
    prompt_of(page).press_sequentially("on ")
    draft_of(page, "a cat on").wait_for()
    page.keyboard.press("Control+Enter")
    assert await_rest(page) == 11
    assert {job.request["seed"] for job in page.server.engine.jobs()} == {11}


@pytest.fixture
def drafts(typing):
    """A page whose requests for drafts wait until the test answers them, and its clock stands."""
    page = typing("#p.seed=3")
    page.clock.pause_at("2030-01-01")
    held, page.failed = [], []
    page.on("requestfailed", lambda request: page.failed.append(request.url))
    page.route("**/v1/generate", lambda route: held.append(route))

    def take():
        """Return the next request, and check that it is the only one."""
        while not held:
            page.wait_for_timeout(10)
        page.wait_for_timeout(50)
        [route] = held
        held.clear()
        return route

    page.take, page.held = take, held
    prompt_of(page).focus()
    answer(take())  # for a map that is compiled at the first draft
    page.wait_for_timeout(50)
    return page


def answer(route):
    route.fulfill(body=PIXEL, content_type="image/png")


def text_of(route):
    return route.request.post_data_json["parameters"]["prompt"]


def test_a_draft_that_runs_arrives_and_the_newest_text_is_drawn_next(drafts):
    page = drafts
    prompt_of(page).press_sequentially("a")
    first = page.take()
    for letter in " red ca":
        prompt_of(page).press_sequentially(letter)
        page.clock.run_for(250)  # longer than the pause after which a word is drawn
    assert page.held == []
    answer(first)
    draft_of(page, "a").wait_for()
    second = page.take()
    prompt_of(page).press_sequentially("t")
    page.clock.run_for(300)
    answer(second)
    draft_of(page, "a red ca").wait_for()  # half a word is a draft of what it was
    assert page.locator(".stage .frame p").inner_text() == "A draft of “a red ca”"
    answer(page.take())
    draft_of(page, "a red cat").wait_for()
    page.wait_for_timeout(50)
    assert (page.held, page.failed) == ([], [])


def test_a_draft_of_half_a_word_waits_while_pictures_come_often(drafts):
    page = drafts
    shown = []
    for letter in "xyz":
        prompt_of(page).press_sequentially(letter)
        answer(page.take())
        page.wait_for_timeout(50)
        shown.append(page.locator(".stage img").get_attribute("alt"))
        page.clock.run_for(150)  # shorter than the pause
    assert shown == ["Draft: x", "Draft: x", "Draft: xyz"]
    page.clock.run_for(200)
    draft_of(page, "xyz").wait_for()


def test_a_draft_that_the_server_refuses_is_not_asked_for_again(drafts, watch):
    watch.allow("503")
    page = drafts
    prompt_of(page).press_sequentially("a")
    page.take().fulfill(status=503, body="{}")
    page.clock.run_for(500)
    page.wait_for_timeout(50)
    assert page.held == []
    prompt_of(page).press_sequentially("n")
    assert text_of(page.take()) == "an"


@pytest.mark.parametrize("model", ["map", "tiny"])
def test_a_cleared_prompt_ends_what_is_drawn(typing, hold, model):
    page = typing("#p.steps=4")
    if model == "map":
        hold("generate")
        prompt_of(page).press_sequentially("a")
        wait_until(page, lambda: [job for job in jobs_of(page, "map") if job.state == "running"])
    else:
        prompt_of(page).press_sequentially("a cat ")
        draft_of(page, "a cat").wait_for()
        hold("generate")
        page.wait_for_function("() => sessionStorage.getItem('ldmref-job')")
        wait_until(page, lambda: jobs_of(page, "tiny")[0].state == "running")
    prompt_of(page).fill("")
    wait_until(page, lambda: all(job.has_ended for job in page.server.engine.jobs()))
    assert [job.state for job in jobs_of(page, model)].count("cancelled") == 1
    page.locator(".stage .vacant").wait_for()
    assert page.locator(".stage img:visible, .typing img:visible").count() == 0
    page.wait_for_timeout(300)
    assert page.locator(".stage img:visible, .typing img:visible").count() == 0


def test_a_cleared_prompt_shows_the_finished_picture_before_its_draft(typing):
    page = typing("#p.steps=2")
    prompt_of(page).press_sequentially("a cat ")
    seed = await_rest(page)
    prompt_of(page).press_sequentially("on ")
    draft_of(page, "a cat on").wait_for()
    prompt_of(page).fill("")
    page.locator(".stage").get_by_role("img", name="Generated image: a cat").wait_for()
    assert await_rest(page) == seed


def test_a_letter_asks_once_for_the_words_that_it_begins(typing):
    page = typing()
    asked = []
    page.on("request", lambda request: "/v1/words" in request.url and asked.append(request.url))
    prompt_of(page).press_sequentially("qxyz", delay=200)
    page.wait_for_timeout(300)
    assert len(asked) == 4
    assert len(set(asked)) == 4


def test_typing_drops_the_picture_that_a_pause_asked_for(typing, hold):
    page = typing("#p.steps=4")
    prompt_of(page).press_sequentially("a cat ")
    draft_of(page, "a cat").wait_for()
    hold("generate")
    page.wait_for_function("() => sessionStorage.getItem('ldmref-job')")
    prompt_of(page).press_sequentially("on a ")
    draft_of(page, "a cat on a").wait_for()
    await_rest(page)
    assert [job.state for job in jobs_of(page, "tiny")] == ["cancelled", "done"]
    assert page.get_by_text("Cancelled").count() == 0
    assert page.get_by_role("region", name="Queue").is_hidden()


def test_generate_adopts_the_picture_that_a_pause_asked_for(typing, hold):
    page = typing("#p.steps=4")
    prompt_of(page).press_sequentially("a cat ")
    draft_of(page, "a cat").wait_for()
    go_on = hold("generate")
    page.wait_for_function("() => sessionStorage.getItem('ldmref-job')")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Cancel").wait_for()
    go_on.set()
    await_rest(page)
    assert len(jobs_of(page, "tiny")) == 1


def test_the_switch_is_remembered(typing):
    page = typing("#p.steps=2")
    switch = page.get_by_label("Draw while I type")
    switch.focus()
    page.keyboard.press("Space")
    page.reload()
    prompt_of(page).press_sequentially("a cat ")
    assert not switch.is_checked()
    page.keyboard.press("Control+Enter")
    await_rest(page)
    assert jobs_of(page, "map") == []
    switch.check()
    prompt_of(page).press_sequentially("on ")
    draft_of(page, "a cat on").wait_for()


def test_a_wrong_prompt_is_said_only_when_it_is_asked_for(typing, watch):
    watch.allow("422")
    page = typing("#p.steps=2")
    prompt_of(page).press_sequentially("a [red:1:2:3] cat ")
    page.wait_for_timeout(300)
    assert page.get_by_role("alert").filter(visible=True).count() == 0


def test_a_word_that_the_model_knows_is_drawn_without_a_pause(typing, tiny):
    word = max(list_words(tiny.tokenizer), key=len)
    page = typing("#p.steps=2")
    page.clock.pause_at("2030-01-01")  # no pause ever ends
    prompt_of(page).press_sequentially("qx ")
    draft_of(page, "qx").wait_for()
    prompt_of(page).press_sequentially(word[:-1])
    page.wait_for_timeout(300)
    assert draft_of(page, "qx").is_visible()
    prompt_of(page).press_sequentially(word[-1])
    draft_of(page, f"qx {word}").wait_for()
    assert not draft_of(page, f"qx {word[:-1]}").is_visible()


def test_no_map_no_switch(page):
    prompt_of(page).press_sequentially("a cat ")
    assert page.get_by_label("Draw while I type").is_hidden()


def test_modes_with_an_image_have_no_switch(typing):
    page = typing("#mode=img2img")
    assert page.get_by_label("Draw while I type").is_hidden()


def test_a_chip_is_drawn_at_once(typing):
    page = typing("#p.seed=1")
    page.evaluate("""() => {
      const input = document.querySelector("textarea");
      input.value = "a red cat";
      input.dispatchEvent(new Event("input", {bubbles: true}));
    }""")
    draft_of(page, "a red cat").wait_for()


def test_a_phone_shows_the_draft_beside_the_prompt(typing):
    page = typing("#p.steps=2", **PHONE)
    prompt_of(page).press_sequentially("a cat ")
    draft_of(page, "a cat").wait_for()
    small = page.locator(".typing .draft")
    prompt, picture = prompt_of(page).bounding_box(), small.bounding_box()
    assert prompt["y"] < picture["y"] < prompt["y"] + prompt["height"] + 60
    assert find_serious(page) == []
    await_rest(page)
    assert small.get_attribute("alt") == "Generated image: a cat"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
