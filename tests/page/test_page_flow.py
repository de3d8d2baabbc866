"""The page with SD3- and Flux-like models: which fields it shows, and its first minute."""

from __future__ import annotations

import pytest
from small_models import save_flow

import ldmref

NEGATIVE = "[data-parameter=negative_prompt]"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """SD3, Flux dev, which reads the guidance scale, and schnell, at scale 1; with T5's tokens."""
    folder = tmp_path_factory.mktemp("models")
    names = {"sd3": "sd3-tiny", "dev": "flux-tiny", "schnell": "flux-schnell"}
    return {
        name: ldmref.load(save_flow(folder / name, preset), backend="numpy")
        for name, preset in names.items()
    }


@pytest.fixture
def open_page(serve_page, new_context, models):
    """`open_page(link, **options)` opens the page of a server of the three models."""

    def make(link="", **options):
        page = new_context(**options).new_page()
        page.server = serve_page(models)
        page.goto(f"{page.server.url}/{link}")
        page.get_by_label("Model", exact=True).first.wait_for()
        return page

    return make


def choose(page, name):
    page.get_by_label("Model", exact=True).first.select_option(name)


def generate(page):
    """Generate an image and return the body of the request."""
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).first.wait_for()
    return sent.value.post_data


def test_a_negative_prompt_is_asked_for_where_it_counts(open_page):
    page = open_page("#p.prompt=a+red+cat&p.negative_prompt=a+dog")
    negative = page.locator(NEGATIVE)
    guidance = page.locator("[data-parameter=guidance] select")
    scale = page.get_by_label("Guidance scale", exact=True)
    page.locator("summary", has_text="More settings").click()
    assert negative.is_visible()
    for name in ("dev", "schnell"):
        choose(page, name)
        page.wait_for_url(f"**model={name}**")
        assert negative.is_hidden() and scale.is_visible()
        assert "a dog" not in generate(page)
        guidance.select_option("nag")
        negative.wait_for()
        assert negative.locator("textarea").input_value() == "a dog"
        assert "a dog" in generate(page)
        guidance.select_option("")
        negative.wait_for(state="hidden")
    scale.fill("3")  # schnell has no scale of its own, so two predictions are made
    negative.wait_for()
    scale.fill("1")
    negative.wait_for(state="hidden")
    choose(page, "sd3")
    page.wait_for_function("() => !location.hash.includes('model=')")
    assert negative.is_hidden()  # the scale is still 1
    scale.fill("")
    negative.wait_for()


def test_the_explorer_asks_for_it_where_it_counts(open_page):
    page = open_page("#view=explore&model=schnell&p.prompt=a+red+cat&p.steps=2&p.seed=1")
    page.locator(".ex-strips canvas").first.wait_for()
    branching = page.locator(".ex-branching")
    negative = branching.get_by_label("Negative prompt")
    assert negative.is_hidden()
    branching.get_by_label("Guidance scale").fill("4")
    negative.wait_for()
    negative.fill("a dog")
    branching.get_by_label("Guidance scale").fill("")
    negative.wait_for(state="hidden")
    branching.get_by_label("Guidance", exact=True).select_option("nag")
    negative.wait_for()


def test_a_grid_asks_for_it_where_it_counts(open_page):
    page = open_page("#view=grids&model=schnell&p.prompt=a+red+cat&x.name=seed&x.values=1,+2")
    form = page.locator(".grid-form")
    negative = form.get_by_label("Negative prompt")
    scale = form.get_by_label("Guidance scale")
    scale.wait_for()
    assert negative.is_hidden()
    scale.fill("4")
    negative.wait_for()
    scale.fill("")
    negative.wait_for(state="hidden")
    columns = form.get_by_role("group", name="Columns").get_by_label("Parameter")
    columns.select_option("cfg_scale")  # not 1 in every image
    negative.wait_for()
    choose(page, "dev")
    negative.wait_for(state="hidden")


