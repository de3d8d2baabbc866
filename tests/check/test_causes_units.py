"""Each cause is named for its own change and for no other, and by numbers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldmref.check.causes import (
    ARGUMENTS,
    ELEMENTS,
    Mistake,
    mean_difference,
    named,
    of_arguments,
    of_counts,
    of_differences,
    of_missing_reductions,
    of_results,
    of_terms,
)

RNG = np.random.default_rng(5)
RIGHT = RNG.uniform(0.3, 0.9, (2, 3, 4, 6))
CHANGES = (  # in the order of ELEMENTS
    np.negative,
    lambda y: y + y,
    lambda y: y / 2,
    lambda y: y * np.abs(y),
    lambda y: np.sign(y) * np.sqrt(np.abs(y)),
    np.reciprocal,
    lambda y: 1 - y,
    np.exp,
    np.log,
    lambda y: y / 0.6931471805599453,
    lambda y: y * 0.4804530139182014,
    lambda y: np.transpose(y, (0, 1, 3, 2)),
    lambda y: np.flip(y, axis=3),
    lambda y: np.concatenate([y[..., 3:], y[..., :3]], axis=-1),
)


def name_of(got, right, mistakes=None):
    right = {"result": right}
    return named({"result": got}, right, of_results(right) if mistakes is None else mistakes)


def test_every_change_of_a_result_has_a_test():
    assert len(CHANGES) == len(ELEMENTS)


@pytest.mark.parametrize("index", range(len(CHANGES)))
def test_a_change_of_a_result_is_named(index):
    assert name_of(CHANGES[index](RIGHT), RIGHT) == ELEMENTS[index][0]


def test_signs_are_kept_by_a_square_and_a_root():
    y = np.where(RIGHT > 0.6, RIGHT, -RIGHT)
    assert name_of(y * np.abs(y), y) == ELEMENTS[3][0]
    assert name_of(np.sign(y) * np.sqrt(np.abs(y)), y) == ELEMENTS[4][0]


REDUCTIONS = {
    "sum over all entries": lambda y: np.sum(y),
    "mean over all entries": lambda y: np.sum(y) / y.size,
    "sum over the examples": lambda y: y[0] + y[1],
    "mean over the examples": lambda y: (y[0] + y[1]) / 2,
    "sum over the entries of an example": lambda y: np.array([np.sum(x) for x in y]),
    "mean over the entries of an example": lambda y: np.array([np.mean(x) for x in y]),
    "sum over the last axis": lambda y: y @ np.ones(6),
    "mean over the last axis": lambda y: y @ np.full(6, 1 / 6),
}


@pytest.mark.parametrize("where", REDUCTIONS)
def test_a_reduction_is_named_by_its_axes(where):
    reduced = REDUCTIONS[where](RIGHT)
    assert f" {where} is " in name_of(reduced, RIGHT)
    if reduced.ndim:
        shapes = {"axis": (2, 3, 4, 1), "examples": (1, 3, 4, 6), "example": (2, 1, 1, 1)}
        kept = reduced.reshape(shapes[where.split()[-1]])
        spread = np.broadcast_to(kept, RIGHT.shape)
        assert f" {where} is " in name_of(spread, RIGHT)


# -- arguments ------------------------------------------------------------------------------------

A = RNG.uniform(0.3, 0.9, (2, 5))
B = RNG.uniform(0.3, 0.9, (2, 5))
OF_ARGUMENT = (  # in the order of ARGUMENTS
    np.negative,
    np.zeros_like,
    np.ones_like,
    lambda a: a + a,
    lambda a: a / 2,
    lambda a: a * a,
    np.sqrt,
    lambda a: 1 - a,
    np.reciprocal,
    lambda a: a + 1,
    lambda a: a - 1,
)


def formula(a, b, power=3):
    return np.sin(a + 0.3) + a**power * b


def argument_mistakes():
    def compute(change):
        return {"result": formula(**change({"a": A, "b": B}))}

    return of_arguments(["a", "b"], compute, {"power": 3})


@pytest.mark.parametrize("index", range(len(ARGUMENTS)))
@pytest.mark.parametrize("argument", ["a", "b"])
def test_a_change_of_an_argument_is_named(argument, index):
    assert len(OF_ARGUMENT) == len(ARGUMENTS)
    changed = {"a": A, "b": B} | {argument: OF_ARGUMENT[index]({"a": A, "b": B}[argument])}
    text = name_of(formula(**changed), formula(A, B), argument_mistakes())
    assert text == ARGUMENTS[index][0].format(argument)


def test_an_argument_that_is_left_out_may_have_zeros():
    a = A * (A > 0.5)

    def compute(change):
        args = change({"a": a})
        return {"result": 2.0 + np.sin(args["a"])}

    mistakes = [*of_arguments(["a"], compute, {})]
    right = 2.0 + np.sin(a)
    assert name_of(np.full_like(a, 2.0), right, mistakes) == ARGUMENTS[1][0].format("a")
    assert name_of(np.full_like(a, 2.0 + np.sin(1.0)), right, mistakes) == (
        ARGUMENTS[2][0].format("a")
    )


def test_a_negative_number_has_no_real_root():
    """Python's root is complex, and the real part of a result with it was compared."""
    mistakes = of_arguments(["b"], lambda change: change({"b": -2.0}), {})
    [root] = [mistake.result() for mistake in mistakes if "the root of b" in mistake.text]
    assert math.isnan(root["b"])


