"""What `make test` leaves out is listed, exists, and runs in `make rest`; what takes long fails."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path

import full_tests
import pytest
import tiers
from full_tests import FEW, FULL, LONG, SAMPLED

ROOT = Path(__file__).parents[1]
PLUGINS = ("conftest.py", "durations.py", "not_tested.py", "tiers.py")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


def test_the_tables_name_what_exists():
    wrong = []
    for name in chain(FULL, SAMPLED, FEW, LONG):
        file, _, function = name.partition("[")[0].partition("::")
        exists = (ROOT / file).exists()
        if not exists or (function and function not in functions_of(ROOT / file)):
            wrong.append(name)
    assert not wrong, f"tests/full_tests.py names {wrong}"


def test_every_row_has_a_reason():
    assert all(chain(FULL.values(), LONG.values())) and all(chain(SAMPLED.values(), FEW.values()))


def test_a_sample_has_its_size_and_keeps_what_it_had(monkeypatch):
    names = [f"tests/test_a.py::test_b[{i}]" for i in range(50)]
    chosen = tiers.sample(names, 10)
    assert len(chosen) == 10 and chosen <= {*names}
    assert chosen == tiers.sample(reversed(names), 10)
    larger = tiers.sample([*names, "tests/test_a.py::test_b[new]"], 10)
    assert len(chosen & larger) >= 9
    monkeypatch.setitem(SAMPLED, "tests/test_a.py::test_b", 10)
    assert tiers.leave_out([*names, "tests/test_a.py::test_c"]) == {*names} - chosen


SUITE = """
import time

import pytest


@pytest.mark.parametrize("i", range(20))
def test_sampled(i):
    pass


@pytest.mark.parametrize("name", ["numpy", "onnx"])
def test_library(name):
    pass


@pytest.mark.parametrize("library", ["numpy", "strict"])
def test_combination(library):
    pass


def test_listed():
    pass


@pytest.mark.slow
def test_slow():
    pass


def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.fixture(scope="module")
def first_use():
    return []


def test_long():
    work(0.3)


def test_long_with_a_reason():
    work(0.3)


def test_long_once(first_use):
    if not first_use:
        work(0.3)
    first_use.append(1)


def test_waits():
    time.sleep(0.3)
"""
TABLES = """
FULL = {"test_some.py::test_listed": "needs Ray", "test_other.py": "needs a browser"}
LIBRARIES = {"onnx": "ONNX Runtime"}
SECONDS = "takes seconds"
SAMPLED = {"test_some.py::test_sampled": 6}
FEW = {"test_some.py": 4}
COMBINATIONS = [{"library": "strict"}]
LONG = {"test_some.py::test_long_with_a_reason": "measures"}
"""


@pytest.fixture
def suite(tmp_path):
    """A project with the tables above, and a limit of a tenth of a second on any processor."""
    markers = "markers =\n    slow: long\n    gpu: CUDA\n    full: all\n    not_sampled: rest\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{markers}")
    for name in PLUGINS:
        text = Path(__file__).with_name(name).read_text("utf-8")
        text = text.replace("LIMIT = 7.0", "LIMIT = 0.1").replace("USUAL = 0.16", "USUAL = 1e9")
        (tmp_path / name).write_text(text)
    (tmp_path / "full_tests.py").write_text(TABLES)
    (tmp_path / "test_some.py").write_text(SUITE)
    (tmp_path / "test_other.py").write_text("def test_other():\n    pass\n")

    def run(*arguments):
        """Return the run, and the tests that passed."""
        command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:xdist", *arguments]
        # the options of this run are not those of the small project
        env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        ran = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        lines = [line.split() for line in ran.stdout.splitlines()]
        return ran, {line[1] for line in lines if line[:1] == ["PASSED"]}

    return run


def test_the_two_parts_are_the_whole(suite):
    _, part = suite("-m", "not slow and not full")
    _, rest = suite("-m", "full and not slow")
    _, whole = suite("-m", "not slow")
    assert part | rest == whole and not part & rest and len(whole) == 30
    kept = {name for name in rest if "sampled" not in name}
    assert kept == {
        "test_some.py::test_combination[strict]",
        "test_some.py::test_library[onnx]",
        "test_some.py::test_listed",
        "test_other.py::test_other",
    }
    assert len(rest - kept) == 16 and len([name for name in part if "sampled" in name]) == 4


def test_continuous_integration_leaves_out_the_rest_of_the_sweeps(suite):
    """The options are those of `.ci/run`: what stands in the tables runs, on any machine."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    left = re.search("^left='(.*)'$", script, re.MULTILINE)[1]
    _, ran = suite("-m", "full and not slow", "-k", f"not ({left})")
    few = {name for name in ran if "sampled" in name}  # the others of the sample of six
    assert len(few) == 2 and ran - few == {
        "test_some.py::test_library[onnx]",
        "test_some.py::test_listed",
        "test_other.py::test_other",
    }


