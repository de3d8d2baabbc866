"""A1111's interface over HTTP: recorded requests of clients, the package webuiapi, and the rest."""

import json
import socket
import threading

import numpy as np
import pytest
import webuiapi
from PIL import Image, ImageDraw
from replaying import (
    from_base64,
    load_recorded,
    model_of_one_size,
    recorded,
    replay,
    to_base64,
)
from waiting import wait_until

from ldmref import modes, random_model
from ldmref.io.images.infotext import parse_infotext

A1111 = ("webuiapi", "sillytavern", "open_webui")
REPLAYED = [
    (client, name)
    for client in A1111
    for name, request in load_recorded(client).items()
    if request["path"].startswith("/sdapi")
]
STEPS = 6  # enough for the embedded model to show an object


@pytest.fixture(scope="module")
def embedded(serve_once, emoji):
    return serve_once({"emoji": emoji})


@pytest.fixture(scope="module")
def server(serve_once, tiny):
    return serve_once({"tiny": tiny})


@pytest.fixture(scope="module")
def of_one_size(serve_once):
    return serve_once({"emoji": model_of_one_size(), "other": model_of_one_size()})


@pytest.fixture
def api(server):
    return connect(server)


def connect(server, **arguments):
    return webuiapi.WebUIApi("127.0.0.1", int(server.url.rpartition(":")[2]), **arguments)


def in_background(function, *args, **kwargs):
    """Call a function in a thread; the returned `join()` gives its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args, **kwargs)))
    thread.start()

    def join():
        thread.join(60.0)
        return results[0]

    return join


# -- recorded requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "name"), REPLAYED)
def test_recorded_requests_are_answered_as_the_client_reads_them(client, name, of_one_size):
    request = recorded(client, name)
    answer = replay(of_one_size, request)
    assert answer.status_code == 200, answer.text
    read_as_client(request["method"], request["path"], answer.json())


def read_as_client(method, path, content):
    """Read an answer in the way of the clients' code."""
    route = path.rpartition("/")[2]
    if route in ("txt2img", "img2img"):
        assert from_base64(content["images"][0]).format == "PNG"
        assert content["parameters"]["prompt"] == "a red heart"
        assert json.loads(content["info"])["all_seeds"]
    elif route == "options" and method == "GET":
        assert content["sd_model_checkpoint"].startswith("emoji") and "forge_preset" not in content
    elif route == "sd-models":
        assert all(model["title"] and model["model_name"] for model in content)
    elif route in ("samplers", "schedulers"):
        assert "DDIM" in [x["name"] for x in content] or "normal" in [x["name"] for x in content]
    elif route == "progress":
        assert content["progress"] == 0.0 and content["state"]["job_count"] == 0
    elif route == "scripts":
        assert "controlnet m2m" not in content["txt2img"]
    elif route in ("upscalers", "latent-upscale-modes"):
        assert [each["name"] for each in content] in (["Lanczos"], ["Latent"])
    elif route in ("sd-vae", "sd-modules", "loras"):
        assert content == []


def test_open_webui_posts_the_whole_options_back(of_one_size):
    server = of_one_size
    options = replay(server, recorded("open_webui", "verify")).json()
    (title,) = [
        model["title"]
        for model in replay(server, recorded("open_webui", "models")).json()
        if model["model_name"] == "other"
    ]
    request = recorded("open_webui", "set_options", **options | {"sd_model_checkpoint": title})
    assert replay(server, request).status_code == 200
    assert replay(server, recorded("open_webui", "verify")).json()["sd_model_checkpoint"] == title
    info = json.loads(replay(server, recorded("open_webui", "txt2img", steps=1)).json()["info"])
    assert info["sd_model_name"] == "other"
    once = {"override_settings": {"sd_model_checkpoint": "emoji"}, "steps": 1}
    info = json.loads(replay(server, recorded("open_webui", "txt2img", **once)).json()["info"])
    assert info["sd_model_name"] == "emoji"
    assert replay(server, recorded("open_webui", "verify")).json()["sd_model_checkpoint"] == title
    replay(server, recorded("open_webui", "set_options"))


