"""Paint: the mask that is sent equals the painted one, pixel by pixel, however it is painted."""

from __future__ import annotations

import base64
import io
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

SIZE = 16
BRUSH = 4


@pytest.fixture
def photo(tmp_path):
    """Return an image of the model's size, without any symmetry."""
    y, x = np.mgrid[:SIZE, :SIZE]
    pixels = np.stack([x * 15, y * 15, (x * y) % 256], -1).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def open_painter(new_context, server, photo):
    """`open_painter(**options)` opens the painter with the photo, in a browser with options."""

    def make(**options):
        page = new_context(**options).new_page()
        page.goto(server.url + "/#view=paint&p.prompt=a+cat&p.steps=2&p.seed=1")
        page.locator("[data-parameter=image] input[type=file]").set_input_files(photo)
        page.get_by_label("Size", exact=True).wait_for()
        page.get_by_label("Size", exact=True).fill(str(BRUSH))
        return page

    return make


def canvas_of(page):
    return page.get_by_role("application", name="Mask")


def painted(page):
    """Return the mask that the canvas shows."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    shown = canvas_of(page).evaluate("""canvas => {
      const {width, height} = canvas;
      const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
      return [width, height, [...data].filter((_, i) => i % 4 === 3)];
    }""")
    width, height, alpha = shown
    assert set(alpha) <= {0, 255}, "edges are hard"
    return np.array(alpha, np.uint8).reshape(height, width) == 255


def submit(page):
    """Press Generate, and return the mask and the image of the request, and the result."""
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Generate", exact=True).click()
    parameters = json.loads(sent.value.post_data)["parameters"]
    page.get_by_role("button", name="Download", exact=True).wait_for()
    with page.expect_download() as got:
        page.get_by_role("button", name="Download", exact=True).click()
    mask = Image.open(io.BytesIO(base64.b64decode(parameters["mask"])))
    assert mask.mode == "L" and set(np.unique(np.asarray(mask))) <= {0, 255}
    result = np.asarray(Image.open(got.value.path()).convert("RGB"))
    return np.asarray(mask) == 255, base64.b64decode(parameters["image"]), result


def stroke(points, diameter=BRUSH):
    """Return the pixels whose centres are at most half a diameter from the line of the points."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    mask = np.zeros((SIZE, SIZE), bool)
    for (x0, y0), (x1, y1) in pairwise(points):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length if length else 0 * x
        along = np.clip(along, 0, 1)
        distance = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        mask |= distance <= diameter / 2
    return mask


def place(page, point):
    """Return the position in the window of a point in pixels of the image."""
    box = canvas_of(page).bounding_box()
    return box["x"] + point[0] * box["width"] / SIZE, box["y"] + point[1] * box["height"] / SIZE


def drag(page, points):
    """Paint through points, and return those that the mouse can reach: it has whole pixels."""
    box = canvas_of(page).bounding_box()
    places = [tuple(int(number) for number in place(page, point)) for point in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y)
    page.mouse.up()
    scale = SIZE / box["width"]
    return [((x - box["x"]) * scale, (y - box["y"]) * scale) for x, y in places]


LINE = [(3.3, 4.2), (11.7, 6.1), (12.3, 12.9)]


