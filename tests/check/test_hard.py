"""`ldmref check --hard`: ldmref's functions hold at the edges, and naive ones fail there."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import naive
import numpy as np
import pytest
from wrapped import module_of, wrapped_function

from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.edges.exact import cosine, logistic, normal_tail, pi
from ldmref.check.identity import Functions, public
from ldmref.check.runner import random_inputs

HARD = [identity for identity in identities(hard=True) if identity.edges]
NAMES = [identity.name for identity in HARD]
NAIVE = [name for name, value in vars(naive).items() if getattr(value, "__module__", "") == "naive"]
FILE = str(Path(naive.__file__))


def numpy64():
    return get_backend("numpy", dtype="float64")


def results(backend, function, **settings):
    return {r.identity: r for r in run(backend, only=f"{function}: ", **settings)}


def test_hard_identities_are_asked_for():
    assert len(HARD) >= 20 and len(set(NAMES)) == len(NAMES)
    assert not [identity for identity in identities() if identity.edges]
    ordinary = {identity.function for identity in identities()}
    assert {identity.function for identity in HARD} <= ordinary


@pytest.mark.parametrize("identity", NAMES)
def test_ours_hold_at_every_edge(ops, identity):
    (result,) = (r for r in run(ops, only=identity, cases=30, hard=True) if r.identity == identity)
    assert result.holds, f"{result.verdict}: {result.worst} of {result.allowed}; {result.detail}"
    assert result.basis == "derived" and np.isfinite(result.worst)


@pytest.mark.parametrize("identity", HARD, ids=NAMES)
def test_every_edge_is_visited_and_named(identity):
    backend = numpy64()
    inputs = [random_inputs(identity, backend, 0, case) for case in range(40)]
    edges = identity.edges(inputs[0].limits)
    assert {identity.edge(i) for i in inputs} == set(edges) and len(edges) >= 2
    (result,) = (
        r
        for r in run(backend, only=identity.name, cases=1, hard=True)
        if r.identity == identity.name
    )
    assert result.cases == len(edges)
    single = get_backend("numpy", dtype="float32")
    assert len(identity.edges(random_inputs(identity, single, 0, 0).limits)) >= 2


@pytest.mark.parametrize("identity", HARD, ids=NAMES)
def test_a_wrong_function_fails_and_its_edge_is_named(identity):
    wrong = module_of({identity.function: wrapped_function(public(identity.function), spoilt)})
    found = results(numpy64(), identity.function, against=wrong, cases=20, hard=True)
    result = found[identity.name]
    assert not result.holds and result.edge and f", {result.edge}" in result.detail


def spoilt(result):
    if isinstance(result, tuple):
        return tuple(map(spoilt, result))
    return result * 1.001


@pytest.mark.parametrize("identity", HARD, ids=NAMES)
def test_a_case_calls_its_function(identity):
    called = set()

    class Spy(Functions):
        def __getattr__(self, name):
            called.add(name)
            return super().__getattr__(name)

    identity.case(Spy(), random_inputs(identity, numpy64(), 0, 0))
    assert identity.function in called


@pytest.mark.parametrize("name", NAIVE)
def test_a_naive_answer_passes_without_and_fails_with(name):
    answer = module_of({name: getattr(naive, name)})
    ordinary = results(numpy64(), name, against=answer).values()
    assert ordinary and all(r.holds for r in ordinary)
    failed = [
        r for r in results(numpy64(), name, against=answer, hard=True).values() if not r.holds
    ]
    assert [r.function for r in failed] == [name]
    assert failed[0].edge and failed[0].calls


def test_the_edge_is_named():
    answer = module_of({"sigma_from_alpha_bar": naive.sigma_from_alpha_bar})
    found = results(numpy64(), "sigma_from_alpha_bar", against=answer, hard=True)
    (failed,) = (r for r in found.values() if not r.holds)
    assert "alpha_bar = 1 - " in failed.edge
    assert failed.to_dict()["edge"] == failed.edge


def test_common_slerp_with_a_threshold_fails():
    """Many programs use the straight line where the cosine is above 0.9995."""

    def slerp(a, b, t):
        x, y = a.ravel(), b.ravel()
        near = x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) > 0.9995
        return (1 - t) * a + t * b if near else naive.slerp(a, b, t)

    found = results(numpy64(), "slerp", against=module_of({"slerp": slerp}), hard=True)
    (failed,) = (r for r in found.values() if not r.holds)
    assert failed.edge == "angle = 0.03"


def test_the_command_prints_the_edge(capsys):
    assert main(["check", "--against", FILE, "--only", "gelu: "]) == 0
    assert main(["check", "--against", FILE, "--only", "gelu: ", "--hard"]) == 4
    out = capsys.readouterr().out
    assert "FAILED" in out and "case 2, x = -12: got -0, the oracle has -2.13" in out


def test_one_object_per_identity(capsys):
    assert main(["check", "--only", "kl_normal: ", "--hard", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(row["edge"]) for row in rows] == [False, False, True]


def test_a_case_at_an_edge_is_repeated_and_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["check", "--against", FILE, "--only", "gelu: ", "--hard", "--case", "2"]
    assert main([*arguments, "--save", "case.npz"]) == 4
    with np.load(tmp_path / "case.npz") as case:
        assert case["1.gelu.x"] == [-12.0] and case["got"] == [0.0]


def test_exact_functions_agree_with_mpmath():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(70):
        for x in (-30.5, -6.0, -0.25, 0.0, 1.5, 3.0):
            exact = mpmath.mpf(x)
            if abs(x) < 4:
                assert close(mpmath, cosine(Decimal(x)), mpmath.cos(exact))
            assert close(mpmath, logistic(Decimal(x)), 1 / (1 + mpmath.exp(-exact)))
            if x <= -4:
                assert close(mpmath, normal_tail(Decimal(x)), mpmath.ncdf(exact), 1e-30)
        assert close(mpmath, pi(), mpmath.pi)


def close(mpmath, got, expected, relative=1e-55):
    return abs(mpmath.mpf(str(got)) - expected) <= relative * abs(expected)
