"""LoRAs and learned words below the prompt, from the folders of the server."""

from __future__ import annotations

import io
import re
import time

import numpy as np
import pytest
from page_checks import PHONE, find_serious
from PIL import Image
from safetensors.numpy import save_file

from ldmref.apps.server.adapters import Adapters
from ldmref.explore import load_record
from ldmref.io.adapters.lora_keys import lora_file_name
from ldmref.io.images.metadata import read_parameters
from ldmref.models.model import model_spec
from ldmref.models.params import flatten


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny):
    base = tmp_path_factory.mktemp("adapters")
    for name in ("loras", "words"):
        (base / name).mkdir()
    draw = np.random.default_rng(1)
    name, shape = next(
        (n, s) for n, s in flatten(model_spec(tiny.config)).items() if n.endswith("to_q.weight")
    )
    for stem in ("warm", "cold"):
        tensors = {
            lora_file_name(tiny.config, name, "down"): draw.standard_normal((2, shape[1])),
            lora_file_name(tiny.config, name, "up"): draw.standard_normal((shape[0], 2)),
        }
        lora = {key: tensor.astype(np.float32) for key, tensor in tensors.items()}
        save_file(lora, base / "loras" / f"{stem}.safetensors")
    width = tiny.config.text_encoders[0].hidden_size
    save_file({"<toy>": np.ones((1, width), np.float32)}, base / "words" / "toy.safetensors")
    return {"lora_folder": str(base / "loras"), "embedding_folder": str(base / "words")}


@pytest.fixture
def open_page(new_context, serve_page, tiny, folders):
    def make(link="/#p.steps=2", **options):
        page = new_context(**options).new_page()
        page.server = serve_page({"tiny": tiny}, **folders)
        page.goto(page.server.url + link)
        page.get_by_label("Prompt", exact=True).first.wait_for(state="attached")
        return page

    return make


