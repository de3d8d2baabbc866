"""Files that are dropped: every view takes or refuses them, and the browser opens none."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from ldmref import modes

# Drop a file on an element, and return whether the browser was kept from opening it.
DROP = """
({selector, data, name, type}) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  const target = document.querySelector(selector);
  const kept = ["dragover", "drop"].map((kind) => {
    const event = new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true});
    target.dispatchEvent(event);
    return event.defaultPrevented;
  });
  return kept.every(Boolean);
}
"""
PNG = "image/png"
SHOWN = {  # a part of each view that is there once the view is
    "generate": ".teaser-text",
    "paint": ".painter",
    "grids": ".grids form",
    "explore": ".ex-strips canvas",
}


def drop(page, selector, data, name="x.png", kind=PNG):
    text = base64.b64encode(data).decode()
    given = {"selector": selector, "data": text, "name": name, "type": kind}
    return page.evaluate(DROP, given)


@pytest.fixture
def open_view(server, new_context):
    """`open_view(view)` opens a view, and returns the page once it is there."""

    def make(view):
        page = new_context().new_page()
        page.goto(f"{server.url}/#view={view}")
        page.locator(SHOWN[view]).first.wait_for()
        return page

    return make


@pytest.fixture(scope="module")
def generated(tiny, tmp_path_factory):
    """Return an image of words, with settings that are not the default."""
    path = tmp_path_factory.mktemp("generated") / "x.png"
    modes.txt2img(tiny, "a cat", seed=5, steps=3, sampler="euler", cfg_scale=3.5).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("selector", ["header.top", "main", "body"])
@pytest.mark.parametrize("view", ["generate", "paint", "grids", "explore"])
def test_no_file_leaves_the_page(open_view, view, selector):
    page = open_view(view)
    before = page.url
    assert drop(page, selector, b"hello", "notes.txt", "text/plain")
    page.locator(".message").first.wait_for()
    assert page.url.split("#")[0] == before.split("#")[0]


def test_grids_says_where_files_go(open_view, generated):
    page = open_view("grids")
    assert drop(page, "header.top", generated)
    message = page.locator(".message.error")
    message.wait_for()
    assert "Grids takes no files" in message.inner_text()


def test_explore_runs_an_image_that_records_its_run(open_view, server, generated):
    page = open_view("explore")
    assert drop(page, "header.top", generated)
    page.get_by_text("“a cat”, step 3 of 3").wait_for()
    [job] = [job for job in server.engine.jobs() if job.kind == "record"]
    asked = {name: job.request[name] for name in ("prompt", "seed", "steps", "sampler")}
    assert asked == {"prompt": "a cat", "seed": 5, "steps": 3, "sampler": "euler"}
    assert job.request["cfg_scale"] == 3.5
    page.wait_for_function("() => location.hash.includes('p.prompt=a+cat')")


def test_explore_says_why_an_image_has_no_run(open_view, server, tiny, generated, tmp_path):
    page = open_view("explore")
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
    assert drop(page, "main", buffer.getvalue())
    page.get_by_text("this image does not record how it was made").wait_for()
    source = Image.open(io.BytesIO(generated)).convert("RGB")
    edited = tmp_path / "y.png"
    modes.img2img(tiny, "a dog", source, strength=0.5, steps=2, seed=1).save(edited)
    assert drop(page, "main", edited.read_bytes(), "y.png")
    page.get_by_text("y.png: this image was made by img2img").wait_for()
    assert [job for job in server.engine.jobs() if job.kind == "record"] == []
