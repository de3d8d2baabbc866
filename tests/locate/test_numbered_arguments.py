"""Arguments that a port recorded by their places, in the order of the network that ran."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed_runs import RUNS

import ldmref
from ldmref import modes
from ldmref.families.lookup import networks_of_run
from ldmref.locate import diff_traces
from ldmref.locate.recorded.argument_names import name_numbered
from ldmref.models import preset
from ldmref.trace import build_trace, read_trace, record_trace

X, T, TEXT, POOLED = "sample", "timestep", "encoder_hidden_states", "pooled_projections"
WIDTH = 60  # of the text of flux2-tiny
ORDERS = {  # of diffusers, of the makers or of ldmref
    "text first": (X, TEXT, POOLED, T),
    "time first": (X, T, TEXT, POOLED),
    "pooled last": (X, TEXT, T, POOLED),
}


def numbered(trace, order):
    """Return a run whose denoiser has numbers in place of names, without gaps."""

    def change(entry):
        if entry.layer or entry.call.kind not in ("unet", "transformer"):
            return entry
        own = [role for role in order if role in entry.inputs]
        names = {role: str(place) for place, role in enumerate(own)}
        return replace(entry, inputs={names.get(k, k): x for k, x in entry.inputs.items()})

    return replace(trace, entries=tuple(map(change, trace.entries)))


def first_by_number(trace):
    """Return a run whose first arguments have the number 0, as numbers keep it."""
    return numbered(trace, (X,))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", RUNS)
def test_numbers_get_the_names_of_their_sizes(name, order):
    trace, model, _ = RUNS[name]()
    changed = numbered(trace, ORDERS[order])
    found = name_numbered(changed, networks_of_run(model.config))
    assert found.entries == first_by_number(trace).entries


@pytest.mark.parametrize("name", ["flux2-tiny", "sd3-tiny"])
def test_a_right_run_with_numbers_is_equal(name, tmp_path):
    """Before, the text was read as times, and each call was said to differ."""
    model = ldmref.random_model(name, backend="numpy")
    plan = modes.plan("txt2img", model, prompt="a cat", steps=1, seed=1)
    record_trace(plan, model, tmp_path / "run")
    trace = read_trace(tmp_path / "run")
    for order in ORDERS.values():
        report = diff_traces(numbered(trace, order), model)
        assert report.verdict == "equal", report.faults[:2]


def name(arrays, model, call):
    """Return the names of the inputs of a call."""
    trace = build_trace({f"{call}//input.{k}": x for k, x in arrays.items()})
    return [*name_numbered(trace, networks_of_run(preset(model))).entries[0].inputs]


def test_what_fits_no_input_keeps_its_number():
    """Positions are arrays of tokens as well, and of another width."""
    arrays = {"0": np.ones((1, 6, 16)), "1": np.ones((1, 6, 4)), "2": np.ones(1)}
    arrays |= {"3": np.ones((1, 3, WIDTH)), "4": np.ones((1, 3, 4))}
    assert name(arrays, "flux2-tiny", "transformer.000") == ["0", "1", T, TEXT, "4"]


def test_names_come_before_numbers():
    arrays = {"input": np.ones((1, 16, 2, 2)), "1": np.ones((1, 3, WIDTH)), "t": np.ones(1)}
    assert name(arrays, "flux2-tiny", "transformer.000") == ["input", TEXT, "t"]
    arrays |= {"context": arrays["1"]}
    assert name(arrays, "flux2-tiny", "transformer.000") == ["input", "1", "t", "context"]


def test_a_mask_follows_ids_also_in_a_weaker_model():
    arrays = {"0": np.arange(8)[None], "1": np.array([[1] * 5 + [0] * 3])}
    for call in ("text_encoder", "guide.text_encoder"):
        assert name(arrays, "z-image-tiny", call) == ["0", "attention_mask"]
    arrays["1"] = arrays["0"]  # which are no zeros and ones
    assert name(arrays, "z-image-tiny", "text_encoder") == ["0", "1"]


def test_layers_and_other_calls_keep_their_numbers():
    x = np.ones((1, 3, WIDTH))
    assert name({"x": x, "1": x}, "flux2-tiny", "sampler.000") == ["x", "1"]
    layer = "transformer.000/context_embedder"
    trace = build_trace({f"{layer}/input": x, f"{layer}/input.1": x})
    found = name_numbered(trace, networks_of_run(preset("flux2-tiny")))
    assert found.entries == trace.entries
