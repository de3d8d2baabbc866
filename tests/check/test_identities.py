"""Every identity holds in every library, and fails for a function that is wrong."""

import types
from pathlib import Path

import numpy as np
import pytest
from wrapped import module_of, wrapped_function

import ldmref.math
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.calls import Call, named_arguments
from ldmref.check.chapters import CHAPTERS
from ldmref.check.comparison import deviation, distinct
from ldmref.check.identity import Functions, allowed_error, formula_of, public, source_of
from ldmref.check.runner import random_inputs

IDENTITIES = identities()
NAMES = [i.name for i in IDENTITIES]


def test_identities_hold(ops):
    """All, but for gradients in a library that records none."""
    results = [*run(ops, cases=10)]
    gradients = {identity.name for identity in IDENTITIES if identity.gradients}
    assert {*NAMES} - {r.identity for r in results} <= gradients
    assert not [r for r in results if not r.holds]


def test_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)


def test_modules_are_named_after_their_pages():
    root = Path(__file__).parents[2]
    modules = {p.stem for p in (root / "ldmref/check/chapters").glob("*.py")} - {"__init__"}
    assert len(modules) == len(CHAPTERS)
    for chapter in CHAPTERS:
        assert chapter.identities and (root / "docs/math" / f"{chapter.page}.md").is_file()
        names = {i.case.__module__.rpartition(".")[2] for i in chapter.identities}
        assert all(n == chapter.page or n.startswith(f"{chapter.page}_") for n in names)


def test_identities_name_functions_that_exist():
    for identity in IDENTITIES:
        for name in (identity.function, *identity.uses):
            public(name)


def test_identities_call_their_functions():
    """They could not fail for a function that they do not call."""
    called = set()

    class Spy(Functions):
        def __getattr__(self, name):
            called.add(name)
            return super().__getattr__(name)

    for identity in IDENTITIES:
        called.clear()
        for case in range(5):
            identity.case(Spy(), random_inputs(identity, _backend_for(identity), 0, case))
        assert {identity.function, *identity.uses} <= called, identity.name


@pytest.mark.parametrize("identity", IDENTITIES, ids=NAMES)
def test_identity_tells_wrong_from_right(identity):
    """The identity fails for a function whose numbers are off by 1 in 1000 for each example."""
    wrong = module_of({identity.function: wrapped_function(public(identity.function), _spoilt)})
    results = run(_backend_for(identity), against=wrong, cases=10, only=identity.name)
    assert not next(r for r in results if r.identity == identity.name).holds


def _backend_for(identity):
    """Return NumPy, or PyTorch if gradients are compared."""
    if identity.gradients:
        pytest.importorskip("torch")
    return get_backend("torch" if identity.gradients else "numpy", dtype="float64")


