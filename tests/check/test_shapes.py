"""Correct functions hold in every form of result that the docstrings allow."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from wrapped import functions_of, module_of, wrapped_function

import ldmref.math
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.comparison import as_numpy
from ldmref.check.identity import public

IDENTITIES = identities()


def as_python(value, xp):
    return float(value)


def as_numpy_scalar(value, xp):
    return np.float64(float(value))


def as_array(value, xp):
    return xp.asarray(float(value), dtype=xp.float64)


def in_form(form, xp):
    """Return the change of results: scalars take the form, unless a gradient goes through them."""

    def change(value):
        if isinstance(value, float):
            return form(value, xp)
        scalar = getattr(value, "shape", None) == () and "float" in str(value.dtype)
        return form(value, xp) if scalar and not getattr(value, "requires_grad", False) else value

    return change


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("form", [as_python, as_numpy_scalar, as_array])
def test_scalars_may_be_numbers_or_arrays(form, library):
    """Every scalar result as Python number, as NumPy scalar and as array without axes."""
    pytest.importorskip(library)
    ops = get_backend(library, dtype="float64")
    failed = []
    for identity in IDENTITIES:
        change = in_form(form, ops.xp)
        other = {n: wrapped_function(f, change) for n, f in functions_of(identity).items()}
        results = run(ops, against=module_of(other), cases=3, only=identity.name)
        failed += [r for r in results if r.identity == identity.name and not r.holds]
    assert not failed, [(r.identity, r.verdict, r.detail) for r in failed]


def test_tuples_may_be_lists():
    def listed(function):
        def call(*args, **kwargs):
            value = function(*args, **kwargs)
            plain = isinstance(value, tuple) and not hasattr(value, "_fields")
            return list(value) if plain else value

        return call if not isinstance(function, type) else function

    ops = get_backend("numpy", dtype="float64")
    for identity in IDENTITIES:
        own = functions_of(identity)
        other = module_of({name: listed(function) for name, function in own.items()})
        results = run(ops, against=other, cases=2, only=identity.name)
        assert all(r.holds for r in results if r.identity == identity.name), identity.name


def broadcastable_results():
    """Yield the functions whose docstring calls a result broadcastable."""
    for name in ldmref.math.__all__:
        returns = re.search(r"Returns:\n(.*?)\n\n", inspect.getdoc(public(name)) or "", re.DOTALL)
        if returns and "broadcastable" in returns[1]:
            yield name


def variances(function, form):
    """Return q_posterior with its variance in another shape that broadcasts to the mean."""

    def call(*args):
        mean, variance = function(*args)
        return mean, form(variance, mean)

    return call


def kept_dimensions(variance, mean):
    host = as_numpy(variance)
    axes = (1,) * (mean.ndim - host.ndim)
    return ldmref.math.forward.along(1.0, mean) * like(mean, host.reshape(*axes, *host.shape))


def full(variance, mean):
    return like(mean, np.broadcast_to(as_numpy(variance), tuple(mean.shape)).copy())


def number(variance, mean):
    return float(as_numpy(variance).ravel()[0]) if as_numpy(variance).size == 1 else variance


def like(array, host):
    """Host numbers in the library, dtype and device of an array."""
    if hasattr(array, "new_tensor"):
        return array.new_tensor(host)
    return np.asarray(host, array.dtype)


def test_only_the_variance_of_the_posterior_is_called_broadcastable():
    """Another function would need its own forms below."""
    assert list(broadcastable_results()) == ["q_posterior"]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("form", [kept_dimensions, full, number])
def test_a_variance_may_have_any_shape_that_can_be_broadcast(form, library):
    pytest.importorskip(library)
    other = module_of({"q_posterior": variances(ldmref.math.q_posterior, form)})
    results = list(run(get_backend(library, dtype="float64"), against=other, cases=10))
    assert len(results) >= 6
    assert not [(r.identity, r.verdict, r.detail) for r in results if not r.holds]


def test_a_variance_of_another_shape_is_reported_by_name():
    def wrong(x0, xt, now, before):
        mean, variance = ldmref.math.q_posterior(x0, xt, now, before)
        return mean, np.ones(7) * np.mean(variance)

    other = module_of({"q_posterior": wrong})
    ops = get_backend("numpy", dtype="float64")
    (result,) = run(ops, against=other, cases=2, only="precisions of both")
    assert not result.holds
    assert "variance: shapes differ: got (7,), the oracle has (4, 3)" in result.detail


def test_arguments_that_a_function_cannot_take_are_named():
    def lacks_one(x0, alpha_bar):
        return x0

    def raises(x0, alpha_bar, eps):
        raise TypeError("unsupported operand")

    for function, hints in (
        (lacks_one, ["hint: its arguments are q_sample(x0, alpha_bar, eps)"]),
        (raises, []),
    ):
        function.__name__ = "q_sample"
        function.__qualname__ = "q_sample"
        ops = get_backend("numpy", dtype="float64")
        result, *_ = run(ops, against=module_of({"q_sample": function}), cases=2, only="q_sample: ")
        assert "TypeError" in result.verdict
        assert [note for note in result.notes if "its arguments" in note] == hints
