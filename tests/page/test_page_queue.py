"""Several requests one after the other, and what stays if one fails or the page is loaded again."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ldmref import modes
from ldmref.apps.server.tasks import GenerateTask

SIZE = 16


def generate(page, prompt):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_role("button", name="Generate", exact=True).click()


def test_requests_of_the_page_wait_for_each_other(page, server, hold):
    go_on = hold("generate")
    generate(page, "a cat")
    page.get_by_text(re.compile("Step [1-9]")).first.wait_for()
    generate(page, "a dog")
    generate(page, "a fox")
    page.get_by_text("2 more requests wait").wait_for()
    go_on.set()
    finish(page, "a cat", "a dog", "a fox")
    assert prompts_of(server) == ["a cat", "a dog", "a fox"]


def start_three(page, hold):
    """Let a request run, held, and two wait: a dog, a fox."""
    go_on = hold("generate")
    generate(page, "a cat")
    page.get_by_text(re.compile("Step [1-9]")).first.wait_for()
    generate(page, "a dog")
    generate(page, "a fox")
    page.get_by_text("2 more requests wait").wait_for()
    return go_on


def waiting(page):
    return page.locator(".queue-list li .queue-text p:first-child").all_inner_texts()


def finish(page, *prompts):
    for prompt in prompts:
        page.get_by_role("button", name=re.compile(f"^{prompt}, seed")).wait_for()


def prompts_of(server):
    return [job.request["prompt"] for job in reversed(server.engine.jobs())]


def test_waiting_requests_can_be_removed(page, server, hold):
    go_on = start_three(page, hold)
    page.get_by_role("button", name="Remove a fox", exact=True).click()
    page.get_by_text("1 more request waits").wait_for()
    page.get_by_role("button", name="Remove all", exact=True).click()
    page.get_by_role("region", name="Queue").wait_for(state="hidden")
    go_on.set()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    assert prompts_of(server) == ["a cat"]


def test_the_queue_is_reordered_by_keys_and_by_dragging(page, server, hold):
    go_on = start_three(page, hold)
    generate(page, "a hen")
    assert waiting(page) == ["a dog", "a fox", "a hen"]
    page.get_by_role("button", name="Move up a fox", exact=True).focus()
    page.keyboard.press("Enter")
    assert waiting(page) == ["a fox", "a dog", "a hen"]
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Move down a fox"  # it cannot move up any more
    rows = page.locator(".queue-list li")
    rows.nth(2).drag_to(rows.nth(0))
    assert waiting(page) == ["a hen", "a fox", "a dog"]
    go_on.set()
    finish(page, "a cat", "a hen", "a fox", "a dog")
    assert prompts_of(server) == ["a cat", "a hen", "a fox", "a dog"]


def test_a_waiting_request_is_taken_out_to_be_edited(page, server, hold):
    go_on = start_three(page, hold)
    page.get_by_role("button", name="Edit a dog", exact=True).click()
    assert page.get_by_label("Prompt", exact=True).input_value() == "a dog"
    assert waiting(page) == ["a fox"]
    generate(page, "a big dog")
    go_on.set()
    finish(page, "a cat", "a fox", "a big dog")
    assert prompts_of(server) == ["a cat", "a fox", "a big dog"]


def test_the_queue_goes_on_after_a_reload(page, server, hold):
    go_on = start_three(page, hold)
    page.reload()
    page.get_by_text("2 more requests wait").wait_for()
    assert waiting(page) == ["a dog", "a fox"]
    go_on.set()
    finish(page, "a cat", "a dog", "a fox")
    assert prompts_of(server) == ["a cat", "a dog", "a fox"]
    page.reload()
    page.get_by_role("region", name="Gallery").wait_for()
    assert page.get_by_role("region", name="Queue").is_hidden()


def test_an_error_leaves_the_last_image(page, watch):
    watch.allow("400|422")
    generate(page, "a cat")
    page.get_by_role("button", name="Download", exact=True).wait_for()
    shown = page.locator(".stage .facts").inner_text()
    page.get_by_text("More settings").click()
    page.get_by_label("Sigmas", exact=True).fill("1, 3")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator("[data-parameter=sigmas] .error").wait_for()
    assert page.locator(".stage .facts").inner_text() == shown
    assert page.locator(".stage img").is_visible()


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def drop(page, name, kind, data):
    """Drop a file on the page, beside every field."""
    page.evaluate(
        """([name, type, text]) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, {type}));
          const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
          const event = new DragEvent("drop", options);
          document.querySelector(".gallery, .work").dispatchEvent(event);
        }""",
        [name, kind, base64.b64encode(data).decode()],
    )


def wait_until_kept(page, count):
    """Wait until the browser keeps so many files of the form."""
    script = """() => new Promise((done) => {
      const opening = indexedDB.open("ldmref");
      opening.onsuccess = () => {
        const all = opening.result.transaction("inputs").objectStore("inputs").getAll();
        all.onsuccess = () => (opening.result.close(), done(all.result.length));
      };
    })"""
    for _ in range(400):
        if page.evaluate(script) == count:
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"the browser does not keep {count} files")


def paint_top_quarter(page, server, photo, folder):
    page.goto(server.url + "/#view=paint")
    drop(page, "photo.png", "image/png", photo.read_bytes())
    page.get_by_text("The image is the one to paint on").wait_for()
    assert "view=paint" in page.url
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (0, 0, SIZE, 4))
    mask.save(folder / "mask.png")
    page.get_by_label("Load a mask from a file").last.set_input_files(folder / "mask.png")
    page.get_by_text("25 % is painted").wait_for()
    wait_until_kept(page, 2)


def test_generate_right_after_a_reload_waits_for_the_mask(page, server, photo, tmp_path):
    paint_top_quarter(page, server, photo, tmp_path)
    page.get_by_label("Prompt", exact=True).fill("a cat")
    late = """Object.defineProperty(IDBRequest.prototype, "onsuccess", {
      set(done) {
        this.addEventListener("success", (event) => setTimeout(() => done.call(this, event), 200));
      },
    });"""
    page.add_init_script(late)
    page.reload()
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Generate", exact=True).click()
    mask = sent.value.post_data_json["parameters"]["mask"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask.partition(",")[2] or mask))))
    assert pixels.any()


def test_an_image_and_its_mask_survive_a_reload(page, server, photo, tmp_path):
    paint_top_quarter(page, server, photo, tmp_path)
    page.reload()
    page.get_by_text("25 % is painted").wait_for()
    page.get_by_role("button", name="Remove", exact=True).click()
    wait_until_kept(page, 0)
    page.reload()
    page.get_by_text("Drop an image here").wait_for()
    assert (
        page.get_by_text("is painted").count() == 0 or page.locator(".painter .paper").is_hidden()
    )


def test_a_text_file_that_is_dropped_is_refused_aloud(page):
    drop(page, "notes.txt", "text/plain", b"hello")
    page.get_by_text("notes.txt is not an image").wait_for()


def test_the_preview_of_a_large_photo_shows_the_photo(server, tmp_path):
    """The region is generated at 16 x 16; its preview is pasted into a small photo."""
    photo = Image.new("RGB", (640, 320), (10, 200, 30))
    mask = Image.new("L", photo.size)
    mask.paste(255, (300, 100, 340, 140))
    previews = []

    class Report:
        def __getattr__(self, name):
            return lambda *arguments: None

        def wanted(self):
            return True

        def preview(self, index, image):
            previews.append(image)

    asked = {"prompt": "a", "image": photo, "mask": mask, "only_masked": True, "steps": 3}
    model = server.models["tiny"]
    plan = modes.plan("inpaint", model, **asked, seed=1)
    GenerateTask(plan).run(model, Report(), None)
    assert len(previews) == 2
    for preview in previews:
        assert preview.size == (256, 128)
        pixels = np.asarray(preview)
        assert (pixels[:, :100] == (10, 200, 30)).all() and (pixels[:, 150:] == (10, 200, 30)).all()
        assert (pixels[44:52, 124:132] != (10, 200, 30)).any()
