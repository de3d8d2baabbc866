"""Faults of layers have the same cause by ldmref's definition and by the modules themselves.

`test_twenty_faults` judges the same ports by ldmref's definition.
"""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import real_faults
from real_faults import CASES, Fault
from recorded_pipelines import build, names_of, record

from ldmref.locate import diff_modules
from ldmref.trace import read_trace

OF_LAYERS = {
    name: fault
    for name, fault in vars(real_faults).items()
    if isinstance(fault, Fault) and all("/" in layer for layer in fault.names)
}
OWN_WORDS = {  # of a concatenation, and of the only table that a module reads by positions
    "SKIP_ORDER": "parts are joined in the order 1, 0",
    "POSITIONS": "",
}
# What the pipeline of the modules does not give to a network is a fault before its layers.
GIVEN = {"MASKED": ("text_encoder mask of the text",)}


def family_of(fault):
    return next((case.family for case in CASES if fault in case.faults), "sd1")


@pytest.mark.parametrize("name", OF_LAYERS)
def test_a_fault_of_a_layer_has_the_cause_that_the_definition_tells(name, tmp_path):
    fault = OF_LAYERS[name]
    pipe, _ = build(family_of(fault), tmp_path / "model")
    right = copy.deepcopy(pipe)
    fault.make(pipe)
    record(pipe, tmp_path / "trace", steps=1)
    found = names_of(diff_modules(read_trace(tmp_path / "trace"), right))
    assert found
    names = GIVEN.get(name, fault.names)
    for layer, causes in found.items():
        assert any(layer == at or layer.startswith(f"{at}.") for at in names), layer
        assert causes
    words = OWN_WORDS.get(name, fault.cause)
    assert any(words in cause for causes in found.values() for cause in causes), found


def test_most_faults_of_layers_are_here():
    assert len(OF_LAYERS) >= 19
