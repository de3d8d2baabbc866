"""Wildcards in the prompts of requests, and the styles that clients get."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmref import modes
from ldmref.errors import InputError
from ldmref.io.images.metadata import read_parameters
from ldmref.prompts import read_wildcards
from ldmref.support.server_settings import ServerSettings

COLOURS = "red\norange\nblue\ngreen\n"


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild" / "colour.txt").write_text(COLOURS)
    (tmp_path / "styles.csv").write_text("name,prompt,negative_prompt\nink,ink,grey\n")
    return tmp_path


@pytest.fixture
def templated(files, serve, tiny):
    return serve({"tiny": tiny}, wildcards=str(files / "wild"), styles=str(files / "styles.csv"))


def run(server, **parameters):
    body = {"parameters": {"steps": 1, **parameters}}
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = server.finish(answer.json()["id"])
    assert job["state"] == "done", job["error"]
    return job


def test_each_image_draws_by_its_seed_and_its_record_replays(templated, files, tiny):
    job = run(templated, prompt="a __colour__ cat", negative_prompt="__colour__", seed=5, count=4)
    wildcards = read_wildcards(files / "wild")
    prompts = [image["params"]["prompt"] for image in job["images"]]
    assert [image["seed"] for image in job["images"]] == [5, 6, 7, 8]
    assert prompts == [wildcards.expand("a __colour__ cat", seed) for seed in (5, 6, 7, 8)]
    assert len({*prompts}) > 1
    for image in job["images"]:
        png = templated.client.get(image["url"]).content
        recorded = read_parameters(io.BytesIO(png))["ldmref"]
        asked = {key: recorded[key] for key in ("prompt", "negative_prompt", "seed", "steps")}
        again = modes.txt2img(tiny, **asked)[0]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), np.asarray(again))
    alone = run(templated, prompt="a __colour__ cat", negative_prompt="__colour__", seed=7)
    assert alone["images"][0]["params"]["prompt"] == prompts[2]
    assert (
        alone["images"][0]["params"]["negative_prompt"]
        == (job["images"][2]["params"]["negative_prompt"])
    )


def test_a_random_seed_is_recorded_with_its_draws(templated, files):
    [image] = run(templated, prompt="__colour__")["images"]
    wildcards = read_wildcards(files / "wild")
    assert image["params"]["prompt"] == wildcards.expand("__colour__", image["seed"])


def test_the_two_ends_of_an_interpolation(templated):
    body = {
        "mode": "interpolate",
        "parameters": {"prompt": "__colour__", "prompt_b": "__colour__ dog", "steps": 1, "seed": 1},
    }
    job = templated.finish(templated.client.post("/v1/jobs", json=body).json()["id"])
    assert job["state"] == "done", job["error"]
    assert job["request"]["prompt"] in COLOURS.split()
    assert job["request"]["prompt_b"].removesuffix(" dog") in COLOURS.split()


@pytest.mark.parametrize(
    ("parameters", "parameter", "part"),
    [
        ({"prompt": "a __color__"}, None, "unknown wildcard __color__"),
        ({"prompt": "__colour__", "count": 10**9}, "count", "count"),
        ({"prompt": "__colour__", "seed": -5}, "seed", "seed must be"),
        ({"prompt": "__colour__", "seed": "x"}, "seed", "seed must be"),
        ({"prompt": "__colour__", "seed": [1, 2]}, None, "2 seeds for 1 images"),
        ({"prompt": "__colour__", "count": "many"}, "count", "count must be"),
    ],
)
def test_what_is_refused(templated, parameters, parameter, part):
    answer = templated.client.post("/v1/jobs", json={"parameters": parameters})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert part in error["message"] and (parameter is None or error["parameter"] == parameter)


def test_the_capabilities_name_them(templated, server):
    answer = templated.client.get("/v1/capabilities").json()
    assert answer["styles"] == [{"name": "ink", "prompt": "ink", "negative_prompt": "grey"}]
    assert answer["wildcards"] == ["colour"]
    plain = server.client.get("/v1/capabilities").json()
    assert plain["styles"] == plain["wildcards"] == []
    [image] = run(server, prompt="a __colour__ cat", seed=1)["images"]
    assert image["params"]["prompt"] == "a __colour__ cat"


def test_files_that_are_not_there_are_named(serve, tiny):
    for settings in ({"styles": "/nowhere.csv"}, {"wildcards": "/nowhere"}):
        with pytest.raises(InputError, match="nowhere"):
            serve({"tiny": tiny}, settings=ServerSettings(port=0, **settings))
