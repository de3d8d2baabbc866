"""scripts/other_processors.py: kernels that are really used, and those that cannot be."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "other_processors.py"))
Kernels = SCRIPT["Kernels"]
obstacle = SCRIPT["obstacle"]


def test_settings_have_a_variable_each():
    for name, setting in SCRIPT["SETTINGS"].items():
        variables = [kernels.variable for kernels in setting]
        assert variables and len(variables) == len({*variables}), name
    assert len(SCRIPT["SETTINGS"]["oldest"]) == len(SCRIPT["LIBRARIES"])


def test_variables_of_the_caller_are_left_out(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    made = SCRIPT["environment"]((Kernels("openblas", "SkylakeX", (), ""),))
    assert made["OPENBLAS_CORETYPE"] == "SkylakeX" and "MKL_CBWR" not in made


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        (Kernels("openblas", "Haswell", ("NO_SUCH_FEATURE",), ""), "has no NO_SUCH_FEATURE"),
        (Kernels("openblas", "NoSuchCore", (), "'NoSuchCore'"), "takes other kernels: "),
        (Kernels("numpy", "", (), "used:"), "nothing here beyond its baseline"),
    ],
)
def test_obstacles_are_named(kernels, said):
    assert said in obstacle(kernels)


def test_a_trial_that_dies_is_an_obstacle(monkeypatch):
    """As one with instructions that the processor does not have."""
    library = SCRIPT["Library"]("OPENBLAS_CORETYPE", "import os; os.abort()")
    monkeypatch.setitem(SCRIPT["LIBRARIES"], "openblas", library)
    assert "ended with code -6" in obstacle(Kernels("openblas", "Haswell", (), ""))


@pytest.mark.parametrize(("asserted", "code"), [("not", 0), ("", 1)])
def test_the_tests_run_with_the_kernels(asserted, code, tmp_path, monkeypatch, capsys):
    setting = SCRIPT["SETTINGS"]["numpy-baseline"]
    if any(map(obstacle, setting)):
        pytest.skip(f"numpy: {obstacle(setting[0])}")
    (tmp_path / "test_a.py").write_text(
        "from numpy._core._multiarray_umath import __cpu_features__ as features\n"
        f"def test_a(): assert {asserted} features[{SCRIPT['OPTIONAL'][0]!r}]\n"
    )
    argv = ["x", "--only", "numpy-baseline", "--workers", "0", str(tmp_path / "test_a.py")]
    monkeypatch.setattr(sys, "argv", argv)
    assert SCRIPT["main"]() == code
    printed = capsys.readouterr().out
    assert ("FAILED: numpy-baseline" in printed) == bool(code)
    assert ("1 passed" in printed) == (not code)
