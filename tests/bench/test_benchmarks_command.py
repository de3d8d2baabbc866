"""`python -m benchmarks` as it is typed; no test looks at how long anything took."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks.against import TreeComparison
from benchmarks.cases import CASES
from benchmarks.machine import OPENBLAS_OVERRIDES
from ldmref.errors import BackendUnavailable


@pytest.fixture(autouse=True)
def quick_and_default_blas(monkeypatch):
    """Time one call per round, and warn of nothing."""
    monkeypatch.setattr("benchmarks.work.MIN_SECONDS", 0.0)
    for name in OPENBLAS_OVERRIDES:
        monkeypatch.delenv(name, raising=False)


def test_list(bench):
    ran = bench("--list")
    lines = ran.out.splitlines()
    assert ran.code == 0 and len(lines) == 2 * len(CASES) and max(map(len, lines)) <= 100
    for case, first, second in zip(CASES.values(), lines[::2], lines[1::2], strict=True):
        assert first.split()[:3] == [case.name, case.backend, "against"]
        assert case.peer_title in first and second.strip() == case.title
        assert f", aim {case.aim:.2f}" in first
        assert (f", target {case.target or 0:.2f}" in first) == (case.target is not None)
    assert len(bench("unet", "--list", "--backend", "numpy").out.splitlines()) == 2 * 6


def test_rows_json_and_plot(bench, tmp_path, peers):
    pytest.importorskip("matplotlib")
    files = ("--json", "a.json", "--plot", "a.png")
    ran = bench("unet-numpy-32", "clip-torch", "--quick", *files)
    assert ran.code == 0, ran.err
    for word in ("ratio", "GFLOP/s", "of the peak", "diffusers eager", "numbers mean nothing"):
        assert word in ran.out
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["unet-numpy-32", "clip-torch"]
    assert found["quick"] and found["skipped"] == found["differing"] == []
    machine = found["machine"]
    assert (
        machine["cpu"] and machine["threads"]["torch"] >= 1 and "diffusers" in machine["versions"]
    )
    assert all(len(row["ours"]["values"]) == row["rounds"] == 2 for row in found["rows"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    again = bench("unet-numpy-32", "--quick", *files)
    assert again.code == 8 and "exists" in again.err and "ratio" not in again.out


@pytest.mark.parametrize("name", OPENBLAS_OVERRIDES)
def test_an_openblas_override_is_recorded_and_warned_of(bench, tmp_path, peers, monkeypatch, name):
    ran = bench("clip-numpy", "--quick", "--json", "a.json")
    assert ran.code == 0 and not ran.err
    assert name not in json.loads((tmp_path / "a.json").read_text())["machine"]["environment"]
    monkeypatch.setenv(name, "12345")
    ran = bench("clip-numpy", "--json", "b.json", "--quick", "--rounds", "1")
    (line,) = ran.err.splitlines()
    assert ran.code == 0 and line.startswith(f"warning: {name}=12345 overrides OpenBLAS")
    assert "warning" not in ran.out
    machine = json.loads((tmp_path / "b.json").read_text())["machine"]
    assert machine["environment"][name] == "12345"
    assert "warning" not in (tmp_path / "b.json").read_text()
    assert not bench("--list").err


def test_a_missing_peer_is_named_and_the_others_go_on(bench, peers, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    ran = bench("unet-numpy-32", "clip-numpy", "--quick")
    assert ran.code == 0 and "clip-numpy" in ran.out and "unet" not in ran.out
    (line,) = ran.err.splitlines()
    assert "unet-numpy-32: skipped" in line and "pip install" in line
    ran = bench("unet-numpy-32", "--quick")
    assert ran.code == 5 and "needs diffusers" in ran.err and "Traceback" not in ran.err


def test_without_a_gpu(bench, peers, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ran = bench("gpu", "--quick")
    assert ran.code == 5 and ran.err.count("skipped") == 3 and "CUDA" in ran.err


def test_differing_sides_are_an_error_after_the_other_rows(bench, peers, monkeypatch):
    from benchmarks import compare

    peer_workload = compare.peer_workload

    def wrong_unet(case, model, inputs):
        workload = peer_workload(case, model, inputs)
        error = case.work == "unet"
        return dataclasses.replace(workload, to_numpy=lambda y: workload.to_numpy(y) + error)

    monkeypatch.setattr(compare, "peer_workload", wrong_unet)
    ran = bench("unet-numpy-32", "clip-numpy", "--quick")
    assert ran.code == 4 and "clip-numpy" in ran.out and "unet" not in ran.out
    assert "unet-numpy-32: the two sides differ" in ran.err


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (("unnet-numpy-32",), 2, "did you mean 'unet-numpy-32'"),
        (("vae", "--backend", "cupy"), 2, "numpy, torch"),
        (("--rounds", "0"), 2, "--rounds"),
        (("unet", "--json", "no/such/a.json"), 8, "folder"),
        (("unet", "--plot", "a.txt"), 2, ".svg"),
    ],
)
def test_bad_input(bench, argv, code, word):
    ran = bench(*argv)
    assert ran.code == code and word in ran.err and "Traceback" not in ran.err
    assert ran.err.count("rror") == 1


def test_plot_without_matplotlib(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = bench("clip-numpy", "--quick", "--plot", "a.png")
    assert ran.code == 5 and "matplotlib" in ran.err and not ran.out


def test_several_rows_say_what_they_take_before_they_start(bench, monkeypatch):
    ran = []

    def run_case(case, rounds, sizes):
        ran.append(case.name)
        raise BackendUnavailable("not here", code="E-BACKEND")

    monkeypatch.setattr(command, "run_case", run_case)
    all_rows = bench()
    assert all_rows.code == 5 and len(ran) == len(CASES)
    first = all_rows.err.splitlines()[0]
    assert first.startswith(f"{len(CASES)} rows") and "GB" in first and "--list" in first
    assert "GB" not in bench("clip-numpy").err


EQUAL = TreeComparison("a step", (1.0,), (1.0,))


@pytest.fixture
def rows(monkeypatch):
    """`rows(...)`: what the comparison yields."""

    def replace(*found):
        monkeypatch.setattr(command, "compare_with_commit", lambda *a, **k: iter(found))

    return replace


def test_a_slower_tree_fails(bench, rows):
    rows(EQUAL, TreeComparison("a prompt", (2.0,), (1.0,)))
    ran = bench("--against", "HEAD~1")
    assert ran.code == 4 and "a step" in ran.out
    assert "more than 1.1 times as slow as HEAD~1: a prompt" in ran.err


def test_an_equal_tree_passes(bench, rows):
    rows(EQUAL)
    assert bench("--against", "HEAD~1").code == 0


def test_other_options_do_not_mix(bench):
    ran = bench("unet", "--against", "HEAD")
    assert ran.code == 2 and "--backend, --rounds and --quick" in ran.err
