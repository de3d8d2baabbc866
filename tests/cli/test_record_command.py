"""`ldmref record`: one run as a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ldmref import explore, load


@pytest.fixture
def record(ldm, model_folder):
    return lambda *args: ldm("record", "-m", model_folder, *args)


def test_it_writes_the_record_of_the_run(record, model_folder, work):
    ran = record("a red cat", "--seed", "3", "--steps", "3", "-o", "run.safetensors")
    assert ran.code == 0 and ran.err.startswith("run.safetensors  seed 3  3 steps")
    found = explore.load_record("run.safetensors")
    expected = explore.record_run(load(model_folder), prompt="a red cat", seed=3, steps=3)
    assert np.array_equal(found.x, expected.x) and found.meta == expected.meta
    assert found.image.tobytes() == expected.image.tobytes()
    assert not list(work.glob(".*.part"))


def test_the_default_name_and_a_file_that_exists(record, work):
    assert record("a red cat", "--seed", "3", "--steps", "2").code == 0
    assert (work / "a-red-cat-3.safetensors").is_file()
    ran = record("a red cat", "--seed", "3", "--steps", "2")
    assert ran.code == 8 and "E-EXISTS" in ran.err and "--overwrite" in ran.err
    assert record("a red cat", "--seed", "3", "--steps", "2", "--overwrite").code == 0
    ran = record("a dog", "--seed", "5", "--steps", "2", "-o", "{seed}-{prompt}.safetensors")
    assert ran.code == 0 and (work / "5-a-dog.safetensors").is_file()


def test_branches_and_truth(record, model_folder):
    branches = ("--branch", "2", "prompt=a blue dog", "--branch", "2", "cfg_scale=4")
    ran = record(
        "a cat", "--seed", "1", "--steps", "4", *branches, "--branch", "3", "sampler=euler",
        "--truth", "--json", "-o", "run.safetensors",
    )  # fmt: skip
    assert ran.code == 0 and "from the converged image" in ran.err
    printed = json.loads(ran.out)
    found = explore.load_record("run.safetensors")
    model = load(model_folder)
    first = {"mode": "txt2img", "prompt": "a cat", "seed": 1, "steps": 4}
    first = {"trunk": first, "step": 2, "changes": {"prompt": "a blue dog", "cfg_scale": 4.0}}
    expected = explore.branch_run(model, first, 3, sampler="euler")
    assert np.array_equal(found.x, expected.x) and found.meta["branch"] == expected.meta["branch"]
    assert printed["branch"] == found.meta["branch"] and printed["steps"] == 4
    assert printed["truth"]["distance"] == found.truth.distance.tolist()
    assert printed["words"] == ["a", "blue", "dog"]


def test_flags_of_the_file(record):
    ran = record("a cat", "--seed", "1", "--steps", "2", "--no-attention", "-q")
    assert ran == (0, "", "")
    found = explore.load_record("a-cat-1.safetensors")
    assert found.attention is None and found.words == []


@pytest.mark.parametrize(
    "args,message",
    [
        (("a", "-c", "2"), "a record holds one image, not 2"),
        (("-p", "a", "-p", "b"), "a record holds one image, not 2"),
        (("a", "--branch", "3", "cfg_scal=3"), "did you mean 'cfg_scale'"),
        (("a", "--branch", "3", "cfg_scale"), "cannot read the change 'cfg_scale'"),
        (("a", "--branch", "3", "cfg_scale=x"), "must be a number, not 'x'"),
        (("a", "--branch", "3", "cfg=x"), "--cfg must be a number, not 'x'"),
        (("a", "--branch", "3", "width=32"), "a branch cannot change 'width'"),
        (("a", "--steps", "3", "--branch", "3", "cfg_scale=3"), "must be from 0 to 2, not 3"),
        (("a", "--branch", "x", "cfg_scale=3"), "'x' is not a valid integer"),
        (("a", "-o", "none/run.safetensors"), "the folder 'none' does not exist"),
        (("a", "--sampler", "eulr"), "unknown sampler 'eulr'"),
    ],
)
def test_what_is_refused_writes_nothing(record, work, args, message):
    ran = record(*args)
    assert ran.code in (2, 8) and message in ran.err and not list(work.iterdir())
    assert len(ran.err.splitlines()) <= 2


def test_the_file_is_a_trace(record, ldm, model_folder):
    assert record("a cat", "--seed", "1", "--steps", "3", "-o", "run.safetensors", "-q").code == 0
    shown = ldm("trace", "show", "run.safetensors", "--json")
    calls = [json.loads(line)["call"] for line in shown.out.splitlines()]
    assert calls[:4] == ["schedule", "guidance.000", "words.000", "sampler.000"]
    judged = ldm("diff", "run.safetensors", "-m", model_folder)
    assert judged.code == 0 and "agree within the rounding" in judged.out


def test_a_trace_of_states_is_explored(ldm, model_folder, work):
    flags = ("a cat", "-m", model_folder, "--seed", "1", "--steps", "3", "--dtype", "float32")
    assert ldm("trace", *flags, "--states", "-o", "states").code == 0
    found = explore.load_record("states")
    expected = explore.record_run(load(model_folder), prompt="a cat", seed=1, steps=3)
    assert np.array_equal(found.x, expected.x)
    assert found.image.tobytes() == expected.image.tobytes() and found.attention is None
    ran = ldm("trace", *flags, "--states", "--calls", "unet.*", "-o", "both")
    assert ran.code == 2 and "--states chooses calls and layers itself" in ran.err
    assert not (work / "both").exists()
