"""A failing identity names the part of a result that differs; a case as arrays."""

import inspect
import re

import numpy as np
import pytest
from wrapped import module_of

from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.calls import PARTS, named_parts, per_example
from ldmref.check.identity import Functions, public
from ldmref.check.runner import random_inputs
from ldmref.check.saving import case_arrays

NUMPY = get_backend("numpy", dtype="float64")


def results_of_several_values():
    """Return (identity, value) by name, for every function that returns a tuple."""
    found = {}

    for identity in identities():
        if identity.gradients:
            continue

        class Recorder(Functions):
            def __getattr__(self, name, identity=identity):
                function = super().__getattr__(name)
                if isinstance(function, type):
                    return function

                def record(*args, **kwargs):
                    value = function(*args, **kwargs)
                    if isinstance(value, tuple):
                        found.setdefault(name, (identity.name, value))
                    return value

                return record

        identity.case(Recorder(), random_inputs(identity, NUMPY, 0, 0))
    return found


SEVERAL = results_of_several_values()


def test_the_parts_of_all_tuples_have_names():
    for name, (_, value) in SEVERAL.items():
        parts = named_parts(name, value)
        assert len(parts) == len(value) and not any(part.isdigit() for part in parts), name
    plain = {name for name, (_, value) in SEVERAL.items() if not hasattr(value, "_fields")}
    assert plain == set(PARTS)


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_the_names_and_the_order_of_the_docstring(name):
    section = inspect.getdoc(public(name)).partition("Returns:")[2]
    found = [re.search(rf"[(;,] ?(explained |the )?{part}\b", section) for part in PARTS[name]]
    assert all(found) and [m.start() for m in found] == sorted(m.start() for m in found)


ARRAYS = {
    name: value for name, (_, value) in SEVERAL.items() if all(hasattr(v, "shape") for v in value)
}
PAIRS = [(name, part) for name, value in ARRAYS.items() for part in range(len(value))]


@pytest.mark.parametrize(("name", "part"), PAIRS)
def test_the_part_that_is_wrong_is_named(name, part):
    """Each failing identity names it, in its comparison or in a note."""
    own = public(name)

    def wrong(*args, **kwargs):
        value = list(own(*args, **kwargs))
        value[part] = (
            value[part] * 1.5 + 1 if "float" in str(value[part].dtype) else value[part] + 1
        )
        return type(ARRAYS[name])(*value) if hasattr(ARRAYS[name], "_fields") else tuple(value)

    parts = list(named_parts(name, ARRAYS[name]))
    results = [r for r in run(NUMPY, against=module_of({name: wrong}), cases=5)]
    failed = [r for r in results if not r.holds]
    assert failed
    for result in failed:
        said = result.detail + "; ".join(result.notes)
        named = [
            other for other in parts if f"{other}: got" in said or f"{other} of {name}" in said
        ]
        assert parts[part] in named or parts[part] in said, (result.identity, said)


@pytest.mark.parametrize("name", ["q_sample", "q_posterior", "x0_from_eps", "flow_sample"])
def test_alpha_bars_may_be_one_per_example(name):
    assert per_example(name)


def test_no_identity_lets_one_number_per_example_pass_as_one_per_column():
    """A scalar-only function must raise: n never equals the length of the last axis."""
    for identity in identities():
        if identity.gradients:
            continue

        class Recorder(Functions):
            def __getattr__(self, name):
                function = super().__getattr__(name)
                arguments = per_example(name) if not isinstance(function, type) else []
                if not arguments:
                    return function

                def record(*args, **kwargs):
                    numbers = [a for a in args if len(getattr(a, "shape", ())) == 1]
                    data = [a for a in args if len(getattr(a, "shape", ())) > 1]
                    if data and numbers:
                        assert data[0].shape[-1] != len(numbers[0]), name
                    return function(*args, **kwargs)

                return record

        identity.case(Recorder(), random_inputs(identity, NUMPY, 0, 0))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_every_case_can_be_saved_and_read_back(library, tmp_path):
    """Arguments that are functions, classes and None too; in their own dtype."""
    pytest.importorskip(library)
    ops = get_backend(library, dtype="float32")
    for identity in identities():
        if identity.gradients and library == "numpy":
            continue
        arrays = case_arrays(identity, Functions(), ops, 0, 0)
        np.savez(tmp_path / "case.npz", **arrays)
        with np.load(tmp_path / "case.npz", allow_pickle=False) as case:
            assert set(case.files) == set(arrays)
            assert any(name.startswith("1.") for name in case.files), identity.name
