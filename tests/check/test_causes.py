"""Wrong results are named: a sign, a factor 2, a root, exchanged arguments, a sum for a mean."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from wrapped import module_of, wrapped_function

from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.agreement import IN_LAW
from ldmref.check.capstone.questions import Question, Student, ask
from ldmref.check.causes import EXACT, named, of_results, of_terms
from ldmref.check.identity import public

NUMPY = get_backend("numpy", dtype="float64")
NAMES = sorted({i.function for i in identities() if not isinstance(public(i.function), type)})


def hints(name, function, hard=False):
    """Return the hints that name a cause, and whether the function failed plainly."""
    results = [
        *run(NUMPY, against=module_of({name: function}), cases=3, only=f"{name}: ", hard=hard)
    ]
    failed = [r for r in results if not r.holds and r.verdict != IN_LAW]
    notes = [note for r in failed for note in r.notes if "this is the result if" in note]
    return [note.partition("this is the result if ")[2] for note in notes], bool(failed)


def real(change):
    """Change the results that are real numbers."""

    def outward(value):
        kind = "f" if isinstance(value, float) else getattr(getattr(value, "dtype", ""), "kind", "")
        return change(value) if kind == "f" else value

    return outward


def wrong_result(name, change):
    return wrapped_function(public(name), real(change))


# change: words that name it, and the least number of functions for which it must be named
RESULTS = {
    "sign": (lambda y: -y, ("sign", "exchanged", "missing"), 120),
    "twice": (lambda y: 2 * y, ("factor 1/2", "1 is added"), 120),
    "half": (lambda y: y / 2, ("factor 2",), 120),
    "square": (lambda y: np.sign(y) * y * y, ("root",), 110),
    "root": (lambda y: np.sign(y) * np.abs(y) ** 0.5, ("root",), 110),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", RESULTS)
def test_a_changed_result_is_named(kind):
    change, words, least = RESULTS[kind]
    right = 0
    for name in NAMES:
        found, _ = hints(name, wrong_result(name, change))
        right += any(word in text for text in found for word in words)
    assert right >= least, right


def exchanged(name, i, j):
    own = public(name)

    def function(*args):
        swapped = [*args]
        if max(i, j) < len(args):
            swapped[i], swapped[j] = args[j], args[i]
        return own(*swapped)

    return function


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        ("kl_normal", "mean1", "mean2"),
        ("kl_normal", "logvar1", "logvar2"),
        ("classifier_free_guidance", "uncond", "cond"),
        ("q_sample", "x0", "eps"),
        ("flow_velocity", "x0", "eps"),
        ("q_posterior", "x0", "xt"),
        ("flow_sample", "x0", "eps"),
        ("normal_log_density", "x", "mean"),
    ],
)
def test_exchanged_arguments_are_named(name, a, b):
    names = [*inspect.signature(public(name)).parameters]
    if a not in names or b not in names:
        a, b = names[:2]
    found, failed = hints(name, exchanged(name, names.index(a), names.index(b)))
    is_symmetric = not failed
    signs = ("sign is the opposite",) if name == "flow_velocity" else ()
    words = (f"{a} and {b} are exchanged", *signs)
    assert is_symmetric or any(word in text for text in found for word in words), found


@pytest.mark.filterwarnings("ignore")
def test_the_sign_of_each_argument_is_named():
    """An argument with the other sign, in functions of numbers and arrays alone."""
    count = wrong = 0
    for name in NAMES:
        own = public(name)
        for i, argument in enumerate(inspect.signature(own).parameters):
            if argument not in ("eps", "x0", "xt", "mean", "v", "velocity", "logvar", "cond", "x"):
                continue

            def function(*args, own=own, i=i):
                if not hasattr(args[i], "dtype"):
                    raise TypeError("no array")
                return own(*args[:i], -args[i], *args[i + 1 :])

            found, failed = hints(name, function)
            if failed and found:
                count += 1
                wrong += not any("sign" in text or "exchanged" in text for text in found)
    assert count >= 40
    assert wrong <= count // 10


MEANS = {
    "squared_error": lambda x, y: ((x - y) ** 2).reshape(len(x), -1).mean(axis=1),
    "l1_sparsity": lambda a: np.abs(a).reshape(len(a), -1).mean(axis=1),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_in_place_of_a_sum_is_named(name):
    found, failed = hints(name, MEANS[name])
    assert failed and any("mean over" in t and "in place of the sum" in t for t in found), found


@pytest.mark.parametrize("name", ["training_loss", "simple_loss"])
def test_a_sum_in_place_of_a_mean_is_named(name):
    own = public(name)

    def function(*args):
        x = next(a for a in args if getattr(a, "ndim", 0) > 1)
        return own(*args) * x[0].size

    found, failed = hints(name, function)
    assert failed and any("this is the sum" in text for text in found), found


def test_a_reduction_that_does_not_belong_is_named():
    own = public("kl_standard_normal")
    for words, change in (
        ("sum over the entries of an example", lambda y: y.reshape(len(y), -1).sum(axis=1)),
        ("sum over all entries", np.sum),
        ("mean over all entries", np.mean),
    ):
        found, _ = hints("kl_standard_normal", lambda *a, c=change: c(own(*a)))
        assert any(words in text for text in found), (words, found)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x0, a, e: a * x0 + (1 - a) * e, "in the coefficient of x0 a root is missing"),
        (lambda x0, a, e: a**0.5 * x0 - (1 - a) ** 0.5 * e, "eps has the opposite sign"),
        (lambda x0, a, e: a**0.5 * x0 + e, "eps has no coefficient"),
        (lambda x0, a, e: a**0.5 * x0 + (1 - a**0.5) * e, "of eps is 1 minus that of x0"),
        (lambda x0, a, e: (1 - a) ** 0.5 * x0 + a**0.5 * e, "x0 and eps are exchanged"),
        (lambda x0, a, e: a**0.25 * x0 + (1 - a**0.5) ** 0.5 * e, "root of alpha_bar is taken"),
        (lambda x0, a, e: a**0.5 * x0, "eps is left out"),
        (lambda x0, a, e: 2 * a**0.5 * x0 + (1 - a) ** 0.5 * e, "a factor 1/2 of x0 is missing"),
    ],
)
def test_the_coefficients_of_a_sum_are_named(function, words):
    def q_sample(x0, alpha_bar, eps):
        a = np.reshape(alpha_bar, (-1,) + (1,) * (x0.ndim - 1))
        return function(x0, a, eps)

    found, failed = hints("q_sample", q_sample)
    assert failed and all(words in text for text in found) and found, found


def test_a_term_of_a_sum_is_named():
    def kl_standard_normal(mean, logvar):
        return 0.5 * (mean**2 + np.exp(logvar) - 1 + logvar)

    found, _ = hints("kl_standard_normal", kl_standard_normal)
    assert any("larger by 1 logvar" in text for text in found), found

    def without_constant(mean, logvar):
        return 0.5 * (mean**2 + np.exp(logvar) - logvar)

    found, _ = hints("kl_standard_normal", without_constant)
    assert any("larger by 0.5" in text for text in found), found


def test_the_search_for_a_cause_does_not_warn(recwarn):
    """Of a negative mean it took a complex root, and a student's report had a ComplexWarning."""

    def without_the_derivative_of_the_logit(s, mean=0.0, std=1.0):
        return public("logit_normal_density")(s, mean, std) * s * (1.0 - s)

    _, failed = hints("logit_normal_density", without_the_derivative_of_the_logit)
    assert failed and not recwarn.list