def test_exchanged_arguments_are_named():
    assert name_of(formula(B, A), formula(A, B), argument_mistakes()) == "a and b are exchanged"


def test_an_option_without_effect_is_named():
    def compute(change):
        args = change({"a": A, "sum_it": True, "k": 2.0})
        return {"result": args["a"] * (7.0 if args["sum_it"] else 1.0) + args["k"] ** 2}

    right = 7.0 * A + 4.0
    mistakes = [*of_arguments(["a"], compute, {"sum_it": True, "k": 5.0})]
    assert name_of(A + 4.0, right, mistakes) == "sum_it has no effect, as if it were False"
    assert name_of(7.0 * A + 25.0, right, mistakes) == "k has no effect, as if it were 5.0"


# -- sums, means and terms ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("all entries", 30),
        ("the examples", 2),
        ("the entries of an example", 15),
        ("the last axis", 5),
    ],
)
def test_a_count_is_named(where, count):
    x = np.zeros((2, 3, 5))
    right = {"result": np.asarray([0.3, 0.7])}
    for factor, words in ((count, "this is the sum"), (1 / count, "in place of the sum")):
        mistakes = of_counts(right, {"result": x})
        text = named({"result": factor * right["result"]}, right, mistakes)
        assert f"mean over {where} " in text and words in text


def test_one_entry_has_no_mean():
    right = {"result": np.asarray([0.3])}
    assert not [*of_counts(right, {"result": np.zeros((1, 1))})]
    texts = [m.text for m in of_counts(right, {"result": np.zeros((1, 3))})]
    assert not any("the examples" in text for text in texts) and len(texts) == 6


@pytest.mark.parametrize(
    ("reduce", "axis", "what"),
    [
        (np.sum, (1, 2), "sum over the entries"),
        (np.mean, (1, 2), "mean over the entries"),
        (np.sum, (0, 1), "sum over the first axes"),
        (np.mean, (0, 1), "mean over the first axes"),
    ],
)
def test_a_missing_reduction_is_named(reduce, axis, what):
    got = RNG.uniform(0.3, 0.9, (4, 5, 4))
    mistakes = [*of_missing_reductions({"r": got}, {"r": reduce(got, axis=axis)})]
    assert [mistake.text for mistake in mistakes] == [f"the {what} is missing"]
    assert not [*of_missing_reductions({"r": got}, {"r": got})]
    assert not [*of_missing_reductions({"r": got}, {"r": got.sum(axis=(1, 2)) + 0.1})]


@pytest.mark.parametrize(
    ("added", "what"),
    [
        (lambda x: 0.25, "larger by 0.25"),
        (lambda x: -2 * x, "smaller by 2 x"),
        (lambda x: 0.5 * x * x, "larger by 0.5 x^2"),
        (lambda x: -3 * np.exp(x), "smaller by 3 exp(x)"),
        (lambda x: 4 * np.log(x), "larger by 4 log(x)"),
    ],
)
def test_a_term_too_many_is_named(added, what):
    x = RNG.uniform(0.3, 0.9, (3, 4))
    right = {"0": np.cos(x)}
    mistakes = [*of_differences({"0": right["0"] + added(x)}, right, {"x": {"0": x}})]
    assert len(mistakes) == 1 and mistakes[0].text.endswith(what)
    summed = {"0": right["0"].sum(axis=1)}
    got = {"0": summed["0"] + (added(x) * np.ones_like(x)).sum(axis=1)}
    texts = [m.text for m in of_differences(got, summed, {"x": {"0": x}})]
    assert what == "larger by 0.25" or (len(texts) == 1 and texts[0].endswith(what))


