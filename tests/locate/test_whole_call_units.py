"""Whole calls of known pipelines by the arguments of the modules that ran, on arrays by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

pytest.importorskip("torch")

from ldmref.locate.modules import whole_calls
from ldmref.ports.port import find_port

LATENTS = normal(0, 2, 3, 4, 6)  # tokens of 2 x 2 pixels in two rows of three
OUTPUT = normal(1, 2, 3, 4, 6)
IDS = np.array([[0, row, column] for row in range(2) for column in range(3)])
TIMES = np.array([250.0, 1000.0])
CALL = "transformer.000"
KNOWN = {"input.sample": LATENTS, "input.timestep": TIMES, "input.img_ids": IDS, "output": OUTPUT}


def transformer(hidden_states, timestep, img_ids=None, encoder_hidden_states=None):
    """The arguments of diffusers' transformers."""


def autoencoder(z):
    """The argument of diffusers' decoders."""


def changed(arrays, function=transformer, pipeline: str | None = "FluxPipeline", attributes=None):
    """Return the arrays of a call in the terms of a function: inputs, outputs, both by role."""
    context = context_of({CALL: arrays}, attributes={CALL: attributes or {}}, pipeline=pipeline)
    port = whole_calls.in_terms_of_module(context.port, entry_of(context, CALL), function)
    entry = port.find(CALL)
    assert entry is not None
    inputs, outputs = (
        {role: np.asarray(port.tensors[name]) for role, name in side.items()}
        for side in (entry.inputs, entry.outputs)
    )
    return inputs, outputs, port is context.port


def as_tokens(x):
    """Return the channels of each token of 2 x 2 pixels in Flux's order: channel, row, column."""
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, h * w // 4, 4 * c)


def test_latents_are_the_tokens_that_the_network_reads():
    inputs, outputs, same = changed(KNOWN)
    assert not same and set(inputs) == {"hidden_states", "timestep", "img_ids"}
    np.testing.assert_array_equal(inputs["hidden_states"], as_tokens(LATENTS))
    np.testing.assert_array_equal(outputs["output"], as_tokens(OUTPUT))
    np.testing.assert_allclose(inputs["timestep"], TIMES / 1000.0)  # Flux's own time
    unpack = find_port("flux").unpack
    assert unpack is not None
    np.testing.assert_array_equal(unpack(as_tokens(LATENTS), 2, 3), LATENTS)
    tokens = {**KNOWN, "input.sample": as_tokens(LATENTS)}
    np.testing.assert_array_equal(changed(tokens)[0]["hidden_states"], as_tokens(LATENTS))
    batched = {**KNOWN, "input.img_ids": np.stack([IDS[:, 1:]])}
    np.testing.assert_array_equal(changed(batched)[0]["hidden_states"], as_tokens(LATENTS))
    alone = {name: x for name, x in KNOWN.items() if name != "output"}
    assert changed(alone)[1] == {}


def test_latents_whose_tokens_are_not_known_are_as_they_were():
    reference = {**KNOWN, "input.img_ids": np.concatenate([IDS, IDS + np.array([1, 0, 0])])}
    assert changed(reference)[2]  # tokens of reference images follow
    without = {name: x for name, x in KNOWN.items() if name != "input.img_ids"}
    np.testing.assert_array_equal(changed(without)[0]["hidden_states"], LATENTS)
    for pipeline in ("UnheardOfPipeline", None):
        inputs, outputs, same = changed(KNOWN, pipeline=pipeline)
        assert not same and "hidden_states" in inputs
        np.testing.assert_array_equal(inputs["hidden_states"], LATENTS)
        np.testing.assert_array_equal(inputs["timestep"], TIMES)
        np.testing.assert_array_equal(outputs["output"], OUTPUT)


def test_calls_with_the_own_arguments_are_as_they_were():
    own = {"input.hidden_states": as_tokens(LATENTS), "input.timestep": TIMES / 1000.0}
    assert changed(own)[2]
    assert changed(KNOWN, attributes={"arguments": ["sample"]})[2]
    inputs, _, _ = changed({"input.latents": LATENTS}, autoencoder)
    assert set(inputs) == {"z"}
    assert set(changed({"input.noise": LATENTS}, autoencoder)[0]) == {"noise"}


@pytest.mark.parametrize(
    "times", [lambda x: {"timestep": 7.0 * x["timestep"] ** 0}, lambda x: x["other"]]
)
def test_times_that_no_line_relates_leave_the_call(times, monkeypatch):
    """A constant has no inverse, and a family may need what was not recorded."""
    calls = replace(find_port("flux"), inputs=times)
    monkeypatch.setattr(whole_calls, "_calls_of", lambda port: calls)
    assert changed(KNOWN)[2]


def test_times_that_run_backwards_are_turned(monkeypatch):
    """Z-Image's time is 1 - t/1000, in torch: 1000 - 1000 t is ldmref's timestep of it."""

    def inputs(arguments):
        assert arguments["hidden_states"].shape == (2, 6, 12)
        return {"timestep": 1000.0 - 1000.0 * arguments["timestep"]}

    calls = replace(find_port("flux"), inputs=inputs)
    monkeypatch.setattr(whole_calls, "_calls_of", lambda port: calls)
    np.testing.assert_allclose(changed(KNOWN)[0]["timestep"], 1.0 - TIMES / 1000.0)
