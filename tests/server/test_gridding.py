"""Grids in the server: the cells, where they are, what is refused."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ldmref import explore

GRID = {
    "kind": "grid",
    "parameters": {"prompt": "a red cat", "seed": 5},
    "x": {"name": "sampler", "values": ["euler", "heun"]},
    "y": {"name": "steps", "values": [2, 3, 4]},
}


def submit(server, body):
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = server.finish(answer.json()["id"], 120)
    assert job["state"] == "done", job["error"]
    return job


def image_of(server, url):
    return np.asarray(Image.open(io.BytesIO(server.client.get(url).content)).convert("RGB"))


@pytest.mark.slow
def test_cells_are_those_of_make_grid(server, tiny):
    job = submit(server, GRID)
    expected = explore.make_grid(
        tiny, ("sampler", ["euler", "heun"]), ("steps", [2, 3, 4]), prompt="a red cat", seed=5
    )
    cells = job["data"]["cells"]
    assert [(cell["row"], cell["column"]) for cell in cells] == [
        (row, column) for row in range(3) for column in range(2)
    ]
    for cell in cells:
        wanted = expected.cells[cell["row"]][cell["column"]]
        found = job["images"][cell["image"]]
        assert np.array_equal(image_of(server, found["url"]), np.asarray(wanted.image))
        assert found["params"] == wanted.params
        assert cell["distance"] == wanted.distance
    files = {file["name"]: file["url"] for file in job["files"]}
    assert np.array_equal(image_of(server, files["sheet.png"]), np.asarray(expected.sheet()))
    assert json.loads(server.client.get(files["grid.json"]).content) == expected.to_json()


def test_sheets_of_a_third_axis(server, tiny):
    axes = {"x": {"name": "steps", "values": [2, 3]}, "z": {"name": "seed", "values": [5, 6]}}
    body = {"kind": "grid", "parameters": {"prompt": "a cat"}, "distance": False} | axes
    job = submit(server, body)
    places = [(cell["sheet"], cell["row"], cell["column"]) for cell in job["data"]["cells"]]
    assert places == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    assert [image["seed"] for image in job["images"]] == [5, 5, 6, 6]
    assert (job["request"]["z"], job["request"]["y"]) == (axes["z"], None)
    expected = explore.make_grid(
        tiny, ("steps", [2, 3]), z=("seed", [5, 6]), prompt="a cat", distance=False
    )
    [sheet] = [file for file in job["files"] if file["name"] == "sheet.png"]
    assert np.array_equal(image_of(server, sheet["url"]), np.asarray(expected.sheet()))


def test_a_row_without_distances_has_one_seed(server):
    body = {key: value for key, value in GRID.items() if key != "y"}
    job = submit(server, body | {"parameters": {"prompt": "a cat", "steps": 2}, "distance": False})
    assert len({image["seed"] for image in job["images"]}) == 1
    assert [cell["distance"] for cell in job["data"]["cells"]] == [None, None]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"x": {"name": "samplr", "values": ["euler"]}}, "samplr"),
        ({"x": {"name": "sampler", "values": ["eulr"]}}, "eulr"),
        ({"x": {"name": "sampler", "values": []}}, "list of values"),
        ({"x": {"name": "sampler", "values": "euler"}}, "list of values"),
        ({"x": {"name": 5, "values": [1]}}, "must have a name"),
        ({"x": {"name": "steps", "values": [1]}}, "two axes"),
        ({"x": {"name": "seed", "values": [1]}}, "seed is an axis and has a value"),
        ({"x": None}, "object"),
        ({"y": 7}, "object"),
        ({"x": {"name": "sampler", "values": ["euler"], "more": 1}}, "more"),
        ({"y": {"name": "steps", "values": [0]}}, "steps"),
        ({"y": {"name": "steps", "values": list(range(1, 60))}}, "the limit is"),
        ({"mode": "invert"}, ""),
        ({"distance": "yes"}, "distance"),
        ({"parameters": {"prompt": "a", "count": 2}}, "one image"),
    ],
)
def test_a_wrong_grid_is_refused_before_it_is_queued(server, change, part):
    answer = server.client.post("/v1/jobs", json=GRID | change)
    assert answer.status_code in (400, 422), answer.text
    assert part in answer.json()["error"]["message"]


def test_a_grid_can_be_cancelled(server):
    body = GRID | {"parameters": {"prompt": "a cat", "cfg_scale": 3}}
    body |= {"y": {"name": "steps", "values": [900, 1000]}}
    answer = server.client.post("/v1/jobs", json=body)
    server.client.delete(answer.json()["url"])
    assert server.finish(answer.json()["id"])["state"] == "cancelled"
