"""Rows of the fault table about small holes: tags, headers, names, arguments, settings files."""

from __future__ import annotations

import os

import pytest
from fault_cases import COMMAND_LINE, HTTP, PYTHON, covers

from ldmref import batch, explore
from ldmref.apps.cli.main import main
from ldmref.errors import UsageError

NAVIGATE = [("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")]


@covers(102, "second Sec-Fetch-Site", HTTP, code="E-ORIGIN")
def test_second_distance(client):
    for sites, status in (
        (["same-origin"], 200),
        (["none", "same-origin"], 200),
        (["same-origin", "cross-site"], 403),
        (["cross-site", "same-origin"], 403),
        (["none, cross-site"], 403),
    ):
        headers = [*NAVIGATE, *(("Sec-Fetch-Site", site) for site in sites)]
        assert client.get("/v1/jobs", headers=headers).status_code == status, sites


@covers(152, "weak tags, lists and *", HTTP)
def test_tags_that_the_client_has(client):
    tag = client.get("/").headers["etag"]
    for text in (tag, f"W/{tag}", f'"a", {tag}', f'W/"a" ,W/{tag}', "*"):
        answer = client.get("/", headers={"If-None-Match": text})
        assert answer.status_code == 304 and answer.headers["etag"] == tag and not answer.content
    for text in ('"a"', tag.strip('"'), f"{tag}x", "", '*, "a"', f"w/{tag}"):
        assert client.get("/", headers={"If-None-Match": text}).status_code == 200, text
    two = [("If-None-Match", '"a"'), ("If-None-Match", tag)]
    assert client.get("/", headers=two).status_code == 304


ROWS = [{"prompt": "cat", "steps": 1}]


@covers(153, "run_batch", PYTHON)
def test_arguments_of_a_batch(tiny, tmp_path):
    for rows, out, options in (
        (5, tmp_path, {}),
        (None, tmp_path, {}),
        (ROWS, 5, {}),
        (ROWS, None, {}),
        (ROWS, tmp_path, {"report": 5}),
        (ROWS, tmp_path, {"cancel": 5}),
        (ROWS, tmp_path, {"shard": 5}),
    ):
        with pytest.raises(UsageError):
            batch.run_batch(tiny, rows, out, **options)
    assert not [*tmp_path.iterdir()]


@covers(153, "plan_grid", PYTHON)
def test_arguments_of_a_grid(tiny):
    steps = ("steps", [1])
    for axes in ((5,), ("steps",), (("steps",),), (steps, 5), (("steps", 5),), ((5, [1]),),
                 ({"steps": [1]},), (steps, steps)):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            explore.plan_grid(tiny, *axes, prompt="cat")
        assert caught.value.code == "E-GRID", axes
    assert explore.plan_grid(tiny, ["steps", (1, 2)], prompt="cat").count == 2


@covers(153, "serve -m without a name or without a model", COMMAND_LINE, code="E-MODEL")
def test_models_without_a_name(stage):
    for text in ("=emoji", " =emoji", "mine=", "="):
        assert main(["serve", "--port", "0", "-m", text]) == 2
        assert "NAME=PATH" in stage.capfd.readouterr().err, text


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@covers(154, "FIFO, folder, dangling link", COMMAND_LINE, code="E-CONFIG-FILE")
def test_settings_that_are_no_file(stage):
    path = stage.work / "ldmref.toml"
    assert main(["config", "show"]) == 0
    for make in (os.mkfifo, os.mkdir, lambda p: os.symlink("nowhere", p)):
        make(path)
        stage.capfd.readouterr()
        assert main(["config", "show"]) == 3
        assert "error[E-CONFIG-FILE]" in stage.capfd.readouterr().err
        path.rmdir() if path.is_dir() else path.unlink()
    (stage.work / "own.toml").write_text("[defaults]\nsteps = 7\n")
    path.symlink_to("own.toml")  # a link to a file is one
    assert main(["config", "show"]) == 0 and "7" in stage.capfd.readouterr().out
