"""The atlas of flow schedules over HTTP."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ldmref import atlas
from ldmref.apps.mcp.schedules import ScheduleRequest

PATH = "/v1/schedules"


def test_every_row_of_the_atlas_is_listed(server):
    listed = server.client.get(PATH).json()["schedules"]
    rows = atlas.read_flow_schedules()
    assert [(row["family"], row["program"]) for row in listed] == [
        (row.family, row.program) for row in rows
    ]
    assert all(row["rule"] and row["spacing"] and row["source"] for row in listed)


@pytest.mark.parametrize("family", ["FLUX.1", "Wan"])
def test_every_program_of_a_family(server, family):
    body = {"family": family, "steps": 12, "width": 512, "height": 768}
    answer = server.client.post(PATH, json=body).json()["answer"]
    rows = [row for row in atlas.read_flow_schedules() if row.family == family]
    assert [one["program"] for one in answer] == [row.program for row in rows]
    for one, row in zip(answer, rows, strict=True):
        steps = len(row.sigmas) or 12
        wanted = atlas.make_flow_sigmas(row, steps, atlas.count_tokens(512, 768))
        assert np.array_equal(one["made"], wanted) and one["tokens"] == 32 * 48


def test_a_list_is_named(server):
    answer = server.client.post(PATH, json={"numbers": "1.0, 0.9, 0.75, 0.5"}).json()["answer"]
    assert answer["same"][0] == (
        "Z-Image, constant shift 3: Tongyi, diffusers, ComfyUI, ComfyUI sgm_uniform, DiffSynth"
    )


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "needs a family, or numbers"),
        ({"family": "FLUX.9"}, 422, "FLUX.9"),
        ({"family": "FLUX.1", "programs": ["nothing"]}, 422, "nothing"),
        ({"family": "FLUX.1", "steps": 0}, 422, "steps must be"),
        ({"family": "FLUX.1", "stepps": 4}, 422, "stepps"),
        ({"numbers": "none"}, 422, "no numbers"),
        ([], 400, "JSON object"),
    ],
)
def test_what_is_refused(server, body, status, words):
    answer = server.client.post(PATH, json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_the_description_has_the_declared_request(server):
    description = server.client.get("/openapi.json").json()
    body = description["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/Schedule"}
    properties = description["components"]["schemas"]["Schedule"]["properties"]
    assert properties.keys() == {field.name for field in dataclasses.fields(ScheduleRequest)}
