"""TCD against diffusers' TCDScheduler: timesteps, steps with noise, and images."""

from __future__ import annotations

import numpy as np
import pytest
from scheduled_folder import OURS, V, assert_close, seeded
from test_schedulers import BETAS, EXACT, MIXTURE, NOISES, SD, eps_of

from ldmref import modes
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.samplers import configured_step, get_sampler, make_schedule, sample

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 13, 50])
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_tcd(eta, steps, monkeypatch):
    theirs = diffusers.TCDScheduler(**BETAS)
    theirs.alphas_cumprod = torch.tensor(SD)
    theirs.set_timesteps(steps)
    config = convert_scheduler_config({"_class_name": "TCDScheduler"} | BETAS)
    assert (config.sampler, get_sampler(config.sampler).eta) == ("tcd", 0.3)
    schedule = make_schedule(config, get_sampler("tcd"), None, steps)
    assert schedule.timesteps.tolist() == theirs.timesteps.tolist()
    assert schedule.sigmas[-1] == pytest.approx(np.sqrt(1 / SD[0] - 1), rel=1e-12)

    start = schedule.sigmas[0] * np.random.default_rng(0).standard_normal((4, 2))
    noises = iter(np.concatenate([NOISES, NOISES]))
    step, visits = configured_step(config, get_sampler("tcd"), schedule, eta=eta)
    run = sample(
        MIXTURE.denoise, start, schedule.sigmas, step, noise=lambda: next(noises), visits=visits
    )
    got = [state.x for state in run]

    scales = np.sqrt(1 + schedule.sigmas**2)
    more = iter(np.concatenate([NOISES, NOISES]))
    module = __import__("diffusers.schedulers.scheduling_tcd", fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(next(more)))
    x = torch.from_numpy(start / scales[0])
    for i, t in enumerate(theirs.timesteps):
        model = eps_of(x * scales[i], schedule.sigmas[i])
        x = theirs.step(model, t, x, eta=eta).prev_sample
        worst = np.abs((x.numpy() * scales[i + 1]) - got[i]).max()
        assert worst < EXACT * max(1.0, np.abs(got[i]).max()), (i, worst)


@pytest.mark.parametrize("eta", [0.1 * k for k in range(11)])
def test_the_timestep_of_the_jump_is_rounded_as_in_torch(eta):
    """(1 - eta) t in single precision: 343 and not 342 for eta = 0.3 and t = 490."""
    t = torch.arange(1000)
    theirs = torch.floor((1 - eta) * t).long().numpy()
    ours = np.floor(np.float32(1.0 - eta) * np.arange(1000).astype(np.float32))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize("eta,options", [(0.3, {}), (0.0, V | {"thresholding": True})])
def test_images_of_tcd(scheduled, eta, options):
    """Its step does not use the field `thresholding`."""
    pipe, model = scheduled("TCDScheduler", options)
    asked = {"num_inference_steps": 4, "output_type": "latent", "width": 16, "height": 16}
    want = pipe("red cat", eta=eta, **asked, **seeded()).images.numpy()
    got = modes.txt2img(model, "red cat", steps=4, eta=eta, width=16, height=16, **OURS)
    assert_close(got.latents, want)
