"""There is one loop, text is encoded once, and no file is opened while images are generated."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes, samplers
from ldmref.modes.registry import MODES
from ldmref.samplers import SAMPLERS, heun, sample
from ldmref.testing.mixture import three_modes

PACKAGE = Path(ldmref.__file__).parent
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))


def test_a_step_is_called_in_one_place():
    """Whoever calls `step(denoise, ...)` outside `samplers` has written a second loop.

    The loop calls `take_step`, as the judge of a step does.
    """
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name):
                if node.args[0].id == "denoise" and len(node.args) == 5:
                    calls.append(path.relative_to(PACKAGE).as_posix())
    wrappers = (
        "samplers/steps.py",
        "samplers/churn.py",
        "samplers/lower_order.py",
        "samplers/ratio.py",
        "modes/trajectory.py",
        "locate/run/follow.py",  # exchanges what the step of a recorded run reads and returns
    )
    loops = [
        path
        for path in calls
        if path not in wrappers and not path.startswith("samplers/diffusers/")
    ]
    assert loops == ["samplers/parts.py"], calls


DRAWN = {
    "txt2img": lambda m: modes.txt2img(m, "a", seed=1),
    "img2img": lambda m: modes.img2img(m, "a", IMAGE, 0.5, seed=1),
    "inpaint": lambda m: modes.inpaint(m, "a", IMAGE, HALF, seed=1),
    "repaint": lambda m: modes.inpaint(m, "a", IMAGE, HALF, seed=1, resample=(1, 2)),
    "interpolate": lambda m: modes.interpolate(m, "a", "b", 2, seed=1),
    "invert": lambda m: modes.invert(m, "a", IMAGE, steps=2),
}


@pytest.mark.parametrize("mode", DRAWN)
def test_every_mode_runs_through_it(tiny, mode, monkeypatch):
    runs = []

    def counted(*args, **kwargs):
        runs.append(kwargs.get("visits"))
        return sample(*args, **kwargs)

    monkeypatch.setattr(sys.modules["ldmref.modes.trajectory"], "sample", counted)
    DRAWN[mode](tiny)
    assert len(runs) == (2 if mode == "interpolate" else 1)
    if mode == "repaint":
        assert any(b < a for a, b in zip(runs[0], runs[0][1:], strict=False))


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"rk45"}))
def test_visits_in_order_are_the_run_without_them(name):
    problem = three_modes()
    sigmas = [5.0, 3.0, 2.0, 1.0, 0.5, 0.0]
    start = np.random.default_rng(0).standard_normal((4, 2)) * 5

    def run(**visits):
        noise = np.random.default_rng(1)
        states = sample(
            problem.denoise,
            start,
            sigmas,
            SAMPLERS[name].make(),
            noise=lambda: noise.standard_normal((4, 2)),
            **visits,
        )
        return [(s.i, s.sigma, s.x.tolist()) for s in states]

    assert run() == run(visits=[0, 1, 2, 3, 4, 5]) == run(visits=range(6))


def test_a_run_that_needs_noise_says_so():
    step = SAMPLERS["euler_a"].make()
    with pytest.raises(ValueError, match=r"give sample\(..., noise=...\)"):
        list(sample(lambda x, s: x, np.ones(2), [2.0, 1.0], step))


# -- no work twice --------------------------------------------------------------------------------


def test_each_distinct_prompt_is_tokenised_and_encoded_once(monkeypatch):
    model = ldmref.random_model("tiny", backend="numpy")
    encoded = []
    tokenised = []
    encode = model.encode_prompts
    tokenize = model.tokenizer.tokenize
    monkeypatch.setattr(
        model, "encode_prompts", lambda p, *a: encoded.append(list(p)) or encode(p, *a)
    )
    monkeypatch.setattr(
        model.tokenizer, "tokenize", lambda p, *a: tokenised.append(list(p)) or tokenize(p, *a)
    )
    modes.txt2img(model, "a red cat", negative_prompt="dog", count=4, seed=1, steps=1)
    assert encoded == tokenised == [["a red cat"], ["dog"]]
    encoded.clear()
    modes.txt2img(model, ["a", "b", "a"], seed=1, steps=1, batch_size=2)
    assert encoded == [["a"], ["b"], [""]]


def test_the_training_table_is_made_once(tiny):
    before = samplers.schedule.training_alphas_cumprod.cache_info().misses
    modes.txt2img(tiny, "a", count=3, seed=1, steps=1)
    assert samplers.schedule.training_alphas_cumprod.cache_info().misses == before


OPENED: list[str] = []
WATCHING: list[bool] = []


def _audit(event, arguments):
    if WATCHING and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(_audit)


def test_no_file_is_opened_between_the_first_step_and_the_last_image(tmp_path):
    model = ldmref.load(backend="numpy")
    modes.txt2img(model, "red heart", seed=1, steps=1)  # what is imported at first use
    model = ldmref.load(backend="numpy")
    run = modes.plan("txt2img", model.config, prompt="red heart", count=2, steps=2).prepare(model)
    OPENED.clear()
    events = []
    for event in run.generate():
        WATCHING[:] = [True]
        events.append(event)
    WATCHING.clear()
    assert not [path for path in OPENED if not path.startswith(("/proc", "/sys", "/dev"))]
    assert [type(event).__name__ for event in events] == [
        "Progress",
        "Progress",
        "GeneratedImage",
        "Progress",
        "Progress",
        "GeneratedImage",
    ]


# -- for people who design samplers ---------------------------------------------------------------


def test_a_sampler_object_draws_as_its_name(tiny):
    by_name = modes.txt2img(tiny, "a", seed=1, sampler="heun")
    mine = samplers.Sampler(heun, order=2, nfe=2, stochastic=False, source="Heun", name="mine")
    by_object = modes.txt2img(tiny, "a", seed=1, sampler=mine)
    assert (by_name.latents == by_object.latents).all()
    assert by_object.params["sampler"] == "mine" and by_name.params["sampler"] == "heun"
    assert modes.txt2img(tiny, "a", seed=1, sampler=replace(mine, name="x")).params != {}


def test_the_model_as_a_denoiser_draws_the_image_of_txt2img():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    wanted = modes.txt2img(
        model,
        "a cat",
        negative_prompt="dog",
        cfg_scale=2.0,
        seed=1,
        sampler="dpmpp_2m",
        schedule="karras",
        steps=5,
    )
    denoise = ldmref.denoiser(model, "a cat", "dog", cfg_scale=2.0)
    scheduler = model.config.scheduler
    schedule = samplers.make_schedule(scheduler, samplers.get_sampler("dpmpp_2m"), "karras", 5)
    x = model.backend.asarray(samplers.noise.Streams([1], (4, 8, 8))() * schedule.init_noise_sigma)
    *_, last = sample(denoise, x, schedule.sigmas, samplers.dpmpp_2m())
    got = last.x / np.hypot(1.0, schedule.sigmas[-1])
    largest = np.abs(got).max()  # latents are handed over in float32
    np.testing.assert_allclose(got, wanted.latents, rtol=0, atol=2.0**-23 * largest)
    two = denoise(np.concatenate([x, x]), 5.0)
    np.testing.assert_allclose(two[1], denoise(x, 5.0)[0], rtol=0, atol=1e-10)


def test_all_that_the_documentation_names_is_public():
    for name in ("sigma_grid", "SPACINGS", "guided_denoiser", "Step", "State", "Interval"):
        assert name in samplers.__all__ and hasattr(samplers, name)
    assert set(MODES) < set(modes.__all__)
