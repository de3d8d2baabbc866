"""Whole calls in the terms of modules: frames, tokens, times, and what stays as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from host_units import normal  # noqa: E402

from ldmref.locate.modules import whole_calls  # noqa: E402
from ldmref.ports.port import find_port  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

CALL, OTHER = "transformer.000", "transformer.001"
LATENTS = normal(0, 2, 3, 4, 6)
IDS = np.array([[0, row, column] for row in range(2) for column in range(3)])
TIMES = np.array([250.0, 1000.0])


def transformer(hidden_states, timestep=None, img_ids=None):
    """The arguments of diffusers' transformers."""


def decoder(z):
    """The argument of diffusers' decoders."""


def inputs_of(arrays, function=transformer, frames=False, attributes=None, port=None):
    """Return the arrays of a call by role in the terms of a function."""
    entry = {"call": CALL, "layer": "", "attributes": attributes or {}}
    tensors = {f"{CALL}//{name}": np.asarray(x) for name, x in arrays.items()}
    trace = port or build_trace(tensors, {"entries": [entry], "pipeline": "FluxPipeline"})
    found = whole_calls.in_terms_of_module(trace, trace.find(CALL), function, frames)
    whole = found.find(CALL)
    sides = {**whole.inputs, **{f"output.{k}": name for k, name in whole.outputs.items()}}
    return {role: np.asarray(found.tensors[name]) for role, name in sides.items()}, found is trace


def with_calls(monkeypatch, inputs=lambda x: {"timestep": x["timestep"]}, unpack=None):
    calls = SimpleNamespace(inputs=inputs, unpack=unpack)
    monkeypatch.setattr(whole_calls, "_calls_of", lambda port: calls)


# -- decoders -------------------------------------------------------------------------------------


def test_decoders_of_videos_read_one_frame():
    arrays = {"input.latents": LATENTS, "output": LATENTS + 1.0}
    for frames in (False, True):
        found, same = inputs_of(arrays, decoder, frames)
        wanted = LATENTS[:, :, None] if frames else LATENTS
        assert not same and np.array_equal(found["z"], wanted) and found["z"].shape == wanted.shape
        assert np.array_equal(found["output.output"], LATENTS + 1.0) and len(found) == 2
    port = build_trace({f"{CALL}//input.latents": LATENTS})
    plain = whole_calls.in_terms_of_module(port, port.find(CALL), decoder).find(CALL)
    assert plain.inputs == {"z": f"{CALL}//input.latents"}  # one frame is not the default
    found, _ = inputs_of({"input.noise": LATENTS}, decoder, frames=True)
    assert found.keys() == {"noise"} and found["noise"].shape == LATENTS.shape


def test_calls_with_the_arguments_of_the_module_stay():
    every = {"input.hidden_states": LATENTS, "input.timestep": TIMES, "input.img_ids": IDS}
    assert inputs_of(every)[1]
    assert inputs_of({name: every[name] for name in [*every][:1]})[1]
    assert inputs_of({"input.sample": LATENTS}, attributes={"arguments": []})[1]
    found, same = inputs_of({"input.sample": LATENTS, "input.unheard": TIMES})
    assert not same and found.keys() == {"hidden_states", "unheard"}


def test_names_of_arguments_that_modules_have():
    name = whole_calls._argument
    assert name("sample", {"hidden_states", "sample"}) == "hidden_states"
    assert name("sample", {"sample"}) == "sample" and name("sample", {"x"}) == "sample"
    assert name("latents", {"z", "x"}) == "z" and name("latents", {"x"}) == "latents"
    assert name("timestep", {"hidden_states"}) == "timestep"


def test_other_calls_of_the_trace_stay():
    tensors = {
        f"{CALL}//input.sample": LATENTS,
        f"{OTHER}//input.sample": LATENTS + 1.0,
        f"{CALL}/a/output": TIMES,
    }
    port = build_trace(tensors, {"note": "kept"})
    entry = port.find(CALL)
    found = whole_calls.in_terms_of_module(port, entry, transformer)
    assert found.find(OTHER) is port.find(OTHER) and found.find(CALL, "a") is port.find(CALL, "a")
    assert len(found.entries) == 3 and found.manifest["note"] == "kept"
    assert np.array_equal(found.tensors[f"{CALL}/a/output"], TIMES)
    assert found.find(CALL).inputs == {"hidden_states": f"{CALL}//input.sample"}
    assert entry.inputs == {"sample": f"{CALL}//input.sample"}


