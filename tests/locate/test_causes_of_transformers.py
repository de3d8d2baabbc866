"""Causes in transformers whose rotations, sums and pad tokens no layer records."""

from __future__ import annotations

import functools

import numpy as np
from numpy_ports import make_model, run_port

from ldmref.locate import diff_traces
from ldmref.trace import build_trace

model_of = functools.cache(make_model)
HIDDEN = (".positions", ".seen", ".score_bias")  # inputs of layers that no port has
RECORDED = ("000//input", "000/noise_refiner.0.")  # the whole call's inputs, and one block
MASK = np.ones((2, 5), np.int64)


def causes(wrong):
    """Return the causes of all faults of a transformer, without the names of operations."""
    model = model_of("z-image-tiny")
    made = run_port(model, wrong, "transformer", ("rotate",), {"mask": MASK})
    begins = tuple(f"transformer.{begin}" for begin in RECORDED)
    kept = (x for x in made.items() if x[0].startswith(begins) and not x[0].endswith(HIDDEN))
    report = diff_traces(build_trace(dict(kept)), model, dtype="float32")
    return {row.cause.partition(" in ")[0] for row in report.faults}


def test_a_rotation_that_is_missing_after_a_recorded_norm():
    def keys_alone(call, x):
        return x["input"] if call.name.endswith("~1") else call.compute(x)

    assert causes({"rotate": keys_alone}) == {"the rotation is missing, of the keys alone,"}
    assert causes({"rotate": lambda call, x: x["input"]}) == {"the rotation is missing"}
