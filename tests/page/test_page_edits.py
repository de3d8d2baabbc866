"""What models of flow matching add to the page: edits, and the control image of Flux.1 [Canny]."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from small_models import save_flow

import ldmref
from ldmref.io.images.metadata import read_parameters


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """A model that edits images, and one that reads a control image."""
    folder = tmp_path_factory.mktemp("flows")
    control = save_flow(folder / "control", "flux-control-dev")
    models = {"flow": save_flow(folder / "flow"), "control": control}
    return {name: ldmref.load(path, backend="numpy") for name, path in models.items()}


@pytest.fixture
def open_flow(serve_page, new_context, flows, tmp_path):
    """`open_flow(name, link)` opens the page of a model."""
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "given.png")

    def make(name, link):
        page = new_context().new_page()
        server = serve_page({name: flows[name]})
        page.goto(f"{server.url}/#{link}")
        return page

    return make


def give(page, name, path):
    page.locator(f"[data-parameter={name}] input[type=file]").set_input_files(path)


def record_of(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    data = download.value.path().read_bytes()
    return read_parameters(io.BytesIO(data))["ldmref"]


def test_an_image_is_edited(open_flow, tmp_path):
    page = open_flow("flow", "mode=edit&p.prompt=a+dog&p.source_prompt=a+cat&p.steps=3&p.seed=1")
    assert page.get_by_role("radio", name="Edit", exact=True).is_checked()
    give(page, "image", tmp_path / "given.png")
    record = record_of(page)
    assert record["mode"] == "edit" and record["source_prompt"] == "a cat"
    assert (record["method"], record["n_max"]) == ("flowedit", 2)


def test_a_control_image_is_given(open_flow, watch, tmp_path):
    watch.allow("status of 422")  # the first request lacks it
    page = open_flow("control", "p.prompt=a+dog&p.steps=2&p.seed=1")
    assert page.get_by_role("radio", name="Edit", exact=True).count() == 0
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("only with a control image").first.wait_for()
    give(page, "control_image", tmp_path / "given.png")
    assert len(record_of(page)["control_image"]) == 64
