"""A run of which a part was recorded: what is there is compared, and no right array differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed_runs import RUNS
from unfollowed import of_another_program

from ldmref.locate.pipeline import judge_host
from ldmref.locate.run.request import NO_NOISE, NO_PROMPT, NO_SCALE
from ldmref.trace import Trace

KINDS = {  # what a port may leave out, by the kinds of its calls
    "texts": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "denoiser": ("unet", "transformer"),
    "autoencoder": ("vae.encode", "vae.decode"),
    "schedule": ("schedule",),
    "steps": ("sampler",),
    "guidance": ("guidance",),
}
MASKED = ("repainted", "repainted-again")  # whose masks the request alone tells


def without(trace: Trace, *kinds: str) -> Trace:
    """Return a trace without the calls of some kinds."""
    return replace(trace, entries=tuple(e for e in trace.entries if e.call.kind not in kinds))


def alone(trace: Trace) -> Trace:
    """Return the arrays of a trace without any request."""
    return replace(of_another_program(trace), manifest={**trace.manifest, "params": {}})


def judge(trace, model, nets):
    return judge_host(trace, model, "float32", [], controlnets=nets)


def wrong(rows):
    return [(row.call, row.kind, row.cause) for row in rows if row.verdict == "differs"]


@pytest.mark.parametrize("part", KINDS)
@pytest.mark.parametrize("name", RUNS)
def test_what_was_left_out_is_no_fault(name, part):
    trace, model, nets = RUNS[name]()
    partial = without(trace, *KINDS[part])
    rows = judge(partial, model, nets)
    assert not wrong(rows)
    kinds = {entry.call.kind for entry in partial.entries}
    steps = [row for row in rows if row.kind == "step" and row.verdict == "equal"]
    assert bool(steps) == ("sampler" in kinds)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_without_its_mode_and_images_is_followed(name):
    trace, model, nets = RUNS[name]()
    rows = judge(of_another_program(trace), model, nets)
    assert not wrong(rows)
    assert {row.verdict for row in rows if row.kind in ("step", "guidance")} == {"equal"}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_without_a_request_is_followed_from_its_arrays(name):
    trace, model, nets = RUNS[name]()
    rows = judge(alone(trace), model, nets)
    assert not wrong(rows)
    if name not in MASKED:
        assert {row.verdict for row in rows if row.kind in ("step", "guidance")} == {"equal"}
        notes = {row.note for row in rows if row.verdict == "not judged"}
        assert {NO_NOISE, NO_PROMPT} <= notes or "inverted" in name
        assert NO_SCALE in notes or not any(e.call.kind == "guidance" for e in trace.entries)


@pytest.mark.parametrize("call", ["guidance.000", "guidance.001", "sampler.000", "sampler.001"])
@pytest.mark.parametrize("change", [of_another_program, alone, lambda x: without(x, "unet")])
@pytest.mark.parametrize("name", ["noise", "two-evaluations", "multistep", "from-an-image"])
def test_a_wrong_array_of_a_part_is_seen_at_its_place(name, change, call):
    trace, model, nets = RUNS[name]()
    entry = trace.find(call)
    if entry is None:
        pytest.skip(f"{name} has no {call}")
    changed = entry.outputs["output"]
    tensors = {**trace.tensors, changed: trace.tensors[changed] * np.float32(1.01)}
    rows = judge(change(replace(trace, tensors=tensors)), model, nets)
    assert call in {row.call for row in rows if row.verdict == "differs"}
