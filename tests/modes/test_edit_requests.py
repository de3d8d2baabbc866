"""Requests to edit: ranges, published values at any number of steps, levels, visits and counts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.models import preset
from ldmref.modes.edit_methods import FlowEdit, RFInversion

PHOTO = Image.new("RGB", (32, 16), "teal")
RANGES = {  # parameter: (method, smallest, largest, below, above)
    "n_max": ("flowedit", 1, 8, 0, 9),
    "n_min": ("flowedit", 0, 6, -1, 7),
    "n_avg": ("flowedit", 1, 100, 0, 101),
    "source_cfg_scale": ("flowedit", -1000, 1000, -1000.1, 1000.1),
    "gamma": ("rf_inversion", 0, 1, -0.01, 1.01),
    "keep": ("rf_inversion", 0, 1, -0.01, 1.01),
    "keep_start": ("rf_inversion", 0, 0.25, -0.01, 0.26),
    "keep_end": ("rf_inversion", 0, 1, -0.01, 1.01),
}


def plan(name="sd3-tiny", **request):
    given = {"prompt": "a dog", "image": PHOTO, "seed": 1, "steps": 8} | request
    return modes.plan("edit", preset(name), **given)


@pytest.mark.parametrize("parameter", RANGES)
def test_ends_of_ranges(parameter):
    method, *ends, below, above = RANGES[parameter]
    for value in ends:
        more = {"n_max": 8} if parameter == "n_min" else {}
        more |= {parameter: value, "method": method}
        assert plan(**more).params[parameter] == value
    for value in (below, above):
        with pytest.raises(LdmrefError) as caught:
            plan(**{"method": method, parameter: value})
        assert caught.value.exit_code == 2


def test_a_number_of_steps_is_at_most_that_of_a_run():
    with pytest.raises(LdmrefError):
        plan(n_max=10**6, steps=None)


@pytest.mark.parametrize(("name", "share"), [("sd3-tiny", 33 / 50), ("flux-tiny", 24 / 28)])
def test_flowedit_takes_its_share_of_any_number_of_steps(name, share):
    for steps in (1, 2, 3, 8, 28, 50, 100):
        assert plan(name, steps=steps).params["n_max"] == max(1, round(steps * share))
    own = plan(name, steps=None)
    assert own.params["n_max"] == round(own.params["steps"] * share)


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_published_values_of_each_method(name):
    flowedit = plan(name).params
    assert flowedit["method"] == "flowedit"
    scales = {"sd3-tiny": (3.5, 13.5), "flux-tiny": (1.5, 5.5)}[name]
    assert (flowedit["source_cfg_scale"], flowedit["cfg_scale"]) == scales
    assert (flowedit["n_min"], flowedit["n_avg"]) == (0, 1)
    inverted = plan(name, method="rf_inversion").params
    values = {"gamma": 0.5, "keep": 0.9, "keep_start": 0.0, "keep_end": 0.25}
    assert {key: inverted[key] for key in values} == values
    assert inverted["source_cfg_scale"] == {"sd3-tiny": 1.0, "flux-tiny": 0.0}[name]
    assert inverted["cfg_scale"] == preset(name).defaults.cfg_scale


def test_what_is_asked_for_is_kept_even_if_it_is_zero():
    params = plan(n_max=4, n_min=2, n_avg=3, source_cfg_scale=0.0, cfg_scale=0.0).params
    assert (params["n_max"], params["n_min"], params["n_avg"]) == (4, 2, 3)
    assert params["source_cfg_scale"] == params["cfg_scale"] == 0.0
    kept = {"gamma": 0.0, "keep": 0.0, "keep_start": 0.5, "keep_end": 0.5}
    params = plan(method="rf_inversion", **kept).params
    assert {name: params[name] for name in kept} == kept


@pytest.mark.parametrize(("name", "factor"), [("sd3-tiny", 2), ("flux-tiny", 1)])
def test_a_plan_counts_the_calls_of_both_prompts(name, factor):
    made = plan(name, n_max=6, n_min=2, n_avg=3)
    assert made.calls == 4 * 3 + 2
    assert made.more_evaluations == factor * 4 * 3
    assert made.job.first_step == 8 - 6
    inverted = plan(name, method="rf_inversion", source_cfg_scale=2.0)
    assert inverted.calls == 8
    assert inverted.more_evaluations == factor * 8
    assert inverted.job.first_step == 0


def test_one_evaluation_is_enough_at_scale_1():
    assert plan(n_max=4, n_avg=1, source_cfg_scale=1.0).more_evaluations == 4


def schedule(sigmas, lowest):
    return SimpleNamespace(
        sigmas=np.asarray(sigmas, np.float64),
        timesteps=np.zeros(len(sigmas) - 1),
        training_sigmas=np.asarray([lowest, 1.0]),
        path=SimpleNamespace(level=lambda sigma: sigma),
    )


def test_levels_and_visits_of_flowedit():
    method = FlowEdit("a cat", 1.0, n_max=3, n_min=1, n_avg=2)
    made = schedule([1.0, 0.75, 0.5, 0.25, 0.0], 0.001)
    assert method.levels(made) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [*method.visits(made)] == [1, 2, 3, 4]
    assert (method.source_calls, method.target_calls, method.leaves_noise) == (4, 5, True)
    alone = FlowEdit("a cat", 1.0, n_max=4, n_min=0, n_avg=1)
    assert [*alone.visits(made)] == [0, 1, 2, 3, 4] and not alone.leaves_noise


def test_levels_and_visits_of_rf_inversion():
    method = RFInversion("a cat", 1.0, 4, 0.5, 0.9, 0.0, 0.25)
    made = schedule([1.0, 0.75, 0.5, 0.25, 0.0], 0.001)
    down = [0.75, 0.5, 0.25, 0.0]
    assert method.levels(made) == [0.001, 0.25, 0.5, 0.75, 1.0, *down]
    assert [*method.visits(made)] == [*range(9)]
    assert (method.source_calls, method.target_calls, method.leaves_noise) == (4, 4, True)
    assert method.levels(schedule([1.0, 0.5, 0.0], 0.4))[0] == 0.25
    assert method.levels(schedule([1.0, 0.5, 0.1], 0.4)) == [0.1, 0.5, 1.0, 0.5, 0.1]


# -- models ---------------------------------------------------------------------------------------


def refusal(name, **request):
    """Return the code of the error of a request."""
    with pytest.raises(LdmrefError) as caught:
        plan(name, **request)
    return caught.value.code


def test_a_flow_map_goes_down_alone_and_is_not_guided():
    """The distilled model allows one method, without guidance; its base both, with guidance."""
    assert refusal("flux3-klein", method="rf_inversion") == "E-MODE"
    for scale in (0.0, 0.5, 2.0):
        assert refusal("flux3-klein", source_cfg_scale=scale) == "E-CFG-SCALE"
    for scale in (None, 1.0):
        params = plan("flux3-klein", source_cfg_scale=scale, n_max=2).params
        assert (params["source_cfg_scale"], params["n_max"]) == (1.0, 2)
    assert plan("flux3-klein-base", method="rf_inversion").calls == 8
    assert plan("flux3-klein-base", source_cfg_scale=2.0).params["source_cfg_scale"] == 2.0


def test_an_edit_takes_eulers_steps_whatever_sampler_the_model_prefers():
    config = preset("sd3-tiny")
    config = replace(config, scheduler=replace(config.scheduler, sampler="heun"))
    request = {"prompt": "a dog", "image": PHOTO, "seed": 1, "steps": 8}
    assert modes.plan("img2img", config, **request).job.sampler.name == "heun"
    assert modes.plan("edit", config, **request).job.sampler.name == "euler"


def test_that_a_model_cannot_be_edited_is_said_before_anything_else():
    for wrong in ({}, {"gamma": 0.5}, {"n_max": 9}, {"image": Image.new("RGB", (1, 1))}):
        assert refusal("tiny", **wrong) == "E-MODE"


def test_a_trajectory_is_shown_without_its_arrays():
    model = ldmref.random_model("flux-tiny", backend="numpy")
    request = {"prompt": "a dog", "image": PHOTO, "seed": 1, "steps": 2}
    run = modes.plan("edit", model, **request).prepare(model)
    shown = repr(run.trajectory(slice(0, 1)))
    assert "method=FlowEdit" in shown
    for name in ("image", "source", "step"):
        assert f" {name}=" not in shown


def test_the_image_itself_is_where_an_edit_begins():
    model = ldmref.random_model("flux-tiny", backend="numpy")
    request = {"prompt": "a dog", "image": PHOTO, "seed": 1, "steps": 2}
    initial = modes.plan("edit", model, **request).start(model)
    assert not initial.from_noise and initial.image is not None


def test_how_an_image_is_resized_is_among_the_parameters():
    """At its own size, whose sides are rounded down, an image is stretched."""
    assert plan(resize="fill").params["resize"] == "fill"
    given = plan(resize="crop", image=PHOTO.resize((1, 17)))
    assert given.params["resize"] == "crop" and "resized (crop)" in given.warnings[0]
    given = plan(resize="crop", image=PHOTO.resize((33, 17)))
    assert given.params["resize"] == "stretch" and "resized (stretch)" in given.warnings[0]


@pytest.mark.parametrize(("n_min", "noisy"), [(0, False), (1, True)])
def test_only_an_edit_that_leaves_noise_divides_its_last_state(n_min, noisy):
    """On a schedule that ends above 0; the divisor is the deviation of x, hypot(1 - s, s)."""
    model = ldmref.random_model("flux-tiny", backend="numpy")
    request = {"prompt": "a dog", "image": PHOTO, "seed": 1, "steps": 4, "n_max": 3}
    run = modes.plan("edit", model, n_min=n_min, **request).prepare(model)
    trajectory = run.trajectory(slice(0, 1))
    levels = np.append(trajectory.schedule.sigmas[:-1], 0.25)
    trajectory = replace(trajectory, schedule=trajectory.schedule._replace(sigmas=levels))
    assert trajectory.scale == (np.hypot(0.75, 0.25) if noisy else 1.0)
