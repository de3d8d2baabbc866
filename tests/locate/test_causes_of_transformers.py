"""Causes in transformers whose rotations, sums and pad tokens no layer records."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.locate import diff_traces
from ldmref.locate.causes import part_faults
from ldmref.locate.faults.table import BETWEEN, FAULTS, Fault
from ldmref.locate.recorded.unfilled import CAUSE
from ldmref.trace import build_trace

model_of = functools.cache(make_model)
HIDDEN = (".positions", ".seen", ".score_bias")  # inputs of layers that no port has
CALL = "transformer.000"
RECORDED = (f"{CALL}//input", f"{CALL}/noise_refiner.0.")  # the whole inputs, and one block
MASK = np.ones((2, 5), np.int64)
EMBEDDED = ("context_refiner.0/input", "cap_embedder.1/input", "cap_embedder.1/output")


def judge(wrong=None, port=None, begins=RECORDED):
    """Return the report on a transformer of which a port records some arrays."""
    model = model_of("z-image-tiny")
    made = run_port(port or model, wrong, "transformer", ("rotate",), {"mask": MASK})
    kept = (x for x in made.items() if x[0].startswith(begins) and not x[0].endswith(HIDDEN))
    return diff_traces(build_trace(dict(kept)), model, dtype="float32")


def causes(*values):
    """Return the causes of all faults, without the names of operations."""
    return {row.cause.partition(" in ")[0] for row in judge(*values).faults}


def test_a_rotation_that_is_missing_after_a_recorded_norm():
    def keys_alone(call, x):
        return x["input"] if call.name.endswith("~1") else call.compute(x)

    assert causes({"rotate": keys_alone}) == {"the rotation is missing, of the keys alone,"}
    assert causes({"rotate": lambda call, x: x["input"]}) == {"the rotation is missing"}


def test_a_known_fault_that_fits_no_array_hides_no_cause(monkeypatch):
    def broken(replay, point):
        yield "a fault", np.zeros_like(point.computed)
        raise ValueError("operands could not be broadcast together")

    known = (Fault(BETWEEN, broken, "a test"), *FAULTS)
    monkeypatch.setattr(part_faults, "FAULTS", known)
    assert causes({"rotate": lambda call, x: x["input"]}) == {"the rotation is missing"}


@pytest.mark.full
@pytest.mark.parametrize("number", range(2))
def test_learned_tokens_that_are_missing_are_a_fault_of_the_layer_that_reads_them(number):
    model = copy.copy(model_of("z-image-tiny"))
    layers, config = [*model.config.denoiser.unfilled.items()][number]
    model.config = replace(model.config, denoiser=config)
    report = judge(None, model, (CALL,))
    assert [(row.layer, row.cause) for row in report.faults] == [(x, CAUSE) for x in layers]
    assert not any("rows of tokens" in note for note in report.notes)


def test_tokens_that_fill_up_with_others_than_the_learned_ones():
    block, filled = f"{CALL}/noise_refiner.0/input", 32 - 8
    model = model_of("z-image-tiny")
    made = run_port(model, None, "transformer", ("rotate",), {"mask": MASK})
    other = made[block].copy()
    for values, words in (
        (0.0, "0"),
        (model.params["transformer"]["cap_pad_token"], "those of the text"),
    ):
        other[:, -filled:] = values
        kept = {name: x for name, x in made.items() if name.startswith(RECORDED[0])}
        report = diff_traces(build_trace({**kept, block: other}), model, dtype="float32")
        assert [row.cause for row in report.faults] == [
            f"the tokens that fill up the image are {words}"
        ]


def test_tokens_that_fill_up_equal_what_the_embedder_returns():
    """The array is that of the embedder, and the cause still says what fills the text up."""
    model = model_of("z-image-tiny")
    made = run_port(model, None, "transformer", (), {"mask": MASK})
    kept = {name: x for name, x in made.items() if name.startswith(RECORDED)}
    kept = {name: x for name, x in kept.items() if not name.endswith(HIDDEN)}
    last = MASK.shape[1] - 1
    for name in (f"{CALL}/{name}" for name in EMBEDDED):
        kept[name] = made[name].copy()
        kept[name][:, last + 1 :] = kept[name][:, last : last + 1]
    (row,) = diff_traces(build_trace(kept), model, dtype="float32").faults
    assert row.layer == "context_refiner.0"
    assert row.cause == "the tokens that fill up the text are the last one again"