# -- what the images show -------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "name"), [("webuiapi", "txt2img"), ("sillytavern", "generate")])
def test_an_image_of_512_shows_the_object_at_the_model_size(client, name, embedded, emoji):
    request = recorded(client, name, steps=STEPS)
    content = replay(embedded, request).json()
    image = from_base64(content["images"][0])
    info = json.loads(content["info"])
    own = modes.txt2img(
        emoji,
        "a red heart",
        negative_prompt=request["json"]["negative_prompt"],
        seed=1,
        steps=STEPS,
        cfg_scale=7.0,
        sampler="euler_a" if client == "webuiapi" else "ddim",
        prompt_weights="a1111",
    )
    assert image.size == (128, 128) and np.array_equal(image, own[0])
    assert (info["width"], info["height"]) == (128, 128)
    assert info["warnings"][0] == "'emoji-128' generates 128x128 instead of 512x512: its only size"
    assert is_heart(image)


def is_heart(image):
    """Whether a red shape on white has two lobes at the top and a point at the bottom."""
    red = (np.asarray(image, float)[..., 0] - np.asarray(image, float)[..., 1]) > 60
    rows = np.flatnonzero(red.any(axis=1))
    columns = np.flatnonzero(red.any(axis=0))
    height = rows[-1] - rows[0]
    widths = [red[rows[0] + int(height * part)].sum() for part in (0.3, 0.95)]
    middle = red[:, (columns[0] + columns[-1]) // 2]
    notch = np.flatnonzero(middle)[0] - rows[0]
    return bool(widths[0] > 3 * widths[1] and notch > 0.08 * height)


def test_the_shape_is_recognised():
    heart = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(heart)
    draw.ellipse((10, 10, 66, 66), fill="red")
    draw.ellipse((62, 10, 118, 66), fill="red")
    draw.polygon([(13, 50), (115, 50), (64, 120)], fill="red")
    square = Image.new("RGB", (128, 128), "white")
    square.paste((255, 0, 0), (20, 20, 108, 108))
    blob = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(blob).ellipse((10, 10, 118, 118), fill="red")
    assert is_heart(heart) and not is_heart(square) and not is_heart(blob)


# -- the package webuiapi -------------------------------------------------------------------------


def test_webuiapi_generates(api, tiny):
    sides = {"width": 20, "height": 16}
    result = api.txt2img(prompt="a cat", seed=7, steps=2, batch_size=2, n_iter=2, **sides)
    assert result.info["all_seeds"] == [7, 8, 9, 10] and len(result.images) == 4
    own = modes.txt2img(
        tiny,
        "a cat",
        seed=7,
        count=4,
        steps=2,
        cfg_scale=7.0,
        sampler="euler_a",
        **sides,
        prompt_weights="a1111",
        long_prompts="chunk",
    )
    assert all(np.array_equal(a, b) for a, b in zip(result.images, own, strict=True))
    assert result.info["infotexts"][3] == result.images[3].info["parameters"]
    assert parse_infotext(result.info["infotexts"][3])["pairs"]["Seed"] == "10"
    assert result.parameters["width"] == 20


def test_webuiapi_changes_an_image(api):
    image = Image.new("RGB", (16, 16), "teal")
    asked = {"prompt": "a cat", "steps": 2, "seed": 1, "width": 16, "height": 16}
    least = api.img2img([image], denoising_strength=0, **asked)  # A1111 takes a step more
    half = api.img2img([image], denoising_strength=0.4, **asked)
    assert np.array_equal(least.image, half.image) and least.image.size == (16, 16)
    changed = api.img2img([image], prompt="a cat", steps=2, seed=1, width=24, height=16)
    assert changed.image.size == (24, 16)


@pytest.mark.parametrize("full_res", [True, False])
def test_webuiapi_repaints_the_white_part_only(api, full_res):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (8, 8, 24, 24))
    result = api.img2img(
        [image],
        mask_image=mask,
        prompt="a cat",
        seed=1,
        steps=2,
        mask_blur=0,
        inpaint_full_res=full_res,
        denoising_strength=1.0,
        width=32,
        height=32,
    )
    differs = (np.asarray(result.image) != np.asarray(image)).any(axis=2)
    white = np.asarray(mask) > 0
    assert not differs[~white].any() and differs[white].mean() > 0.9


