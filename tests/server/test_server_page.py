"""docs/server.md: its commands and Python run against a server, and its tables are complete."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from ldmref.apps.server.errors import STATUS
from ldmref.declare import get_fields
from ldmref.support.config import settings
from ldmref.support.server_settings import ServerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:7860"


def commands():
    shell = "".join(text for language, text in BLOCKS if language == "sh")
    return [line for line in shell.replace("\\\n", " ").splitlines() if line]


def test_the_page_runs_as_it_is_read(serve, emoji, tmp_path, monkeypatch):
    server = serve({"emoji": emoji})
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    names: dict = {}
    answers = []
    for language, text in BLOCKS:
        text = text.replace(ADDRESS, server.url)
        if language == "sh":
            for line in text.splitlines():
                if line.startswith("curl"):
                    ran = subprocess.run(
                        ["sh", "-c", line.replace("curl ", "curl -sS --fail-with-body ", 1)],
                        capture_output=True,
                        text=True,
                    )
                    assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
                    answers.append(ran.stdout)
        elif language == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(text, "docs/server.md", "exec"), names)
    assert Image.open("heart.png").size == Image.open("blue-heart.png").size == (128, 128)
    assert "event: done" in printed.getvalue() and "event: image" in printed.getvalue()
    assert json.loads(Path("openapi.json").read_text())["openapi"] == "3.1.0"
    inspected = next(json.loads(text) for text in answers if '"infotext"' in text)
    assert inspected["parameters"]["prompt"] == "red heart"
    assert len(answers) == 6


def test_other_commands_of_the_page_are_known():
    for line in commands():
        assert line.startswith(("curl ", "pip install '.[server]'", "ldmref serve"))


def test_the_settings_of_the_page_are_read_and_their_values_are_the_defaults(tmp_path):
    (text,) = [text for language, text in BLOCKS if language == "toml"]
    path = tmp_path / "ldmref.toml"
    path.write_text(text, "utf-8")
    shown = settings(path, {}).server
    others = {"token", "insecure_no_token", "allow_origin", "lora_folder"}
    others |= {"embedding_folder", "styles", "wildcards"}
    assert shown.keys() == get_fields(ServerSettings).keys() - others
    defaults = {name: getattr(ServerSettings(), name) for name in shown if name != "allow_host"}
    assert {name: shown[name] for name in defaults} == defaults


@pytest.mark.parametrize("language", ["json"])
def test_json_of_the_page_is_json(language):
    for text in [text for kind, text in BLOCKS if kind == language]:
        json.loads(text)


def test_every_status_and_route_is_on_the_page(server):
    for status in {*(status for _, status in STATUS), 413, 503}:
        assert f"| {status} |" in PAGE
    native = [path for path in server.client.get("/openapi.json").json()["paths"] if "/v1/" in path]
    for path in native:
        if path.startswith(
            ("/v1/jobs", "/v1/generate", "/v1/inspect", "/v1/capabilities", "/v1/schedules")
        ):
            shown = path.replace("{id}", "ID").replace("{index}", "0").replace("{name}", "NAME")
            assert shown in PAGE, shown
