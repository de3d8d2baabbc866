"""Networks that ldmref has no definition of, judged by their own modules."""

import re

import pytest

pytest.importorskip("diffusers")

import unknown_networks as networks
from unknown_faults import SEVERAL, SINGLE

from ldmref.locate import diff_modules

CASES = {**SINGLE, **SEVERAL}
MASKED = {"pixart", "sana", "lumina2", "ltx"}  # which are given a mask that no module computes
MASK = "mask of the text"
# What bfloat16 rounds more than these faults change: at most 16 of its units of 2^-8.
FAINT = {
    "pixart: eps of norm2",
    "pixart: exact GELU",
    "sana: eps of the caption's norm",
    "lumina2: eps of norm_q",
    "lumina2: gate without tanh",
    "cogvideox: eps of the last norm",
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_named_where_it_is_and_nothing_else(name, dtype):
    case = CASES[name]
    report = diff_modules(networks.port_of(case.family, case, dtype), networks.make(case.family))
    seen = [SINGLE[part] for part in pieces(name) if dtype == "float32" or part not in FAINT]
    layers = {layer for part in seen for layer in part.layers}
    alike = {layer for part in seen for layer in part.alike}
    rows = report.faults
    named = {row.layer for row in rows}
    assert layers <= named <= layers | alike
    assert {row.kind for row in report.rows if row.verdict == "not judged"} <= {MASK}
    causes = {layer: text for part in seen for layer, text in part.causes.items()}
    for layer, text in causes.items():
        assert any(re.search(text, row.cause) for row in rows if row.layer == layer), layer


def pieces(name):
    """Return the names of the single faults of a case."""
    found = [part for part in SINGLE if part == name]
    return found or [part for part in SINGLE if part in name]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", networks.FAMILIES)
def test_a_right_run_is_equal(family, dtype, seed):
    port = networks.port_of(family, dtype=dtype, seed=seed)
    report = diff_modules(port, networks.make(family, seed))
    left = [(row.layer, row.kind) for row in report.rows if row.verdict == "not judged"]
    assert left == ([("", MASK)] if family in MASKED else []), report.to_dict()
    assert report.verdict == ("incomplete" if left else "equal"), report.to_dict()
    assert report.counts()["equal"] > 50


@pytest.mark.parametrize("family", networks.FAMILIES)
def test_other_weights_differ_everywhere(family):
    """The judge is not silent because it cannot see: each linear layer of other weights differs."""
    report = diff_modules(networks.port_of(family, seed=1), networks.make(family))
    differ = {row.layer for row in report.faults}
    linear = {row.layer for row in report.rows if re.search(r"to_q$|linear_1$", row.layer)}
    assert linear and linear <= differ
