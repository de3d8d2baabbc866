"""The model in a browser, from static files: the image of Python, and no other host."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_checks import find_serious
from small_models import save_map
from static_site import serve_folder

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "color_scheme": "dark"}
MINUTES = 300_000
PIXELS = """
(canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
"""
READY = re.compile(r"ms per step, .* in all")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Yield the address of an export, as a plain file host serves it, and its folder."""
    pytest.importorskip("onnx")
    from make_browser_model import cache_folder, fetch_runtime, write_site

    try:
        package = fetch_runtime(cache_folder())
    except LdmrefError as error:
        pytest.skip(f"the model in a browser: onnxruntime-web cannot be had ({error})")
    folder = tmp_path_factory.mktemp("export") / "browser"
    model = ldmref.load(backend="numpy")
    save_map(folder.parent / "map", model)
    write_site(model, folder, package, ldmref.load(folder.parent / "map", backend="numpy"))
    with serve_folder(folder) as address:
        yield address, folder


@pytest.fixture
def requests_of(new_context):
    """Open a page and note every request of it and of its worker."""

    def open_page(address, **options):
        context = new_context(**options)
        seen = []
        context.on("request", lambda request: seen.append(request.url))
        page = context.new_page()
        page.set_default_timeout(MINUTES)
        page.goto(address)
        return page, seen

    return open_page


def generate(page):
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text(READY).wait_for()


def image_of(page, selector=".br-image"):
    pixels = page.locator(selector).first.evaluate(PIXELS)
    return np.reshape(pixels, (128, 128, 4))[..., :3]


@pytest.mark.parametrize(
    ("prompt", "negative", "seed", "steps", "w", "sampler"),
    [
        ("a red heart", "", 1, 20, 2.5, "dpmpp_2m"),
        ("🐶 on blue", "red", 2**63 + 11, 9, 4.0, "euler"),
    ],
)
def test_the_image_is_that_of_python(
    site, requests_of, prompt, negative, seed, steps, w, sampler, capsys
):
    address, _ = site
    page, seen = requests_of(f"{address}/#p.prompt={prompt}&p.negative_prompt={negative}")
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_label("Guidance w", exact=True).fill(str(w))
    page.get_by_label("Sampler", exact=True).select_option(sampler)
    generate(page)
    options = {"seed": seed, "steps": steps, "cfg_scale": w, "sampler": sampler}
    result = modes.txt2img(
        ldmref.load(backend="numpy"), prompt, negative_prompt=negative, **options
    )
    difference = np.abs(image_of(page) - np.asarray(result[0], int))
    assert difference.max() <= 2
    with capsys.disabled():
        print(f"\n{page.get_by_text(READY).inner_text()} At most {difference.max()}/255 apart.")
    hosts = {urlsplit(url).netloc for url in seen if not url.startswith(("blob:", "data:"))}
    assert hosts == {urlsplit(address).netloc}
    assert any(url.split("?")[0].endswith("/model/unet.onnx") for url in seen)


def test_steps_are_shown_and_decoded(site, requests_of):
    """Each step is a frame of the film, reached by keyboard; its images are decoded."""
    page, _ = requests_of(site[0])
    page.get_by_label("Steps", exact=True).fill("4")
    generate(page)
    assert page.locator(".br-frame").count() == 5
    for k in (3, 2):
        page.keyboard.press("ArrowLeft")
        page.get_by_text(f"step {k} of 4", exact=True).wait_for()
    for name in ("x", "x0_uncond", "x0_cond", "x0"):
        page.locator(f"[data-image={name}] canvas[data-kind=decoded]").wait_for()
    page.locator(".br-frame canvas[data-kind=decoded]").nth(4).wait_for()
    assert find_serious(page) == []


def test_the_map_draws_what_is_typed(site, requests_of):
    """In two steps, with the seed of the widget, as Python does; the newest prompt is the last."""
    address, folder = site
    page, seen = requests_of(f"{address}/knobs.html")
    knob = page.locator("[data-knob=model]")
    prompt = knob.get_by_label("prompt", exact=True)
    prompt.fill("a dog")
    assert not any("flow_map" in url for url in seen)
    knob.get_by_label("draw while I type").check()
    knob.get_by_role("img", name="Draft: a dog", exact=True).wait_for()
    prompt.press("End")
    prompt.press_sequentially(" on blue ")
    knob.get_by_role("img", name="Draft: a dog on blue", exact=True).wait_for()
    found = image_of(page, ".knob-draft canvas").astype(int)
    flow_map = ldmref.load(folder.parent / "map", backend="numpy")
    expected = modes.txt2img(flow_map, "a dog on blue", seed=1, steps=2)
    assert np.abs(found - np.asarray(expected.images[0])).max() <= 2
    assert find_serious(page) == []


def test_cancel_between_two_steps(site, requests_of):
    page, _ = requests_of(site[0])
    page.get_by_label("Steps", exact=True).fill("500")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text(re.compile(r"Step \d+ of 500,")).wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("Cancelled after").wait_for()
    page.get_by_label("Steps", exact=True).fill("2")
    generate(page)
    assert page.get_by_text(READY).inner_text().startswith("2 steps")


def test_bad_values_are_explained(site, requests_of):
    page, _ = requests_of(site[0])
    for label, value in {"Prompt": " ", "Seed": "-1", "Steps": "0", "Guidance w": ""}.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Generate", exact=True).click()
    errors = page.locator(".br-error:visible").all_inner_texts()
    assert len(errors) == 4
    assert "a whole number from 0 to 2^64 - 1" in errors
    page.get_by_label("Prompt", exact=True).fill("a zzyzx heart")
    page.get_by_label("Seed", exact=True).fill("3")
    page.get_by_label("Steps", exact=True).fill("1")
    page.get_by_label("Guidance w", exact=True).fill("2")
    generate(page)
    assert page.locator(".br-notes").inner_text() == "Words the model never saw: zzyzx"


def test_a_phone_in_the_dark(site, requests_of):
    page, _ = requests_of(site[0], **PHONE)
    page.get_by_label("Steps", exact=True).fill("2")
    generate(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert find_serious(page) == []


def test_the_widget_with_the_model(site, requests_of):
    page, _ = requests_of(f"{site[0]}/knobs.html")
    place = page.locator("[data-knob=model]")
    place.get_by_label("steps").fill("3")
    place.get_by_role("button", name="Generate").click()
    place.get_by_text("3 steps in").wait_for()
    result = modes.txt2img(ldmref.load(backend="numpy"), "a red heart", seed=1, steps=3)
    got = image_of(page, "[data-knob=model] .knob-images canvas")
    assert np.abs(got - np.asarray(result[0], int)).max() <= 2


def test_a_damaged_file_is_refused(site, requests_of, watch):
    page, _ = requests_of(site[0])

    def damage(route):
        body = bytearray(route.fetch().body())
        body[5000] ^= 1
        route.fulfill(body=bytes(body))

    page.context.route(re.compile(r"text_encoder\.onnx"), damage)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("text_encoder.onnx is damaged").wait_for()


def test_threads_on_an_isolated_page(site, requests_of):
    """With the two headers of isolation, the runtime uses several threads and says so."""
    isolation = {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
    }
    with serve_folder(site[1], isolation) as address:
        page, _ = requests_of(address)
        assert page.evaluate("crossOriginIsolated")
        if page.evaluate("navigator.hardwareConcurrency") == 1:
            pytest.skip("the model in a browser: this machine has one processor")
        page.get_by_label("Steps", exact=True).fill("2")
        generate(page)
        assert re.search(r"\d threads", page.get_by_text(READY).inner_text())
        page.close()
