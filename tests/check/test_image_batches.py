"""Every function is checked with one number per example and with images, as it promises."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
from wrapped import module_of

import ldmref.math
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.batches import LAW
from ldmref.check.calls import argument_texts, named_arguments, per_example
from ldmref.check.identity import Functions, public
from ldmref.check.runner import random_inputs

NUMPY = get_backend("numpy", dtype="float64")
OF_A_BATCH = re.compile(r"\(n, \.\.\.\)|\(n, c, |\(n, size \+|\bany shape\b|\(\.\.\., ")


@cache
def shapes():
    """Return the shapes of all arguments in the cases of `ldmref check`: function, argument."""
    found = defaultdict(lambda: defaultdict(set))

    class Recorder(Functions):
        def __getattr__(self, name):
            function = super().__getattr__(name)
            if isinstance(function, type):
                return function

            def record(*args, **kwargs):
                for argument, value in named_arguments(name, args, kwargs).items():
                    if hasattr(value, "shape"):
                        found[name][argument].add(tuple(value.shape))
                return function(*args, **kwargs)

            return record

    for identity in identities():
        for case in range(0 if identity.gradients else 3):
            identity.case(Recorder(), random_inputs(identity, NUMPY, 0, case))
    return found


def checked():
    return {i.function for i in identities() if not isinstance(public(i.function), type)}


def test_one_number_per_example_is_checked_wherever_it_is_allowed():
    """A function with "scalar or (n,)" in its docstring has a case with n > 1 numbers."""
    allowed = [(name, argument) for name in checked() for argument in per_example(name)]
    assert len(allowed) > 50
    missing = [
        (name, argument)
        for name, argument in allowed
        if not any(len(s) == 1 and s[0] > 1 for s in shapes()[name][argument])
    ]
    assert not missing


def test_images_are_checked_wherever_they_are_allowed():
    """A function of (n, ...) or of any shape has a case with more than two axes."""
    allowed = [
        (name, argument)
        for name in checked()
        for argument, text in argument_texts(name).items()
        if OF_A_BATCH.search(text) and shapes()[name][argument]
    ]
    assert len(allowed) > 80
    two_axes = {"bits_per_dimension", "discretized_gaussian_log_likelihood"}  # numbers and pixels
    missing = {
        (name, argument)
        for name, argument in allowed
        if name not in two_axes and not any(len(s) > 2 for s in shapes()[name][argument])
    }
    assert not missing


def without_reshape(name):
    """Return ldmref's function as if an example were a number: arrays of n are not reshaped."""
    own = getattr(ldmref.math, name)

    def wrong(*args, **kwargs):
        last = [a for a in args if len(getattr(a, "shape", ())) > 1]
        numbers = [len(getattr(a, "shape", ())) == 1 for a in args]
        if not last or not any(numbers):
            return own(*args, **kwargs)
        rows = [np.broadcast_to(a, last[0].shape) for a in args]
        return np.vectorize(lambda *row: float(own(*map(np.reshape, row, [1] * len(row)))))(*rows)

    return wrong


@pytest.mark.parametrize("name", ["q_sample", "q_step", "score_from_eps", "replace_known"])
def test_a_missing_reshape_is_found_and_explained(name):
    results = [*run(NUMPY, against=module_of({name: without_reshape(name)}), only=f"{name}: ")]
    assert [r.identity for r in results if not r.holds] == [f"{name}: {LAW}"]
    failed = next(r for r in results if not r.holds)
    assert "may be (n,)" in failed.notes[-1] and "reshape to (n, 1, ...)" in failed.notes[-1]


@pytest.mark.parametrize("axis", [1, -1])
def test_a_sum_over_one_axis_is_found(axis):
    def squared_error(x, reconstruction):
        return ((x - reconstruction) ** 2).sum(axis=axis)

    results = run(NUMPY, against=module_of({"squared_error": squared_error}), only=LAW)
    (result,) = results
    assert not result.holds and "shapes differ" in result.detail


def test_the_wrong_axis_of_the_joint_score_is_found():
    def conditional_scores(joint, size):
        return joint[..., :size], joint[..., size:]

    other = module_of({"conditional_scores": conditional_scores})
    assert not any(result.holds for result in run(NUMPY, against=other))


def test_certain_events_are_among_the_cases():
    def kl_bernoulli(p, q):
        with np.errstate(divide="ignore", invalid="ignore"):
            return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    results = [*run(NUMPY, against=module_of({"kl_bernoulli": kl_bernoulli}), cases=5)]
    assert "got nan" in next(r for r in results if not r.holds).detail
