"""`pytest --ldmref-against`: one test per identity, in a separate pytest."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RIGHT = "def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)\n"
WRONG = "def log_snr(alpha_bar):\n    return 2 * alpha_bar\n"


@pytest.fixture
def run(tmp_path):
    """Run pytest in an empty folder with only this plug-in; returns (exit code, output)."""
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("PYTEST_ADDOPTS", None)

    def run_pytest(*argv):
        command = [sys.executable, "-m", "pytest", "-p", "ldmref.pytest_plugin", "-rA", *argv]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return ran.returncode, ran.stdout + ran.stderr

    return run_pytest


def test_one_test_for_each_identity_of_the_functions(run, tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT + WRONG)
    code, output = run("--ldmref-against", "mine.py", "--ldmref-cases", "2")
    assert code == 1
    assert "PASSED ldmref::snr: signal over noise without rounding" in output
    assert "FAILED ldmref::log_snr: " in output and "log_snr(alpha_bar=[" in output
    assert "got " in output and "the oracle has " in output and "Traceback" not in output


def test_selection_and_options(run, tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT + WRONG)
    options = ("--ldmref-against", "mine", "--ldmref-dtype", "float32", "--ldmref-cases", "1")
    code, output = run(*options, "-k", "snr and not log_snr")
    assert code == 0 and "1 passed" in output
    code, output = run(*options, "--ldmref-backend", "nunpy")
    assert code == 4 and "numpy" in output


def test_the_edges_are_tested_on_request(run, tmp_path):
    naive = "def sigma_from_alpha_bar(alpha_bar):\n    return (1 / alpha_bar - 1) ** 0.5\n"
    (tmp_path / "mine.py").write_text(naive)
    options = ("--ldmref-against", "mine.py", "--ldmref-cases", "4", "-k", "sigma_from_alpha_bar:")
    assert run(*options)[0] == 0
    code, output = run(*options, "--ldmref-hard")
    assert code == 1 and ", alpha_bar = 1 - " in output


def test_it_runs_beside_other_tests_and_warns_of_misspelt_functions(run, tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT + "def q_smaple(x0):\n    return x0\n")
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    code, output = run("--ldmref-against", "mine.py", "--ldmref-cases", "1")
    assert code == 0 and "2 passed" in output and "did you mean q_sample" in output


def test_gradients_are_skipped_with_a_reason_where_none_are_recorded(run, tmp_path):
    (tmp_path / "mine.py").write_text("def straight_through(z, quantised):\n    return quantised\n")
    options = ("--ldmref-against", "mine.py", "--ldmref-cases", "1")
    code, output = run(*options)
    assert code == 0 and "2 passed, 1 skipped" in output
    assert "numpy records no gradients; --ldmref-backend torch does" in output
    pytest.importorskip("torch")
    code, output = run(*options, "--ldmref-backend", "torch")
    assert code == 1 and "1 failed, 2 passed" in output
    assert "FAILED ldmref::straight_through: gradient passes to the unquantised" in output


def test_the_part_that_differs_and_hints_are_printed(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def q_posterior(x0, xt, a, b):\n"
        "    return b**0.5 * (1 - a / b) / (1 - a) * x0, (1 - a / b) * (1 - b) / (1 - a)\n"
    )
    code, output = run("--ldmref-against", "mine.py", "--ldmref-cases", "2")
    assert code == 1 and "mean of q_posterior: got " in output
    assert "hint: alpha_bar and alpha_bar_prev may be (n,)" in output


@pytest.mark.parametrize("text", ["1 / 0", "def my_own(x):\n    return x"])
def test_a_module_that_cannot_be_checked_is_a_usage_error(run, tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    code, output = run("--ldmref-against", "mine.py")
    assert code == 4 and "mine.py" in output and "Traceback" not in output


def test_without_the_option_nothing_is_imported(run, tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import sys\n"
        "def test_one():\n"
        "    ours = {m for m in sys.modules if m.startswith('ldmref.')}\n"
        "    assert ours == {'ldmref.pytest_plugin'}\n"
    )
    code, output = run("-p", "no:hypothesis")
    assert code == 0, output


def test_the_entry_point_names_the_plug_in():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"ldmref": "ldmref.pytest_plugin"}