def test_webuiapi_reads_the_lists_and_sets_the_model(api):
    assert api.util_get_current_model() in api.util_get_model_names()
    api.util_set_model("tin")
    assert api.util_get_current_model() == "tiny"
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= {*api.util_get_sampler_names()}
    assert {"automatic", "karras", "normal"} <= {*api.util_get_scheduler_names()}
    assert [each["name"] for each in api.get_upscalers()] == ["Lanczos"]
    assert [each["name"] for each in api.get_latent_upscale_modes()] == ["Latent"]
    assert api.get_sd_vae() == api.get_loras() == []
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_cmd_flags() == {} and "ram" in api.get_memory()
    assert api.get_hypernetworks() == api.get_face_restorers() == api.get_prompt_styles() == []
    assert api.get_realesrgan_models() == [] and api.refresh_checkpoints() is None


def test_webuiapi_enlarges_an_image(api, tiny):
    result = api.txt2img(
        prompt="a cat",
        seed=7,
        steps=4,
        width=16,
        height=16,
        sampler_name="Euler",
        enable_hr=True,
        hr_scale=2,
        hr_upscaler=webuiapi.HiResUpscaler.Latent,
        hr_second_pass_steps=3,
        denoising_strength=0.6,
    )
    assert result.image.size == (32, 32)
    read = {"seed": 7, "steps": 4, "sampler": "euler", "cfg_scale": 7.0}
    second = {"upscale": 2, "upscale_steps": 3, "upscale_strength": 0.6}
    expected = modes.txt2img(tiny, "a cat", **read, **second, prompt_weights="a1111")
    assert np.array_equal(np.asarray(result.image), np.asarray(expected[0]))
    assert result.info["denoising_strength"] == 0.6
    [text] = result.info["infotexts"]
    assert "Hires upscale: 2, Hires steps: 3, Hires upscaler: Latent" in text


def test_webuiapi_reads_an_image(api, tiny):
    result = api.txt2img(
        prompt="a cat, sleeping", negative_prompt="dog", seed=7, steps=2, width=16, height=16
    )
    read = api.png_info(result.image).json
    assert read["info"] == result.info["infotexts"][0]
    assert read["parameters"]["Prompt"] == "a cat, sleeping"
    assert read["parameters"]["Negative prompt"] == "dog"
    assert (read["parameters"]["Seed"], read["parameters"]["Size-1"]) == ("7", "16")
    assert json.loads(read["items"]["ldmref"])["seed"] == 7
    assert api.png_info(Image.new("RGB", (8, 8))).json == {
        "info": "",
        "items": {},
        "parameters": {},
    }


# -- progress, interrupt, skip --------------------------------------------------------------------


def endless(api, **changes):
    body = {"prompt": "a cat", "steps": 1000, "sampler_name": "Euler", "width": 16, "height": 16}
    return in_background(api.txt2img, **body | {"seed": 1, "n_iter": 20} | changes)


def test_progress_and_interrupt(server, api):
    other = connect(server)
    join = endless(api)
    seen = []

    def has_image():
        seen.append(other.get_progress())
        return seen[-1]["current_image"] is not None

    wait_until(has_image)
    assert from_base64(seen[-1]["current_image"]).size == (16, 16)
    state = seen[-1]["state"]
    assert (state["job"], state["job_count"], state["sampling_steps"]) == (
        "scripts_txt2img",
        20,
        1000,
    )
    assert 0.0 < seen[-1]["progress"] < 1.0 and seen[-1]["eta_relative"] >= 0.0
    done = (state["job_no"] + state["sampling_step"] / 1000) / 20
    assert seen[-1]["progress"] == pytest.approx(0.01 + done)
    values = [progress["progress"] for progress in seen]
    assert values == sorted(values)
    quiet = server.client.get("/sdapi/v1/progress?skip_current_image=true").json()
    assert quiet["current_image"] is None and quiet["state"]["job_count"] == 20
    assert other.interrupt() == {}
    result = join()
    finished = len(result.images)
    assert finished < 20 and f"interrupted: {finished} of 20" in result.info["warnings"][-1]
    idle = other.get_progress()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0.0, 0, None)


