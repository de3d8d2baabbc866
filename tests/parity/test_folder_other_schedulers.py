"""Folders whose scheduler has no sampler here: its forward process, with a sampler of ours."""

from __future__ import annotations

import json
import shutil

import pytest
from scheduled_folder import OURS, SD, V, assert_close, name_scheduler, seeded

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError, UsageError
from ldmref.io.diffusers.folder import read_diffusers_config
from ldmref.io.diffusers.scheduler import FIELDS, FORWARD_ONLY

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SMALL = {"width": 16, "height": 16}
pytestmark = pytest.mark.parametrize("family", ["sd1"], indirect=True)


@pytest.mark.parametrize(
    "other,sampler,kind",
    [
        ("TCDScheduler", "euler", "EulerDiscreteScheduler"),
        ("TCDScheduler", "dpmpp_2m", "DPMSolverMultistepScheduler"),
        ("SASolverScheduler", "euler", "EulerDiscreteScheduler"),
        ("DEISMultistepScheduler", "euler", "EulerDiscreteScheduler"),
        ("EulerDiscreteScheduler", "deis", "DEISMultistepScheduler"),
        ("EulerDiscreteScheduler", "kdpm2", "KDPM2DiscreteScheduler"),
        ("EulerDiscreteScheduler", "dpmpp_2_singlestep", "DPMSolverSinglestepScheduler"),
    ],
)
def test_a_sampler_of_ours_is_diffusers_scheduler_with_that_configuration(
    scheduled, other, sampler, kind
):
    pipe, model = scheduled(other, V)
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    asked = {"num_inference_steps": 6, "output_type": "latent"} | SMALL
    want = pipe("red cat", **asked, **seeded()).images.numpy()
    got = modes.txt2img(model, "red cat", sampler=sampler, steps=6, **SMALL, **OURS)
    assert_close(got.latents, want)


@pytest.mark.parametrize("other", FORWARD_ONLY)
def test_without_a_sampler_the_class_and_what_is_allowed_are_named(opened, other):
    place, model = opened
    file = place / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(SD | {"_class_name": other}))
    name_scheduler(place, other)
    with pytest.raises(UsageError, match=f"diffusers' '{other}' has no sampler here") as caught:
        modes.txt2img(model(), "red cat", steps=2, **SMALL)
    assert caught.value.code == "E-SCHEDULER" and "euler" in caught.value.hint
    assert read_diffusers_config(place).scheduler.beta_end == SD["beta_end"]


def test_a_class_with_another_forward_process_is_refused_before_weights_are_read(folder, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    name_scheduler(place, "EDMEulerScheduler")
    for weights in place.rglob("*.safetensors"):
        weights.write_bytes(b"not read")
    with pytest.raises(CorruptModelError, match="EDMEulerScheduler") as caught:
        ldmref.load(place)
    assert caught.value.code == "E-SCHEDULER"
    assert set(FIELDS) | set(FORWARD_ONLY) <= set(caught.value.hint.replace(",", "").split())


@pytest.mark.parametrize(
    "kind,options,message",
    [
        ("LCMScheduler", {"timestep_scaling": 5.0}, "timestep_scaling"),
        ("LCMScheduler", {"original_inference_steps": 1001}, "original_inference_steps = 1001"),
        ("DEISMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver"),
        ("DEISMultistepScheduler", {"solver_order": 4}, "solver_order = 4"),
        ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "solver_order = 2"),
        (
            "DPMSolverSinglestepScheduler",
            {"algorithm_type": "dpmsolver", "solver_order": 1},
            "of 0",
        ),
        ("KDPM2DiscreteScheduler", {"timestep_spacing": "ays"}, "timestep_spacing"),
    ],
)
def test_single_values_are_refused_by_name(folder, tmp_path, kind, options, message):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    data = SD | {"_class_name": kind} | options
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(data))
    name_scheduler(place, kind)
    with pytest.raises(CorruptModelError, match=message):
        read_diffusers_config(place)


def test_lcm_takes_its_own_timesteps_on_every_folder(scheduled):
    """diffusers' LCMScheduler has no `timestep_spacing`; with it any model is sampled by `lcm`."""
    pipe, model = scheduled("PNDMScheduler", {"skip_prk_steps": True})
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    asked = {"num_inference_steps": 5, "output_type": "latent"} | SMALL
    want = pipe("red cat", **asked, **seeded()).images.numpy()
    got = modes.txt2img(model, "red cat", sampler="lcm", steps=5, **SMALL, **OURS)
    assert got.params["schedule"] == "lcm"
    assert_close(got.latents, want)
    leading = modes.txt2img(
        model, "red cat", sampler="lcm", schedule="leading", steps=5, **SMALL, **OURS
    )
    assert abs(leading.latents - want).max() > 0.01
    with pytest.raises(UsageError, match="at most 50 steps, not 51"):
        modes.txt2img(model, "red cat", sampler="lcm", steps=51, **SMALL)
