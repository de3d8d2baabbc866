"""Generate: previews, progress, results, the gallery, cancelling, and what can go wrong."""

from __future__ import annotations

import io
import re
import time

from PIL import Image

from ldmref.io.images.metadata import read_parameters


def fill(page, **texts):
    """Fill fields by their labels."""
    for label, text in texts.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(str(text))


def start(page):
    """Press Generate."""
    page.get_by_role("button", name="Generate", exact=True).click()


def finish(page):
    """Wait for the result, and return its bytes as they are downloaded."""
    page.get_by_role("button", name="Download", exact=True).wait_for()
    return download(page)


def download(page):
    with page.expect_download() as got:
        page.get_by_role("button", name="Download", exact=True).click()
    return got.value.path().read_bytes()


def test_an_image_with_its_seed_previews_and_progress(page, server):
    page.evaluate("""() => {
      window.seen = [];
      const bar = document.querySelector("progress");
      new MutationObserver(() => seen.push(bar.value)).observe(bar, {attributes: true});
      const images = document.querySelector(".images");
      new MutationObserver(() => {
        const image = images.querySelector("img[src^='data:']");
        if (image) window.preview = image.alt;
      }).observe(images, {attributes: true, subtree: true});
    }""")
    fill(page, Prompt="a cat", Steps=60)
    start(page)
    data = finish(page)
    params = read_parameters(io.BytesIO(data))["ldmref"]
    assert params["prompt"] == "a cat" and params["steps"] == 60
    assert f"Seed {params['seed']}" in page.locator(".facts").inner_text()
    seen = page.evaluate("seen")
    assert seen == sorted(seen) and len(seen) > 5 and seen[-1] == 1.0
    assert re.match(r"Prediction of the image after step \d+", page.evaluate("window.preview"))
    [job] = server.engine.jobs()
    assert data == job.images[0].png
    assert Image.open(io.BytesIO(data)).size == (16, 16)
    shown = page.locator(".frame img")
    assert shown.evaluate("image => image.naturalWidth") == 16


def test_brackets_are_weights_unless_they_are_switched_off(page, server):
    fill(page, Prompt="a (red:1.3) cat", Steps=1)
    start(page)
    finish(page)
    assert 'prompt_weights="a1111"' in page.locator("pre").inner_text()
    page.get_by_text("More settings").click()
    weights = page.get_by_label("Prompt weights", exact=True)
    assert weights.locator("option").all_inner_texts() == ["a1111 (default)", "none", "a1111"]
    weights.select_option("none")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("listitem").nth(1).wait_for()
    weights.select_option("")
    fill(page, Prompt="a red cat")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("region", name="Gallery").get_by_text("3", exact=True).wait_for()
    used = [job.request["prompt_weights"] for job in reversed(server.engine.jobs())]
    assert used == ["a1111", "none", "none"]


def test_several_images_and_a_gallery_that_survives_a_reload(page):
    fill(page, Prompt="a cat", Steps=2, Seed=7, Images=3)
    start(page)
    page.get_by_role("button", name="Show image 3, seed 9").click()
    assert page.locator(".facts").inner_text().startswith("Seed 9")
    third = download(page)
    assert read_parameters(io.BytesIO(third))["ldmref"]["seed"] == 9
    page.reload()
    gallery = page.get_by_role("region", name="Gallery")
    gallery.get_by_role("button", name="a cat, seed 9", exact=True).click()
    assert download(page) == third
    assert gallery.get_by_role("listitem").count() == 3
    gallery.get_by_role("listitem").nth(1).hover()
    gallery.get_by_role("button", name="Delete a cat, seed 8").click()
    gallery.get_by_role("button", name="Delete a cat, seed 8").wait_for(state="detached")
    page.get_by_role("button", name="Undo").click()
    gallery.get_by_role("button", name="Delete a cat, seed 8").wait_for(state="attached")
    gallery.get_by_role("button", name="Clear").click()
    gallery.wait_for(state="hidden")
    page.reload()
    page.get_by_label("Prompt", exact=True).wait_for()
    assert gallery.is_hidden()


def test_cancelling_stops_the_job_and_frees_the_server(page, server, hold):
    hold("generate")
    fill(page, Prompt="a cat", Steps=20)
    start(page)
    page.get_by_text(re.compile("Step [1-9]")).first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.", exact=True).wait_for()
    [job] = server.engine.jobs()
    assert job.state == "cancelled"
    fill(page, Steps=2)
    start(page)
    finish(page)


def test_a_request_cancelled_while_it_is_submitted_does_not_run(page, server, hold):
    hold("generate")
    submitted = []
    page.route("**/v1/jobs", lambda route: submitted.append(route))
    fill(page, Prompt="a cat", Steps=20)
    with page.expect_request("**/v1/jobs"):
        start(page)
    page.get_by_role("button", name="Cancel").click()
    submitted[0].continue_()
    page.get_by_text("Cancelled before the server took the request.").wait_for()
    [job] = server.engine.jobs()
    assert job.wait(10) and job.state == "cancelled"


