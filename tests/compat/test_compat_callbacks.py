"""Callbacks of code written for diffusers see and change what diffusers shows them."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from ldmref.errors import UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SIZE = dict(height=16, width=32)
ASKED = dict(num_inference_steps=5, guidance_scale=4.0)
SCHEDULERS = {
    "pndm": None,
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "singlestep": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
BETWEEN = ("heun", "kdpm2", "singlestep", "pndm")  # some evaluations are within a step


def seeded(seed=3):
    return torch.Generator("cpu").manual_seed(seed)


def distance(a, b):
    return abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("task", ["", "Img2Img", "Inpaint"])
def test_a_callback_sees_the_same_steps(pair, photo, mask, task, name):
    given = {"": SIZE, "Img2Img": {"image": photo}, "Inpaint": SIZE | {"image": photo}}[task]
    if task == "Inpaint":
        given = given | {"mask_image": mask, "strength": 0.7}
    seen = []
    for pipe in pair(task, scheduler=SCHEDULERS[name]):
        steps = []

        def look(pipe, i, t, values, steps=steps):
            latents = values["latents"]
            assert pipe.num_timesteps and pipe.guidance_scale == 4.0
            steps.append((i, float(t), np.asarray(latents, np.float64).copy()))
            return values

        pipe("red cat", generator=seeded(), callback_on_step_end=look, **given, **ASKED)
        seen.append(steps)
    theirs, ours = seen
    assert [i for i, _, _ in ours] == [i for i, _, _ in theirs]
    np.testing.assert_allclose([t for _, t, _ in ours], [t for _, t, _ in theirs], atol=0.51)
    for (_, _, got), (_, _, want) in zip(ours, theirs, strict=True):
        assert got.shape == want.shape
        assert abs(got - want).max() <= 1e-3 * max(1.0, abs(want).max())


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in BETWEEN])
@pytest.mark.parametrize("in_place", [False, True])
def test_replaced_latents_are_used(pair, name, in_place):
    def push(pipe, i, t, values):
        if i == 1:
            changed = values["latents"] * 0.5 + 0.1
            if in_place:
                values["latents"][:] = changed
            else:
                values["latents"] = changed
        return values

    theirs, ours = pair(scheduler=SCHEDULERS[name])
    asked = SIZE | ASKED | {"callback_on_step_end": push}
    want = theirs("red cat", generator=seeded(), **asked).images[0]
    got = ours("red cat", generator=seeded(), **asked).images[0]
    plain = ours("red cat", generator=seeded(), **SIZE, **ASKED).images[0]
    assert distance(got, want) <= 2 < distance(got, plain)


def test_replaced_latents_after_a_step_of_two_evaluations(pair):
    def push(pipe, i, t, values):
        if i == 3:
            values["latents"] = values["latents"] * 0.5
        return values

    theirs, ours = pair(scheduler=SCHEDULERS["heun"])
    asked = SIZE | ASKED | {"callback_on_step_end": push}
    want = theirs("red cat", generator=seeded(), **asked).images[0]
    assert distance(ours("red cat", generator=seeded(), **asked).images[0], want) <= 2


def test_latents_between_two_evaluations_cannot_be_replaced(pair):
    def push(pipe, i, t, values):
        return {"latents": values["latents"] * 0.5}

    ours = pair(scheduler=SCHEDULERS["heun"])[1]
    with pytest.raises(UsageError, match="HeunDiscreteScheduler evaluates the network twice"):
        ours("red cat", callback_on_step_end=push, **SIZE, **ASKED)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun"])
def test_guidance_can_be_switched_off_on_the_way(pair, name):
    """The first example of diffusers' page on callbacks, in other words."""

    def stop_guidance(pipe, i, t, values):
        if i == int(pipe.num_timesteps * 0.2):
            values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return values

    theirs, ours = pair(scheduler=SCHEDULERS[name])
    asked = SIZE | ASKED | {"guidance_scale": 20.0, "output_type": "latent"}
    more = {"callback_on_step_end": stop_guidance}
    more |= {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    want = theirs("red cat", generator=seeded(), **asked, **more).images
    got = ours("red cat", generator=seeded(), **asked, **more).images
    plain = ours("red cat", generator=seeded(), **asked).images
    bound = 1e-3 * float(abs(want).max())
    assert float(abs(got - want).max()) <= bound < float(abs(got - plain).max())
    again = ours("red cat", generator=seeded(), **asked).images
    assert bool((again == plain).all())


def test_guidance_can_be_switched_off_in_sdxl(pair):
    from diffusers.callbacks import SDXLCFGCutoffCallback

    theirs, ours = pair(family="sdxl")
    asked = dict(callback_on_step_end=SDXLCFGCutoffCallback(cutoff_step_ratio=0.4))
    want = theirs("red cat", generator=seeded(), **asked, **SIZE, **ASKED).images[0]
    got = ours("red cat", generator=seeded(), **asked, **SIZE, **ASKED).images[0]
    assert distance(got, want) <= 2


def test_another_scale_and_another_prompt_on_the_way(pair):
    def change(pipe, i, t, values):
        pipe._guidance_scale = 2.0 + i
        if i == 2:
            values["prompt_embeds"] = values["prompt_embeds"].flip(1)
        return values

    theirs, ours = pair(scheduler=SCHEDULERS["ddim"])
    asked = dict(callback_on_step_end=change, **SIZE, **ASKED)
    asked["callback_on_step_end_tensor_inputs"] = ["latents", "prompt_embeds"]
    want = theirs("red cat", generator=seeded(), **asked).images[0]
    assert distance(ours("red cat", generator=seeded(), **asked).images[0], want) <= 2


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "heun"])
@pytest.mark.parametrize("last", [0, 2, 4])
def test_a_run_can_be_interrupted(pair, name, last):
    def stop(pipe, i, t, values):
        pipe._interrupt = i == last
        return values

    theirs, ours = pair(scheduler=SCHEDULERS[name])
    asked = dict(callback_on_step_end=stop, output_type="latent", **SIZE, **ASKED)
    ends = []
    for pipe in (theirs, ours):
        generator = seeded()
        image = pipe("red cat", generator=generator, **asked).images
        ends.append((image, torch.randn(2, generator=generator)))
    (want, after), (got, own) = ends
    assert float(abs(got - want).max()) <= 1e-3 * float(abs(want).max())
    assert bool((after == own).all())