def test_a_term_of_one_number_per_example_is_named():
    x = RNG.uniform(0.3, 0.9, (3, 4))
    t = np.asarray([0.1, 0.5, 0.8])
    got = {"0": x + 2 * t[:, None]}
    (mistake,) = of_differences(got, {"0": x}, {"t": {"0": t}})
    assert mistake.text.endswith("larger by 2 t")
    assert not [*of_differences(got, {"0": x}, {"t": {"0": np.ones(5)}})]
    assert not [*of_differences({"0": x}, {"0": x}, {"t": {"0": t}})]
    assert not [*of_differences({"0": x[0]}, {"0": x}, {"t": {"0": t}})]


def test_coefficients_of_terms_are_named():
    x, y = np.asarray([0.5, 0.7]), np.asarray([0.1, 0.2])
    ours = {"x": x, "y": y}
    assert of_terms(ours | {"x": y}, ours) == "x has the coefficient of y"
    assert of_terms(ours | {"x": 1 - y}, ours) == "the coefficient of x is 1 minus that of y"
    assert of_terms(ours | {"x": np.ones(2)}, ours) == "x has no coefficient"
    for i in range(7):
        text = of_terms(ours | {"x": CHANGES[i](x)}, ours)
        assert text == f"in the coefficient of x {ELEMENTS[i][0]}"
    assert of_terms(ours | {"x": np.exp(x)}, ours) == ""
    assert len(of_terms({"x": 2 * x, "y": -y}, ours).split("; ")) == 2


# -- what counts as the same ----------------------------------------------------------------------


def test_a_cause_may_leave_a_millionth_of_the_error():
    right = np.full(1000, 2.0)
    for rest, is_named in ((0.9e-6, True), (1.2e-6, False)):
        got = -right + rest * 4.0
        assert bool(name_of(got, right)) == is_named
        assert bool(named({"r": got}, {"r": right}, of_results({"r": right}), 2e-6))


def test_numbers_that_are_not_finite_are_left_out_unless_they_are_most():
    right = RNG.uniform(0.3, 0.9, 10)
    got = -right
    some = got.copy()
    some[:5] = np.nan
    assert name_of(some, right) == ELEMENTS[0][0]
    some[5] = np.inf
    assert name_of(some, right) == ""
    infinite = right.copy()
    infinite[0] = np.inf
    assert name_of(got, infinite) == ELEMENTS[0][0]


def test_a_mistake_that_raises_is_no_cause():
    def fails():
        raise ValueError

    mistakes = [Mistake("a", fails), Mistake("b", lambda: {"result": -RIGHT})]
    assert name_of(-RIGHT, RIGHT, mistakes) == "b"


def test_the_mean_difference():
    one = {"a": np.asarray([1.0, 2.0]), "b": np.asarray([0.0])}
    assert mean_difference(one, one) == 0.0
    assert mean_difference(one, {"a": np.asarray([2.0, 4.0])}) == 1.5
    assert mean_difference(one, {"a": one["a"], "b": np.asarray([-3.0])}) == 1.5
    assert mean_difference(one, {"a": np.asarray([2.0])}) == math.inf
    assert mean_difference(one, {"a": np.asarray([2.0, np.nan])}) == math.inf


def test_parts_of_several_calls_are_exchanged_within_their_call():
    right = {f"{i}.{part}": RNG.uniform(0.3, 0.9, 3) for i in (0, 1) for part in ("mean", "std")}
    got = {
        f"{i}.{a}": right[f"{i}.{b}"] for i in (0, 1) for a, b in (("mean", "std"), ("std", "mean"))
    }
    assert named(got, right, of_results(right)) == "mean and std are exchanged"
    doubled = right | {name: -right[name] for name in ("0.std", "1.std")}
    assert named(doubled, right, of_results(right)) == f"std: {ELEMENTS[0][0]}"
