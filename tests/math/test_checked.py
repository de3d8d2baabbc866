"""`ldmref.math.checked`: the docstrings' ranges, shapes and dtypes are checked, and nothing else.

Valid calls are those of the identities of `ldmref check`. Then one argument at a time is made
invalid.
"""

import inspect
import math
import re

import array_api_compat.numpy as xp
import numpy as np
import pytest

import ldmref.math
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.identity import Functions, RandomInputs
from ldmref.math import checked
from ldmref.math.checked import documented_arguments

FUNCTIONS = [n for n in ldmref.math.__all__ if not isinstance(getattr(ldmref.math, n), type)]
RANGES = {n: documented_arguments(getattr(ldmref.math, n)) for n in FUNCTIONS}
BOUNDED = [(f, name) for f, says in RANGES.items() for name, a in says.items() if a.bounds]
SHAPED = [(f, name) for f, says in RANGES.items() for name, a in says.items() if a.shape_of]
FLOATING = [(f, name) for f, says in RANGES.items() for name, a in says.items() if a.floating]


@pytest.fixture(scope="module")
def calls():
    """Function -> the arguments, by name, of a call in one of the identities."""
    recorded = {}

    class Recorder(Functions):
        def __getattr__(self, name):
            function = super().__getattr__(name)
            if name not in FUNCTIONS:
                return function

            def record(*args, **kwargs):
                bound = inspect.signature(function).bind(*args, **kwargs)
                bound.apply_defaults()
                recorded.setdefault(name, bound.arguments)
                return function(*args, **kwargs)

            return record

    for identity in identities():
        if identity.gradients:  # NumPy has none; the same functions are called by other identities
            continue
        rng = RandomInputs(xp, xp.float64, None, np.random.default_rng(0))
        identity.case(Recorder(), rng)
    assert set(recorded) == set(FUNCTIONS)
    return recorded


def call(function, arguments):
    """Return the checked function, with keyword-only arguments by name."""
    parameters = inspect.signature(function).parameters
    keywords = {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    args = [v for n, v in arguments.items() if n not in keywords]
    return function(*args, **{n: arguments[n] for n in keywords})


def refused(name, arguments, argument, value):
    """Return whether the value is refused, in a message with function and argument."""
    function = getattr(checked, name)
    call(function, arguments)
    with pytest.raises(ValueError) as caught:
        call(function, {**arguments, argument: value})
    assert str(caught.value).startswith(f"{name}: "), caught.value
    return argument in str(caught.value)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_no_identity_is_refused(library):
    """Nothing that is right is refused, in either library."""
    pytest.importorskip(library)
    for result in run(get_backend(library, dtype="float32"), against=checked, cases=2):
        assert result.holds, (result.identity, result.verdict)


@pytest.mark.parametrize(("name", "argument"), BOUNDED)
def test_numbers_out_of_range_are_refused(calls, name, argument):
    value = calls[name][argument]
    if value is None:
        pytest.skip("no call of an identity passes it")
    wrong = [math.nan]
    for left, sign, right in RANGES[name][argument].bounds:
        limit, below = (right, sign[0] == ">") if left == argument else (left, sign[0] == "<")
        if argument in (left, right) and not limit.isidentifier():
            wrong.append(float(limit) + (-0.5 if below else 0.5))
            wrong += [float(limit)] if "=" not in sign else []
    for number in wrong:
        assert refused(name, calls[name], argument, number)
        if np.ndim(value):
            spoilt = np.array(value, np.float64)
            spoilt[(-1,) * spoilt.ndim] = number
            assert refused(name, calls[name], argument, spoilt)


@pytest.mark.parametrize(("name", "argument"), FLOATING)
def test_nan_and_integers_are_refused_where_floats_belong(calls, name, argument):
    value = np.array(calls[name][argument])
    spoilt = value.copy()
    spoilt[(0,) * value.ndim] = np.nan
    assert refused(name, calls[name], argument, spoilt)
    assert refused(name, calls[name], argument, value.astype(np.int64))
    assert refused(name, calls[name], argument, value.tolist())


@pytest.mark.parametrize(("name", "argument"), SHAPED)
def test_arrays_of_another_shape_are_refused(calls, name, argument):
    value = calls[name][argument]
    if value is None or callable(value):
        pytest.skip("a function, or nothing")
    assert refused(name, calls[name], argument, np.asarray(value)[None])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: checked.q_sample(x, 2.0, x), r"alpha_bar is 2\.0; need alpha_bar in \[0, 1\]"),
        (lambda x: checked.q_sample(x, [0.5], x), "alpha_bar must be a number or an array, not li"),
        (lambda x: checked.q_sample(x, np.asarray([0.5, 1.5]), x), r"alpha_bar\[1\] is 1\.5"),
        (lambda x: checked.q_sample(x, 0.5, x.astype("f4")), "dtype of x0, float64, not float32"),
        (lambda x: checked.q_posterior(x, x, 0.5, 0.25), r"alpha_bar_prev is 0\.25; need alpha_ba"),
        (
            lambda x: checked.q_posterior(x, x, np.asarray([0.1, 0.5]), 0.25),
            r"alpha_bar_prev\[1\] is 0\.25; need alpha_bar_prev in \[alpha_bar, 1\]",
        ),
        (lambda x: checked.posterior_variance(0.5, 0.25), "need alpha_bar_prev in"),
        (lambda x: checked.karras_sigmas(5, 2.0, 1.0), r"sigma_min is 2\.0; need 0 < sigma_min <="),
        (lambda x: checked.log_snr(np.asarray(np.nan)), "alpha_bar is nan; need"),
        (lambda x: checked.silu(x * np.nan), r"x\[0, 0\] is NaN"),
        (lambda x: checked.reparameterize(x, x, x[:1]), r"shape of mean, \(2, 3\), not \(1, 3\)"),
    ],
)
def test_messages_name_function_argument_element_and_range(make, message):
    with pytest.raises(ValueError, match=message):
        make(np.ones((2, 3)))


def test_every_level_has_a_range():
    """A docstring that forgets the range of an alpha-bar, beta, sigma or flow time fails here."""
    named = re.compile(r"(alpha_bar|alphas_cumprod|betas?|sigmas?)(_prev|_min|_max|_data)?|s")
    for function, says in RANGES.items():
        for name, argument in says.items():
            assert argument.bounds or not named.fullmatch(name), f"{function}: {name}"


def test_a_function_whose_docstring_lacks_an_argument_cannot_be_checked():
    def formula(x, scale):
        """Args:
        x: any shape.
        """

    with pytest.raises(RuntimeError, match="scale"):
        documented_arguments(formula)


def test_it_has_the_functions_of_the_package_and_no_others():
    assert dir(checked) == sorted(ldmref.math.__all__)
    assert checked.VPSDE is ldmref.math.VPSDE
    assert checked.q_sample.__doc__ == ldmref.math.q_sample.__doc__
    with pytest.raises(AttributeError, match="no_such"):
        _ = checked.no_such