def test_a_test_that_takes_long_fails_unless_it_is_listed(suite, tmp_path):
    """Processor time counts, of the faster of two runs: first uses and waiting do not."""
    arguments = ("-m", "not slow and not full", "--durations-file", "build/durations.json")
    ran, passed = suite(*arguments, "--strict-tier", "-p", "no:randomly")
    assert ran.returncode == 1 and "took 0.3 s of processor time, twice" in ran.stdout
    names = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("FAILED")]
    assert names == ["test_some.py::test_long"]
    assert "test_some.py::test_long_once" in passed and "test_some.py::test_waits" in passed
    recorded = (tmp_path / "build" / "durations.json").read_text("utf-8")
    assert recorded.count('"processor"') == 10 and "test_waits" in recorded
    ran, passed = suite(*arguments)
    assert ran.returncode == 0 and "test_some.py::test_long" in passed


def test_the_limit_is_higher_on_a_slow_processor(suite, tmp_path):
    """A test is not too long on a processor that takes many times what a usual one takes."""
    plugin = tmp_path / "durations.py"
    plugin.write_text(plugin.read_text("utf-8").replace("USUAL = 1e9", "USUAL = 1e-6"))
    ran, passed = suite("-m", "not slow and not full", "--strict-tier")
    assert ran.returncode == 0 and "test_some.py::test_long" in passed


def test_what_has_not_begun_within_the_minutes_is_skipped(suite, monkeypatch):
    monkeypatch.setenv("TEST_MINUTES", "0.0")
    ran, passed = suite()
    assert ran.returncode == 0 and not passed
    assert "the 0.0 minutes of this run are over" in ran.stdout
    monkeypatch.setenv("TEST_MINUTES", "60")
    ran, passed = suite()
    assert "test_some.py::test_long" in passed


def test_durations_are_added_up(tmp_path, monkeypatch, capsys):
    times = {"seconds": 9.0, "processor": 5.0, "call": 4.0}
    tests = {"tests/io/test_a.py::test_b": times, "tests/io/test_c.py::test_d": times | {"call": 1}}
    (tmp_path / "test.json").write_text(json.dumps({"unit": "s", "tests": tests}))
    monkeypatch.setattr("sys.argv", ["sum_durations.py", str(tmp_path / "test.json")])
    runpy.run_path(str(ROOT / "scripts" / "sum_durations.py"), run_name="__main__")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "10 s of processor time in all" in lines and "10.0 s tests/io" in lines
    position = lines.index("more than 3 s without fixtures: 1 tests")
    assert lines[position + 1 : position + 3] == ["4.0 s tests/io/test_a.py::test_b", ""]


def test_the_few_tests_are_written_from_durations():
    script = runpy.run_path(str(ROOT / "scripts" / "sum_durations.py"))
    seconds = {f"tests/io/test_a.py::test_b[{i}]": {"call": 0.2} for i in range(9)}
    seconds |= {f"tests/math/test_c.py::test_d[{i}]": {"call": 0.2} for i in range(9)}
    times = {name: test["call"] for name, test in seconds.items()}
    assert script["choose_few"](times, {}) == {"tests/io/test_a.py::test_b": 2}
    assert script["choose_few"](times, {"tests/io/test_a.py::test_b": 1, "gone": 3}) == {
        "tests/io/test_a.py::test_b": 1
    }
    assert {name.partition("::")[0] for name in FEW} <= {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")
    }


def test_the_page_of_contributors_names_the_commands():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for command in ("make test", "make rest", "make full", "make slow"):
        assert f"`{command}`" in text
    assert "tests/full_tests.py" in text and full_tests.__doc__
