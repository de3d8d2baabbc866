"""docs/add-a-formula.md, followed literally in a copy of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks

PAGE = "docs/add-a-formula.md"
# The comment in the first line of a block says where it goes.
PLACES = ("# at the end of ", "# in ")
ROOTS = ("xp.sqrt(1.0 - alpha_bar)", "xp.sqrt(alpha_bar)")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy the part of the repository that the page changes, and follow the page."""
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "ldmref", tmp_path / "ldmref", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "math", tmp_path / "tests" / "math", ignore=ignore)
    tests = ROOT / "tests"
    for helper in (*tests.glob("[!t]*.py"), *tests.glob("*.txt")):  # conftest.py and its plug-ins
        shutil.copy(helper, tmp_path / "tests")
    shutil.copy(ROOT / "tests" / "tiers.py", tmp_path / "tests")
    changed = []
    for block in blocks(PAGE):
        if block.language == "python":
            first, _, code = block.text.partition("\n")
            name = next(first.removeprefix(p) for p in PLACES if first.startswith(p))
            path = tmp_path / name
            path.write_text(path.read_text("utf-8") + "\n\n" + code, "utf-8")
            changed.append(name)
    assert len(changed) == 3
    path = tmp_path / "ldmref" / "math" / "__init__.py"
    text = path.read_text("utf-8")
    text += "\nfrom ldmref.math.snr import diffusion_angle\n__all__.append('diffusion_angle')\n"
    path.write_text(text, "utf-8")
    return tmp_path


def run(clone: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(clone), "HYPOTHESIS_PROFILE": "dev"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=clone, env=env, capture_output=True, text=True
    )


TESTS = ("pytest", "-q", "-p", "no:cacheprovider", "tests/math/test_snr.py", "-k", "angle")
CHECK = ("ldmref", "check", "--only", "diffusion_angle")
DOCTEST = ("pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "ldmref/math/snr.py")


@pytest.mark.parametrize(
    ("command", "printed"),
    [(TESTS, "passed"), (CHECK, "rotation gives v"), (DOCTEST, "passed")],
    ids=["tests", "identity", "example"],
)
def test_the_formula_of_the_page_passes(clone, command, printed):
    ran = run(clone, *command)
    assert ran.returncode == 0 and printed in ran.stdout, ran.stdout[-3000:] + ran.stderr[-3000:]


@pytest.mark.parametrize("command", [TESTS, CHECK], ids=["tests", "identity"])
def test_exchanged_roots_are_noticed(clone, command):
    path = clone / "ldmref" / "math" / "snr.py"
    text = path.read_text("utf-8")
    right = f"xp.atan2({', '.join(ROOTS)})"
    assert right in text
    path.write_text(text.replace(right, f"xp.atan2({', '.join(reversed(ROOTS))})"), "utf-8")
    assert run(clone, *command).returncode in (1, 4)
