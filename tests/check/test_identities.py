"""Every identity holds in every library, and fails for a function that is wrong."""

import types

import pytest

import ldmref.math
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.identity import Draw, Functions, Identity, miss, public

IDENTITIES = identities()
NAMES = [i.name for i in IDENTITIES]


@pytest.mark.parametrize("identity", NAMES)
def test_identity_holds(ops, identity):
    (row,) = [r for r in run(ops, cases=10, only=identity) if r.identity == identity]
    assert row.holds, f"{row.verdict}: worst {row.worst} of {row.allowed}; {row.detail}"


def test_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)


def test_identities_name_functions_that_exist():
    for identity in IDENTITIES:
        for name in (identity.function, *identity.uses):
            public(name)


@pytest.mark.parametrize("identity", IDENTITIES, ids=NAMES)
def test_identity_calls_its_functions(identity):
    """What an identity says it checks, it calls: else it could not fail for it."""
    called = set()

    class Spy(Functions):
        def __getattr__(self, name):
            called.add(name)
            return super().__getattr__(name)

    for case in range(5):
        identity.case(Spy(), _draw(case))
    assert {identity.function, *identity.uses} <= called


@pytest.mark.parametrize("identity", IDENTITIES, ids=NAMES)
def test_identity_tells_wrong_from_right(identity):
    """A function whose numbers are off by 1 in 1000 is found out."""
    ops = get_backend("numpy", dtype="float64")
    wrong = types.ModuleType("wrong")
    setattr(wrong, identity.function, _off(public(identity.function)))
    rows = [r for r in run(ops, against=wrong, cases=30, only=identity.name)]
    assert not next(r for r in rows if r.identity == identity.name).holds


def _draw(case):
    import numpy as np
    from array_api_compat import numpy as xp

    return Draw(xp, xp.float64, None, np.random.Generator(np.random.Philox(case)))


def _off(function):
    """The function with every floating result (arrays in tuples and of inner functions too) off."""

    def spoil(value):
        if isinstance(value, bool | int | str) or value is None:
            return value
        if isinstance(value, float):
            return value * 1.001 + 0.001
        if isinstance(value, tuple):
            spoiled = [spoil(v) for v in value]
            return type(value)(*spoiled) if hasattr(value, "_fields") else tuple(spoiled)
        if hasattr(value, "dtype"):
            return value * 1.001 + 0.001 if "float" in str(value.dtype) else value + 1
        if callable(value):
            return lambda *args, **kwargs: spoil(value(*args, **kwargs))
        if hasattr(value, "__next__"):
            return (spoil(v) for v in value)
        raise TypeError(f"cannot spoil {type(value)}")

    if isinstance(function, type):
        return _spoiled_class(function, spoil)
    return lambda *args, **kwargs: spoil(function(*args, **kwargs))


def _spoiled_class(kind, spoil):
    """A subclass all of whose public methods are off."""
    methods = {
        name: (lambda f: lambda self, *a, **k: spoil(f(self, *a, **k)))(value)
        for base in reversed(kind.__mro__[:-1])
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("_")
    }
    return type(kind.__name__, (kind,), methods)


def test_miss_counts_units_of_rounding():
    assert miss(([1.0, 2.5], [1.0, 2.0]), 0.25).ulps == 1.0
    assert miss(([0.5], [0.0], 2.0), 0.25) == (1.0, (0,), 0.5, 0.0)
    assert miss(([float("nan")], [0.0]), 1.0).ulps == float("inf")
    assert miss(([1.0, 2.0], [1.0]), 1.0).ulps == float("inf")
    assert miss(([], []), 1.0).ulps == 0.0


def test_cases_do_not_depend_on_their_neighbours():
    ops = get_backend("numpy", dtype="float64")
    name = next(i.name for i in IDENTITIES if i.function == "karras_sigmas")
    alone = next(run(ops, cases=5, only=name))
    among = next(r for r in run(ops, cases=5, only="sigmas") if r.identity == name)
    assert alone == among
    assert next(run(ops, cases=5, seed=1, only=name)).worst != alone.worst


def test_formula_and_source_come_from_the_docstring():
    identity = Identity("q_sample", "none", lambda f, draw: (0.0, 0.0), 1.0)
    assert identity.formula().startswith("x_t = ") and "2006.11239" in identity.source()


def test_functions_prefer_the_implementation():
    theirs = types.SimpleNamespace(snr=lambda a: "theirs")
    assert Functions(theirs).snr(0.5) == "theirs"  # type: ignore[arg-type]
    assert Functions(theirs).q_sample is ldmref.math.q_sample  # type: ignore[arg-type]
