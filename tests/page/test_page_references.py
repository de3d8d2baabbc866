"""Reference images on the page: several in their order, for models that read them."""

from __future__ import annotations

import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from referring_family import known_family, make

from ldmref import modes
from ldmref.io.images.metadata import read_parameters

LINK = "#p.prompt=a+cat&p.steps=2&p.seed=1&p.width=16&p.height=16"
IMAGES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), np.uint8))
    for i, (w, h) in enumerate([(16, 16), (24, 16), (16, 24)])
]


@pytest.fixture(scope="module")
def referring():
    with known_family():
        yield make()


@pytest.fixture
def open_page(serve_page, new_context, referring):
    def open_page(model=referring, link=LINK, **options):
        page = new_context(**options).new_page()
        page.server = serve_page({"model": model}, {})
        page.goto(f"{page.server.url}/{link}")
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return open_page


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for path, image in zip(found, IMAGES, strict=True):
        image.save(path)
    return found


def field_of(page):
    return page.locator("[data-parameter=references]")


def add(page, *paths):
    field = field_of(page)
    count = field.get_by_role("img").count() + len(paths)
    field.locator("input[type=file]").set_input_files(paths)
    field.get_by_role("img").nth(count - 1).wait_for()
    return field


def generate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    data = download.value.path().read_bytes()
    return Image.open(io.BytesIO(data)), read_parameters(io.BytesIO(data))["ldmref"]


def want(model, *images):
    size = {"width": 16, "height": 16}
    return modes.txt2img(model, "a cat", steps=2, seed=1, references=images, **size)


def test_images_are_read_in_their_order(open_page, paths, referring):
    page = open_page()
    add(page, paths[1])
    field = add(page, paths[0])
    assert field.get_by_role("button", name="Choose files", exact=True).is_hidden()  # it reads two
    image, record = generate(page)
    expected = want(referring, IMAGES[1], IMAGES[0])
    assert np.array_equal(image, expected.images[0])
    assert record["references"] == expected.params["references"]
    assert page.get_by_role("button", name="Explore", exact=True).count() == 0
    field.get_by_role("button", name="Remove image 1").click()
    image, record = generate(page)
    assert np.array_equal(image, want(referring, IMAGES[0]).images[0])


def test_their_settings_are_used_again(open_page, paths, referring):
    """The images come back with them; a request without images removes them."""
    page = open_page()
    field = add(page, *paths[:2])
    generate(page)
    again = page.get_by_role("button", name="Use its settings")
    field.get_by_role("button", name="Remove image 2").click()
    assert field.get_by_role("img").count() == 1
    again.click()
    field.get_by_role("img").nth(1).wait_for()
    image, _ = generate(page)
    assert np.array_equal(image, want(referring, *IMAGES[:2]).images[0])


def test_they_stay_across_a_reload(open_page, paths):
    page = open_page()
    add(page, *paths[:2])
    page.reload()
    field_of(page).get_by_role("img").nth(1).wait_for()


def test_more_than_the_model_reads_are_not_taken(open_page, paths):
    page = open_page()
    field_of(page).locator("input[type=file]").set_input_files(paths)
    page.get_by_text("The model reads at most 2 images here").wait_for()
    assert field_of(page).get_by_role("img").count() == 2


def test_other_models_are_not_asked_for_them(open_page, tiny):
    page = open_page(tiny)
    assert field_of(page).count() == 0


def test_copied_code_reads_the_files(open_page, paths, tmp_path):
    """curl gets the same bytes from the server; Python and the command name the same files."""
    if shutil.which("curl") is None:
        pytest.skip("the page: no curl on this machine")
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    add(page, *paths[:2])
    page.get_by_role("button", name="Generate", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    texts = {}
    for kind in ("Python", "Command", "curl"):
        page.get_by_role("radio", name=kind).check(force=True)
        page.get_by_role("button", name="Copy", exact=True).click()
        texts[kind] = page.evaluate("navigator.clipboard.readText()")
    names = re.findall(r"\S*-references-\d\.png", texts["Command"])
    assert len(names) == 2 and texts["Command"].count("--reference ") == 2
    assert f"references={names}".replace("'", '"') in texts["Python"]
    for name, image in zip(names, paths, strict=False):
        shutil.copy(image, tmp_path / name)
    ran = subprocess.run(["sh", "-c", texts["curl"]], cwd=tmp_path, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    [written] = [
        p for p in tmp_path.glob("*.png") if p.name not in [*names, "0.png", "1.png", "2.png"]
    ]
    assert written.read_bytes() == download.value.path().read_bytes()
