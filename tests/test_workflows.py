"""The workflows of GitHub are valid, and the commands in them exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ldmref.support.version import __version__

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
MODULES = {"build", "pip", "pytest", "venv"}  # of `python -m`
PROGRAMS = {"cd", "gh", "ldmref", "make", "pip", "python"}

pytestmark = pytest.mark.skipif(
    not (ROOT / ".github").is_dir(), reason="the source distribution has no workflows"
)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands() -> list[str]:
    """Return every command of every workflow."""
    runs = [step["run"] for path in WORKFLOWS for step in steps(load(path)) if "run" in step]
    return [line for text in runs for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_complete(path):
    workflow = load(path)
    assert {"name", "jobs", "permissions"} <= {*workflow}
    assert True in workflow  # YAML 1.1 reads the key `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["steps"]
        assert {*job.get("needs", "").split()} <= {*workflow["jobs"]}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    """A tag can be moved to other code; the comment says which version the commit is."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"- uses: actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line
    found = dict.fromkeys(line.partition("uses: ")[2] for line in lines)
    assert len(found) == len({name.partition("@")[0] for name in found})  # one version of each


def test_the_two_commands_run_on_three_systems():
    jobs = load(FOLDER / "tests.yml")["jobs"]
    assert jobs["commands"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    runs = [step.get("run") for step in jobs["commands"]["steps"]]
    assert "make demo" in runs and "make test" in runs
    assert jobs["windows"]["runs-on"] == "windows-latest"
    assert jobs["full"]["strategy"] == jobs["commands"]["strategy"]
    assert "make full" in [step.get("run") for step in jobs["full"]["steps"]]
    assert "make reference" in [step.get("run") for step in jobs["reference"]["steps"]]
    assert "make lint" in [step.get("run") for step in jobs["lint"]["steps"]]
    assert "make docs" in [step.get("run") for step in jobs["docs"]["steps"]]


def test_windows_runs_the_commands_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    steps = {
        s["name"]: s["run"]
        for s in load(FOLDER / "tests.yml")["jobs"]["windows"]["steps"]
        if "name" in s
    }
    (demo,) = re.findall(r"bin/(ldmref txt2img .*)", makefile)
    assert demo in steps["demo"]
    (torch,) = {*re.findall(r"torch==[\d.]+", makefile)}
    assert torch in steps["test"] and '".[full]"' in steps["test"] and '".[full]"' in makefile
    assert "-m pytest -q -n auto" in steps["test"] and "-m pytest -q -n auto" in makefile


@pytest.mark.parametrize("command", commands())
def test_a_command_exists(command):
    first, *words = command.replace('"', "").split()
    program = first.rpartition("/")[2]
    assert program in PROGRAMS
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    if program == "make":
        assert words[0] in targets
    if program == "python" and words[0] == "-m":
        assert words[1] in MODULES
        assert words[1] == "build" or importlib.util.find_spec(words[1])
    elif program == "python":
        assert (ROOT / words[0]).is_file()
    if program == "ldmref":
        from ldmref.apps.cli.main import cli

        assert words[0] in cli.commands


def test_a_release_needs_one_version_everywhere():
    command = [sys.executable, ROOT / "scripts" / "check_release.py", "v99.0"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    for file in ("ldmref/support/version.py", "CITATION.cff", "CHANGELOG.md"):
        assert file in ran.stdout


def test_the_version_of_the_citation_is_that_of_the_package():
    assert load(ROOT / "CITATION.cff")["version"] == __version__


def test_the_hooks_of_pre_commit_are_those_of_make_lint():
    hooks = [
        hook for repo in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    ]
    assert {"ruff-check", "ruff-format", "subject-length"} <= {hook["id"] for hook in hooks}


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")))
def test_an_issue_template_has_a_name_and_a_description(path):
    _, head, body = path.read_text("utf-8").split("---\n", 2)
    assert {"name", "about"} <= {*yaml.safe_load(head)} and body.strip()


def test_the_full_suite_runs_and_leaves_its_durations():
    """The workflow runs `make test` and `make full`, `.ci/run` what is left of it."""
    jobs = load(FOLDER / "tests.yml")["jobs"]
    for name in ("commands", "full"):
        (upload,) = [s["with"] for s in jobs[name]["steps"] if "upload" in s.get("uses", "")]
        assert "build/durations" in upload["path"].split()
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "clean make test\n" in script and " make rest\n" in script
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for marks in ('"not slow and not full"', '"full and not slow"'):
        # with "=": pytest takes an existing file for the folder of the tests, in the second run
        assert f"-m {marks} --durations-file=build/durations/" in makefile