def test_nothing_is_named_that_is_not_the_cause():
    """Other formulas: an argument's square, two changes at once, random numbers."""
    rng = np.random.default_rng(0)
    for function in (
        lambda x0, a, e: np.cos(x0) + e,
        lambda x0, a, e: rng.standard_normal(x0.shape),
        lambda x0, a, e: x0 * e,
        lambda x0, a, e: np.full(x0.shape, np.nan),
    ):
        assert hints("q_sample", function)[0] == []


def test_what_is_right_apart_from_one_edge_gets_no_cause():
    def slerp(a, b, t):
        from naive import slerp as naive

        return naive(a, b, t)

    results = [*run(NUMPY, against=module_of({"slerp": slerp}), cases=20, hard=True)]
    assert any(not r.holds for r in results)
    assert not [n for r in results for n in r.notes if "this is the result if" in n]


def test_causes_of_parts_name_the_part():
    right = {"mean": np.asarray([1.0, 2.0]), "std": np.asarray([0.5, 3.0])}
    cases = {
        "std: a root is missing": {"std": right["std"] ** 2},
        "mean: the sign is the opposite": {"mean": -right["mean"]},
        "mean and std are exchanged": {"mean": right["std"], "std": right["mean"]},
        "a factor 1/2 is missing": {n: 2 * y for n, y in right.items()},
    }
    for words, change in cases.items():
        assert named(right | change, right, of_results(right)).startswith(words)
    assert named(right, right, of_results(right)) == ""
    nearly = {n: -y * (1 + 100 * EXACT) for n, y in right.items()}
    assert named(nearly, right, of_results(right)) == ""


def test_coefficients_without_a_cause_name_nothing():
    ours = {"x": np.asarray([0.5, 0.7]), "y": np.asarray([0.1, 0.2])}
    assert of_terms(ours | {"x": np.asarray([0.9, 0.1])}, ours) == ""
    both = {"x": -ours["x"], "y": np.asarray([0.9, 0.15])}
    assert of_terms(both, ours) == ""
    assert of_terms(ours, ours) == ""
    assert "term of y is missing" in of_terms(ours | {"y": 0 * ours["y"]}, ours)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: -y, "the sign is the opposite"),
        (lambda y: 2 * y, "a factor 1/2 is missing"),
        (lambda y: y / 2, "a factor 2 is missing"),
        (lambda y: np.sign(y) * y**2, "a root is missing"),
        (lambda y: np.swapaxes(y, -1, -2), "the last two axes are exchanged"),
    ],
)
def test_pieces_of_the_capstone_have_the_same_causes(change, words):
    right = {"result": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    question = Question("piece", "on random input", {"x": right["result"]}, right, ())
    student = Student(module_of({"piece": change}), get_backend("numpy", dtype="float32"))
    result = ask(student, question)
    assert not result.holds and words in result.notes[0]


def test_a_question_knows_its_own_mistakes_first():
    from ldmref.check.causes import Mistake

    right = {"result": np.asarray([1.0, -2.0], np.float32)}
    own = Mistake("the noise has the wrong sign", lambda: {"result": -right["result"]})
    question = Question("piece", "on random input", {"x": right["result"]}, right, (own,))
    student = Student(module_of({"piece": np.negative}), get_backend("numpy", dtype="float32"))
    assert "the noise has the wrong sign" in ask(student, question).notes[0]


def test_a_function_that_raises_when_it_is_asked_again_is_reported():
    calls = itertools.count()

    def q_sample(x0, alpha_bar, eps):
        if next(calls) > 4:
            raise RuntimeError("tired")
        return x0

    results = [*run(NUMPY, against=module_of({"q_sample": q_sample}), cases=2, only="q_sample: ")]
    assert results and not any(r.holds for r in results)
