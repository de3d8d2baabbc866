"""Calls of ports that compute one image, whose arrays have no axis of images, or are tokens."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.locate.recorded.layouts import latents_as_tokens
from ldmref.ports.port import port_of
from ldmref.trace import build_trace

FAMILIES = ("sd3-tiny", "flux-tiny", "z-image-tiny", "flux2-tiny", "krea-2-tiny")


def whole_call(model, **size):
    """Return the arrays of a call of a denoiser with one image, by role; "" is the output."""
    with ldmref.recording(model) as run:
        modes.txt2img(model, "a red heart", seed=1, steps=2, cfg_scale=1.0, **size)
    entry = run.trace.find(f"{model.denoiser.name}.000")
    [output] = run.trace.read_outputs(entry).values()
    return {**run.trace.read_inputs(entry), "": output}


def judge(model, arrays):
    call = f"{model.denoiser.name}.000"
    named = {
        f"{call}//input.{role}" if role else f"{call}//output": x for role, x in arrays.items()
    }
    report = diff_traces(build_trace(named), model)
    return [row for row in report.rows if row.call == call and row.kind == "own"]


def without_images(x):
    return x[0]


def as_video(x):
    """Return latents (1, c, h, w) as those of a video of one frame, (c, 1, h, w)."""
    return x[0][:, None] if x.ndim == 4 else x[0]


@pytest.mark.parametrize("change", [without_images, as_video])
@pytest.mark.parametrize("family", FAMILIES)
def test_arrays_without_the_axis_of_images_are_those_of_one(family, change):
    model = ldmref.random_model(family, dtype="float64")
    arrays = whole_call(model)
    changed = {
        role: change(x) if role and x.dtype.kind == "f" and x.ndim > 2 else x
        for role, x in arrays.items()
    }
    assert {row.verdict for row in judge(model, changed)} == {"equal"}
    wrong = {**changed, "": 1.1 * arrays[""]}
    assert [row.cause for row in judge(model, wrong)] == ["scaled by 1.1"]


def as_tokens(model, x):
    """Return latents (1, c, h, w) as the tokens (1, l, d) of which the family joins them."""
    cell = 1 if model.family.name == "flux2" else 2
    return latents_as_tokens(port_of(model.family).unpack, x, *(n // cell for n in x.shape[2:]))


HIGH = pytest.param({"width": 32, "height": 64}, marks=pytest.mark.not_sampled, id="high")


@pytest.mark.parametrize("family", ["flux-tiny", "flux2-tiny"])
@pytest.mark.parametrize("size", [pytest.param({"width": 64, "height": 32}, id="wide"), HIGH])
def test_tokens_for_latents_have_the_rows_and_columns_with_which_all_layers_agree(family, size):
    model = ldmref.random_model(family, dtype="float64")
    arrays = whole_call(model, **size)
    tokens = {role: as_tokens(model, arrays[role]) for role in ("sample", "")}
    assert {row.verdict for row in judge(model, {**arrays, **tokens})} == {"equal"}
    wrong = {**arrays, **tokens, "": 1.1 * tokens[""]}
    [row] = judge(model, wrong)
    assert row.cause.startswith("scaled")
    exchanged = tokens["sample"][:, ::-1].copy()
    assert {row.verdict for row in judge(model, {**arrays, **tokens, "sample": exchanged})} == {
        "differs"
    }


def test_tokens_of_another_width_are_not_judged():
    model = ldmref.random_model("flux-tiny", dtype="float64")
    arrays = whole_call(model)
    cells = arrays["sample"].reshape(1, arrays["sample"].shape[1], -1).transpose(0, 2, 1)
    [row] = judge(model, {**arrays, "sample": np.ascontiguousarray(cells)})
    assert row.verdict == "not judged"
    assert row.note.endswith(
        "it holds tokens, which do not say the height and width of their latents"
    )


def test_images_in_a_list_are_not_judged_instead_of_wrong():
    model = ldmref.random_model("z-image-tiny", dtype="float64")
    arrays = whole_call(model)
    times = np.concatenate([arrays.pop("timestep")] * 2)
    listed = {f"x.{i}": arrays["sample"][0][:, None] for i in range(2)}
    rows = judge(model, {**listed, "t": times, "": arrays[""]})
    assert [row.verdict for row in rows] == ["not judged"]
    assert "its first input has none of the names sample" in rows[0].note
