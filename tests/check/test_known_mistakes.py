"""Declared mistakes are named if all numbers are theirs, in every library, and never otherwise."""

from __future__ import annotations

import re

import numpy as np
import pytest
from wrapped import module_of, wrapped_function

from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.axes import axis_text
from ldmref.check.comparison import as_numpy
from ldmref.check.identity import public
from ldmref.check.known_mistakes import known_mistakes

NUMPY = get_backend("numpy", dtype="float64")
MISTAKES = known_mistakes()
IDS = [f"{mistake.function}-{i}" for i, mistake in enumerate(MISTAKES)]
AXES = {  # shapes: what is said of the first one
    ((2, 5, 3), (2, 4, 3)): "axis 1 has 5 entries, not 4",
    ((2, 1), (2, 4)): "axis 1 has 1 entry, not 4",
    ((1, 5), (2, 4)): "axis 0 has 1 entry, not 2, axis 1 has 5 entries, not 4",
    ((2, 3, 4), (2, 4, 3)): "axes 1 and 2 are exchanged",
    ((2, 3), (2, 4, 3)): "axis 1, of 4 entries, is missing",
    ((2, 1, 3), (2, 3)): "axis 1, of 1 entry, is too many",
    ((3,), (3, 3)): "one of the axes 0 and 1, of 3 entries, is missing",
    ((), (3, 2)): "2 axes are missing",
    ((5,), (3, 2)): "1 axis is missing",
}


def hints(name, function, backend=NUMPY):
    """Return the causes that the reports of a function name, and whether an identity fails."""
    results = [*run(backend, against=module_of({name: function}), cases=3, only=f"{name}: ")]
    notes = [note for r in results if not r.holds for note in r.notes]
    found = [re.search(r"this is the result if (.*)", note) for note in notes]
    return {match[1] for match in found if match}, any(not r.holds for r in results)


def test_functions_of_mistakes_have_identities():
    assert {mistake.function for mistake in MISTAKES} <= {i.function for i in identities()}
    texts = [(mistake.function, mistake.text) for mistake in MISTAKES]
    assert len({*texts}) == len(texts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", MISTAKES, ids=IDS)
def test_a_declared_mistake_is_named(mistake):
    """One that another mistake hides, or that no case shows, could never be named."""
    found, failed = hints(mistake.function, mistake.wrong)
    assert failed and found == {mistake.text}


def spoilt(value):
    """Change a number by a thousandth, another one each time."""
    is_float = "float" in str(getattr(value, "dtype", type(value).__name__))
    if not is_float:
        return value
    size = np.max(np.abs(np.where(np.isfinite(value), value, 0.0)), initial=0.0)
    return value + 1e-3 * size * np.cos(np.arange(np.size(value))).reshape(np.shape(value))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", MISTAKES, ids=IDS)
def test_numbers_that_are_only_near_those_of_a_mistake_are_not_named(mistake):
    if mistake.function == "nearest_code":
        pytest.skip("its indices are integers")
    declared = {m.text for m in MISTAKES if m.function == mistake.function and not m.raises}
    found, _ = hints(mistake.function, wrapped_function(mistake.wrong, spoilt))
    assert not found & declared


FUNCTIONS = sorted({mistake.function for mistake in MISTAKES})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_right_answer_has_no_hint_and_one_of_its_own_has_no_declared_one(name):
    """A right result; and one that is wrong in a way that nobody declared."""
    assert hints(name, lambda *args, **kwargs: public(name)(*args, **kwargs)) == (set(), False)
    declared = {mistake.text for mistake in MISTAKES if mistake.function == name}
    found, _ = hints(name, wrapped_function(public(name), lambda y: spoilt(spoilt(y))))
    assert not found & declared


PLAIN = """
    patchify adaptive_layer_norm rotary_embedding x0_from_velocity interpolant_pair
    gaussian_flow_map mean_flow_target
""".split()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PLAIN)
def test_mistakes_are_named_in_another_library(name, dtype):
    torch = pytest.importorskip("torch")
    backend = get_backend("torch", dtype=dtype)
    for mistake in (m for m in MISTAKES if m.function == name):

        def of_tensors(*args, wrong=mistake.wrong):
            host = [as_numpy(a) if hasattr(a, "detach") else a for a in args]
            value = wrong(*host)
            if isinstance(value, tuple):
                return tuple(torch.asarray(v.copy()) for v in value)
            return torch.asarray(value.copy())

        found, _ = hints(name, of_tensors, backend)
        assert found == {mistake.text}


@pytest.mark.parametrize("shapes", AXES, ids=str)
def test_the_wrong_axis_of_a_shape_is_named(shapes):
    assert axis_text(*shapes) == AXES[shapes]


def test_another_shape_is_reported_before_other_numbers():
    """The identity's numbers are wrong as well, in every case, and by more in others."""

    def columns(x, shift, scale, eps=1e-6):
        right = public("adaptive_layer_norm")(x, shift, scale, eps)
        return 1e6 * np.swapaxes(right, 1, 2)

    (result,) = run(
        NUMPY, against=module_of({"adaptive_layer_norm": columns}), cases=3, only="token by token"
    )
    assert "shapes differ: got (3, 5, 4), the oracle has (3, 4, 5): axes 1" in result.detail


def test_a_shape_that_the_identity_does_not_see_is_reported_before_wrong_numbers():
    def summed(a):
        return 7.0 * np.abs(a).sum(axis=-1)

    results = [*run(NUMPY, against=module_of({"l1_sparsity": summed}), cases=3)]
    failed = [r.detail for r in results if not r.holds]
    assert failed and all("shapes differ" in detail and "too many" in detail for detail in failed)


def test_a_reshape_is_proposed_only_where_it_helps():
    """Both mistakes change the number of results, and have nothing to do with axes."""
    name = "interpolant_pair"

    def one(*args):
        return public(name)(*args)[0]

    def fails(*args):
        raise ValueError("operands could not be broadcast together")

    for function in (one, fails):
        results = run(NUMPY, against=module_of({name: function}), cases=2, only=f"{name}: ")
        assert not [note for r in results for note in r.notes if "reshape" in note]


def test_the_numbers_of_a_failing_report_are_explained(tmp_path, monkeypatch, capsys):
    from ldmref.apps.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.py").write_text("def lerp(a, b, t):\n    return a + b\n")
    for flags, explained in (([], True), (["--json"], False)):
        assert main(["check", "--against", "answers.py", "--only", "lerp: ", *flags]) == 4
        out = capsys.readouterr().out
        words = ("units of rounding (2.2e-16", "(derived)", "(probable)", "ratio: worst / of")
        assert all(word in out.partition("\nworst: ")[2] for word in words) == explained
    (tmp_path / "answers.py").write_text("from ldmref.math import lerp\n")
    assert main(["check", "--against", "answers.py", "--only", "lerp: "]) == 0
    assert "\nworst: " not in capsys.readouterr().out