def wait_for(condition):
    """Wait until a condition of the server holds, while the page goes on."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened for 60 s"
        time.sleep(0.05)


def pixels(png):
    return Image.open(io.BytesIO(png)).tobytes()


def generate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    button = page.get_by_role("button", name="Download", exact=True)
    button.wait_for()
    with page.expect_download() as got:
        button.click()
    return got.value.path()


def test_a_lora_and_a_word_are_chosen_recorded_and_restored(open_page):
    page = open_page()
    page.get_by_label("Add a LoRA").select_option("warm")
    weight = page.get_by_label("LoRA warm, weight")
    assert weight.evaluate("element => element === document.activeElement")
    weight.fill("")
    page.keyboard.type("0.5", delay=150)  # slower than the address is written
    assert weight.input_value() == "0.5"
    page.get_by_label("Prompt", exact=True).fill("a red")
    page.get_by_role("button", name="<toy>", exact=True).click()
    assert page.get_by_label("Prompt", exact=True).input_value() == "a red <toy>"
    page.wait_for_url(re.compile(r"lora\.warm=0\.5"))
    path = generate(page)
    [job] = page.server.engine.jobs()
    assert job.request["loras"] == [{"name": "warm", "weight": 0.5}]
    assert job.request["embeddings"] == ["<toy>"]
    recorded = read_parameters(io.BytesIO(path.read_bytes()))["ldmref"]["model"]
    assert [(lora["name"], lora["weight"]) for lora in recorded["loras"]] == [("warm", 0.5)]
    code = page.locator("pre").inner_text()
    assert 'lora=[("warm.safetensors", 0.5)]' in code and 'embeddings=["toy.safetensors"]' in code
    page.get_by_role("radio", name="Command", exact=True).check(force=True)
    code = page.locator("pre").inner_text()
    assert "--lora warm.safetensors:0.5" in code and "--embedding toy.safetensors" in code
    page.get_by_role("radio", name="curl", exact=True).check(force=True)
    assert '"loras":[{"name":"warm","weight":0.5}]' in page.locator("pre").inner_text()
    page.get_by_role("button", name="Remove warm").click()
    page.wait_for_url(lambda url: "lora." not in url)
    assert page.get_by_label("LoRA warm, weight").count() == 0
    page.get_by_role("button", name="Use its settings").click()
    assert page.get_by_label("LoRA warm, weight").input_value() == "0.5"
    page.get_by_role("button", name="Remove warm").click()
    page.get_by_label("Open an image to restore its settings").set_input_files(path)
    page.get_by_text("The settings of the image are restored").wait_for()
    assert page.get_by_label("LoRA warm, weight").input_value() == "0.5"
    page.reload()
    assert page.get_by_label("LoRA warm, weight").input_value() == "0.5"


def test_a_wrong_weight_is_said_and_nothing_is_sent(open_page):
    page = open_page("/#p.steps=2&p.prompt=a&lora.cold=many&lora.gone=1")
    page.get_by_text("the model here has no LoRA “gone”").wait_for()
    page.get_by_label("LoRA cold, weight").fill("101")
    page.get_by_text("The weight must be a number from -100 to 100, not “101”.").wait_for()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_timeout(500)
    assert page.server.engine.jobs() == []
    assert page.get_by_label("LoRA cold, weight").evaluate("e => e === document.activeElement")


def test_a_server_without_them_shows_nothing(page):
    assert page.get_by_label("Add a LoRA").is_hidden()
    assert page.get_by_text("Learned words").is_hidden()


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_the_picker_looks_right(options, open_page):
    page = open_page("/#p.steps=2&lora.cold=1&lora.warm=0.5", **options)
    assert find_serious(page) == []
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


EXPLORE = "/#view=explore&p.prompt=a+red&p.seed=3&p.steps=3"


def requests_of(page, kind):
    return [job.request for job in reversed(page.server.engine.jobs()) if job.kind == kind]


def record_of(page, kind):
    """Return the parameters in the newest record of a kind of job."""
    job = next(job for job in page.server.engine.jobs() if job.kind == kind)
    record = load_record(job.files["record.safetensors"][1])
    return record.params["model"]["loras"]


def test_an_image_with_a_lora_is_explored_with_it(open_page):
    page = open_page("/#p.steps=2&p.prompt=a+red+<toy>&lora.warm=0.5")
    generate(page)
    page.get_by_role("button", name="Explore", exact=True).click()
    page.locator(".ex-strips canvas").first.wait_for()
    assert "lora.warm=0.5" in page.url
    [request] = requests_of(page, "record")
    assert request["loras"] == [{"name": "warm", "weight": 0.5}]
    assert request["embeddings"] == ["<toy>"]
    [lora] = record_of(page, "record")
    assert (lora["name"], lora["weight"]) == ("warm", 0.5)
    assert "LoRA warm 0.5" in page.locator(".ex-strips").inner_text()
    images = [job.images[0].png for job in page.server.engine.jobs() if job.images]
    assert len({pixels(png) for png in images}) == 1  # the record is of the same image


def test_branches_truth_and_words_have_the_lora_of_their_run(open_page):
    page = open_page(EXPLORE + "&lora.warm=0.5&step=1&compare.from=1&compare.prompt=a+blue&truth=1")
    page.locator(".ex-strips canvas").first.wait_for()
    wait_for(lambda: len(requests_of(page, "truth")) == 2)
    asked = requests_of(page, "record") + requests_of(page, "branch") + requests_of(page, "truth")
    assert [request["loras"] for request in asked] == [[{"name": "warm", "weight": 0.5}]] * 4
    assert "loras" not in requests_of(page, "branch")[0]["trunk"]
    [lora] = record_of(page, "branch")
    assert (lora["name"], lora["weight"]) == ("warm", 0.5)


def test_a_run_is_compared_with_another_weight_and_without_the_lora(open_page):
    page = open_page(EXPLORE + "&lora.warm=0.5&step=1")
    page.locator(".ex-strips canvas").first.wait_for()
    change = page.get_by_role("region", name="Change run A")
    weight = change.get_by_label("LoRA warm, weight")
    assert weight.input_value() == "0.5"
    weight.fill("2")
    assert change.get_by_role("button", name=re.compile("Branch here")).is_disabled()
    change.get_by_text("A branch keeps its LoRAs").wait_for()
    change.get_by_role("button", name="Run from the start").click()
    page.wait_for_url(re.compile(r"compare\.lora\.warm=2"))
    wait_for(lambda: len(requests_of(page, "record")) == 2)
    page.get_by_role("region", name="Change run B").get_by_role(
        "button", name="Remove warm"
    ).click()
    page.get_by_role("button", name="Run from the start").click()
    page.wait_for_url(re.compile(r"compare2\.lora\.warm=0"))
    wait_for(lambda: len(requests_of(page, "record")) == 3)
    weights = [request.get("loras") for request in requests_of(page, "record")]
    assert weights == [[{"name": "warm", "weight": w}] for w in (0.5, 2.0)] + [None]
    assert "without LoRA warm" in page.locator(".ex-strips").inner_text()
    page.reload()  # the address holds all three
    wait_for(lambda: len(requests_of(page, "record")) == 6)
    again = [request.get("loras") for request in requests_of(page, "record")]
    assert sorted(map(str, again[3:])) == sorted(map(str, weights))


def test_a_run_is_started_with_a_lora_and_opened_from_its_file(open_page, tmp_path):
    page = open_page("/#view=explore")
    intro = page.locator(".ex-intro")
    intro.get_by_label("Add a LoRA").select_option("cold")
    intro.get_by_label("LoRA cold, weight").fill("0.25")
    intro.get_by_role("button", name="<toy>", exact=True).click()
    intro.get_by_role("button", name="Record a run").click()
    wait_for(lambda: len(requests_of(page, "record")) == 1)
    [request] = requests_of(page, "record")
    assert request["loras"] == [{"name": "cold", "weight": 0.25}]
    assert request["embeddings"] == ["<toy>"]
    page.wait_for_url(re.compile(r"lora\.cold=0\.25"))
    [job] = [job for job in page.server.engine.jobs() if job.kind == "record"]
    wait_for(lambda: job.state == "done")
    file = tmp_path / "run.safetensors"
    file.write_bytes(job.files["record.safetensors"][1])
    page = open_page("/#view=explore")
    page.get_by_label("Record file").set_input_files(file)
    page.wait_for_url(re.compile(r"lora\.cold=0\.25"))  # so that it can be made again
    change = page.locator(".ex-branching")
    assert change.get_by_label("LoRA cold, weight").input_value() == "0.25"


def test_a_link_with_a_lora_that_is_not_there_says_so(open_page):
    page = open_page(EXPLORE + "&lora.gone=1")
    page.get_by_text("The model here has no LoRA “gone”").first.wait_for()
    assert page.server.engine.jobs() == []


def test_grids_apply_loras_and_words(open_page):
    page = open_page(
        "/#view=grids&x.name=prompt&x.values=a+<toy>;+a+cat&y.name=seed&y.values=1&p.steps=2"
    )
    form = page.locator(".grid-form")
    form.get_by_label("Add a LoRA").select_option("warm")
    form.get_by_label("LoRA warm, weight").fill("0.5")
    form.get_by_label("Measure the distance").uncheck()  # which takes seconds
    form.get_by_role("button", name="Generate the grid").click()
    page.locator(".grid-cell").nth(1).wait_for()
    [request] = requests_of(page, "grid")
    assert request["loras"] == [{"name": "warm", "weight": 0.5}]
    assert request["embeddings"] == ["<toy>"]
    assert "lora.warm=0.5" in page.url
    page.get_by_role("link", name="Open in the explorer").click()
    page.locator(".ex-strips canvas").first.wait_for()
    assert requests_of(page, "record")[0]["loras"] == [{"name": "warm", "weight": 0.5}]


@pytest.mark.parametrize("view", ["grids", "explore"])
@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_the_picker_looks_right_in_other_views(view, options, open_page):
    page = open_page(f"/#view={view}&p.prompt=a+cat&p.steps=2&lora.cold=1&lora.warm=0.5", **options)
    page.get_by_label("LoRA cold, weight").last.wait_for()
    assert find_serious(page) == []
    width = options.get("viewport", {"width": 1280})["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_loras_and_words_are_those_of_drafts_too(new_context, serve_page, tiny, tiny_map, folders):
    page = new_context().new_page()
    server = serve_page({"tiny": tiny, "map": tiny_map}, **folders)
    page.goto(server.url + "/#p.steps=2")
    page.get_by_label("Add a LoRA").select_option("warm")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a <toy> ")
    page.locator(".details:not([inert]) .facts").wait_for()
    full, draft = server.engine.jobs()[:2]
    assert (full.model, draft.model) == ("tiny", "map")
    for job in (full, draft):
        assert job.request["loras"] == [{"name": "warm", "weight": 1}]
        assert job.request["embeddings"] == ["<toy>"]
    assert full.images[0].seed == draft.images[0].seed


def test_with_a_lora_that_the_map_lacks_nothing_is_drawn(
    new_context, serve_page, tiny, tiny_map, folders, monkeypatch
):
    describe = Adapters.describe
    without = {"loras": [], "embeddings": []}
    monkeypatch.setattr(
        Adapters, "describe", lambda self, name: without if name == "map" else describe(self, name)
    )
    page = new_context().new_page()
    server = serve_page({"tiny": tiny, "map": tiny_map}, **folders)
    page.goto(server.url + "/#p.steps=2")
    page.get_by_label("Add a LoRA").select_option("warm")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.press_sequentially("a cat ")
    page.keyboard.press("Control+Enter")
    page.locator(".details:not([inert]) .facts").wait_for()
    assert [job.model for job in server.engine.jobs()] == ["tiny"]
