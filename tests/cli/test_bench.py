"""`ldmref bench` as a user runs it; no test looks at how long anything took."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from ldmref.bench.cases import CASES
from ldmref.bench.machine import OPENBLAS_OVERRIDES
from ldmref.errors import BackendUnavailable


@pytest.fixture(autouse=True)
def quick_and_default_blas(monkeypatch):
    """Time one call per round, and warn of nothing."""
    monkeypatch.setattr("ldmref.bench.workload.MIN_SECONDS", 0.0)
    for name in OPENBLAS_OVERRIDES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def peers():
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)


def test_list(ldm):
    ran = ldm("bench", "--list")
    lines = ran.out.splitlines()
    assert ran.code == 0 and len(lines) == 2 * len(CASES) and max(map(len, lines)) <= 100
    for case, first, second in zip(CASES.values(), lines[::2], lines[1::2], strict=True):
        assert first.split()[:3] == [case.name, case.backend, "against"]
        assert case.peer_title in first and second.strip() == case.title
        assert f", aim {case.aim:.2f}" in first
        assert (f", target {case.target or 0:.2f}" in first) == (case.target is not None)
    assert len(ldm("bench", "unet", "--list", "--backend", "numpy").out.splitlines()) == 2 * 6


def test_rows_json_and_plot(ldm, work, peers):
    pytest.importorskip("matplotlib")
    files = ("--json", "a.json", "--plot", "a.png")
    ran = ldm("bench", "unet-numpy-32", "clip-torch", "--quick", *files)
    assert ran.code == 0, ran.err
    for word in ("ratio", "GFLOP/s", "of the peak", "diffusers eager", "numbers mean nothing"):
        assert word in ran.out
    found = json.loads((work / "a.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["unet-numpy-32", "clip-torch"]
    assert found["quick"] and found["skipped"] == found["differing"] == []
    machine = found["machine"]
    assert (
        machine["cpu"] and machine["threads"]["torch"] >= 1 and "diffusers" in machine["versions"]
    )
    assert all(len(row["ours"]["values"]) == row["rounds"] == 2 for row in found["rows"])
    assert (work / "a.png").read_bytes().startswith(b"\x89PNG")
    again = ldm("bench", "unet-numpy-32", "--quick", *files)
    assert again.code == 8 and "exists" in again.err and "ratio" not in again.out


@pytest.mark.parametrize("name", OPENBLAS_OVERRIDES)
def test_an_openblas_override_is_recorded_and_warned_of(ldm, work, peers, monkeypatch, name):
    ran = ldm("bench", "clip-numpy", "--quick", "--json", "a.json")
    assert ran.code == 0 and not ran.err
    assert name not in json.loads((work / "a.json").read_text())["machine"]["environment"]
    monkeypatch.setenv(name, "12345")
    for argv in (("clip-numpy", "--json", "b.json"), ("--profile",), ("--grow", "batch")):
        ran = ldm("bench", *argv, "--quick", "--rounds", "1")
        (line,) = ran.err.splitlines()
        assert ran.code == 0 and line.startswith(f"warning: {name}=12345 overrides OpenBLAS")
        assert "warning" not in ran.out
    machine = json.loads((work / "b.json").read_text())["machine"]
    assert machine["environment"][name] == "12345"
    assert "warning" not in (work / "b.json").read_text()
    assert not ldm("bench", "--list").err


def test_profile_and_grow(ldm, work):
    ran = ldm("bench", "--profile", "--quick", "--json", "p.json")
    assert ran.code == 0 and "conv2d" in ran.out and "other" in ran.out
    found = json.loads((work / "p.json").read_text())["profile"]
    assert "down_blocks.0.resnets.0.conv1" in {line["name"] for line in found["layers"]}
    assert ran.out.count("GFLOP/s  operation") == 2 and ran.out.count("GFLOP/s  layer") == 1
    assert found["backend"] == "numpy" and {line["name"] for line in found["kinds"]} > {"linear"}
    ran = ldm("bench", "--grow", "batch", "--quick", "--rounds", "1", "--json", "g.json")
    assert ran.code == 0 and "cost ~ batch^" in ran.out
    points = json.loads((work / "g.json").read_text())["grow"]
    assert [point["value"] for point in points] == [1, 2, 4]


def test_a_row_of_training_has_no_profile(ldm):
    for argv in (("--profile",), ("--grow", "batch")):
        ran = ldm("bench", "train-unet", *argv, "--quick")
        assert ran.code == 2 and "E-ROW" in ran.err


def test_a_missing_peer_is_named_and_the_others_go_on(ldm, peers, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    ran = ldm("bench", "unet-numpy-32", "clip-numpy", "--quick")
    assert ran.code == 0 and "clip-numpy" in ran.out and "unet" not in ran.out
    (line,) = ran.err.splitlines()
    assert "unet-numpy-32: skipped" in line and "pip install" in line
    ran = ldm("bench", "unet-numpy-32", "--quick")
    assert ran.code == 5 and "needs diffusers" in ran.err and "Traceback" not in ran.err


def test_without_a_gpu(ldm, peers, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ran = ldm("bench", "gpu", "--quick")
    assert ran.code == 5 and ran.err.count("skipped") == 3 and "CUDA" in ran.err


def test_differing_sides_are_an_error_after_the_other_rows(ldm, peers, monkeypatch):
    from ldmref.bench import compare

    peer_workload = compare.peer_workload

    def wrong_unet(case, model, inputs):
        workload = peer_workload(case, model, inputs)
        error = case.work == "unet"
        return dataclasses.replace(workload, to_numpy=lambda y: workload.to_numpy(y) + error)

    monkeypatch.setattr(compare, "peer_workload", wrong_unet)
    ran = ldm("bench", "unet-numpy-32", "clip-numpy", "--quick")
    assert ran.code == 4 and "clip-numpy" in ran.out and "unet" not in ran.out
    assert "unet-numpy-32: the two sides differ" in ran.err


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (("unnet-numpy-32",), 2, "did you mean 'unet-numpy-32'"),
        (("vae", "--backend", "cupy"), 2, "numpy, torch"),
        (("--profile", "--grow", "batch"), 2, "exclude each other"),
        (("--profile", "unet", "vae"), 2, "one row"),
        (("clip-numpy", "--grow", "batch", "--quick"), 2, "does not grow"),
        (("--grow", "colour"), 2, "resolution"),
        (("unet", "--model", "tiny"), 2, "--model"),
        (("--profile", "--model", "tinny"), 2, "tiny"),
        (("--rounds", "0"), 2, "--rounds"),
        (("unet", "--json", "no/such/a.json"), 8, "folder"),
        (("unet", "--plot", "a.txt"), 2, ".svg"),
    ],
)
def test_bad_input(ldm, argv, code, word):
    ran = ldm("bench", *argv)
    assert ran.code == code and word in ran.err and "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 2


def test_plot_without_matplotlib(ldm, work, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = ldm("bench", "clip-numpy", "--quick", "--plot", "a.png")
    assert ran.code == 5 and "matplotlib" in ran.err and not ran.out


def test_several_rows_say_what_they_take_before_they_start(ldm, monkeypatch):
    ran = []

    def run_case(case, rounds, sizes):
        ran.append(case.name)
        raise BackendUnavailable("not here", code="E-BACKEND")

    monkeypatch.setattr("ldmref.bench.compare.run_case", run_case)
    all_rows = ldm("bench")
    assert all_rows.code == 5 and len(ran) == len(CASES)
    first = all_rows.err.splitlines()[0]
    assert first.startswith(f"{len(CASES)} rows") and "GB" in first and "--list" in first
    assert "GB" not in ldm("bench", "clip-numpy").err
