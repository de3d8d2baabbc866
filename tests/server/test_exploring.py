"""Works record and decode: what they check, and what they return."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ldmref import explore, modes
from ldmref.modes.generate import decode_images

RUN = {"kind": "record", "parameters": {"prompt": "a red cat", "steps": 3, "seed": 5}}


def as_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def submit(server, body):
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return server.finish(answer.json()["id"])


def fetch(server, job, name):
    [file] = [file for file in job["files"] if file["name"] == name]
    return server.client.get(file["url"]).content


def refusal(server, body):
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code in (400, 422), answer.text
    return answer.json()["error"]


def test_a_record_is_that_of_record_run(server, tiny):
    job = submit(server, RUN)
    assert job["state"] == "done"
    found = explore.load_record(fetch(server, job, "record.safetensors"))
    expected = explore.record_run(tiny, **RUN["parameters"])
    assert np.array_equal(found.x, expected.x)
    assert np.array_equal(found.attention, expected.attention)
    assert found.params == expected.params == job["images"][0]["params"]


def test_the_image_of_a_record_is_that_of_the_mode(server, tiny):
    job = submit(server, RUN)
    image = Image.open(io.BytesIO(server.client.get(job["images"][0]["url"]).content))
    expected = modes.txt2img(tiny, **RUN["parameters"]).images[0]
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_what_remains_of_an_image_is_that_of_noised_image(server, tiny):
    photo = Image.new("RGB", (16, 16), "teal")
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    parameters = {"prompt": "", "strength": 0.5, "steps": 4, "seed": 5}
    sent = parameters | {"image": base64.b64encode(buffer.getvalue()).decode()}
    job = submit(server, {"kind": "noised", "mode": "img2img", "parameters": sent})
    found = Image.open(io.BytesIO(fetch(server, job, "noised.png")))
    expected = explore.noised_image(tiny, image=photo, **parameters)
    assert np.array_equal(np.asarray(found), np.asarray(expected.image))
    assert job["data"] == {"share": expected.share, "noise": expected.noise, "taken": 2, "steps": 4}
    refused = refusal(server, {"kind": "noised", "parameters": {"prompt": "a cat"}})
    assert refused["message"] == "txt2img starts from no image"


def test_a_random_seed_is_chosen_once(server):
    job = submit(server, {"kind": "record", "parameters": {"prompt": "a cat", "steps": 2}})
    record = explore.load_record(fetch(server, job, "record.safetensors"))
    assert job["request"]["seed"] == record.params["seed"] == job["images"][0]["seed"]


def test_a_record_reports_its_steps(server):
    job = submit(server, RUN)
    assert job["progress"]["step"] == job["progress"]["steps"] == 3


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"parameters": {"prompt": "a", "count": 2}}, "one image"),
        ({"parameters": {"prompt": ["a", "b"]}}, "one image"),
        ({"parameters": {"prompt": "a", "steps": 0}}, "steps"),
        ({"parameters": {"prompt": "a", "stepps": 3}}, "stepps"),
        ({"mode": "invert"}, ""),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_run_is_refused_before_it_is_queued(server, change, part):
    assert part in refusal(server, RUN | change)["message"]


def test_decoded_latents_are_the_images_of_the_model(server, tiny):
    shape = tiny.latent_shape(16, 16)
    latents = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    job = submit(server, {"kind": "decode", "latents": as_npy(latents)})
    assert [file["name"] for file in job["files"]] == ["0.png", "1.png", "2.png"]
    for i in range(3):
        found = np.asarray(Image.open(io.BytesIO(fetch(server, job, f"{i}.png"))))
        [expected] = decode_images(tiny, latents[i : i + 1])
        assert np.array_equal(found, np.asarray(expected))


def latents_of(tiny, **changes):
    c, h, w = tiny.latent_shape(16, 16)
    size = {"n": 1, "c": c, "h": h, "w": w} | changes
    return np.zeros((size["n"], size["c"], size["h"], size["w"]), np.float32)


@pytest.mark.parametrize("changes", [{"n": 0}, {"n": 17}, {"c": 3}, {"h": 0}])
def test_latents_of_another_shape_are_refused(server, tiny, changes):
    body = {"kind": "decode", "latents": as_npy(latents_of(tiny, **changes))}
    assert refusal(server, body)["code"] == "E-LATENTS"


def test_latents_of_a_huge_image_are_refused(serve, tiny):
    server = serve({"tiny": tiny}, max_pixels=4096)
    body = {"kind": "decode", "latents": as_npy(latents_of(tiny, h=60, w=60))}
    assert "the limit is 4096" in refusal(server, body)["message"]


@pytest.mark.parametrize("value", [None, 5, "/etc/passwd", "https://example.org/x.npy", "AAAA"])
def test_latents_that_are_no_array_are_refused(server, value):
    assert refusal(server, {"kind": "decode", "latents": value})["code"] == "E-LATENTS"


def test_latents_that_are_not_finite_are_refused(server, tiny):
    latents = latents_of(tiny)
    latents[0, 0, 0, 0] = np.nan
    assert "NaN" in refusal(server, {"kind": "decode", "latents": as_npy(latents)})["message"]


TRUNK = {"mode": "txt2img", "parameters": RUN["parameters"]}
BRANCH = {"kind": "branch", "trunk": TRUNK, "step": 1, "changes": {"prompt": "a blue dog"}}


def test_a_branch_is_that_of_branch_run(server, tiny):
    job = submit(server, BRANCH)
    found = explore.load_record(fetch(server, job, "record.safetensors"))
    trunk = explore.record_run(tiny, **RUN["parameters"])
    expected = explore.branch_run(tiny, trunk, 1, prompt="a blue dog")
    assert np.array_equal(found.x, expected.x)
    assert np.array_equal(found.x[:2], trunk.x[:2]) and found.meta["branch"]["step"] == 1


def test_a_branch_of_a_branch(server, tiny):
    nested = {"kind": "branch", "trunk": {k: v for k, v in BRANCH.items() if k != "kind"}}
    job = submit(server, nested | {"step": 2, "changes": {"cfg_scale": 5}})
    found = explore.load_record(fetch(server, job, "record.safetensors"))
    first = explore.branch_run(
        tiny, {"mode": "txt2img", **RUN["parameters"]}, 1, prompt="a blue dog"
    )
    expected = explore.branch_run(tiny, first, 2, cfg_scale=5)
    assert np.array_equal(found.x, expected.x)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"step": -1}, "step"),
        ({"step": 1.5}, "step"),
        ({"step": True}, "step"),
        ({"step": None}, "step"),
        ({"changes": {"seed": 2}}, "seed"),
        ({"changes": [1]}, "object"),
        ({"trunk": 5}, "object"),
        ({"trunk": {"mode": "txt2img", "parameters": {}}}, "prompt"),
        ({"trunk": TRUNK | {"extra": 1}}, "extra"),
    ],
)
def test_a_wrong_branch_is_refused_before_it_is_queued(server, change, part):
    assert part in refusal(server, BRANCH | change)["message"]


def test_a_step_that_the_trunk_does_not_have_fails(server):
    job = submit(server, BRANCH | {"step": 3})
    assert job["state"] == "failed" and "from 0 to 2" in job["error"]["message"]


def test_cancelling_a_record_ends_it(serve, tiny):
    server = serve({"tiny": tiny})
    parameters = {"prompt": "a cat", "steps": 1000, "seed": 1}
    answer = server.client.post("/v1/jobs", json={"kind": "record", "parameters": parameters})
    server.client.delete(answer.json()["url"])
    assert server.finish(answer.json()["id"])["state"] == "cancelled"


@pytest.mark.parametrize("body", [RUN, BRANCH], ids=["run", "branch"])
def test_the_truth_line_is_that_of_truth_line(server, tiny, body):
    job = submit(server, body | {"kind": "truth"})
    found = explore.load_record(fetch(server, job, "record.safetensors"))
    plain = submit(server, body)
    record = explore.load_record(fetch(server, plain, "record.safetensors"))
    expected = explore.truth_line(tiny, record)
    assert np.array_equal(found.x, record.x)
    assert job["data"]["distance"] == expected.distance.tolist() == found.truth.distance.tolist()
    assert job["data"]["local_error"] == expected.local_error.tolist()
    assert job["data"]["truth"] == expected.description
    assert job["progress"]["step"] == job["progress"]["steps"] > 3
