"""Run every command and every block of the pages as a reader would, or say why not.

A page runs in an empty folder, with a user's environment, once with the core dependencies alone and
once with everything; see `table.py` for what a page needs, and for its exceptions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocks import SHELL, Block, blocks
from materials import Materials
from PIL import Image
from table import ALL, EXCEPTIONS, PAGES, Page, Reason, reason_of

HERE = Path(__file__).parent
TIMEOUT = 3600  # seconds for a page
posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


def needed(reason: Reason | None) -> str:
    """Return the need of a step: "", "torch", "gpu" or "slow"; "never" if it is not run."""
    if reason is None:
        return ""
    kinds = {"begins": "slow", "exits": reason.detail, "elsewhere": "never", "not run": "never"}
    return kinds.get(reason.kind, reason.kind)


def allowed(everything: bool, slow: bool) -> set[str]:
    """Return the needs that are met."""
    if not everything:
        return {""}
    here = {"", "torch", "slow"} if slow else {"", "torch"}
    try:
        import torch

        return here | ({"gpu"} if torch.cuda.is_available() else set())
    except ImportError:
        return here


def steps_of(page: str, met: set[str]) -> list[dict[str, Any]]:
    """Return the blocks of a page in their order, as `reader.py` takes them."""
    steps = []
    settings = PAGES.get(page, Page()).settings
    for block in blocks(page):
        if block.language in SHELL:
            steps += shell_steps(block, met)
            continue
        reason = reason_of(page, block.text)
        if needed(reason) not in met:
            continue
        step = {"kind": "python", "text": block.text, "title": str(block)}
        if block.language == "toml":
            step["text"] = toml_check(block, settings)
        steps.append(step)
    return steps


def shell_steps(block: Block, met: set[str]) -> list[dict[str, Any]]:
    """Return the commands that can run: shells for several of them, each long training alone."""
    steps: list[dict[str, Any]] = []
    for command in block.commands:
        reason = reason_of(block.page, command)
        if needed(reason) not in met:
            continue
        if reason and reason.kind == "begins":
            steps.append(
                {"kind": "begin", "text": command.partition("  #")[0], "title": str(block)}
            )
            continue
        if not steps or steps[-1]["kind"] != "shell":
            steps.append({"kind": "shell", "lines": [], "title": str(block)})
        code = reason.code if reason and reason.kind == "exits" else 0
        steps[-1]["lines"].append({"text": command, "exit": code})
    return steps


def toml_check(block: Block, settings: str) -> str:
    """Return Python that reads a TOML block as the program would."""
    assert settings, f"{block}: table.py says nothing about how the TOML of this page is read"
    read = {
        "settings": "from ldmref.support.config import settings\nsettings(path)",
        "recipe": "from ldmref.training import read_recipe\nread_recipe(str(path))",
    }[settings]
    return "from pathlib import Path\n\npath = Path('page.toml')\n" + (
        f"path.write_text({block.text!r}, 'utf-8')\n{read}\n"
    )


@pytest.fixture(scope="session")
def materials(tmp_path_factory):
    return Materials(tmp_path_factory.mktemp("materials"))


@pytest.fixture
def read(tmp_path, materials, environment):
    """`read(page, everything, slow)` runs a page in a new folder, and returns the folder."""

    def run(page, everything, slow=False):
        needs = PAGES.get(page, Page())
        venv = environment(everything)
        steps = steps_of(page, allowed(everything, slow))
        work = tmp_path / "work"
        (work / "home").mkdir(parents=True)
        (work / ".venv").symlink_to(venv)
        has = needs.has if everything else [name for name in needs.has if not of_torch(name)]
        materials.put(tuple(has), work)
        (tmp_path / "steps.json").write_text(json.dumps(steps))
        path = f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        env = {"PATH": path, "HOME": str(work / "home"), "LANG": "C.UTF-8", "STAND_INS": str(HERE)}
        env |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        command = [venv / "bin" / "python", HERE / "reader.py", tmp_path / "steps.json"]
        ran = subprocess.run(
            command, cwd=work, env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert ran.returncode == 0, ran.stderr
        results = [json.loads(line) for line in ran.stdout.splitlines()]
        for step, result in zip(steps, results, strict=False):
            assert result["passed"], f"{step['title']}\n{result['output'][-4000:]}"
        assert len(results) == len(steps)
        return work

    return run


def of_torch(material: str) -> bool:
    """Return whether torch makes a material, and only steps with torch use it."""
    return material.startswith("pickle")


def runs(page: str, met: set[str]) -> bool:
    return bool(steps_of(page, met))


CORE = [page for page in ALL if runs(page, {""})]
WITH_TORCH = [page for page in ALL if steps_of(page, {"", "torch"}) != steps_of(page, {""})]
SLOW = [
    page
    for page in ALL
    if PAGES.get(page, Page()).torch_is_slow
    or PAGES.get(page, Page()).is_slow
    or steps_of(page, {"", "torch", "slow"}) != steps_of(page, {"", "torch"})
]


@posix
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * PAGES.get(page, Page()).is_slow)
        for page in CORE
        if page != "README.md"
    ],
)
def test_a_page_runs_without_torch(page, read):
    read(page, everything=False)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), int)


@posix
def test_the_readme_runs_without_torch(read):
    """The images that it names exist, and Python's are those of the command line."""
    work = read("README.md", everything=False)
    assert len(list(work.glob("red-heart-[0-9]*.png"))) == 2  # of the map, and of the model
    assert (work / "a-green-cat-and-a-red-apple-on-yellow-1.png").is_file()
    assert (work / "heart.gif").is_file()
    for name in "abcd":
        assert pixels(work / f"{name}.png").shape == (128, 128, 3)
    assert np.array_equal(pixels(work / "a.png"), pixels(work / "heart.png"))


