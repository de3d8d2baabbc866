"""`ldmref check operations` and `ldmref check images`."""

import json
import math

import numpy as np
import pytest

from ldmref.backends.bounds import OPERATIONS
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.check import images


def test_operations_show_error_bound_and_ratio(ldm):
    ran = ldm("check", "operations", "--cases", "3")
    assert ran.code == 0
    *rows, conformance, last = ran.out.splitlines()
    assert [row.split()[0] for row in rows] == list(OPERATIONS)
    assert all("ratio" in row and row.endswith("ok") for row in rows)
    assert "derived" in rows[0] and "calibrated" in rows[2]
    assert conformance.startswith("conformance: ") and "within their bounds" in last


def test_operations_as_json_of_one_operation(ldm):
    flags = ("--dtype", "float16", "--only", "silu", "--cases", "4", "--json")
    ran = ldm("check", "operations", *flags)
    row, conformance = map(json.loads, ran.out.splitlines())
    assert row["operation"] == "silu" and row["dtype"] == "float16" and row["cases"] == 4
    assert row["ok"] and math.isclose(row["ratio"], row["error"] / row["bound"], rel_tol=1e-9)
    assert conformance["ok"] == conformance["conformance"] > 0 and conformance["failed"] == []


def test_operations_fail_for_a_backend_that_is_wrong(ldm, monkeypatch):
    monkeypatch.setattr(FastNumpyBackend, "quick_gelu", FastNumpyBackend.silu)
    ran = ldm("check", "operations", "--cases", "5", "--only", "quick_gelu")
    assert ran.code == 4 and "FAILED" in ran.out
    assert "errors exceed their bounds: quick_gelu" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("operations", "--only", "lineal"), "did you mean 'linear'"),
        (("--cases", "3", "operations"), "--cases must come after operations"),
        (("images", "--dtype", "float8"), "unknown dtype 'float8'"),
        (("images", "--speed", "faster"), "unknown speed 'faster'"),
        (("images", "--sampler", "eulerr"), "did you mean 'euler'"),
        (("images", "--backend", "nunpy"), "did you mean 'numpy'"),
    ],
)
def test_wrong_names_are_refused(ldm, arguments, said):
    ran = ldm("check", *arguments)
    assert ran.code == 2 and said in ran.err


def test_images_of_numpy_differ_by_at_most_one(ldm):
    flags = ("--backend", "numpy", "--sampler", "euler,ddim", "--steps", "2", "--seed", "1")
    ran = ldm("check", "images", "red heart", *flags, "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    found = {(r["dtype"], r["speed"], r["sampler"]): r for r in rows if "reason" not in r}
    for sampler in ("euler", "ddim"):
        assert found["float64", "exact", sampler]["largest"] == 0
        assert found["float64", "exact", sampler]["psnr"] is None
        for speed in ("exact", "fast", "fastest"):
            row = found["float32", speed, sampler]
            assert row["largest"] <= 1 and 0.0 <= row["mean"] < 0.01
    (left_out,) = (row for row in rows if "reason" in row)
    assert left_out["dtype"] == "float16" and "--dtype float16" in left_out["reason"]


def test_images_as_a_table_with_notes(ldm):
    flags = (
        "--backend",
        "numpy,cupy",
        "--dtype",
        "float32",
        "--speed",
        "fast",
        "--sampler",
        "euler",
    )
    ran = ldm("check", "images", *flags, "--steps", "1")
    assert ran.code == 0
    heading, row = ran.out.splitlines()
    assert heading.split() == ["backend", "dtype", "speed", "sampler", "largest", "mean", "PSNR"]
    assert row.split()[:4] == ["numpy", "float32", "fast", "euler"]
    if images.available()["cupy"]:
        assert "note: cupy is left out: " in ran.err


def test_differences_of_images_are_measured():
    reference = np.zeros((4, 4, 3))
    image = reference.copy()
    image[0, 0, 0] = 12.0
    row = images._compared(NumpyBackend(), "euler", image, reference)
    assert row.largest == 12 and row.mean == 0.25
    assert math.isclose(row.psnr, 10 * math.log10(255**2 / 3))


def test_combinations_that_take_minutes_run_if_they_are_named():
    everything = list(images._combinations("numpy", [], []))
    left_out = [row for row in everything if isinstance(row, images.ImageComparison)]
    assert len(everything) == 5 and [row.dtype for row in left_out] == ["float16"]
    (named,) = images._combinations("numpy", ["float16"], [])
    assert isinstance(named, NumpyBackend) and named.dtype == "float16"
