"""Several models behind one page: the choice of one, in every view."""

from __future__ import annotations

import json
from urllib.request import urlopen

import pytest
from page_checks import PHONE, find_serious
from small_models import save_wordless

import ldmref
from ldmref.apps.server.forms import choices_of

RUN = "p.prompt=a+red+cat&p.seed=3"


@pytest.fixture
def open_page(serve_page, new_context, tiny, flow):
    """`open_page(hash)` opens a page of a server of two models, of which `tiny` is the default."""

    def make(link="", models=None, **options):
        page = new_context(**options).new_page()
        page.server = serve_page(models or {"tiny": tiny, "flow": flow})
        page.goto(f"{page.server.url}/{link}")
        return page

    return make


def choose(page, name):
    page.get_by_label("Model", exact=True).first.select_option(name)


def read_code(page, kind):
    page.get_by_role("radio", name=kind).check(force=True)
    return page.locator("pre").inner_text()


def test_what_a_model_reads_around_the_prompt_is_shown(open_page, tiny):
    chat = ldmref.random_model("z-image-tiny")
    page = open_page("#p.prompt=a+red+cat", {"tiny": tiny, "chat": chat})
    page.get_by_label("Prompt", exact=True).wait_for()
    details = page.locator("summary", has_text="What the model reads")
    assert details.count() == 0
    choose(page, "chat")
    details.click()
    template = chat.family.text.templates(chat.config)["text_encoder"]
    [shown] = page.locator(".template pre").all_inner_texts()
    assert shown == f"{template.before}the prompt{template.after}"
    [served] = [one for one in capabilities(page)["models"] if one["prompt_templates"]]
    assert served["name"] == "chat"
    assert served["prompt_templates"]["text_encoder"]["before"] == template.before


def capabilities(page):
    with urlopen(f"{page.server.url}/v1/capabilities") as answer:
        return json.load(answer)


def test_the_form_follows_the_model(open_page, flow):
    page = open_page()
    steps = page.locator("[data-parameter=steps] input")
    steps.wait_for()
    assert steps.get_attribute("placeholder") == "4"
    page.locator("summary", has_text="More settings").click()
    schedules = page.locator("[data-parameter=schedule] option")
    assert "karras" in schedules.all_inner_texts()
    page.get_by_label("Prompt", exact=True).fill("a red cat")
    choose(page, "flow")  # at once: what was typed is in no address yet
    page.wait_for_url("**model=flow**")
    assert steps.get_attribute("placeholder") == "6"
    assert schedules.all_inner_texts()[1:] == list(choices_of(flow.config)["schedule"])
    assert page.get_by_label("Prompt", exact=True).input_value() == "a red cat"
    page.go_back()
    page.wait_for_function("() => !location.hash.includes('model=')")
    assert steps.get_attribute("placeholder") == "4"


def test_the_choice_is_in_the_code_and_in_the_links(open_page):
    page = open_page("#model=flow&p.prompt=a&p.steps=2&p.seed=1")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    assert '"model":"flow"' in read_code(page, "curl")
    choose(page, "tiny")
    page.get_by_role("button", name="Explore", exact=True).click()  # the image's own model
    page.locator(".ex-strips tr").first.wait_for()
    assert "model=flow" in page.url
    assert page.get_by_label("Model", exact=True).first.input_value() == "flow"


def test_settings_that_are_reused_bring_their_model(open_page):
    page = open_page("#p.prompt=a&p.steps=2&p.seed=1")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    choose(page, "flow")
    page.get_by_role("button", name="Use its settings").click()
    page.wait_for_function("() => !location.hash.includes('model=')")
    assert page.get_by_label("Model", exact=True).first.input_value() == "tiny"


@pytest.mark.parametrize("view", ["generate", "paint", "grids", "explore"])
def test_a_link_to_a_model_that_is_gone_says_so(open_page, view):
    page = open_page(f"#view={view}&model=gone&{RUN}")
    said = page.locator(".message.error")
    said.wait_for()
    assert said.locator("p").inner_text() == (
        "The model “gone” of this link is not served here, so the page shows “tiny”."
    )
    page.wait_for_function("() => !location.hash.includes('gone')")
    assert page.get_by_label("Model", exact=True).first.input_value() == "tiny"


def test_the_explorer_records_with_the_chosen_model(open_page):
    page = open_page("#view=explore&model=flow")
    page.get_by_text("Type words to see a run of the model of this server.").wait_for()
    form = page.locator(".ex-intro")
    form.locator("summary", has_text="Settings").click()
    assert form.get_by_label("Steps").get_attribute("placeholder") == "6"
    assert form.get_by_label("Schedule").locator("option").all_inner_texts()[1:] == [
        "flow",
        "flow_table",
    ]
    form.get_by_label("Prompt", exact=True).fill("a cat")
    form.get_by_role("button", name="Record a run").click()
    page.wait_for_function("() => location.hash.includes('p.prompt')")
    assert "model=flow" in page.url
    assert page.server.engine.jobs()[0].model == "flow"
    choose(page, "tiny")  # the same words by another model
    page.locator(".ex-strips canvas").first.wait_for()
    assert page.server.engine.jobs()[0].model == "tiny"


def test_a_grid_is_made_with_the_chosen_model(open_page):
    axes = "x.name=sampler&x.values=euler&y.name=steps&y.values=1,2"
    page = open_page(f"#view=grids&model=flow&{axes}&p.prompt=a&p.seed=1")
    form = page.locator(".grid-form")
    form.get_by_role("button", name="Generate the grid").click()
    page.locator(".grid-flip").get_by_text("Open in the explorer").wait_for()
    assert page.server.engine.jobs()[0].model == "flow"
    choose(page, "tiny")
    link = page.locator(".grid-flip").get_by_text("Open in the explorer")
    assert "model=flow" in link.get_attribute("href")  # the image's own model


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory):
    """A model that enlarges images, and makes none from words alone."""
    folder = save_wordless(tmp_path_factory.mktemp("models") / "enlarger", "low_resolution")
    return ldmref.load(folder, backend="numpy")


def test_what_a_model_cannot_do_is_said_in_its_place(open_page, tiny, enlarger):
    page = open_page("#view=paint", models={"tiny": tiny, "enlarger": enlarger})
    page.get_by_label("Prompt", exact=True).wait_for()
    choose(page, "enlarger")
    page.get_by_text("The model enlarger cannot do “Paint”.").wait_for()
    assert page.get_by_label("Prompt", exact=True).count() == 0
    for name, button in (("Grids", "Generate the grid"), ("Explore", "Record a run")):
        page.get_by_role("link", name=name).click()
        view = page.locator(f"#{name.lower()}")
        view.get_by_text("The model enlarger makes no picture from words alone.").wait_for()
        assert view.get_by_role("button", name=button).is_disabled()
        choose(page, "tiny")
        view.get_by_text("The model enlarger makes no picture").wait_for(state="hidden")
        assert view.get_by_role("button", name=button).is_enabled()
        choose(page, "enlarger")


def test_one_model_is_not_chosen(open_page, tiny):
    page = open_page(models={"tiny": tiny})
    page.get_by_label("Prompt", exact=True).wait_for()
    assert page.locator("#model").is_hidden()


def test_the_choice_is_there_for_keys_and_on_a_phone(open_page, tiny, flow):
    long = {"tiny": tiny, "flow-" + "of-a-long-name-" * 3: flow}
    page = open_page("#view=generate", models=long, **PHONE)
    page.get_by_label("Prompt", exact=True).wait_for()
    select = page.get_by_label("Model", exact=True)
    select.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => location.hash.includes('model=flow-')")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert find_serious(page) == []
