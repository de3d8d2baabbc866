"""The explorer without a server: a page of static files that reads records of any program."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from record_files import steps_as_trace
from safetensors.numpy import save

import ldmref

PAGE = Path(ldmref.__file__).parent / "apps" / "server" / "page"
POLICY = "default-src 'self'; img-src 'self' blob: data:"
HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Records</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css"><link rel="stylesheet" href="/explorer.css">
<script type="module" src="/start.js"></script></head>
<body><main><h1>Records</h1><section id="explorer"></section></main>
<div id="messages" class="messages" role="region" aria-label="Messages"></div></body></html>
"""
START = """
import { createExplorer } from "/js/explorer/explorer.js";
import * as notify from "/js/notify.js";
import * as state from "/js/state.js";
const write = (patch, clear) => state.writeState(patch, { clear });
const place = { read: state.readState, write };
createExplorer(document.getElementById("explorer"), { source: {}, place, notify });
"""
N, C, H, W, WORDS = 5, 4, 6, 8, ["a", "cat"]


def make_tensors(rng):
    """Make a record as another program might write it: float64, float32 and float16."""
    x0 = rng.normal(size=(N, C, H, W))
    sigmas = np.array([8.0, 5.0, 3.0, 2.0, 1.0, 0.0])
    return {
        "x": rng.normal(size=(N + 1, C, H, W)) * np.hypot(1.0, sigmas)[:, None, None, None],
        "x0": x0,
        "x0_uncond": (x0 - 0.1).astype(np.float32),
        "x0_cond": (x0 + 0.1).astype(np.float16),
        "sigmas": sigmas,
        "attention": rng.uniform(0, 0.3, (N, len(WORDS), 3, 4)).astype(np.float16),
        "image": rng.integers(0, 256, (2 * H, 2 * W, 3)).astype(np.uint8),
        "preview_matrix": rng.normal(size=(3, C)) * 0.2,
        "preview_bias": np.full(3, 0.5),
        "training_alpha_bar": np.linspace(0.999, 0.01, 50),
        "truth_distance": np.array([0.0, 1e-3, 4e-3, 2e-2, 3e-2, 2e-2]),
        "local_error": np.array([1e-3, 2e-3, 1e-2, 4e-3, 1e-4]),
    }


def record_file(tensors, words=WORDS, **manifest):
    """The file of a record as another program might write it."""
    kept = {name: x for name, x in tensors.items() if not name.startswith("preview_")}
    kept |= {"timesteps": np.array([49, 40, 30, 20, 10, 0.0])}
    if "preview_matrix" in tensors:
        matrix, bias = tensors["preview_matrix"].tolist(), tensors["preview_bias"].tolist()
        manifest = {"preview": {"matrix": matrix, "bias": bias}} | manifest
    described = [{"text": text, "tokens": [i]} for i, text in enumerate(words)]
    return steps_as_trace(kept, manifest, described)


