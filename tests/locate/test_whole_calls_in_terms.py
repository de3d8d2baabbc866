"""Whole calls in the terms of modules: frames, tokens, times, and what stays as it was."""

from __future__ import annotations

from inspect import Parameter, Signature
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


def inputs_of(arrays, function=transformer, frames=False, attributes=None, pipeline="FluxPipeline"):
    """Return the arrays of a call by role in the terms of a function."""
    entry = {"call": CALL, "layer": "", "attributes": attributes or {}}
    tensors = {f"{CALL}//{name}": np.asarray(x) for name, x in arrays.items()}
    trace = build_trace(tensors, {"entries": [entry], "pipeline": pipeline})
    found = whole_calls.in_terms_of_module(trace, trace.find(CALL), function, frames)
    whole = found.find(CALL)
    sides = {**whole.inputs, **{f"output.{k}": name for k, name in whole.outputs.items()}}
    return {role: np.asarray(found.tensors[name]) for role, name in sides.items()}, found is trace


def with_calls(monkeypatch, inputs):
    calls = SimpleNamespace(inputs=inputs, unpack=None)
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
    assert inputs_of({"input.sample": LATENTS}, attributes={"arguments": ["sample"]})[1]
    assert inputs_of({"input.sample": LATENTS}, attributes={"arguments": []})[1]
    found, same = inputs_of({"input.sample": LATENTS, "input.unheard": TIMES})
    assert not same and found.keys() == {"hidden_states", "unheard"}


@pytest.mark.parametrize(
    ("role", "names", "argument"),
    [
        ("sample", ("hidden_states", "sample"), "hidden_states"),
        ("sample", ("sample",), "sample"),
        ("sample", ("x",), "sample"),
        ("latents", ("z", "x"), "z"),
        ("latents", ("x",), "latents"),
        ("image", ("x",), "x"),
        ("image", ("hidden_states",), "image"),
    ],
)
def test_names_of_arguments_that_modules_have(role, names, argument):
    kind = Parameter.POSITIONAL_OR_KEYWORD
    decoder_of = lambda: None  # noqa: E731
    decoder_of.__signature__ = Signature([Parameter(name, kind) for name in names])
    found, _ = inputs_of({f"input.{role}": LATENTS, "input.unheard": TIMES}, decoder_of)
    assert found.keys() == {argument, "unheard"}


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


def test_latents_are_tokens_where_their_positions_are_known():
    every = {"input.sample": LATENTS, "input.img_ids": IDS, "output": LATENTS * 2.0}
    wanted = {
        "hidden_states": tokens(LATENTS),
        "output.output": tokens(LATENTS * 2.0),
        "img_ids": IDS,
    }
    for given, right in (
        (every, wanted),
        ({**every, "output": tokens(LATENTS * 2.0)}, wanted),
        ({**every, "input.sample": tokens(LATENTS)}, wanted),
        ({**every, "input.img_ids": IDS[None, :, 1:]}, {**wanted, "img_ids": IDS[None, :, 1:]}),
        (
            {"input.img_ids": IDS, "output": LATENTS, "input.unheard": TIMES},
            {"output.output": tokens(LATENTS), "img_ids": IDS, "unheard": TIMES},
        ),
        (
            {"input.sample": LATENTS, "output": LATENTS},
            {"hidden_states": LATENTS, "output.output": LATENTS},
        ),
    ):
        found, same = inputs_of(given)
        assert not same and found.keys() == right.keys()
        for role, x in right.items():
            np.testing.assert_array_equal(found[role], x)
    np.testing.assert_array_equal(find_port("flux").unpack(tokens(LATENTS), 2, 3), LATENTS)
    references = np.concatenate([IDS, IDS + np.array([1, 0, 0])])
    for other in (IDS[:5], np.concatenate([IDS, IDS]), references, IDS[:, [0, 2, 2]]):
        assert inputs_of({**every, "input.img_ids": other})[1]


@pytest.mark.parametrize("pipeline", ["UnheardPipeline", None, 3])
def test_calls_of_unknown_pipelines_have_the_names_alone(pipeline):
    arrays = {"input.sample": LATENTS, "input.timestep": TIMES, "input.img_ids": IDS}
    found, same = inputs_of(arrays, pipeline=pipeline)
    assert not same and found.keys() == {"hidden_states", "timestep", "img_ids"}
    np.testing.assert_array_equal(found["hidden_states"], LATENTS)
    np.testing.assert_array_equal(found["timestep"], TIMES)


# -- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (None, TIMES / 1000.0),  # those of Flux
        (lambda x: {"timestep": 1000.0 - 1000.0 * x["timestep"]}, 1.0 - TIMES / 1000.0),
        (lambda x: {"timestep": 5.0 + 2.0 * x["timestep"]}, (TIMES - 5.0) / 2.0),
    ],
)
def test_times_are_those_of_which_the_timesteps_are_a_line(inputs, expected, monkeypatch):
    if inputs is not None:
        with_calls(monkeypatch, inputs)
    found, same = inputs_of({"input.sample": LATENTS, "input.timestep": TIMES})
    assert not same and found.keys() == {"hidden_states", "timestep"}
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


def test_families_are_given_tensors_of_float64(monkeypatch):
    seen = []

    def inputs(arguments):
        seen.append({name: (x.dtype, tuple(x.shape)) for name, x in arguments.items()})
        return {"timestep": arguments["timestep"] * 2.0 + 5.0}

    with_calls(monkeypatch, inputs)
    arrays = {"input.timestep": np.array([6, 8]), "input.sample": np.ones((2, 3), np.float32)}
    found, _ = inputs_of(arrays)
    assert found["timestep"].tolist() == [0.5, 1.5]
    probe = {"timestep": (torch.float64, (2,)), "hidden_states": (torch.float32, (2, 3))}
    assert seen == [probe, probe]
