"""Runs of ldmref are followed: every mode, family, guidance and sampler, and every changed array.

A family, a mode, a guidance or a sampler enters the tables by being declared.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from changed_runs import MASK, PHOTO
from changed_runs import RUNS as RECORDED

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.cases.shrink import shrink
from ldmref.errors import LdmrefError
from ldmref.locate import diff_traces
from ldmref.locate.run import RunComparison, follow_run
from ldmref.models import preset
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import list_presets
from ldmref.modes.registry import MODES
from ldmref.samplers import SAMPLERS
from ldmref.trace import Selection, read_trace, record_trace

FAMILIES = [name for name in list_presets() if name.endswith("tiny")]
SEGMENTS = np.arange(32 * 64).reshape(32, 64) % 5
LATENTS = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
STATES = np.random.default_rng(2).standard_normal((1, 16, 32)).astype(np.float32)
REQUESTS = {  # what each mode needs
    "txt2img": {},
    "img2img": {"image": PHOTO, "strength": 0.8},
    "inpaint": {"image": PHOTO, "mask": MASK},
    "interpolate": {"prompt_b": "a dog", "positions": 3},
    "invert": {"image": PHOTO, "iterations": 1},
}
OF_OTHER_MODELS = {
    "superres": ("ldm-superres", {"image": PHOTO.resize((16, 8))}),
    "seg2img": ("ldm-semantic", {"segmentation": SEGMENTS}),
}
NOT_RECORDED = ("edit",)
FURTHER = {  # requests of the smallest model beside the modes
    "two images in two batches": {"count": 2, "batch_size": 1},
    "two images in one batch": {"count": 2, "batch_size": 2},
    "noise of one's own": {"latents": LATENTS},
    "hidden states": {
        "prompt": None, "prompt_embeds": STATES, "negative_prompt_embeds": STATES[:, ::-1],
    },
    "weights of words": {"prompt": "a (red:1.4) [cat]"},
    "another path": {"noise_path": "vp"},
    "levels of one's own": {"sigmas": [7.0, 2.0, 0.0], "steps": None},
    "diffusers' noise": {"rng": "torch"},
    "long prompts": {"prompt": "a cat " * 30, "long_prompts": "chunks"},
}  # fmt: skip


@cache
def model_of(name):
    """Return a random model; of a published preset, a small one."""
    if name in FAMILIES:
        return ldmref.random_model(name, seed=1)
    config = shrink(preset(name))
    return LatentDiffusion(get_backend("numpy"), config, init(model_spec(config), 0), None)


def record(folder, model, mode="txt2img", selection=None, **request):
    """Return the trace of a run without its layers, or skip a test whose request is refused."""
    defaults = {"prompt": "a red cat", "negative_prompt": "dog", "steps": 3, "cfg_scale": 4.0}
    defaults |= {} if mode == "invert" else {"seed": 1}
    takes = MODES[mode].parameters
    asked = (defaults | request).items()
    values = {name: x for name, x in asked if name in takes and x is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plan = modes.plan(mode, model, **values)
        except LdmrefError as error:
            pytest.skip(f"refused: {error}")
        whole = selection or Selection(layers=("constrain",), optional=True)
        record_trace(plan, model, folder, selection=whole)
    return read_trace(folder)


def names_of(trace):
    """Return the arrays between the networks: of the host, and what networks are given."""
    found = set()
    for entry in trace.entries:
        if entry.call.kind == "inputs" or entry.layer not in ("", "constrain"):
            continue
        found |= {(entry.name, "input", role) for role in entry.inputs}
        if not entry.call.network:
            found |= {(entry.name, "output", role) for role in entry.outputs}
    return found


def assert_followed(trace, model, nets=(), guide=None):
    """Check that each array between the networks was compared, and is equal."""
    followed = follow_run(trace, model, nets, guide)
    assert isinstance(followed, RunComparison), followed
    assert {tuple(name) for name in followed.computed} == names_of(trace)
    assert not [row for row in followed.rows() if row.verdict != "equal"]


def test_every_mode_is_in_the_tables():
    assert {*REQUESTS, *OF_OTHER_MODELS, *NOT_RECORDED} == {*MODES}


@pytest.mark.parametrize("mode", REQUESTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_mode_of_every_family_is_followed(family, mode, tmp_path):
    model = model_of(family)
    assert_followed(record(tmp_path / "t", model, mode, **REQUESTS[mode]), model)


@pytest.mark.parametrize("mode", OF_OTHER_MODELS)
def test_modes_of_other_models_are_followed(mode, tmp_path):
    name, request = OF_OTHER_MODELS[mode]
    model = model_of(name)
    trace = record(tmp_path / "t", model, mode, **request)
    assert_followed(trace, model)
    assert diff_traces(trace, model).equal


@pytest.mark.parametrize("name", FURTHER)
def test_further_requests_are_followed(name, tmp_path):
    model = model_of("tiny")
    assert_followed(record(tmp_path / "t", model, **FURTHER[name]), model)


@pytest.mark.parametrize("name", RECORDED)
def test_controls_and_references_are_followed(name):
    trace, model, nets = RECORDED[name]()
    assert_followed(trace, model, nets)


def test_a_weaker_model_is_followed(tmp_path):
    model = model_of("tiny")
    guide = ldmref.random_model("tiny", seed=2)
    trace = record(tmp_path / "t", model, guidance="autoguidance", guide=guide)
    assert_followed(trace, model, guide=guide)
    assert follow_run(trace, model) == "no weaker model was given"


@pytest.mark.parametrize("family", ["tiny", "sd3-tiny"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_followed_from_an_image(sampler, family, tmp_path):
    model = model_of(family)
    request = REQUESTS["inpaint"] | {"strength": 0.7}
    assert_followed(record(tmp_path / "t", model, "inpaint", sampler=sampler, **request), model)


# -- wrong runs ----------------------------------------------------------------------------------


CHANGED = {  # runs whose arrays are changed one by one
    "guidance": {"guidance": "apg"},
    "churn": {"sampler": "euler_churn"},
    "two evaluations": {"sampler": "dpmpp_2s"},
    "an image": {"mode": "inpaint", **REQUESTS["inpaint"]},
    "inversion": {"mode": "invert", **REQUESTS["invert"]},
}


@pytest.mark.parametrize("third", range(3))
@pytest.mark.parametrize(("run", "family"), [*product(CHANGED, ["tiny", "sd3-tiny"])])
def test_a_changed_array_is_seen_at_its_place(run, family, third, tmp_path):
    """An array of a run is one per cent larger: its own row differs.

    Each test takes a third of the arrays.
    """
    model = model_of(family)
    request = dict(CHANGED[run])
    trace = record(tmp_path / "t", model, request.pop("mode", "txt2img"), **request)
    for call, side, role in sorted(names_of(trace))[third::3]:
        name, _, layer = call.partition("/")
        entry = trace.find(name, layer)
        tensor = (entry.inputs if side == "input" else entry.outputs)[role]
        x = np.asarray(trace.tensors[tensor])
        if not np.any(x):
            continue
        other = x + 1 if x.dtype.kind in "iu" else (1.01 * x.astype(np.float64)).astype(x.dtype)
        changed = replace(trace, tensors={**trace.tensors, tensor: other})
        found = follow_run(changed, model)
        assert isinstance(found, RunComparison), (call, side, role, found)
        rows = found.rows()
        differ = {str(row.name) for row in rows if row.verdict == "differs"}
        assert call.rstrip("/") in differ, (call, side, role)


@pytest.mark.parametrize("change", [lambda x: x[..., :-1], lambda x: np.nan * x])
def test_a_state_of_another_shape_or_without_numbers_is_one_fault(change):
    """The run continues: with its own state, or to the next one that was recorded."""
    trace, model, _ = RECORDED["multistep"]()
    tensor = trace.find("sampler.000").outputs["output"]
    wrong = {**trace.tensors, tensor: change(np.asarray(trace.tensors[tensor]))}
    followed = follow_run(replace(trace, tensors=wrong), model)
    assert isinstance(followed, RunComparison), followed
    rows = followed.rows()
    assert {(r.call, r.kind) for r in rows if r.verdict == "differs"} == {("sampler.000", "step")}
    (note,) = {row.note for row in rows if row.verdict == "differs"}
    assert note.startswith(("shape (1, 4, 8, 7) instead of (1, 4, 8, 8)", "NaN at [0, 0, 0, 0]"))
    unknown = {(row.call, row.kind) for row in rows if row.verdict == "not judged"}
    assert unknown in (set(), {("sampler.001", "state")})


@pytest.mark.parametrize("name", ["repainted-again", "inverted-again"])
def test_arrays_that_only_a_followed_run_judges_are_seen(name):
    """Known parts that are put back, jumps to more noise, and all steps of an inversion."""
    trace, model, _ = RECORDED[name]()
    entries = [entry for entry in trace.entries if entry.call.kind in ("sampler", "jump")]
    for entry in entries:
        for tensor in entry.outputs.values():
            wrong = {**trace.tensors, tensor: 1.01 * np.asarray(trace.tensors[tensor])}
            followed = follow_run(replace(trace, tensors=wrong), model)
            assert isinstance(followed, RunComparison), followed
            rows = [row for row in followed.rows() if row.verdict == "differs"]
            assert (entry.call, entry.layer) in {(row.call, row.layer) for row in rows}
    assert len(entries) > 1


def test_wrong_inputs_of_a_weaker_model_are_seen(tmp_path):
    model = model_of("tiny")
    guide = ldmref.random_model("tiny", seed=2)
    trace = record(tmp_path / "t", model, guidance="autoguidance", guide=guide)
    entries = [e for e in trace.entries if e.call in ("guide.text_encoder", "guide.unet.001")]
    assert len(entries) == 2
    for entry in entries:
        for tensor in entry.inputs.values():
            wrong = {**trace.tensors, tensor: np.asarray(trace.tensors[tensor]) + 1}
            followed = follow_run(replace(trace, tensors=wrong), model, guide=guide)
            assert isinstance(followed, RunComparison), followed
            rows = [row for row in followed.rows() if row.verdict == "differs"]
            assert entry.call in {row.call for row in rows}, tensor


# -- parts of runs -------------------------------------------------------------------------------


PARTS = {  # what was recorded of five steps, and what the run then does not know
    "ddim": ((0, 2), ["sampler.002 state", "vae.decode latents"]),
    "dpmpp_2m": ((1, 2), ["sampler.001 state", "sampler.001 step", "vae.decode latents"]),
    "heun": ((4,), ["sampler.004 state"]),
    "euler_churn": ((0, 4), ["sampler.004 state"]),
}


def record_part(folder, model, mode="txt2img", steps=(2,), **request):
    """Return a run of five steps of which some were recorded."""
    selection = Selection(layers=("", "constrain"), steps=steps, optional=True)
    return record(folder, model, mode, selection, steps=5, **request)


@pytest.mark.parametrize("sampler", PARTS)
def test_a_part_of_a_run_is_followed_from_each_recorded_state(sampler, tmp_path):
    steps, unknown = PARTS[sampler]
    model = model_of("tiny")
    trace = record_part(tmp_path / "t", model, steps=steps, sampler=sampler)
    followed = follow_run(trace, model)
    assert isinstance(followed, RunComparison), followed
    assert {tuple(name) for name in followed.computed} == names_of(trace)
    rows = [row for row in followed.rows() if row.verdict != "equal"]
    assert [f"{row.call} {row.kind}" for row in rows] == unknown
    assert {(row.verdict, row.note.rpartition("unet.")[2][3:]) for row in rows} == {
        ("not judged", " returned was not recorded")
    }


@pytest.mark.parametrize("mode", ["img2img", "inpaint", "invert"])
def test_a_changed_step_of_a_part_of_a_run_is_seen(mode, tmp_path):
    model = model_of("tiny")
    trace = record_part(tmp_path / "t", model, mode, **REQUESTS[mode])
    [step] = [entry for entry in trace.entries if entry.call.kind == "sampler" and not entry.layer]
    tensor = step.outputs["output"]
    changed = {**trace.tensors, tensor: 1.01 * np.asarray(trace.tensors[tensor])}
    for tensors, expected in ((trace.tensors, set()), (changed, {str(step.call)})):
        followed = follow_run(replace(trace, tensors=tensors), model)
        assert isinstance(followed, RunComparison), followed
        found = {str(row.call) for row in followed.rows() if row.verdict == "differs"}
        assert found == expected


# -- runs that cannot be followed ----------------------------------------------------------------


def notes_of(report):
    """Return why rows are not judged, and see that none differs."""
    assert not report.faults, report.faults
    return {row.note for row in report.rows if row.verdict == "not judged"}


FEW = ("euler_churn", "heunpp2", "dpmpp_2s_a", "dpm_solver_3m")  # the others take minutes
NOT_FOUND = ("rectified_cfgpp", "rk45")  # its guidance is its own; as many calls as it needs
FOUND = "the sampler was not recorded: the steps are compared with those of "


def marked(names):
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.full) for name in names]


@pytest.mark.parametrize("family", ["tiny", "sd3-tiny"])
@pytest.mark.parametrize("sampler", marked(name for name in SAMPLERS if name not in NOT_FOUND))
def test_the_sampler_of_plain_arrays_is_found_and_said(sampler, family, tmp_path):
    """It may be another one that takes the same steps; those of the model's own sampler differ."""
    trace = record(tmp_path / "t", model_of(family), sampler=sampler)
    manifest = {name: x for name, x in trace.manifest.items() if name != "params"}
    entries = [replace(e, attributes={}) if e.call.kind == "schedule" else e for e in trace.entries]
    plain = replace(trace, manifest=manifest, entries=tuple(entries))
    report = diff_traces(plain, model_of(family))
    assert not report.faults, report.faults
    assert sum(note.startswith(FOUND) for note in report.notes) == 1


def test_what_is_missing_is_said(tmp_path):
    model = model_of("tiny")
    trace = record(tmp_path / "t", model, "img2img", **REQUESTS["img2img"])
    without = [entry for entry in trace.entries if entry.call.kind != "inputs"]
    report = diff_traces(replace(trace, entries=tuple(without)), model)
    assert notes_of(report) == {"no image of the request was recorded"}
    without = [entry for entry in trace.entries if entry.call.kind != "unet"]
    report = diff_traces(replace(trace, entries=tuple(without)), model)
    assert notes_of(report) == {"what unet.000 returned was not recorded"}
    nameless = {name: x for name, x in trace.manifest.items() if name != "params"}
    report = diff_traces(replace(trace, manifest=nameless), model)
    assert "no prompt was recorded" in notes_of(report)
    controlled, model, _ = RECORDED["controlled"]()
    assert follow_run(controlled, model) == "the run had 2 ControlNets, and 0 were given"
