"""The weaker model of autoguidance in a request: one of the served models, by its name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.io.images.metadata import read_parameters
from ldmref.io.native import save_folder

ASKED = {"prompt": "a red cat", "steps": 2, "seed": 5, "guidance": "autoguidance"}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny):
    """Two models that fit each other, in folders, and one that does not."""
    base = tmp_path_factory.mktemp("guides")
    found = {}
    for seed, name in enumerate(("good", "weak")):
        model = ldmref.random_model("tiny", seed, backend="numpy")
        save_folder(base / name, model.config, model.params, [model.tokenizer], np.float32)
        found[name] = ldmref.load(base / name, backend="numpy")
    return found | {"flow": ldmref.random_model("sd3-tiny", backend="numpy")}


@pytest.fixture(scope="module")
def guided(serve_once, models):
    return serve_once(models)


def ask(server, **changes):
    return server.client.post("/v1/generate", json={"parameters": ASKED | changes})


def test_the_image_is_that_of_python(guided, models):
    answer = ask(guided, guide="weak")
    assert answer.status_code == 200, answer.text
    want = modes.txt2img(models["good"], guide=models["weak"], **ASKED)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), want.images[0])
    record = read_parameters(io.BytesIO(answer.content))["ldmref"]
    assert record["guide"]["sha256"] == models["weak"].sha256


@pytest.mark.parametrize("value", ["weaker", "/etc/passwd", "../weak", "emoji", 3, {"path": "x"}])
def test_another_name_is_refused_and_never_opened(guided, value, monkeypatch):
    """Also that of a model which this machine has, but the server does not."""
    from ldmref.modes import guide

    monkeypatch.setattr(guide, "open_checkpoint", None)
    answer = ask(guided, guide=value)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "E-GUIDE" and "must name a model of the server" in error["message"]


def test_what_does_not_fit_is_refused(guided):
    error = ask(guided, guide="flow").json()["error"]
    assert "does not fit 'tiny': its family is sd3" in error["message"]
    error = ask(guided).json()["error"]
    assert error["code"] == "E-GUIDE" and "needs a second, weaker model" in error["message"]


def test_the_capabilities_offer_the_served_models(guided):
    """So that the page's form has a choice of them, and offers the guidance."""
    answer = guided.client.get("/v1/capabilities").json()
    declared = answer["modes"]["txt2img"]["schema"]["properties"]["guide"]
    assert declared["anyOf"] == [
        {"type": "string", "enum": ["good", "weak", "flow"]},
        {"type": "null"},
    ]
    assert "guide" not in answer["modes"]["edit"]["schema"]["properties"]
    assert "autoguidance" in answer["models"][0]["choices"]["guidance"]
    assert "autoguidance" in [one["name"] for one in answer["guidances"]]


def test_an_image_names_its_guide_to_be_submitted_again(guided):
    image = ask(guided, guide="weak").content
    found = guided.client.post("/v1/inspect", content=image).json()
    assert found["parameters"]["guide"] == "weak" and found["missing"] == []
    again = guided.client.post("/v1/generate", json={"parameters": found["parameters"]})
    assert again.content == image


def test_an_image_of_an_unknown_guide_lacks_it(guided, models):
    other = ldmref.random_model("tiny", 7, backend="numpy")
    other._sha256 = "0" * 64
    file = io.BytesIO()
    made = modes.txt2img(models["good"], guide=other, **ASKED)
    from ldmref.io.images.metadata import encode_png

    file.write(encode_png(made.images[0], {**made.params, "index": 0}))
    found = guided.client.post("/v1/inspect", content=file.getvalue()).json()
    assert found["missing"] == ["guide"] and "guide" not in found["parameters"]


def test_a_grid_and_a_recorded_run_have_it(guided):
    x = {"name": "cfg_scale", "values": [1.0, 2.0]}
    body = {"kind": "grid", "mode": "txt2img", "parameters": ASKED | {"guide": "weak"}, "x": x}
    sheet = guided.client.post("/v1/generate", json=body)
    assert sheet.status_code == 200, sheet.text
    body = {"kind": "record", "mode": "txt2img", "parameters": ASKED | {"guide": "weak"}}
    answer = guided.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    guided.client.get(answer.json()["url"] + "/events")  # up to its end
    done = guided.client.get(answer.json()["url"]).json()
    assert done["state"] == "done", done