@pytest.mark.parametrize("name", ["pndm", "ddim", "heun"])
@pytest.mark.parametrize("every", [1, 2])
def test_older_callbacks(pair, name, every):
    seen = []
    for pipe in pair(scheduler=SCHEDULERS[name]):
        steps = []

        def look(i, t, latents, steps=steps):
            steps.append((i, float(t), tuple(latents.shape)))

        more = {"callback": look, "callback_steps": every}
        of_diffusers = not seen  # which deprecates these callbacks
        with pytest.warns(FutureWarning) if of_diffusers else nullcontext():
            pipe("red cat", **more, **SIZE, **ASKED)
        seen.append(steps)
    assert seen[0] == seen[1] and seen[0]


@pytest.mark.parametrize("family", ["sd1", "sd1-inpainting"])
def test_inpainting_shows_the_mask(pair, photo, mask, family):
    shapes = []
    names = ["latents", "mask", "masked_image_latents", "negative_prompt_embeds"]

    def look(pipe, i, t, values):
        shapes.append({name: tuple(values[name].shape) for name in names})
        return values

    for pipe in pair("Inpaint", family):
        pipe(
            "red cat",
            photo,
            mask,
            callback_on_step_end=look,
            callback_on_step_end_tensor_inputs=names,
            **SIZE,
            **ASKED,
        )
    assert shapes[0] == shapes[-1]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "callback_on_step_end returned None"),
        ({"latents": np.zeros((1, 4, 2, 2), np.float32)}, r"latents of shape \(1, 4, 2, 2\)"),
        ({"prompt_embeds": np.zeros((1, 77, 24), np.float32)}, "prompt_embeds of 1 rows for 2"),
    ],
)
def test_mistakes_of_callbacks_are_named(pair, returned, message):
    ours = pair(scheduler=SCHEDULERS["ddim"])[1]
    asked = dict(callback_on_step_end=lambda *_: returned, **SIZE, **ASKED)
    asked["callback_on_step_end_tensor_inputs"] = ["latents", "prompt_embeds"]
    with pytest.raises(UsageError, match=message):
        ours("red cat", **asked)


def test_a_callback_asks_only_for_tensors_that_exist(pair):
    ours = pair()[1]
    names = ["latents", "noise_pred"]
    with pytest.raises(UsageError, match="noise_pred") as refusal:
        ours(
            "red cat",
            callback_on_step_end=lambda *_: {},
            callback_on_step_end_tensor_inputs=names,
            **SIZE,
        )
    assert "prompt_embeds" in refusal.value.hint
