"""How a trace is split into passes and branches, and which request each part has."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of

from ldmref.locate.pipeline import passes

ONE = {"output": np.zeros(1)}


def states(count, role="x"):
    return {f"input.{role}": np.zeros((count, 4))}


def split(calls, **manifest):
    """Return the calls and the manifest of each pass."""
    port = context_of(calls, **manifest).port
    found = passes.split_passes(port)
    if found == (port,):
        return port
    return [([entry.call for entry in part.entries], part.manifest) for part in found]


def run_of(number, count=1, role="x", **more):
    """Return the calls of a pass with a schedule and a step of `count` images."""
    return {
        f"schedule.{number:03}": ONE,
        f"sampler.{number:03}": states(count, role),
        **more,
    }


# -- passes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["sampler.007", "vae.decode.000", "taesd.decode.000"])
def test_a_pass_ends_with_its_last_step_or_decoder(last):
    before = {**run_of(0), "sampler.005": states(1), "sampler.006": states(1), last: ONE}
    prepared = {"text_encoder.001": ONE, "initial.001": ONE}
    (first, _), (second, _) = split({**before, **prepared, **run_of(1)})
    assert first == [*before]
    assert second == [*prepared, *run_of(1)]


def test_other_calls_end_no_pass():
    between = {"vae.encode.000": ONE, "guidance.000": ONE}
    calls = {"schedule.000": ONE, **between, "schedule.001": ONE, "sampler.000": states(1)}
    assert not isinstance(split(calls), list)


def test_a_single_schedule_is_one_pass():
    assert not isinstance(split({**run_of(0), "vae.decode.000": ONE}), list)
    assert not isinstance(split({"sampler.000": states(1), "sampler.001": states(1)}), list)


def test_every_schedule_with_steps_begins_a_pass():
    found = split({**run_of(0), **run_of(1), **run_of(2)})
    assert [calls for calls, _ in found] == [[*run_of(i)] for i in range(3)]


def test_steps_before_the_first_schedule_are_of_the_first_pass():
    calls = {"sampler.005": states(1), **run_of(0), **run_of(1)}
    assert [part for part, _ in split(calls)] == [["sampler.005", *run_of(0)], [*run_of(1)]]


def test_a_branch_is_one_pass():
    assert not isinstance(split({**run_of(0), **run_of(1)}, branch={}), list)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_prompts_are_spread_over_the_images_of_all_passes(name):
    calls = {**run_of(0, 2), **run_of(1, 1), **run_of(2, 3)}
    params = {name: ["a", "b", "c"], "seed": [4, 5]}
    found = [manifest["params"] for _, manifest in split(calls, params=params)]
    assert [x[name] for x in found] == [["a", "a"], ["b"], ["b", "c", "c"]]
    assert all(x["seed"] == [4, 5] for x in found)


@pytest.mark.parametrize("prompt", ["a", [], ["a", "b"]])
def test_prompts_that_are_not_spread_stay(prompt):
    calls = {**run_of(0, 2), **run_of(1, 1)}
    found = split(calls, params={"prompt": prompt})
    assert [manifest["params"]["prompt"] for _, manifest in found] == [prompt, prompt]


def test_the_images_of_a_pass_are_those_of_its_first_step():
    calls = {
        **run_of(0, 2, "sample"),
        "vae.decode.000": states(5),
        **run_of(1, 4),
        "sampler.002": states(7),
    }
    found = split(calls, params={"prompt": ["a", "b", "c"]})
    prompts = [manifest["params"]["prompt"] for _, manifest in found]
    assert prompts == [["a", "a"], ["b", "b", "c", "c"]]


def test_layers_of_steps_and_steps_without_states_have_no_images():
    calls = {
        "schedule.000": ONE,
        "sampler.000/constrain": states(3),
        "sampler.000": states(1),
        "schedule.001": ONE,
        "sampler.001": ONE,
    }
    port = context_of(calls).port
    pieces = [[*port.entries][:3], [*port.entries][3:], [*port.entries][:1]]
    assert [passes._images(port, piece) for piece in pieces] == [1, 0, 0]


def test_requests_that_were_recorded_replace_what_they_name():
    calls = {**run_of(0), **run_of(1)}
    params = {"prompt": "z", "seed": 1, "n": 2}
    asked = [{"prompt": "a"}, {"seed": 5}]
    found = split(calls, params=params, requests=asked, dtype="float32")
    assert [manifest["request"] for _, manifest in found] == asked
    assert [manifest["params"] for _, manifest in found] == [{"n": 2}, {"n": 2}]
    bare = split(calls, requests=asked)
    assert [manifest["params"] for _, manifest in bare] == [{}, {}]


@pytest.mark.parametrize("asked", [[{"prompt": "a"}], [{}] * 3, {"a": 1, "b": 2}])
def test_requests_of_another_number_are_not_those_of_the_passes(asked):
    found = split({**run_of(0), **run_of(1)}, params={"n": 1}, requests=asked)
    assert all("request" not in manifest for _, manifest in found)
    assert [manifest["params"] for _, manifest in found] == [{"n": 1}] * 2


@pytest.mark.parametrize("asked", [[1, 2], ["a", "b"], [None, {}]])
def test_requests_that_are_no_tables_are_not_those_of_the_passes(asked):
    found = split({**run_of(0), **run_of(1)}, params={"n": 1}, requests=asked)
    assert [manifest["params"] for _, manifest in found] == [{"n": 1}] * 2
    assert all("request" not in manifest for _, manifest in found)


def test_a_state_that_is_a_single_number_is_one_image():
    calls = {**run_of(0), "schedule.001": ONE, "sampler.001": {"input.x": np.array(3.0)}}
    found = split(calls, params={"prompt": ["a", "b"]})
    assert [manifest["params"]["prompt"] for _, manifest in found] == [["a"], ["b"]]


# -- branches -------------------------------------------------------------------------------------
