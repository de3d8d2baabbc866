"""The schedulers of ldmref.compat.diffusers carry the configurations and timesteps of diffusers."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.compat import diffusers as compat
from ldmref.compat.diffusers.schedulers import SCHEDULERS
from ldmref.errors import CorruptModelError, InputError, UsageError

diffusers = pytest.importorskip("diffusers")

START = dict(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
    skip_prk_steps=True, set_alpha_to_one=False, clip_sample=False,
)  # fmt: skip
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
INTERNAL = ("_class_name", "_diffusers_version", "_use_default_values")


def public(config):
    return {name: value for name, value in dict(config).items() if name not in INTERNAL}


@pytest.mark.parametrize("last", SCHEDULERS)
@pytest.mark.parametrize("first", ["PNDMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_from_config_carries_over_what_diffusers_carries_over(first, last):
    """Also through a third class, and with changes."""
    made = []
    for library in (diffusers, compat):
        one = getattr(library, first).from_config(START)
        between = library.EulerDiscreteScheduler.from_config(
            one.config, timestep_spacing="linspace"
        )
        made.append([getattr(library, last).from_config(s.config) for s in (one, between)])
    for theirs, ours in zip(*made, strict=True):
        want, got = public(theirs.config), public(ours.config)
        assert {name: want[name] for name in want.keys() & got.keys()} == got
        assert want.keys() >= got.keys()
        assert set(ours.config["_use_default_values"]) <= set(theirs.config["_use_default_values"])
        assert ours.order == theirs.order


@pytest.mark.parametrize("n", [4, 10])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_timesteps_are_those_of_diffusers(kind, n):
    made = []
    for library in (diffusers, compat):
        scheduler = getattr(library, kind).from_config(START)
        scheduler.set_timesteps(n)
        made.append((scheduler.timesteps, scheduler.init_noise_sigma))
    (want, scale), (got, own) = made
    np.testing.assert_allclose(got, np.asarray(want), atol=0.51)
    assert own == pytest.approx(float(scale), rel=1e-4)


def test_a_scheduler_is_made_by_its_fields():
    ours = compat.EulerDiscreteScheduler(use_karras_sigmas=True, beta_schedule="scaled_linear")
    assert ours.config.use_karras_sigmas and ours.config["timestep_spacing"] == "linspace"
    assert "use_karras_sigmas=True" in repr(ours) and "timestep_spacing" not in repr(ours)
    with pytest.raises(UsageError, match="no field 'use_karas_sigmas'") as refusal:
        compat.EulerDiscreteScheduler(use_karas_sigmas=True)
    assert "use_karras_sigmas" in refusal.value.hint
    with pytest.raises(UsageError, match="no field 'eta'"):
        compat.DDIMScheduler.from_config({}, eta=1)


def test_unsupported_values_and_calls_are_refused():
    with pytest.raises(CorruptModelError, match="skip_prk_steps = False"):
        compat.PNDMScheduler().set_timesteps(5)
    with pytest.raises(AttributeError, match=r"DDIMScheduler of ldmref.*'step'"):
        compat.DDIMScheduler().step()
    with pytest.raises(UsageError, match="a configuration cannot be changed"):
        compat.DDIMScheduler().config["steps_offset"] = 1
    with pytest.raises(UsageError, match="from_config needs a configuration"):
        compat.DDIMScheduler.from_config("folder")
    with pytest.raises(AttributeError, match="has no SASolverScheduler"):
        compat.SASolverScheduler()


def test_a_folder_holds_a_scheduler(tmp_path):
    theirs = diffusers.HeunDiscreteScheduler(use_karras_sigmas=True)
    theirs.save_pretrained(tmp_path / "scheduler")
    ours = compat.HeunDiscreteScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert public(ours.config).items() <= public(theirs.config).items()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("[]")
    for folder in (tmp_path / "scheduler", tmp_path / "none"):
        with pytest.raises(InputError, match=r"scheduler_config\.json"):
            compat.HeunDiscreteScheduler.from_pretrained(folder)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(
    "kind", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"]
)
@pytest.mark.parametrize("order", [2, 3])
def test_a_thousand_steps_repeat_a_timestep(kind, spacing, order):
    options = {**BETAS, "timestep_spacing": spacing, "solver_order": order}
    made = [getattr(library, kind)(**options) for library in (diffusers, compat)]
    for scheduler in made:
        scheduler.set_timesteps(1000)
    theirs, ours = (np.asarray(scheduler.timesteps) for scheduler in made)
    assert ours.tolist() == theirs.tolist() and len(ours) == 1000
    assert len({*ours.tolist()}) < 1000 or spacing == "trailing"


@pytest.mark.parametrize("steps", [6, 11, 20, 37])
def test_kdpm2_ancestral_interpolates_every_middle_timestep(steps):
    """Rounded to whole ones are only the timesteps of Karras' sigmas themselves."""
    made = [
        library.KDPM2AncestralDiscreteScheduler(**BETAS, use_karras_sigmas=True)
        for library in (diffusers, compat)
    ]
    for scheduler in made:
        scheduler.set_timesteps(steps)
    theirs, ours = (np.asarray(scheduler.timesteps, np.float64) for scheduler in made)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02)


def test_tcd_samples_no_noise_in_its_last_step():
    scheduler = compat.TCDScheduler(**BETAS)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 759, 499, 259] and scheduler.has_eta
    assert [scheduler.samples(scheduler.timesteps, eta) for eta in (0.0, 0.3)] == [0, 3]
