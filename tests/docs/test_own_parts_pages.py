"""Write a backend, write a sampler: each page followed literally in a new environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environments
import numpy as np
import pytest
from blocks import ROOT, SHELL, blocks

from ldmref.samplers import lms, sample
from ldmref.testing import three_modes

BACKEND = "docs/write-a-backend.md"
SAMPLER = "docs/write-a-sampler.md"
JAX = ROOT / "examples" / "plugins" / "ldmref-jax" / "src" / "ldmref_jax" / "backend.py"
# As `pip install -e FOLDER` leaves it, without pip: metadata, and a path.
PIP = """
import site, sys, tomllib
from pathlib import Path
assert sys.argv[1:3] == ["install", "-e"]
project = Path(sys.argv[3]).resolve()
declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
name, version = declared["name"], declared["version"]
packages = Path(site.getsitepackages()[0])
info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
info.mkdir()
(info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
lines = []
for group, points in declared["entry-points"].items():
    lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
(info / "entry_points.txt").write_text("\\n".join(lines))
(packages / f"{name}.pth").write_text(str(project / "src"))
"""


def file_of(text: str) -> str | None:
    """Return the file that a block is to be saved as: the comment in its first line."""
    first = text.splitlines()[0]
    return first.removeprefix("# ") if first.startswith("# ldmref-mine/") else None


@pytest.fixture(params=["metadata", pytest.param("pip", marks=pytest.mark.slow)])
def reader(request, tmp_path):
    """`reader(command)` runs a command in a folder with a new environment: (exit code, output)."""
    venv = environments.make(tmp_path / "venv", everything=request.param == "pip")
    python = venv / "bin" / "python"
    if request.param == "pip":
        pip = f'exec "{python}" -m pip "$@" --no-deps --no-index --no-build-isolation'
        subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True)
    else:
        (tmp_path / "pip.py").write_text(PIP)
        pip = f'exec "{python}" "{tmp_path}/pip.py" "$@"'
    environments.script(venv / "bin" / "pip", pip)
    if not (venv / "bin" / "pytest").exists():  # the core environment has none
        here = ":".join(path for path in sys.path if Path(path).name == "site-packages")
        line = f'PYTHONPATH="{here}" exec "{python}" -m pytest -p no:cacheprovider "$@"'
        environments.script(venv / "bin" / "pytest", line)
    work = tmp_path / "work"
    work.mkdir()
    path = f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(work), "LANG": "C.UTF-8"}
    env |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}

    def run(command: list[str]) -> str:
        ran = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, f"{command}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        return ran.stdout

    return work, run


def follow(page: str, work: Path, run: Callable[[list[str]], str]) -> dict[str, str]:
    """Save the files of a page and run everything else, in order; return what each printed."""
    printed = {}
    for block in blocks(page):
        name = file_of(block.text)
        if name:
            (work / name).write_text(block.text)
        elif block.language in SHELL:
            printed |= {command: run(["sh", "-c", command]) for command in block.commands}
        elif block.text.startswith("def compile("):
            assert block.text.strip() in dedented(JAX.read_text("utf-8"))
        else:
            printed[block.text] = run(["python", "-c", block.text])
    for text, output in printed.items():
        if "print(" in text:  # the page shows what is printed as comments
            assert output and all(f"# {line}" in text for line in output.splitlines()), output
    return printed


posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


@posix
def test_write_a_backend(reader):
    printed = follow(BACKEND, *reader)
    (line,) = [x for x in printed["ldmref backends"].splitlines() if x.startswith("mine ")]
    assert " ".join(line.split()) in " ".join((ROOT / BACKEND).read_text("utf-8").split())
    assert " passed" in printed["pytest ldmref-mine"]


@posix
def test_write_a_sampler(reader):
    printed = follow(SAMPLER, *reader)
    assert "plug-in of ldmref-mine 0.1.0" in printed["ldmref samplers"]
    assert "plug-in of ldmref-mine 0.1.0" in printed["ldmref samplers --schedules"]
    work, _ = reader
    names = ("ab2.png", "again.png", "fading.png", "cubic.png")
    images = [(work / name).read_bytes() for name in names]
    assert images[0] == images[1] and len({*images}) == 3


@posix
def test_the_sampler_of_the_page_is_the_built_in_one():
    """Two-step Adams-Bashforth with an Euler start, at noise levels above 0."""
    (text,) = [block.text for block in blocks(SAMPLER) if "def adams_bashforth" in block.text]
    names: dict[str, Any] = {}
    exec(text, names)
    problem = three_modes()
    x = np.random.default_rng(0).standard_normal((8, 2))
    ours, theirs = (
        list(sample(problem.denoise, x, [5.0, 3.0, 2.0, 0.5, 0.1], step))[-1].x
        for step in (names["AB2"].make(), lms(2, "euler"))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def dedented(text: str) -> str:
    """Return the text of a class with its methods at the margin."""
    return "\n".join(line.removeprefix("    ") for line in text.splitlines())
