"""A small folder whose scheduler is rewritten for every case, and the images of both sides."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import ldmref
from ldmref.io.diffusers.folder import read_diffusers_config

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
V = {"prediction_type": "v_prediction"}
MIN = {"final_sigmas_type": "sigma_min"}
DPM = "DPMSolverMultistepScheduler"
UNIPC = "UniPCMultistepScheduler"
PNDM = "PNDMScheduler"
DEIS = "DEISMultistepScheduler"
SINGLE = "DPMSolverSinglestepScheduler"
KDPM2 = "KDPM2DiscreteScheduler"
KDPM2_A = "KDPM2AncestralDiscreteScheduler"
DDIM = "DDIMScheduler"
DDPM = "DDPMScheduler"
LMS = "LMSDiscreteScheduler"
SDE = {"algorithm_type": "sde-dpmsolver++"}
SKIP = {"skip_prk_steps": True}
LINSPACE = {"timestep_spacing": "linspace"}
TRAILING = {"timestep_spacing": "trailing"}
CLOSE = 2e-4  # of the largest latent


@pytest.fixture(scope="module")
def opened(folder, family, tmp_path_factory):
    """Return a copy of the folder to write to, and its model, on each backend that is asked for."""
    place = tmp_path_factory.mktemp("scheduled") / family
    shutil.copytree(folder, place)
    models = {}

    def model(backend="numpy"):
        if backend not in models:
            models[backend] = ldmref.load(place, backend=backend)
        models[backend].config = read_diffusers_config(place)
        return models[backend]

    return place, model


@pytest.fixture
def scheduled(theirs, opened):
    """(kind, options) -> diffusers' pipeline and ours, with that scheduler in the folder."""
    place, model = opened

    def make(kind, options, pipeline=None, backend="numpy"):
        betas = {
            name: value for name, value in SD.items() if (kind, name) != (SINGLE, "steps_offset")
        }
        scheduler = getattr(diffusers, kind)(**betas | options)
        scheduler.save_pretrained(place / "scheduler")
        name_scheduler(place, kind)
        scheduler = type(scheduler).from_pretrained(place / "scheduler")
        extra = {} if "XL" in type(theirs).__name__ else {"requires_safety_checker": False}
        made = (pipeline or type(theirs))(**theirs.components | {"scheduler": scheduler} | extra)
        made.set_progress_bar_config(disable=True)
        return made, model(backend)

    return make


def name_scheduler(place, kind):
    index = json.loads((place / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", kind]
    (place / "model_index.json").write_text(json.dumps(index))


def seeded():
    return {"generator": torch.Generator("cpu").manual_seed(3), "guidance_scale": 4.0}


OURS = {"seed": 3, "cfg_scale": 4.0, "rng": "torch"}


def assert_close(got, want):
    assert np.isfinite(want).all()
    assert np.abs(got - want).max() <= CLOSE * max(1.0, np.abs(want).max())