@posix
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in WITH_TORCH
        if not (PAGES.get(page, Page()).torch_is_slow or PAGES.get(page, Page()).is_slow)
    ],
)
def test_a_page_runs_with_torch(page, read):
    pytest.importorskip("torch")
    read(page, everything=True)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_a_page_runs_with_all_that_takes_minutes(page, read):
    pytest.importorskip("torch")
    read(page, everything=True, slow=True)


@posix
def test_the_core_environment_has_no_torch(environment):
    python = environment(False) / "bin" / "python"
    for name in ("torch", "pytest", "diffusers", "matplotlib"):
        ran = subprocess.run([python, "-c", f"import {name}"], capture_output=True, env={})
        assert ran.returncode == 1 and b"ModuleNotFoundError" in ran.stderr, name
    subprocess.run([python, "-c", "import ldmref.modes"], check=True, env={})


NOT_RUN = [
    (page, fragment, reason)
    for page, rows in EXCEPTIONS.items()
    for fragment, reason in rows.items()
    if reason.kind in ("not run", "gpu")
]


@pytest.mark.parametrize(("page", "fragment", "reason"), NOT_RUN)
def test_what_is_not_run_is_named(page, fragment, reason):
    """Each is skipped, and the end of a run lists it."""
    if reason.kind == "gpu" and "gpu" in allowed(True, False):
        return
    pytest.skip(f"{page}: {' '.join(fragment.split())}: {reason.detail or 'needs a GPU'}")


@posix
@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"kind": "shell", "lines": [{"text": "false  # no", "exit": 0}]}, "exit code 1, expected"),
        ({"kind": "shell", "lines": [{"text": "true", "exit": 4}]}, "exit code 0, expected 4"),
        ({"kind": "python", "text": "1 / 0", "title": "p"}, "ZeroDivisionError"),
        ({"kind": "python", "text": "def test_a():\n    assert 0\n", "title": "p"}, "Assertion"),
        ({"kind": "begin", "text": "false"}, "exit code 1, expected 130"),
    ],
)
def test_a_step_that_fails_is_seen(step, said, tmp_path):
    (tmp_path / "steps.json").write_text(json.dumps([step, step]))
    command = [sys.executable, HERE / "reader.py", "steps.json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (result,) = map(json.loads, ran.stdout.splitlines())  # the second does not run
    assert not result["passed"] and said in result["output"]