# -- tokens ---------------------------------------------------------------------------------------


def tokens(x):
    """Return the order of Flux: a token of 2 x 2 pixels has its channels first."""
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, h * w // 4, 4 * c)


def test_latents_are_tokens_where_their_positions_are_known(monkeypatch):
    with_calls(monkeypatch, unpack=find_port("flux").unpack)
    every = {"input.sample": LATENTS, "input.img_ids": IDS, "output": LATENTS * 2.0}
    found, _ = inputs_of(every)
    assert np.array_equal(found["hidden_states"], tokens(LATENTS))
    assert np.array_equal(found["output.output"], tokens(LATENTS * 2.0))
    assert np.array_equal(found["img_ids"], IDS)
    alone, _ = inputs_of({"input.img_ids": IDS, "output": LATENTS, "input.unheard": TIMES})
    assert np.array_equal(alone["output.output"], tokens(LATENTS))
    flat, _ = inputs_of({**every, "output": tokens(LATENTS)})
    assert np.array_equal(flat["output.output"], tokens(LATENTS))
    for other in (IDS[:5], np.concatenate([IDS, IDS]), IDS[:, [0, 2, 2]]):
        assert inputs_of({**every, "input.img_ids": other})[1]
    with_calls(monkeypatch)
    plain, _ = inputs_of(every)
    assert np.array_equal(plain["hidden_states"], LATENTS)


# -- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (lambda x: {"timestep": x["timestep"]}, TIMES),
        (lambda x: {"timestep": 1000.0 * x["timestep"]}, TIMES / 1000.0),
        (lambda x: {"timestep": 1000.0 - 1000.0 * x["timestep"]}, 1.0 - TIMES / 1000.0),
        (lambda x: {"timestep": 5.0 + 2.0 * x["timestep"]}, (TIMES - 5.0) / 2.0),
    ],
)
def test_times_are_those_of_which_the_timesteps_are_a_line(inputs, expected, monkeypatch):
    with_calls(monkeypatch, inputs)
    found, same = inputs_of({"input.sample": LATENTS, "input.timestep": TIMES})
    assert not same
    np.testing.assert_allclose(found["timestep"], expected, rtol=1e-12)
    assert np.array_equal(found["hidden_states"], LATENTS)


@pytest.mark.parametrize("error", [KeyError, TypeError, IndexError, AttributeError])
def test_times_that_a_family_does_not_tell_leave_the_call(error, monkeypatch):
    def fails(arguments):
        raise error("no")

    with_calls(monkeypatch, fails)
    arrays = {"input.sample": LATENTS, "input.timestep": TIMES}
    assert inputs_of(arrays)[1]
    without, same = inputs_of({"input.sample": LATENTS})
    assert not same and without.keys() == {"hidden_states"}
    times, same = inputs_of({"input.unheard": LATENTS, "input.timestep": TIMES})
    assert not same and np.array_equal(times["timestep"], TIMES)


def test_times_of_which_one_is_constant_are_not_known(monkeypatch):
    steps = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with_calls(monkeypatch, lambda x: {"timestep": steps * x["timestep"]})
    assert inputs_of({"input.sample": LATENTS, "input.timestep": TIMES})[1]


def test_families_are_given_tensors_of_float64():
    seen = []

    def inputs(arguments):
        seen.append({name: (x.dtype, tuple(x.shape)) for name, x in arguments.items()})
        return {"timestep": arguments["timestep"] * 2.0}

    calls = SimpleNamespace(inputs=inputs)
    arrays = {"timestep": np.array([6, 8]), "x": np.ones((2, 3), np.float32)}
    assert whole_calls._times_of(calls, arrays).tolist() == [3.0, 4.0]
    probe = {"timestep": (torch.float64, (2,)), "x": (torch.float32, (2, 3))}
    assert seen == [probe, probe]


@pytest.mark.parametrize(
    ("pipeline", "known"),
    [("FluxPipeline", True), ("UnheardPipeline", False), (None, False), (3, False)],
)
def test_the_calls_of_a_family_are_those_of_its_pipelines(pipeline, known):
    found = whole_calls._calls_of(build_trace({}, {"pipeline": pipeline}))
    assert found is find_port("flux") if known else found is None
