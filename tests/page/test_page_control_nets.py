"""The ControlNets of the server on the page: a net, its image and its weight."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from ldmref import modes
from ldmref.io.images.metadata import read_parameters
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init

EDGES = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8)
LINK = "#p.prompt=a+cat&p.steps=2&p.seed=1"


@pytest.fixture(scope="module")
def nets(tiny):
    config = ControlNetConfig(tiny.config.unet, conditioning_embedding_out_channels=(4, 8))
    return {
        name: ControlNet(
            tiny.backend, config, init(controlnet_spec(config), seed), name, digit * 64
        )
        for seed, (name, digit) in enumerate({"edges": "a", "poses": "b"}.items())
    }


@pytest.fixture
def open_page(serve_page, new_context, tiny, tiny_folder, nets):
    def make(link=LINK, **options):
        page = new_context(**options).new_page()
        sources = {"tiny": str(tiny_folder)}
        page.server = serve_page({"tiny": tiny}, sources, controlnets=nets)
        page.goto(f"{page.server.url}/{link}")
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return make


@pytest.fixture
def edges(tmp_path):
    Image.fromarray(EDGES).save(tmp_path / "edges.png")
    return tmp_path / "edges.png"


def add_net(page, name, path=None):
    field = page.locator("[data-parameter=control]")
    field.get_by_label("Add a ControlNet").select_option(name)
    if path is not None:
        field.locator("li").last.locator("input[type=file]").set_input_files(path)
        field.locator("li").last.get_by_role("img").wait_for()
    return field


def generate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    data = download.value.path().read_bytes()
    return Image.open(io.BytesIO(data)), read_parameters(io.BytesIO(data))["ldmref"]


def test_an_image_is_controlled(open_page, edges, tiny, nets):
    page = open_page()
    field = add_net(page, "edges", edges)
    field.get_by_label("Weight of edges").fill("0.5")
    image, record = generate(page)
    control = [modes.Control(nets["edges"], Image.fromarray(EDGES), 0.5)]
    want = modes.txt2img(tiny, "a cat", steps=2, seed=1, control=control)
    assert np.array_equal(image, want.images[0])
    assert [(c["name"], c["weight"]) for c in record["control"]] == [("edges", 0.5)]
    assert page.get_by_role("button", name="Use its settings").is_visible()
    explore = page.get_by_role("button", name="Explore", exact=True)
    assert explore.count() == 0  # its address would lack the image


def test_the_address_and_a_reload_keep_it(open_page, edges):
    page = open_page()
    add_net(page, "poses", edges).get_by_label("Weight of poses").fill("2")
    page.wait_for_url(re.compile("poses.*weight"))
    page.reload()
    field = page.locator("[data-parameter=control]")
    field.get_by_role("img").wait_for()
    assert field.get_by_label("Weight of poses").input_value() == "2"
    _, record = generate(page)
    assert [(c["name"], c["weight"]) for c in record["control"]] == [("poses", 2)]


def test_a_net_without_its_image_is_explained_at_the_field(open_page, watch):
    watch.allow("status of 422")
    page = open_page()
    field = add_net(page, "edges")
    page.get_by_role("button", name="Generate", exact=True).click()
    field.get_by_text("needs an image to read").wait_for()
    field.get_by_role("button", name="Remove edges").click()
    _, record = generate(page)
    assert "control" not in record


def test_the_copied_code_names_nets_and_files(open_page, edges):
    page = open_page()
    add_net(page, "edges", edges).get_by_label("Weight of edges").fill("0.5")
    generate(page)
    code = page.get_by_label("Code that generates this image")
    code.get_by_text("modes.Control").wait_for()
    assert 'control=[modes.Control("edges", "a-cat-1-control-1.png", weight=0.5)]' in (
        code.text_content()
    )
    note = '# "edges" is a ControlNet of the server. Give the path of its folder or file instead.'
    assert code.text_content().count(note) == 1
    page.get_by_role("radio", name="Command", exact=True).check()
    assert code.text_content().startswith(f"{note}\nldmref txt2img")
    assert "--control edges:a-cat-1-control-1.png:0.5:0-1" in code.text_content()
    page.get_by_role("radio", name="curl", exact=True).check()
    assert "# " not in code.text_content()  # the server knows its names
    assert '"image":"$(base64 < a-cat-1-control-1.png' in code.text_content()


def test_the_copied_code_names_the_source_of_a_net(open_page, edges, nets, monkeypatch):
    monkeypatch.setattr(nets["edges"], "name", "sd15-canny")
    page = open_page()
    add_net(page, "edges", edges)
    generate(page)
    code = page.get_by_label("Code that generates this image")
    code.get_by_text('its folder or file (there "sd15-canny") instead.').wait_for()


def test_settings_are_used_again(open_page, edges):
    page = open_page()
    add_net(page, "edges", edges)
    first, _ = generate(page)
    page.locator("[data-parameter=control]").get_by_role("button", name="Remove edges").click()
    page.get_by_role("button", name="Use its settings").click()
    page.locator("[data-parameter=control]").get_by_role("img").wait_for()
    again, _ = generate(page)
    assert np.array_equal(first, again)


def test_a_server_without_nets_has_no_field(page):
    assert page.locator("[data-parameter=control]").count() == 0
