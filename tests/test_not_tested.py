"""The end of a run names what was not tested, in one process and in several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MARKS = "not slow and not gpu and not full"
PLUGINS = (
    "conftest.py",
    "durations.py",
    "few_tests.txt",
    "full_seconds.py",
    "full_tests.py",
    "not_tested.py",
    "tiers.py",
)
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


@pytest.mark.full(reason="needs Ray")
def test_in_full():
    pass


@pytest.mark.gpu
@pytest.mark.parametrize("case", range(3))
def test_on_a_gpu(case):
    pass
""",
}


@pytest.mark.parametrize("processes", ["0", "2"])
def test_everything_that_did_not_run_is_named(processes, tmp_path):
    markers = "markers =\n    slow: long\n    gpu: CUDA\n    full: all\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{markers}")
    for name in PLUGINS:
        (tmp_path / name).write_text((HERE / name).read_text("utf-8"))
    for name, text in SUITE.items():
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-n", processes, "-m", MARKS]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout
    _, _, summary = ran.stdout.partition("NOT TESTED HERE")
    lines = [line for line in summary.splitlines() if line.startswith("SKIPPED")]
    without_device = [line for line in lines if "cupy: no" in line]
    assert all(line.startswith("SKIPPED 1: cupy: no") for line in without_device)
    assert [line for line in lines if line not in without_device] == [
        "SKIPPED 1: could not import 'no_such_library': No module named 'no_such_library'",
        "SKIPPED 3: cupy: tests that need a GPU were deselected",
        "SKIPPED 1: make full: needs Ray",
        "SKIPPED 1: needs fork",
        "SKIPPED 1: takes minutes: make slow",
        "SKIPPED 1: torch: not installed",
    ]
    assert "STAND-IN, NOT A GPU" in summary and "1 tests of the cupy backend" in summary


def test_a_missing_library_fails_a_strict_run(tmp_path):
    """In `make test` of the continuous integration: what needs it belongs to `make full`."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: CUDA\n")
    for name in PLUGINS:
        (tmp_path / name).write_text((HERE / name).read_text("utf-8"))
    (tmp_path / "test_absent_library.py").write_text(SUITE["test_absent_library"])
    (tmp_path / "test_passes.py").write_text("def test_passes():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    strict = [*command, "--strict-tier"]
    allowed = "import pytest\n\npytest.skip({!r}, allow_module_level=True)\n"
    reasons = ("cupy: not installed", "could not import 'cupy'", "zsh: not on this machine")
    for number, reason in enumerate(reasons):
        (tmp_path / f"test_allowed_{number}.py").write_text(allowed.format(reason))
    ran = subprocess.run(strict, cwd=tmp_path, capture_output=True, text=True)
    _, _, missing = ran.stdout.partition("SKIPPED FOR WANT OF A LIBRARY")
    assert ran.returncode == 1 and "no_such_library" in missing
    assert not any(word in missing for word in ("cupy", "zsh"))
    (tmp_path / "test_absent_library.py").unlink()
    assert subprocess.run(strict, cwd=tmp_path, capture_output=True).returncode == 0
