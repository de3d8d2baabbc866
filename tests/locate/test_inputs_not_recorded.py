"""An input of a network that was not recorded: never "equal" unless it was judged, and no fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.families.lookup import find_network, networks_of_run
from ldmref.locate import diff_traces
from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.models.family import list_families
from ldmref.ports import first_layers_of
from ldmref.trace import Trace
from ldmref.trace.backend import LayerRecordingBackend

MODELS = [
    name for family in list_families() for name in [*family.presets][:1] if name.endswith("tiny")
]
model_of = cache(lambda name: ldmref.random_model(name, seed=1))
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8))


def record(name: str) -> Trace:
    """Return a run that calls each network of a model, in memory."""
    model = model_of(name)
    with ldmref.recording(model) as run:
        modes.img2img(model, "a red cat", PHOTO, seed=1, steps=2, strength=0.5)
    trace = run.trace
    return replace(trace, tensors={key: np.array(x) for key, x in trace.tensors.items()})


right = cache(record)


def networks_of(name: str) -> list[DeclaredNetwork]:
    """Return the networks that the run calls."""
    called = {call.network for call in right(name).calls}
    return [x for x in networks_of_run(model_of(name).config) if x.name in called]


def inputs_of(name: str) -> list[tuple[str, NetworkInput]]:
    """Return all inputs that a run without reference images has, with their networks."""
    return [(net.name, x) for net in networks_of(name) for x in net.inputs if not x.of_references]


CASES = [(model, net, x) for model in MODELS for net, x in inputs_of(model)]


def without(trace: Trace, network: str, *roles: str) -> Trace:
    """Return a trace whose calls of a network do not have some inputs."""
    entries = [
        replace(x, inputs={role: name for role, name in x.inputs.items() if role not in roles})
        if x.call.network == network and not x.layer
        else x
        for x in trace.entries
    ]
    return replace(trace, entries=tuple(entries))


def named(report: Any, network: str) -> str:
    """Return what the report says of the inputs of a network that were not recorded."""
    rows = [row for row in report.rows if "not recorded, and nothing else" in row.note]
    return " ".join(row.note for row in rows if network in row.call)


def is_read_alone(name: str, network: str, x: NetworkInput) -> bool:
    """Return whether a recorded layer reads an input unchanged, so that it can be judged."""
    trace = right(name)
    calls = [call for call in trace.calls if call.network == network]
    arrays = trace.read_inputs(trace.find(calls[0]))
    declared = (one for one in networks_of_run(model_of(name).config) if one.name == network)
    ends = tuple(f".{layer}" for layer, _ in first_layers_of(next(declared), x))
    return any(
        np.array_equal(trace.tensors[tensor], arrays[x.role])
        for entry in trace.of_call(calls[0])
        if entry.layer and f".{entry.layer}".endswith(ends)
        for tensor in entry.inputs.values()
    )


def test_every_family_is_tried():
    assert len(MODELS) == len({family.name for family in list_families()} - {"dit"})
    assert len(CASES) > 50


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_run_is_equal(name):
    report = diff_traces(right(name), model_of(name))
    assert report.equal, (report.rows, report.gaps)


@pytest.mark.parametrize(
    ("name", "network", "x"), CASES, ids=[f"{name}-{net}-{x.role}" for name, net, x in CASES]
)
def test_an_input_that_is_missing_is_named_and_is_no_fault(name, network, x):
    report = diff_traces(without(right(name), network, x.role), model_of(name))
    assert not report.faults, [(row.name, row.note) for row in report.faults]
    shown = x.content == "mask" and "no mask" in "; ".join(report.notes)  # by the layers
    if shown or is_read_alone(name, network, x):
        assert report.equal, report.rows
    else:
        assert report.verdict == "incomplete"
        assert x.role in named(report, network)


@pytest.mark.parametrize("name", MODELS)
def test_all_inputs_of_the_denoiser_are_missing(name):
    model = model_of(name)
    roles = [x.role for x in model.denoiser.inputs]
    report = diff_traces(without(right(name), model.denoiser.name, *roles), model)
    assert report.verdict == "incomplete" and "sample" in named(report, model.denoiser.name)


@pytest.mark.parametrize("name", MODELS)
def test_calls_of_which_only_layers_are_recorded_lack_all_inputs(name):
    model = model_of(name)
    denoiser = model.denoiser
    entries = [x for x in right(name).entries if x.layer or x.call.network != denoiser.name]
    report = diff_traces(replace(right(name), entries=tuple(entries)), model)
    assert report.verdict == "incomplete" and "timestep" in named(report, denoiser.name)


@pytest.mark.parametrize("name", MODELS)
def test_layers_alone_say_nothing_of_inputs_and_need_none(name):
    network = model_of(name).denoiser.name
    entries = [x for x in right(name).entries if x.call.network == network and x.layer]
    report = diff_traces(replace(right(name), entries=tuple(entries)), model_of(name))
    assert not report.faults and not named(report, "")


# -- a wrong input that was not recorded ----------------------------------------------------------


def change_time(x: np.ndarray) -> np.ndarray:
    return np.asarray(x + 1.0, x.dtype)


def change_rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[::-1] if len(x) > 1 else x[:, ::-1])


WRONG = {"timesteps": change_time, "context": change_rows}


def wrong_run(monkeypatch: pytest.MonkeyPatch, name: str, argument: str) -> Trace:
    """Return a run whose denoiser is given something else than the sampler or the prompts say."""
    change = WRONG.get(argument, change_time)
    begin = LayerRecordingBackend.begin

    def other(self: Any, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        found = find_network(self.networks, network, arrays)
        if found is not None and found.numbered and arrays.get(argument) is not None:
            arrays = {**arrays, argument: change(np.asarray(arrays[argument]))}
        return begin(self, network, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(LayerRecordingBackend, "begin", other)
        return record(name)


@pytest.mark.parametrize("argument", ["t", "context"])
@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_input_that_was_not_recorded_is_not_equal(monkeypatch, name, argument):
    model = model_of(name)
    x = model.denoiser.input_of(argument)
    wrong = wrong_run(monkeypatch, name, argument)
    seen = diff_traces(wrong, model)
    assert seen.verdict == "differs"
    report = diff_traces(without(wrong, model.denoiser.name, x.role), model)
    alone = is_read_alone(name, model.denoiser.name, x)
    assert report.verdict == ("differs" if alone else "incomplete")
    kinds = {(row.kind, row.cause) for row in seen.faults}
    if alone:
        assert {(row.kind, row.cause) for row in report.faults} == kinds
