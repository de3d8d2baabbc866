"""A diffusers folder, field by field: classes, defaults, corrections, refusals."""

from __future__ import annotations

import inspect
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scheduled_folder import (
    DDIM,
    DDPM,
    DEIS,
    DPM,
    MIN,
    OURS,
    PNDM,
    SD,
    SINGLE,
    TRAILING,
    UNIPC,
    assert_close,
    name_scheduler,
    seeded,
)

from ldmref import modes
from ldmref.errors import UnsupportedModelError
from ldmref.io.diffusers.folder import read_diffusers_config
from ldmref.io.diffusers.scheduler import FIELDS, convert_scheduler_config
from ldmref.samplers import get_sampler, make_schedule
from ldmref.samplers.clipping import threshold_at
from ldmref.samplers.interfaces import Interval

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BETAS = {
    "scaled_linear": SD,
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero snr": SD | {"rescale_betas_zero_snr": True},
}


FLAGS = {
    DPM: ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas"),
    UNIPC: ("karras_sigmas", "exponential_sigmas", "beta_sigmas"),
    DEIS: ("karras_sigmas", "exponential_sigmas", "beta_sigmas"),
    SINGLE: ("karras_sigmas", "exponential_sigmas", "beta_sigmas"),
}
CASES = [(kind, betas, flag) for kind in FLAGS for betas in BETAS for flag in FLAGS[kind]]
CASES.remove((DPM, "cosine", "lu_lambdas"))  # the first of them may be one off


@pytest.mark.parametrize("kind,betas,flag", CASES)
def test_timesteps_passed_to_the_network(kind, betas, flag):
    """Whole timesteps of continuous levels are found in single precision: 998, not 999."""
    options = BETAS[betas] | {f"use_{flag}": True, "_class_name": kind}
    config = convert_scheduler_config(options)
    scheduler = getattr(diffusers, kind).from_config(options)
    for n in (1, 2, 3, 5, 7, 8, 14, 18, 25, 35, 45, 52):
        scheduler.set_timesteps(n)
        schedule = make_schedule(config, get_sampler(config.sampler), config.spacing, n)
        sigmas = schedule.sigmas.tolist()
        intervals = [Interval(i, i + 1, n, *sigmas[i : i + 2]) for i in range(n)]
        got = [schedule.timestep(interval.sigma, interval) for interval in intervals]
        assert got == scheduler.timesteps.tolist(), n


# -- the folder itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_the_class_is_that_of_the_index(theirs, opened):
    """model_index.json goes before the file's own `_class_name`, whose other fields are ignored."""
    place, model = opened
    made = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **SD)
    made.save_pretrained(place / "scheduler")
    name_scheduler(place, DPM)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(place, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.scheduler).__name__ == DPM
    asked = {"num_inference_steps": 4, "output_type": "latent", "width": 16, "height": 16}
    want = pipe("red cat", **asked, **seeded()).images.numpy()
    got = modes.txt2img(model(), "red cat", steps=4, width=16, height=16, **OURS)
    assert got.params["sampler"] == "dpmpp_2m"
    assert_close(got.latents, want)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_stable_diffusion_corrects_its_scheduler(theirs, opened):
    """Its pipelines take an offset of 1 and no clipping, whatever the file says."""
    place, model = opened
    data = SD | {"steps_offset": 0, "clip_sample": True, "_class_name": DDIM}
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(data))
    name_scheduler(place, DDIM)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(place, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 4, "output_type": "latent", "width": 16, "height": 16}
    want = pipe("red cat", **asked, **seeded()).images.numpy()
    assert_close(
        modes.txt2img(model(), "red cat", steps=4, width=16, height=16, **OURS).latents, want
    )
    config = convert_scheduler_config(data, "", "StableDiffusionXLPipeline")
    assert config.steps_offset == 0 and config.clip_sample_range == 1.0


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_the_class_of_a_text_encoder_is_that_of_the_index(folder, family, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    file = place / "text_encoder_2" / "config.json"
    data = json.loads(file.read_text())
    assert data.pop("architectures") == ["CLIPTextModelWithProjection"]
    file.write_text(json.dumps(data))
    assert (
        read_diffusers_config(place).text_encoder_2 == read_diffusers_config(folder).text_encoder_2
    )


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_guidance_is_that_of_the_pipeline(folder, family):
    config = read_diffusers_config(folder)
    name = "StableDiffusionXL" if family == "sdxl" else "StableDiffusion"
    for mode, kind in (("txt2img", ""), ("img2img", "Img2Img"), ("inpaint", "Inpaint")):
        call = getattr(diffusers, f"{name}{kind}Pipeline").__call__
        defaults = {k: p.default for k, p in inspect.signature(call).parameters.items()}
        image = Image.new("RGB", (config.defaults.width, config.defaults.height))
        inputs = {
            "txt2img": {},
            "img2img": {"image": image},
            "inpaint": {"image": image, "mask": image},
        }
        plan = modes.plan(mode, config, prompt="red cat", sampler="ddim", seed=0, **inputs[mode])
        assert plan.job.cfg_scale == defaults["guidance_scale"], mode
        assert plan.job.steps == defaults["num_inference_steps"]
        assert plan.job.eta == defaults["eta"]


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_are_those_of_the_class(kind):
    there = inspect.signature(getattr(diffusers, kind).__init__).parameters
    assert FIELDS[kind] == {name: p.default for name, p in there.items() if name != "self"}


@pytest.mark.parametrize(
    "kind,options",
    [
        (PNDM, {}),
        (DDPM, {"variance_type": "learned"}),
        (UNIPC, {"predict_x0": False}),
        (DPM, {"algorithm_type": "dpmsolver"}),
        (DPM, {"use_flow_sigmas": True}),
        (DPM, MIN | {"algorithm_type": "sde-dpmsolver", "solver_order": 3}),
        (DDIM, {"trained_betas": [0.1, 0.2]}),
        (UNIPC, {"solver_order": 4}),
        (DPM, {"lambda_min_clipped": -5.1} | TRAILING),
        (DPM, {"timestep_spacing": "ays"}),
    ],
)
def test_refused(kind, options):
    with pytest.raises(UnsupportedModelError, match="which is not supported") as caught:
        convert_scheduler_config({"_class_name": kind} | SD | options)
    assert "\n" not in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("scale", [0.2, 1.0, 1.3, 9.0])
def test_dynamic_thresholding(scale):
    x0 = scale * np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)
    x0[1] *= 0.2
    for ratio, largest in ((0.995, 1.0), (0.9, 3.0), (0.5, 100.0), (1.0, 2.0)):
        options = {"dynamic_thresholding_ratio": ratio, "sample_max_value": largest}
        want = diffusers.DDPMScheduler(**options)._threshold_sample(torch.from_numpy(x0)).numpy()
        got = threshold_at(ratio, largest)(x0)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