class Handler(SimpleHTTPRequestHandler):
    """The files of the page, and the page above, under a strict policy."""

    def do_GET(self):
        own = {"/": ("text/html", HTML), "/start.js": ("text/javascript", START)}
        if self.path not in own:
            return super().do_GET()
        media_type, text = own[self.path]
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.end_headers()
        self.wfile.write(text.encode())

    def end_headers(self):
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def static() -> Iterator[str]:
    """Yield the address of the static page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(PAGE)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def static_page(static, new_context, watch):
    watch.allow("willReadFrequently")
    page = new_context().new_page()
    page.goto(static)
    page.get_by_role("button", name="Open a record file").wait_for()
    return page


def open_record(page, content, name="run.safetensors"):
    files = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.get_by_label("Record file").set_input_files(files)


def read_canvas(page, selector):
    found = page.locator(selector).evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return np.reshape(found[2:], (found[1], found[0], 4))[..., :3]


def test_a_record_of_another_program(static_page):
    tensors = make_tensors(np.random.default_rng(0))
    open_record(static_page, record_file(tensors))
    explorer = static_page.locator("#explorer")
    static_page.locator(".ex-strips canvas").first.wait_for()
    static_page.keyboard.press("Home")
    static_page.locator(".ex-strips [role=gridcell]").nth(3).click()
    for name, latents in [
        ("x", tensors["x"][3] / np.hypot(1.0, 2.0)),
        ("x0", tensors["x0"][3]),
        ("x0_cond", tensors["x0_cond"][3].astype(float)),
    ]:
        rgb = np.einsum("rc,chw->hwr", tensors["preview_matrix"], latents) + 0.5
        found = read_canvas(static_page, f"[data-row='0'] [data-image='{name}'] canvas")
        assert np.abs(found - np.rint(np.clip(rgb, 0, 1) * 255)).max() <= 1
    text = static_page.locator(".ex-truth .chart-reading").inner_text()
    assert text == "A, step 3: distance 0.02, local error of the next step 0.004"
    chips = static_page.locator(".ex-words .chip").all_inner_texts()
    assert [chip.split()[0] for chip in chips] == WORDS
    mean = tensors["attention"][3].astype(float).mean(axis=(1, 2))
    assert [float(chip.split()[1]) for chip in chips] == pytest.approx(100 * mean, rel=0.01)
    # Nothing that needs a server is offered.
    assert explorer.get_by_role("button", name="Branch here").count() == 0
    assert explorer.get_by_role("button", name="Compute the truth line").count() == 0


def test_the_rest_of_a_record_is_optional(static_page):
    tensors = make_tensors(np.random.default_rng(1))
    few = {name: tensors[name] for name in ("x", "x0", "sigmas", "image")}
    open_record(static_page, record_file(few, words=[]))
    static_page.locator(".ex-strips canvas").first.wait_for()
    assert static_page.locator(".ex-words").is_hidden()
    assert static_page.locator(".ex-truth").is_hidden()
    panels = static_page.locator("[data-row='0'] .ex-panel:visible")
    assert [panel.get_attribute("data-image") for panel in panels.all()] == ["x", "x0"]


def test_a_prediction_that_a_step_does_not_have(static_page):
    tensors = make_tensors(np.random.default_rng(2))
    tensors["x0_uncond"][4] = np.nan
    open_record(static_page, record_file(tensors))
    cells = static_page.locator(".ex-strips [role=gridcell]")
    cells.nth(3).click()
    numbers = static_page.locator("[data-row='0'] [data-image='x0_uncond'] .ex-numbers")
    assert "mean" in numbers.inner_text()
    cells.nth(4).click()
    assert numbers.inner_text() == "not computed in this step"
    assert static_page.locator("[data-row='0'] [data-image='difference']").is_hidden()


def test_a_second_record_is_compared_with_the_first(static_page):
    rng = np.random.default_rng(3)
    first, second = make_tensors(rng), make_tensors(rng)
    open_record(static_page, record_file(first))
    open_record(static_page, record_file(second))
    static_page.locator(".ex-strips tr").nth(1).wait_for()
    static_page.locator(".ex-strips tr").nth(1).locator("[role=gridcell]").nth(2).click()
    rms = np.sqrt(np.mean((second["x0"][2] - first["x0"][2]) ** 2))
    text = static_page.locator("[data-row='comparison'] [data-image='x0'] .ex-numbers").inner_text()
    assert float(text.split()[-1]) == pytest.approx(rms, rel=0.01)


def broken_files():
    tensors = make_tensors(np.random.default_rng(4))
    good = record_file(tensors)
    yield "empty", b"", "too short"
    yield "image", b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"
    yield "cut", good[:-10], "incomplete"
    yield "weights", save({"x": tensors["x"]}), "not a run record"
    yield "future", record_file(tensors, version=9), "the file has 9"
    yield "no x0", record_file({k: v for k, v in tensors.items() if k != "x0"}), "input.prediction"
    yield "shape", record_file(tensors | {"x0": tensors["x0"][..., 1:]}), "does not fit"
    yield "words", record_file(tensors, words=[]), "0 words"
    yield "two images", record_file(tensors, seeds=[1, 2]), "one of 2"
    yield "dtype", record_file(tensors | {"x0": tensors["x0"] > 0}), "BOOL"
    yield "json", save(tensors, {"format": "ldmref-trace", "manifest": "{"}), "not JSON"


@pytest.mark.parametrize(("name", "content", "part"), list(broken_files()))
def test_a_file_that_is_no_record_is_explained(static_page, name, content, part):
    open_record(static_page, content, f"{name}.bin")
    message = static_page.locator(".message.error")
    message.wait_for()
    assert f"{name}.bin" in message.inner_text() and part in message.inner_text()


def test_half_precision_is_read_exactly(static_page):
    bits = np.arange(0x7C00, dtype=np.uint16)
    found = static_page.evaluate(
        "import('/js/record.js').then("
        "m => Array.from({length: 0x7c00}, (_, i) => m.halfToNumber(i)))"
    )
    assert np.array_equal(bits.view(np.float16).astype(float), found)
    assert static_page.evaluate("import('/js/record.js').then(m => m.halfToNumber(0xc000))") == -2


def test_a_dropped_file_is_opened(static_page):
    content = record_file(make_tensors(np.random.default_rng(5)))
    static_page.evaluate(
        """bytes => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "run.safetensors"));
          document.getElementById("explorer").dispatchEvent(
            new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        list(content),
    )
    static_page.locator(".ex-strips canvas").first.wait_for()
