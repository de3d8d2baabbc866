"""`ldmref check --against`: what is said of a function that fails, and a case as a file."""

import json

import numpy as np
import pytest

import ldmref.math
from ldmref.check import identities

Q_POSTERIOR = """
import numpy as np


def q_posterior(x0, xt, alpha_bar, alpha_bar_prev):
    alpha = alpha_bar / alpha_bar_prev
    beta, left = 1 - alpha, 1 - alpha_bar

    def column(c):
        return np.reshape(c, (-1, *[1] * (x0.ndim - 1)))

    mean = column(np.sqrt(alpha_bar_prev) * beta / left) * x0
    mean = mean + column(np.sqrt(alpha) * (1 - alpha_bar_prev) / left) * xt
    variance = column(beta * (1 - alpha_bar_prev) / left)
    return mean, variance
"""
DEVIATION = Q_POSTERIOR.replace("return mean, variance", "return mean, np.sqrt(variance)")
SCALAR_ONLY = """
def q_sample(x0, alpha_bar, eps):
    return alpha_bar**0.5 * x0 + (1 - alpha_bar)**0.5 * eps
"""


def test_a_scalar_only_function_gets_a_hint(ldm, work):
    (work / "mine.py").write_text(SCALAR_ONLY)
    ran = ldm("check", "--against", "mine.py", "--cases", "2", "--only", "every prediction")
    assert ran.code == 4
    assert "hint: alpha_bar may be (n,), one number per example" in ran.out and "(3,)" in ran.out
    ran = ldm("check", "--against", "mine.py", "--cases", "2", "--only", "chain of single")
    assert ran.code == 0 and "hint" not in ran.out


def test_a_deviation_in_place_of_the_variance_is_named_in_every_identity(ldm, work):
    (work / "mine.py").write_text(DEVIATION)
    ran = ldm("check", "--against", "mine.py", "--cases", "2", "--json")
    *rows, _ = map(json.loads, ran.out.splitlines())
    failed = [row for row in rows if row["verdict"] != "ok"]
    assert ran.code == 4 and len(failed) >= 3
    for row in failed:
        said = row["detail"] + " ".join(row["notes"])
        assert "variance: got" in said or "variance of q_posterior: got" in said, row


def test_the_right_function_with_kept_dimensions_holds(ldm, work):
    (work / "mine.py").write_text(Q_POSTERIOR)
    ran = ldm("check", "--against", "mine.py", "--cases", "20")
    assert ran.code == 0, ran.out


def test_one_case_is_run_and_saved(ldm, work):
    (work / "mine.py").write_text(DEVIATION)
    argv = ("check", "--against", "mine.py", "--case", "81", "--only", "precisions of both")
    ran = ldm(*argv, "--save", "case.npz")
    assert ran.code == 4 and "    1 cases" in ran.out and "case 81: variance: got" in ran.out
    assert "precisions of both neighbours add up to case.npz" in ran.err
    with np.load(work / "case.npz", allow_pickle=False) as case:
        assert case["identity"] == "q_posterior: precisions of both neighbours add up"
        assert (case["case"], case["seed"], case["dtype"]) == (81, 0, "float64")
        names = ("x0", "xt", "alpha_bar", "alpha_bar_prev")
        arguments = [case[f"1.q_posterior.{name}"] for name in names]
        mean, variance = ldmref.math.q_posterior(*arguments)
        np.testing.assert_allclose(mean, case["expected.mean"], rtol=1e-12)
        np.testing.assert_allclose(variance + 0 * mean, case["expected.variance"], rtol=1e-12)
        assert np.abs(case["got.variance"] - case["expected.variance"]).max() > 0.01
        np.testing.assert_array_equal(case["1.q_posterior.returned.mean"], case["got.mean"])


def test_the_case_is_the_same_among_all(ldm, work):
    (work / "mine.py").write_text(DEVIATION)
    argv = ("check", "--against", "mine.py", "--json", "--only", "precisions of both")
    row = json.loads(ldm(*argv, "--cases", "9").out.splitlines()[0])
    alone = json.loads(ldm(*argv, "--case", str(row["case"])).out.splitlines()[0])
    assert alone["cases"] == 1 and alone["calls"] == row["calls"] and alone["worst"] == row["worst"]


@pytest.mark.parametrize(
    ("file", "code", "word"),
    [
        ("exists.npz", 8, "--overwrite"),
        ("case.txt", 2, ".npz"),
        ("none/case.npz", 8, "does not exist"),
        ("folder.npz", 8, "folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_first(ldm, work, file, code, word):
    (work / "exists.npz").write_bytes(b"precious")
    (work / "folder.npz").mkdir()
    (work / "mine.py").write_text(DEVIATION)
    ran = ldm("check", "--against", "mine.py", "--cases", "1", "--save", file)
    assert ran.code == code and word in ran.err and not ran.out
    assert (work / "exists.npz").read_bytes() == b"precious"


def test_overwrite(ldm, work):
    (work / "exists.npz").write_bytes(b"old")
    (work / "mine.py").write_text(DEVIATION)
    argv = ("check", "--against", "mine.py", "--cases", "1", "--save", "exists.npz", "--overwrite")
    assert ldm(*argv).code == 4
    with np.load(work / "exists.npz") as case:
        assert "got.mean" in case or "got" in case


def test_nothing_is_written_if_nothing_fails(ldm, work):
    (work / "mine.py").write_text(Q_POSTERIOR)
    ran = ldm("check", "--against", "mine.py", "--cases", "1", "--save", "case.npz")
    assert ran.code == 0 and "case.npz was not written" in ran.err
    assert not (work / "case.npz").exists()


def test_a_case_that_raises_is_saved_with_its_arguments(ldm, work):
    (work / "mine.py").write_text("def snr(alpha_bar):\n    return 1 / 0\n")
    assert ldm("check", "--against", "mine.py", "--cases", "1", "--save", "case.npz").code == 4
    with np.load(work / "case.npz", allow_pickle=False) as case:
        assert case["1.snr.alpha_bar"].shape == (2, 2, 2) and "got" not in case


def test_gradients_that_are_left_out_are_counted(ldm, work):
    gradients = sum(identity.gradients for identity in identities())
    ran = ldm("check", "--cases", "1")
    assert ran.code == 0
    assert ran.err == (
        f"note: {gradients} gradients are not checked, because numpy computes none; "
        "use --backend torch\n"
    )
    (work / "mine.py").write_text("def straight_through(z, quantised):\n    return quantised\n")
    ran = ldm("check", "--against", "mine.py", "--cases", "1")
    assert ran.code == 0 and "note: 1 gradient is not checked" in ran.err
    pytest.importorskip("torch")
    ran = ldm("check", "--against", "mine.py", "--cases", "1", "--backend", "torch")
    assert ran.code == 4 and "note:" not in ran.err
    assert "quantised: got " in ran.out and ", the oracle has 0, at [" in ran.out
