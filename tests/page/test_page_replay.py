"""A dropped, pasted or chosen image restores the settings that it records."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref import modes
from ldmref.apps.a1111.levels import a1111_levels
from ldmref.io.images.metadata import read_parameters
from ldmref.samplers.schedule import sampling_sigmas

DROP = """async ({selector, data, name, kind}) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: "image/png"}));
  const options = {bubbles: true, cancelable: true};
  const event = kind === "paste"
    ? new ClipboardEvent("paste", {...options, clipboardData: transfer})
    : new DragEvent("drop", {...options, dataTransfer: transfer});
  document.querySelector(selector).dispatchEvent(event);
}"""


def drop(page, data, selector="#main", kind="drop"):
    text = base64.b64encode(data).decode()
    page.evaluate(DROP, {"selector": selector, "data": text, "name": "x.png", "kind": kind})


def png_of(image, **texts):
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def generated(tiny, tmp_path_factory):
    """Return an image of ldmref, with settings that are not the default."""
    path = tmp_path_factory.mktemp("generated") / "x.png"
    settings = {
        "steps": 3,
        "seed": 2**63 + 1,
        "sampler": "euler",
        "guidance": {"name": "rescale", "phi": 0.5},
    }
    modes.txt2img(tiny, 'a "cat" 🐶', negative_prompt="dog", cfg_scale=3.5, **settings).save(path)
    return path.read_bytes()


def value(page, label):
    return page.get_by_label(label, exact=True).input_value()


def regenerate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    with page.expect_download() as got:
        page.get_by_role("button", name="Download", exact=True).click()
    return got.value.path().read_bytes()


@pytest.mark.parametrize("kind", ["drop", "paste", "choose"])
def test_an_image_is_generated_again(kind, page, generated, tmp_path):
    if kind == "choose":
        (tmp_path / "x.png").write_bytes(generated)
        chooser = page.get_by_label("Open an image to restore its settings")
        chooser.set_input_files(tmp_path / "x.png")
    else:
        drop(page, generated, kind=kind)
    page.get_by_text("The settings of the image are restored.").first.wait_for()
    assert value(page, "Prompt") == 'a "cat" 🐶'
    assert value(page, "Seed") == str(2**63 + 1)
    assert value(page, "phi") == "0.5"
    assert "p.sampler=euler" in page.url
    assert regenerate(page) == generated


def test_settings_of_a1111_are_converted(page, tiny):
    settings = "Steps: 4, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 16x16"
    text = f"a red cat\nNegative prompt: dog\n{settings}"
    drop(page, png_of(Image.new("RGB", (16, 16)), parameters=text))
    page.get_by_text("The settings of the image are restored.").first.wait_for()
    assert value(page, "Prompt") == "a red cat"
    assert value(page, "Negative prompt") == "dog"
    assert value(page, "Sampler") == "euler_a"
    assert value(page, "Seed") == "5"
    levels = [float(level) for level in value(page, "Sigmas").split(", ")]
    expected = a1111_levels(sampling_sigmas(tiny.config.scheduler), "euler_a", "uniform", 4)
    assert levels == expected.sigmas.tolist() and value(page, "Steps") == ""
    record = read_parameters(io.BytesIO(regenerate(page)))["ldmref"]
    assert record["sigmas"] == levels and record["rng"] == "a1111-gpu"


def test_an_image_without_settings_can_be_the_input(page):
    drop(page, png_of(Image.new("RGB", (20, 12), "red")))
    page.get_by_text("This image does not record how it was made").wait_for()
    page.get_by_role("button", name="Use it as input").click()
    page.get_by_text("20 × 12").wait_for()
    assert page.get_by_role("radio", name="Image").is_checked()


def test_what_another_program_recorded_is_told(page):
    node = {"class_type": "KSampler", "inputs": {"seed": 8, "steps": 20, "model": ["4", 0]}}
    drop(page, png_of(Image.new("RGB", (20, 12), "red"), prompt=json.dumps({"3": node})))
    message = page.get_by_text("The settings of another program are not restored")
    message.wait_for()
    assert "written by ComfyUI. KSampler: seed 8, steps 20" in message.inner_text()


def test_a_damaged_file_is_refused_in_one_sentence(page, watch, generated):
    watch.allow("422|400")
    drop(page, generated[:60])
    message = page.get_by_role("alert").first
    message.wait_for()
    assert "image" in message.inner_text()


def test_an_image_dropped_on_a_field_is_its_image(page, generated):
    page.get_by_role("radio", name="Image").check(force=True)
    page.get_by_label("Prompt", exact=True).fill("a dog")
    drop(page, generated, selector=".drop")
    page.get_by_text("x.png, 16 × 16").wait_for()
    assert value(page, "Prompt") == "a dog", "its settings are not restored"
