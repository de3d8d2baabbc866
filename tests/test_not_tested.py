"""The end of a run names what was not tested, in one process and in several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py").read_text("utf-8")
SUITE = {
    "test_absent_library": "import pytest\n\npytest.importorskip('no_such_library')\n",
    "test_some": """
import pytest


def test_passes(request):
    request.node.user_properties.append(("stand-in", "cupy"))


def test_skipped(skip):
    skip("torch", "not  installed")


@pytest.mark.skip(reason="needs fork")
def test_marked():
    pass


@pytest.mark.slow
def test_slow():
    pass


@pytest.mark.gpu
@pytest.mark.parametrize("case", range(3))
def test_on_a_gpu(case):
    pass
""",
}


@pytest.mark.parametrize("processes", ["0", "2"])
def test_everything_that_did_not_run_is_named(processes, tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: long\n    gpu: CUDA\n")
    for name, text in SUITE.items():
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-n", processes, "-m", "not slow and not gpu"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout
    _, _, summary = ran.stdout.partition("NOT TESTED HERE")
    lines = [line for line in summary.splitlines() if line.startswith("SKIPPED")]
    assert lines == [
        "SKIPPED 1: could not import 'no_such_library': No module named 'no_such_library'",
        "SKIPPED 3: cupy: tests that need a GPU were deselected",
        "SKIPPED 1: needs fork",
        "SKIPPED 1: takes minutes: make slow",
        "SKIPPED 1: torch: not installed",
    ]
    assert "STAND-IN, NOT A GPU" in summary and "1 tests of the cupy backend" in summary
