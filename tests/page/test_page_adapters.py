"""LoRAs and learned words below the prompt, from the folders of the server."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_page_look import PHONE, find_serious

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
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


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
    assert page.get_by_role("button", name="Explore", exact=True).count() == 0
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
