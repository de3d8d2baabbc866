"""What a denoiser is given: right, wrong and incomplete runs that are built by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline.asked import judge_asked
from ldmref.locate.pipeline.schedule import judge_schedule
from ldmref.locate.replay.networks import _CallSizes
from ldmref.models.declared import CallSize, NetworkInput

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))


# -- schedules ------------------------------------------------------------------------------------


def test_what_a_list_of_levels_ends_with_is_said():
    wanted = {"steps": 5, "sampler": "euler"}
    made = context_of({"sampler.000": {"input.x": X}}, params=wanted).make_schedule()
    levels = made.sigmas.copy()
    levels[-1] = 0.25
    calls = {
        "schedule.000": {"output.timesteps": made.timesteps, "output.sigmas": levels},
        "sampler.000": {"input.x": X},
    }
    rows = {row.kind: row for row in judge_schedule(context_of(calls, params=wanted))}
    last = f"{made.sigmas[-1]:.4g}"
    assert rows["sigmas"].cause == f"the last sigma is 0.25 instead of {last}"
    assert rows["sigmas"].explained == 0.0 and rows["timesteps"].verdict == "equal"


# -- sizes of a call ------------------------------------------------------------------------------

BATCH, TOKENS = CallSize("batch"), CallSize("tokens")


def sizes_of(arrays, length=0):
    """Return the sizes of a call that recorded these arrays, by role."""
    found = SimpleNamespace(
        read=lambda role, *also: arrays.get(role),
        model=model_of("tiny"),
        length=lambda *layers: length,
        batch_and_size=lambda levels: (5, 6, 7),
        missing=lambda shape: np.full(shape, np.nan),
        text_shape=lambda: (2, 9),
    )
    return _CallSizes(SimpleNamespace(name="", settings={}), found)


def test_arrays_that_were_not_recorded_have_the_sizes_of_the_others():
    states = NetworkInput("context", "states", (BATCH, TOKENS, 3))
    pooled = NetworkInput("pooled", "pooled", (BATCH, TOKENS, 2))
    both = sizes_of({"states": np.zeros((2, 7, 3))}, length=4)
    both.read(states)
    assert both.read(pooled).shape == (2, 7, 2)  # not the 4 of the layers
    alone = sizes_of({}, length=4)
    assert alone.read(pooled).shape == (1, 4, 2)
    assert np.isnan(alone.read(pooled)).all()


def test_whole_numbers_and_times_of_a_call():
    ids = NetworkInput("ids", "ids", (BATCH, TOKENS), "ids")
    mask = NetworkInput("mask", "mask", (BATCH, TOKENS), "mask")
    labels = NetworkInput("labels", "labels", (BATCH,), "labels")
    times = NetworkInput("t", "t", (CallSize("timesteps"),), "timesteps")
    scales = NetworkInput("guidance", "guidance", (BATCH,), "guidance")
    states = NetworkInput("context", "states", (BATCH, TOKENS, 3))
    arrays = {"states": np.zeros((2, 7, 3)), "t": np.array([[9.0]]), "labels": np.array([3.0, 4.0])}
    sizes = sizes_of(arrays)
    sizes.read(states)
    assert sizes.read(mask).tolist() == [[1] * 7] * 2  # what has no mask reads all tokens
    assert sizes.read(ids).shape == (2, 9)
    assert sizes.read(labels).dtype == np.int64 and sizes.read(labels).tolist() == [3, 4]
    assert sizes.read(times).tolist() == [9.0, 9.0]
    for given, read in (([5.0], [5.0, 5.0]), ([5.0, 6.0], [5.0, 6.0]), ([1.0] * 4, [1.0] * 4)):
        sizes = sizes_of({**arrays, "guidance": np.array(given)})
        sizes.read(states)
        assert sizes.read(scales).tolist() == read


# -- scales of guidance ---------------------------------------------------------------------------


def scale_rows(got, networks=1, **request):
    """Return the rows of the recorded scales of one guidance, and those that were compared."""
    calls = {f"unet.00{i}": {"input.sample": X, "output": X} for i in range(networks)}
    calls["guidance.000"] = {f"input.{role}": np.array(x) for role, x in got.items()}
    calls["guidance.000"] |= {"input.uncond": X, "input.cond": Y, "output": X}
    calls["sampler.000"] = {"input.model_output": X, "input.sample": X}
    context = context_of(calls, request=request)
    entry = entry_of(context, "guidance.000")
    rows = [row for row in judge_asked(context) if row.kind.startswith("guidance ")]
    marked = {role for role in got if context.coverage.has(entry, role)}
    return [(row.kind, row.verdict, row.cause or row.note) for row in rows], marked


def test_scales_are_those_that_were_asked_for():
    asked = {"guidance_scale": 4.0, "guidance_rescale": 0.5}
    assert scale_rows({"scale": 4.0, "rescale": 0.5}, **asked) == ([], {"scale", "rescale"})
    wrong = ("guidance scale", "differs", "3 instead of 4")
    assert scale_rows({"scale": 3.0, "rescale": 0.5}, **asked)[0] == [wrong]
    wrong = ("guidance rescale", "differs", "0.7 instead of 0.5")
    assert scale_rows({"scale": 4.0, "rescale": 0.7}, **asked)[0] == [wrong]
    assert scale_rows({"rescale": 0.0}, guidance_scale=4.0) == ([], {"rescale"})  # none by default
    assert scale_rows({"scale": 4.0}, guidance_scale=[4.0]) == ([], set())  # no number was asked
    for apart, rows in ((0.9e-6, 0), (1.1e-6, 1)):
        assert len(scale_rows({"scale": 4.0 * (1 + apart)}, **asked)[0]) == rows


def test_a_callback_may_change_a_scale():
    asked = {"guidance_scale": 4.0, "callback_on_step_end": "f"}
    note = "3 instead of 4; the callback of the run may have changed it"
    assert scale_rows({"scale": 3.0}, **asked) == (
        [("guidance scale", "not judged", note)],
        {"scale"},
    )
    for apart, rows in ((0.9e-6, 0), (-0.9e-6, 0), (1.1e-6, 1), (-1.1e-6, 1)):
        assert len(scale_rows({"scale": 4.0 * (1 + apart)}, **asked)[0]) == rows


def test_pipelines_with_two_scales_combine_two_calls_by_the_second():
    asked = {"guidance_scale": 4.0, "true_cfg_scale": 2.0}
    assert scale_rows({"scale": 2.0}, networks=2, **asked) == ([], {"scale"})
    assert scale_rows({"scale": 4.0}, networks=1, **asked) == ([], {"scale"})
    wrong = [("guidance scale", "differs", "4 instead of 2")]
    assert scale_rows({"scale": 4.0}, networks=2, **asked)[0] == wrong
    assert scale_rows({"scale": 4.0}, networks=2, guidance_scale=4.0) == ([], {"scale"})
    skipped = {"scale": 4.0, "skipped": 0.0}
    assert scale_rows(skipped, networks=2, **asked)[0] == []


# -- the scale of guidance that a network reads ---------------------------------------------------
