"""Flow maps behind a server: which model they are maps of, and their images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from small_models import save_flow, save_map

import ldmref
from ldmref import modes


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny):
    """A model, another one with other networks, and the map of the first."""
    folder = tmp_path_factory.mktemp("maps")
    save_map(folder / "map", tiny)
    save_flow(folder / "flow")
    load = lambda name: ldmref.load(folder / name, backend="numpy")  # noqa: E731
    return {"flow": load("flow"), "tiny": tiny, "map": load("map")}


@pytest.fixture(scope="module")
def served(serve_once, models):
    return serve_once(models)


def test_the_capabilities_name_the_map_of_each_model(served):
    told = served.client.get("/v1/capabilities").json()["models"]
    assert {one["name"]: one["flow_map"] for one in told} == {
        "flow": None,
        "tiny": "map",
        "map": "map",
    }


def test_a_model_of_other_training_has_no_map(serve, models, tmp_path):
    """The noise of training belongs to a map as much as the networks do."""
    from dataclasses import replace

    tiny = models["tiny"]
    scheduler = replace(tiny.config.scheduler, prediction_type="x0")
    other = tiny.with_params({}, tiny.backend)
    other.config = replace(tiny.config, scheduler=scheduler)
    told = serve({"other": other, "map": models["map"]}).client.get("/v1/capabilities").json()
    assert [one["flow_map"] for one in told["models"]] == [None, "map"]


def test_a_draft_is_the_image_of_python(served, models):
    asked = {"prompt": "a red cat", "seed": 5, "steps": 2}
    body = {"model": "map", "parameters": asked, "previews": False}
    answer = served.client.post("/v1/generate", json=body)
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(found, np.asarray(modes.txt2img(models["map"], **asked).images[0]))