def test_an_error_is_shown_at_its_field(page, watch):
    watch.allow("422|400")
    fill(page, Prompt="a cat", Steps="many")
    start(page)
    field = page.get_by_label("Steps", exact=True)
    page.locator("[data-parameter=steps] .error").wait_for()
    assert "steps" in page.locator("[data-parameter=steps] .error").inner_text().lower()
    assert field.get_attribute("aria-invalid") == "true"
    assert field.evaluate("element => element === document.activeElement")
    field.fill("2")
    assert page.locator("[data-parameter=steps] .error").is_hidden()
    page.get_by_text("More settings").click()
    fill(page, Sigmas="1, 2, 3")
    page.get_by_text("More settings").click()
    start(page)
    page.locator("[data-parameter=sigmas] .error").wait_for()


def shorten_wait(route):
    """Let the server of a full queue ask for one second of patience instead of ten."""
    answer = route.fetch()
    waits = {"retry-after": "1"} if answer.status == 429 else {}
    route.fulfill(response=answer, headers={**answer.headers, **waits})


def test_a_full_queue_is_shown_and_tried_again(serve_page, tiny, new_context, watch, hold):
    watch.allow("429")
    server = serve_page({"tiny": tiny}, queue=0)
    page = new_context().new_page()
    other = new_context().new_page()
    for each in (page, other):
        each.goto(server.url)
        each.get_by_label("Prompt", exact=True).fill("a cat")
    hold("generate")
    fill(page, Steps=20)
    start(page)
    page.get_by_text(re.compile("Step [1-9]")).first.wait_for()
    fill(other, Steps=2)
    other.route("**/v1/jobs", shorten_wait)
    start(other)
    other.get_by_text("The queue of the server is full").first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    finish(other)


def test_the_place_in_the_queue(page, new_context, server, hold):
    hold("generate")
    fill(page, Prompt="a cat", Steps=20)
    start(page)
    page.get_by_text(re.compile("Step [1-9]")).first.wait_for()
    other = new_context().new_page()
    other.goto(server.url)
    fill(other, Prompt="a dog", Steps=2)
    start(other)
    other.get_by_text(re.compile("Waiting: ")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    finish(other)


def test_every_parameter_of_the_schema_has_a_field(page):
    shown = set(
        page.locator("[data-parameter]").evaluate_all("all => all.map(e => e.dataset.parameter)")
    )
    schema = page.evaluate(
        "fetch('/v1/capabilities').then(a => a.json()).then(c => c.modes.txt2img.schema.properties)"
    )
    programs = {name for name in schema if name.endswith(("_embeds", "prompt_mask"))}
    assert shown == set(schema) - programs - {
        "control_image",
        "longest_negative_prompt",
        "longest_prompt",
        "max_sequence_length",
        "references",
    }  # which the model does not read


def test_the_address_holds_the_settings(page, new_context):
    fill(page, Prompt="two cats & a dog = 3", Steps=5)
    page.get_by_label("Sampler", exact=True).select_option("euler")
    page.wait_for_url(re.compile("p.sampler=euler"))
    address = page.url
    page.get_by_role("radio", name="Image").check(force=True)
    page.wait_for_url(re.compile("mode=img2img"))
    page.go_back()
    assert page.get_by_role("radio", name="Text", exact=True).is_checked()
    other = new_context().new_page()
    other.goto(address)
    assert other.get_by_label("Prompt", exact=True).input_value() == "two cats & a dog = 3"
    assert other.get_by_label("Steps", exact=True).input_value() == "5"
    assert other.get_by_label("Sampler", exact=True).input_value() == "euler"


def test_seeds_of_64_bits_are_exact(page):
    fill(page, Prompt="a cat", Steps=2, Seed=2**64 - 1)
    start(page)
    assert read_parameters(io.BytesIO(finish(page)))["ldmref"]["seed"] == 2**64 - 1
    assert f"Seed {2**64 - 1}" in page.locator(".facts").inner_text()


def test_an_inversion_gives_noise_to_generate_from(page):
    fill(page, Prompt="a cat", Steps=2)
    start(page)
    finish(page)
    page.get_by_role("button", name="Use as input").click()
    page.get_by_role("radio", name="Invert").check(force=True)
    page.get_by_role("button", name="Find the noise").click()
    page.get_by_role("button", name="Generate from it").click()
    page.get_by_text("noise.npy").first.wait_for()
    start(page)
    finish(page)
    assert "np.load(" in page.locator("pre").inner_text()


def test_the_watch_sees_what_must_not_happen(page, watch):
    page.evaluate("console.error('broken')")
    page.evaluate("setTimeout(() => { throw new Error('thrown') })")
    page.evaluate("fetch('http://192.0.2.1:9/x', {mode: 'no-cors'}).catch(() => {})")
    wanted = ("broken", "thrown", "192.0.2.1")
    deadline = time.monotonic() + 20
    while not all(word in " ".join(watch.problems) for word in wanted):
        assert time.monotonic() < deadline, watch.problems
        page.wait_for_timeout(20)  # lets the browser's events arrive
    watch.problems.clear()
    watch.allow(".")