@pytest.mark.parametrize(
    "name, scale, sentence",
    [
        ("sd3", "", "The network guesses twice"),
        (
            "dev",
            "",
            "The network guesses once. It was trained to read the guidance scale, here 3.5",
        ),
        ("schnell", "", "The network guesses once, with your words: at a guidance scale of 1"),
        ("schnell", "&p.cfg_scale=3", "The network guesses twice"),
    ],
)
def test_the_explorer_tells_what_guidance_does_in_this_run(open_page, name, scale, sentence):
    run = f"#view=explore&model={name}&p.prompt=a+red+cat&p.steps=4&p.seed=1&step=2{scale}"
    page = open_page(run)
    page.locator(".ex-strips canvas").first.wait_for()
    page.locator(".ex-station", has_text="Guidance").click()
    page.locator(".ex-part .ex-sentence", has_text=sentence).wait_for()
    told = page.locator(".ex-path output").inner_text()  # "the noise 0.602"
    percent = round(100 * float(told.rstrip(".").rpartition(" ")[2]))
    assert f"{percent} % is" in page.locator(".ex-sentence").first.inner_text()


PANELS = "[data-row='0'] figure:visible"


@pytest.mark.parametrize(
    "name, scale, title, sentence",
    [
        ("dev", "", "With prompt", "the network has read the guidance scale, 3.5, itself."),
        ("schnell", "", "With prompt", "It is used as it is: this run has no guidance."),
        ("sd3", "&p.cfg_scale=0", "Without prompt", "this run has no guidance."),
    ],
)
def test_a_run_without_guidance_shows_its_only_guess_once(open_page, name, scale, title, sentence):
    run = f"#view=explore&model={name}&p.prompt=a+red+cat&p.steps=2&p.seed=1&step=1{scale}"
    page = open_page(run)
    page.locator(".ex-strips canvas").first.wait_for()
    panels = page.locator(PANELS)
    assert panels.locator(".ex-title").all_inner_texts() == ["Noisy state", title]
    assert panels.last.locator(".ex-plain").inner_text().endswith(sentence)
    panels.last.locator("canvas[data-kind=decoded]").wait_for()
    assert page.get_by_label("Difference of").is_hidden()
    page.locator(".ex-station", has_text="Guidance").click()
    page.locator(".ex-part .ex-sentence", has_text="The network guesses once").wait_for()


def test_a_branch_with_guidance_shows_all_guesses_again(open_page):
    run = "#view=explore&model=sd3&p.prompt=a+red+cat&p.steps=2&p.seed=1&p.cfg_scale=1&step=1"
    page = open_page(run)
    page.locator(".ex-strips canvas").first.wait_for()
    assert page.locator(PANELS).count() == 2
    page.locator(".ex-branching").get_by_label("Guidance scale").fill("4")
    page.get_by_role("button", name="Branch here, at step 1").click()
    page.locator(".ex-strips tr").nth(1).locator("canvas").first.wait_for()
    titles = page.locator(".ex-panels:visible").first.locator("figure:visible .ex-title")
    page.wait_for_function(
        "() => document.querySelectorAll('[data-row=\"1\"] figure:not([hidden])').length > 4"
    )
    assert titles.all_inner_texts() == ["Noisy state", "With prompt"]
    assert (
        page.locator("[data-row='1'] [data-image=x0] .ex-plain")
        .inner_text()
        .startswith("The guess that is used: it goes further")
    )


def test_a_step_outside_the_interval_of_guidance_says_so(open_page):
    rule = "%7B%22name%22:%22interval%22,%22low%22:0.28,%22high%22:5.42%7D"
    run = "#view=explore&model=sd3&p.prompt=a+red+cat&p.steps=3&p.seed=1&p.guidance=" + rule
    page = open_page(run + "&step=0")
    page.locator(".ex-strips canvas").first.wait_for()
    used = page.locator("[data-row='0'] [data-image=x0] .ex-plain")
    assert used.inner_text() == "The guess that is used: in this step there is no guidance."
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => location.hash.includes('step=1')")
    assert "goes further" in used.inner_text()


def test_a_guidance_without_a_second_guess_is_named(open_page):
    rule = "%7B%22name%22:%22nag%22%7D"
    run = f"#view=explore&model=schnell&p.prompt=a+red+cat&p.steps=2&p.seed=1&p.guidance={rule}"
    page = open_page(run)
    page.locator(".ex-strips canvas").first.wait_for()
    page.locator(".ex-station", has_text="Guidance").click()
    page.locator(".ex-part .ex-sentence", has_text="the guidance “nag” finds").wait_for()
