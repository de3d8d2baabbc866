"""The dial of evaluations in the server: images, their order, distances, what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from small_models import save_map

import ldmref
from ldmref import explore, modes

ASKED = {"prompt": "a red cat", "seed": 5, "cfg_scale": 2.0, "negative_prompt": "a dog"}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("maps") / "map"
    save_map(folder, tiny)
    return {"tiny": tiny, "map": ldmref.load(folder, backend="numpy")}


@pytest.fixture(scope="module")
def server(serve_once, models):
    return serve_once(models)


def submit(server, **changes):
    body = {"kind": "dial", "parameters": ASKED} | changes
    return server.client.post("/v1/jobs", json=body)


@pytest.fixture(scope="module")
def job(server):
    answer = submit(server)
    assert answer.status_code == 202, answer.text
    done = server.finish(answer.json()["id"], 120)
    assert done["state"] == "done", done["error"]
    return done


def test_the_map_takes_few_evaluations_and_the_model_two_a_step(job):
    stops = [(stop["evaluations"], stop["by_map"], stop["steps"]) for stop in job["data"]["stops"]]
    assert stops[:4] == [(1, True, 1), (2, True, 2), (4, True, 4), (6, False, 3)]
    assert stops[-1] == (40, False, 20)
    assert [stop["evaluations"] for stop in job["data"]["stops"]] == sorted({n for n, *_ in stops})


def test_the_images_are_those_of_python(server, job, models):
    stops = job["data"]["stops"]
    assert len(job["images"]) == len(stops)
    for index, name in ((1, "map"), (3, "tiny")):
        more = {} if name == "tiny" else {"cfg_scale": None, "negative_prompt": None}
        asked = ASKED | more | {"steps": stops[index]["steps"]}
        expected = modes.txt2img(models[name], **asked)
        found = Image.open(io.BytesIO(server.client.get(job["images"][index]["url"]).content))
        assert np.array_equal(np.asarray(found), np.asarray(expected.images[0]))
        truth = explore.converged_image(models["tiny"], "txt2img", ASKED, tolerance=0.01)
        assert stops[index]["distance"] == truth.distance(expected.latents)


def test_a_random_seed_is_chosen_once(server):
    answer = submit(server, parameters={"prompt": "a cat", "seed": None, "cfg_scale": 1.0})
    done = server.finish(answer.json()["id"], 120)
    assert len({image["seed"] for image in done["images"]}) == 1
    assert [stop["evaluations"] for stop in done["data"]["stops"]][3:5] == [6, 8]


def test_what_has_no_dial_is_refused(server, serve, tiny):
    assert "txt2img" in submit(server, mode="img2img").json()["error"]["message"]
    assert "no flow map" in submit(server, model="map").json()["error"]["message"]
    alone = serve({"tiny": tiny})
    assert "no flow map" in submit(alone).json()["error"]["message"]
    assert submit(server, parameters=ASKED | {"seed": [1, 2]}).status_code == 422
    assert submit(server, parameters=ASKED | {"steps": 5, "sampler": "nothing"}).status_code == 422