def test_skip_goes_on_with_the_next_batch(server, api):
    other = connect(server)
    join = endless(api, n_iter=2, steps=100)
    wait_until(lambda: other.get_progress()["state"]["sampling_step"] > 0)
    assert other.skip() == {}
    result = join()
    assert result.info["all_seeds"] == [2]
    assert result.info["warnings"] == ["skipped: 1 of 2 images were finished"]


def test_interrupt_and_skip_without_a_job_do_nothing(api):
    assert api.interrupt() == api.skip() == {}


def test_interrupt_leaves_the_jobs_of_other_interfaces_alone(server, api):
    body = {"parameters": {"prompt": "a cat", "steps": 1000, "sampler": "euler", "count": 8}}
    job = server.client.post("/v1/jobs", json=body).json()
    wait_until(lambda: server.engine.get(job["id"]).state == "running")
    api.interrupt()
    assert api.get_progress()["state"]["job_count"] == 0
    assert server.engine.get(job["id"]).state == "running"
    server.client.delete(job["url"])


def test_a_client_that_disappears_frees_its_place(server):
    body = {"prompt": "a cat", "steps": 1000, "n_iter": 20, "width": 16, "height": 16}
    before = len(server.engine.jobs())
    content = json.dumps(body).encode()
    head = (
        f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(head.encode() + content)
        wait_until(lambda: len(server.engine.jobs()) > before)
        job = server.engine.jobs()[0]
        wait_until(lambda: job.state == "running")
    wait_until(lambda: job.has_ended)
    assert job.state == "cancelled"


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sampler_name": "nope"}, 404),
        ({"scheduler": "nope"}, 404),
        ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 404),
        ({"steps": 0}, 422),
        ({"n_iter": 65}, 422),
        ({"alwayson_scripts": {"ControlNet": {}}}, 422),
    ],
)
def test_refusals_have_the_form_of_a1111(server, body, status):
    answer = server.client.post("/sdapi/v1/txt2img", json={"prompt": "a cat", **body})
    assert answer.status_code == status
    assert {*answer.json()} == {"error", "detail", "body", "errors"}
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "image",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "data:image/png,abc",
        to_base64(Image.new("RGB", (8, 8)))[:60],
        "",
        7,
    ],
)
def test_images_are_base64_and_nothing_else(server, image):
    body = {"prompt": "a cat", "init_images": [image]}
    answer = server.client.post("/sdapi/v1/img2img", json=body)
    assert answer.status_code == 422
    read = server.client.post("/sdapi/v1/png-info", json={"image": image})
    assert read.status_code == 422


def test_options_cannot_select_anything_else(server):
    for label in ("/etc/passwd", "sd15", "../tiny"):
        answer = server.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": label})
        assert answer.status_code == 404
    options = {"outdir_txt2img_samples": "/tmp", "sd_vae": "x", "CLIP_stop_at_last_layers": 2}
    assert server.client.post("/sdapi/v1/options", json=options).status_code == 200
    after = server.client.get("/sdapi/v1/options").json()
    assert after["CLIP_stop_at_last_layers"] == 1 and "outdir_txt2img_samples" not in after


def test_paths_that_do_not_exist(server):
    for path in ("server-kill", "extra-single-image", "interrogate"):
        assert server.client.post(f"/sdapi/v1/{path}").status_code == 404
    assert server.client.get("/sdapi/v1/txt2img").status_code == 405


@pytest.mark.parametrize("name, scale", [("flux-tiny", 3.5), ("tiny", 1.0)])
def test_a_negative_prompt_that_nothing_reads_is_a_warning(serve, name, scale):
    """One line, in each interface, with the negative prompt in the record of the image."""
    server = serve({name: random_model(name, backend="numpy")})
    body = {"prompt": "a cat", "negative_prompt": "bad", "steps": 1, "width": 16, "height": 16}
    answer = server.client.post("/sdapi/v1/txt2img", json={**body, "cfg_scale": scale})
    info = json.loads(answer.json()["info"])
    assert [line for line in info["warnings"] if "nothing reads the negative prompt" in line]
    assert info["negative_prompt"] == "bad" and len(info["warnings"]) == 1
    asked = {"kind": "generate", "mode": "txt2img", "parameters": {**body, "cfg_scale": scale}}
    job = server.finish(server.client.post("/v1/jobs", json=asked).json()["id"])
    assert job["state"] == "done" and job["warnings"] == info["warnings"]