@pytest.mark.parametrize("scale", [1, 2])
def test_the_mask_of_a_mouse(scale, open_painter, photo):
    page = open_painter(device_scale_factor=scale)
    line = drag(page, LINE)
    mask = painted(page)
    assert (mask == stroke(line)).all()
    sent, image, result = submit(page)
    assert (sent == mask).all()
    assert image == photo.read_bytes()
    before = np.asarray(Image.open(photo))
    assert (result[~mask] == before[~mask]).all()
    assert (result[mask] != before[mask]).any()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_mask_of_a_finger(scale, open_painter):
    page = open_painter(
        device_scale_factor=scale, has_touch=True, viewport={"width": 375, "height": 667}
    )
    canvas_of(page).scroll_into_view_if_needed()
    session = page.context.new_cdp_session(page)

    def touch(kind, points):
        places = [dict(zip("xy", place(page, point), strict=True)) for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", LINE[:1])
    for point in LINE[1:]:
        touch("touchMove", [point])
    touch("touchEnd", [])
    mask = painted(page)
    assert (mask == stroke(LINE)).all()
    sent, _, _ = submit(page)
    assert (sent == mask).all()


def test_the_mask_of_a_keyboard(open_painter):
    page = open_painter()
    canvas_of(page).focus()
    for key in ("ArrowLeft",) * 4 + ("ArrowUp",) * 2 + ("Space",):
        page.keyboard.press(key)
    for key in ("ArrowRight",) * 6 + ("Space", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    points = [(4.0, 6.0), (10.0, 6.0)]
    mask = painted(page)
    assert (mask == stroke(points)).all()
    page.keyboard.press("Shift+ArrowLeft")  # 10 pixels, to x = 0
    page.keyboard.press("]")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert (painted(page) == mask | stroke([(0.0, 8.0)] * 2, BRUSH + 1)).all()
    page.keyboard.press("Control+z")
    assert (painted(page) == mask).all()
    page.keyboard.press("e")
    assert page.get_by_role("button", name="Eraser (E)").get_attribute("aria-pressed") == "true"
    sent, _, _ = submit(page)
    assert (sent == mask).all()


def test_eraser_undo_redo_invert_and_clear(open_painter):
    page = open_painter()
    press = lambda name: page.get_by_role("button", name=name).click()  # noqa: E731
    drag(page, LINE)
    first = painted(page)
    press("Eraser (E)")
    line = drag(page, LINE[:2])
    second = painted(page)
    assert (second == first & ~stroke(line)).all() and (second != first).any()
    press("Undo")
    assert (painted(page) == first).all()
    press("Redo")
    assert (painted(page) == second).all()
    press("Invert")
    assert (painted(page) == ~second).all()
    press("Clear (Delete)")
    assert not painted(page).any()
    assert page.get_by_text("Nothing is painted yet").is_visible()
    for _ in range(4):
        press("Undo")
    assert not painted(page).any()
    assert page.get_by_role("button", name="Undo").is_disabled()
    for _ in range(4):
        press("Redo")
    assert not painted(page).any()
    press("Undo")
    sent, _, _ = submit(page)
    assert (sent == ~second).all()


def test_a_mask_is_saved_and_loaded(open_painter, tmp_path, watch):
    page = open_painter()
    line = drag(page, LINE)
    with page.expect_download() as got:
        page.get_by_role("button", name="Save the mask as a file").click()
    saved = tmp_path / "mask.png"
    got.value.save_as(saved)
    assert ((np.asarray(Image.open(saved)) == 255) == stroke(line)).all()
    page.get_by_role("button", name="Clear (Delete)").click()
    page.get_by_label("Load a mask from a file").last.set_input_files(saved)
    page.get_by_text("% is painted").wait_for()
    assert (painted(page) == stroke(line)).all()
    Image.new("L", (3, 4)).save(tmp_path / "small.png")
    page.get_by_label("Load a mask from a file").last.set_input_files(tmp_path / "small.png")
    page.get_by_text("The mask is 3 × 4, the image 16 × 16").wait_for()


def test_a_result_is_painted_on_again(open_painter):
    page = open_painter()
    line = drag(page, LINE)
    _, _, first = submit(page)
    page.get_by_role("button", name="Paint on it").click()
    more = drag(page, [(8.0, 2.0), (8.0, 3.0)])
    mask = painted(page)
    assert (mask == stroke(line) | stroke(more)).all(), "the mask stays"
    _, image, result = submit(page)
    assert (np.asarray(Image.open(io.BytesIO(image))) == first).all()
    assert (result[~mask] == first[~mask]).all()


def test_without_an_image_the_page_says_so(page):
    page.get_by_role("link", name="Paint").click()
    page.get_by_label("Prompt", exact=True).fill("a cat")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("Choose an image first.").wait_for()


def test_without_a_painted_part_nothing_is_computed(open_painter, server):
    page = open_painter()
    page.get_by_role("button", name="Generate", exact=True).click()
    error = page.locator("[data-parameter=mask] .error")
    error.wait_for()
    assert "paint over the part to replace" in error.inner_text()
    page.wait_for_timeout(300)
    assert server.engine.jobs() == []
    page.get_by_role("button", name="Invert (I)").click()  # everything is painted
    assert error.is_hidden()
    mask, _, _ = submit(page)
    assert mask.all()