def _spoilt(value):
    """Perturb the numbers of a result, those of a batch more than those of one example."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float) or "float" in str(value.dtype):
        return value * (1 + 0.001 * (getattr(value, "shape", ()) or (1,))[0]) + 0.001
    return value + 1


def test_deviation_counts_units_of_rounding():
    assert deviation(([1.0, 2.5], [1.0, 2.0]), 0.25).ulps == 1.0
    assert deviation((np.asarray([0.5]), [0.0], 2.0), 0.25) == (1.0, (0,), 0.5, 0.0, "", "")
    assert deviation((np.asarray([float("nan")]), [0.0]), 1.0).ulps == float("inf")
    assert deviation((np.asarray([1.0, 2.0]), [1.0]), 1.0).ulps == float("inf")
    assert deviation((np.asarray([]), []), 1.0).ulps == 0.0


def test_deviation_compares_lists_item_by_item():
    vector = np.asarray([1.0, 2.0])
    matrix = np.ones((2, 2))
    assert deviation(([vector, matrix], [vector, matrix]), 1.0).ulps == 0.0
    assert deviation(([vector, 2 * matrix], [vector, matrix]), 0.5)[:2] == (2.0, (1, 0, 0))
    assert "shapes differ: got (2,), the oracle has (2, 2)" in str(
        deviation(([vector], [matrix]), 1.0)
    )
    assert deviation(([vector], [vector, matrix]), 1.0).ulps == float("inf")


def test_items_with_names_are_reported_by_name():
    got = {"mean": np.ones(3), "variance": np.asarray([1.0, 3.0])}
    worst = deviation((got, [np.ones(3), np.ones(2)]), 1.0)
    assert worst[:2] == (2.0, (1,)) and worst.part == "variance"
    assert str(worst) == "variance: got 3, the oracle has 1, at [1]"
    assert str(deviation((got, [np.ones(3), np.ones(3)]), 1.0)).startswith("variance: shapes")


def test_zero_scale_makes_errors_relative():
    tiny = np.asarray([2e-300, 0.0])
    assert deviation((tiny, [1e-300, 0.0], 0.0), 1.0).ulps == 1.0
    assert deviation((tiny, [2e-300, 1e-300], 0.0), 1.0).ulps == 1.0
    assert deviation(([1e-300], [0.0], 0.0), 1.0).ulps == float("inf")


def test_random_roundings_stay_within_the_error_allowed():
    """Sums of n roundings, uniform within half a unit, in many repetitions; and not by far."""
    random = np.random.default_rng(0)
    for n in (1, 4, 16, 64, 256):
        largest = np.abs(random.uniform(-0.5, 0.5, (20_000, n)).sum(axis=1)).max()
        assert 0.4 * allowed_error(n) < largest <= allowed_error(n)
    assert allowed_error(0) == 0.0


@pytest.mark.parametrize("difference", [1e-15, 1e-9, 1e-3, 1.0])
def test_two_numbers_are_shown_with_the_digits_in_which_they_differ(difference):
    got, expected = distinct(-1.546008, -1.546008 + difference)
    assert got != expected and float(got) != float(expected)
    assert len(got) < 10 or difference < 1e-4
    text = str(deviation((np.asarray([-1.546008]), [-1.546008 + difference]), 1e-16))
    assert got in text and expected in text and text.endswith("at [0]")


def test_numbers_that_are_not_finite_are_shown():
    assert "got nan, the oracle has 1" in str(deviation((np.asarray([np.nan]), [1.0]), 1e-16))
    assert "got 2, the oracle has 1" in str(deviation((2.0, 1.0), 1e-16))


def test_calls_are_shown_with_the_names_of_arguments():
    x = np.linspace(0, 1, 6).reshape(2, 3)
    arguments = named_arguments("q_sample", (x, np.float64(0.25)), {"eps": np.ones(2)})
    text = "q_sample(x0=[0, 0.2, 0.4, 0.6, ...] (2, 3), alpha_bar=0.25, eps=[1, 1])"
    assert str(Call("q_sample", arguments)) == text
    assert str(Call("sigma_flow", {"denoise": abs})) == "sigma_flow(denoise=abs)"


def test_cases_do_not_depend_on_their_neighbours():
    ops = get_backend("numpy", dtype="float64")
    name = next(i.name for i in IDENTITIES if i.function == "karras_sigmas")
    alone = next(run(ops, cases=5, only=name))
    among = next(r for r in run(ops, cases=5, only="sigmas") if r.identity == name)
    assert alone == among
    assert next(run(ops, cases=5, seed=1, only=name)).worst != alone.worst


def test_formula_and_source_come_from_the_docstring():
    assert formula_of("q_sample").startswith("x_t = ") and "2006.11239" in source_of("q_sample")


def test_functions_prefer_the_implementation():
    implementation = types.ModuleType("mine")
    implementation.__dict__["snr"] = lambda a: "mine"
    assert Functions(implementation).snr(0.5) == "mine"
    assert Functions(implementation).q_sample is ldmref.math.q_sample
