"""Code written for diffusers gives diffusers' image: the same call of both, side by side."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.compat.diffusers.generators import GeneratorNoise

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SIZE = dict(height=16, width=32)
ASKED = dict(num_inference_steps=5, guidance_scale=4.0)
SCHEDULERS = {
    "folder": None,
    "ddim": ("DDIMScheduler", {}),
    "ddim to 0": ("DDIMScheduler", {"set_alpha_to_one": True}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++ sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def seeded(*seeds):
    made = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return made[0] if len(made) == 1 else made


def compare(theirs, ours, *args, seeds=(3,), call=dict, most=2, **values):
    """Call both with fresh generators; the images are at most `most` of 255 apart."""
    want = theirs(*args, generator=seeded(*seeds), **values, **call()).images
    got = ours(*args, generator=seeded(*seeds), **values, **call()).images
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.size == b.size and a.mode == b.mode
        assert np.asarray(b).std() > 10
        assert abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= most
    return got


@pytest.mark.parametrize("name", SCHEDULERS)
def test_text_to_image_with_every_scheduler(pair, name):
    compare(*pair(scheduler=SCHEDULERS[name]), "red cat", **SIZE, **ASKED)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_text_to_image_with_other_families(pair, family):
    compare(*pair(family=family), "red cat", **SIZE, **ASKED)


def test_defaults_are_those_of_diffusers(pair):
    compare(*pair(), "red cat")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
def test_guidance_begins_above_one(pair, family, guidance):
    asked = {"num_inference_steps": 3, "guidance_scale": guidance}
    compare(*pair(family=family), "red cat", negative_prompt="blue", **SIZE, **asked)


def test_guidance_rescale(pair):
    compare(*pair(), "red cat", guidance_rescale=0.7, **SIZE, **ASKED)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_clip_skip_leaves_the_negative_prompt_alone(pair, family):
    pipes = pair(family=family)
    if family == "sd1":  # with transformers 5, CLIPTextModel lost a level that diffusers expects
        text = pipes[0].text_encoder
        text.text_model = SimpleNamespace(final_layer_norm=text.final_layer_norm)
    one = compare(*pipes, "red cat", clip_skip=1, negative_prompt="cab", **SIZE, **ASKED)
    other = compare(*pipes, "red cat", negative_prompt="cab", **SIZE, **ASKED)
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("seeds", [(3,), (3, 4, 5, 6)])
@pytest.mark.parametrize("name", ["folder", "euler_a"])
def test_several_images_share_a_generator_or_have_their_own(pair, seeds, name):
    images = compare(
        *pair(scheduler=SCHEDULERS[name]),
        ["red cat", "cab"],
        negative_prompt=["blue", ""],
        num_images_per_prompt=2,
        seeds=seeds,
        **SIZE,
        **ASKED,
    )
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("task", ["", "Img2Img"])
def test_the_generator_is_left_as_diffusers_leaves_it(pair, photo, task, name):
    states = []
    for pipe in pair(task, scheduler=SCHEDULERS[name]):
        generator = seeded(8)
        image = {"image": photo} if task else SIZE
        pipe("red cat", eta=0.5, generator=generator, **image, **ASKED)
        states.append(torch.randn(3, generator=generator))
    assert bool((states[0] == states[1]).all())


def test_a_generator_goes_on_where_the_last_call_ended(pair):
    theirs, ours = pair(scheduler=SCHEDULERS["euler_a"])
    made = []
    for pipe in (theirs, ours):
        generator = seeded(8)
        calls = [pipe("red cat", generator=generator, **SIZE, **ASKED).images[0] for _ in "ab"]
        made.append([np.asarray(image).astype(int) for image in calls])
    for want, got in zip(*made, strict=True):
        assert abs(got - want).max() <= 2
    assert abs(made[0][0] - made[0][1]).max() > 20


def test_the_global_generator_of_torch_counts(pair):
    theirs, ours = pair()
    made = []
    for pipe in (theirs, ours):
        torch.manual_seed(11)
        made.append(np.asarray(pipe("red cat", **SIZE, **ASKED).images[0]).astype(int))
    assert abs(made[0] - made[1]).max() <= 2


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_eta_belongs_to_ddim(pair, eta, name):
    compare(*pair(scheduler=SCHEDULERS[name]), "red cat", eta=eta, **SIZE, **ASKED)


def test_latents_and_embeddings_are_taken(pair):
    theirs, ours = pair(scheduler=SCHEDULERS["euler"])
    latents = torch.randn(2, 4, 8, 16, generator=seeded(1))
    compare(theirs, ours, ["red cat", "cab"], latents=latents, **SIZE, **ASKED)
    states = theirs.encode_prompt(["red cat", "cab"], "cpu", 1, True)
    embeds = dict(prompt_embeds=states[0], negative_prompt_embeds=states[1])
    compare(theirs, ours, **embeds, **SIZE, **ASKED)


@pytest.mark.parametrize("name", ["folder", "euler"])
@pytest.mark.parametrize("kind", ["np", "pt", "latent"])
def test_output_types(pair, name, kind):
    theirs, ours = pair(scheduler=SCHEDULERS[name])
    asked = dict(output_type=kind, num_images_per_prompt=2, **SIZE, **ASKED)
    want = theirs("red cat", generator=seeded(3), **asked).images
    got = ours("red cat", generator=seeded(3), **asked).images
    assert type(got) is type(want) and got.dtype == want.dtype and got.shape == want.shape
    scale = 1.0 if kind != "latent" else float(abs(want).max())
    assert float(abs(got - want).max()) <= 2e-3 * scale
    images, unsafe = ours("red cat", return_dict=False, **asked)
    assert images.shape == want.shape and unsafe is None


def test_latents_that_end_above_zero_keep_the_scale_of_diffusers(pair):
    theirs, ours = pair(scheduler=("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}))
    asked = dict(output_type="latent", **SIZE, **ASKED)
    want = theirs("red cat", generator=seeded(3), **asked).images
    got = ours("red cat", generator=seeded(3), **asked).images
    assert float(abs(got - want).max()) <= 2e-4 * float(abs(want).max())


def test_the_torch_backend_gives_the_image_also(pair):
    theirs, ours = pair(torch_dtype=torch.float32)
    ours = ours.to("cpu")
    assert ours.device == torch.device("cpu") and ours.dtype is torch.float32
    compare(theirs, ours, "red cat", **SIZE, **ASKED)


def test_half_precision_samples_noise_in_it(pair):
    ours = pair(torch_dtype=torch.bfloat16)[1]
    shape = (1, 4, 8, 16)
    noise = GeneratorNoise(seeded(3), 1, ours._weights.model)
    want = torch.randn(shape, generator=seeded(3), dtype=torch.bfloat16)
    assert np.array_equal(noise.randn(shape), want.float().numpy())
    latents = ours("red cat", generator=seeded(3), output_type="latent", **SIZE, **ASKED).images
    assert latents.dtype is torch.bfloat16 and bool(latents.isfinite().all())


# -- image to image --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "ddim", "euler", "heun", "kdpm2", "lms", "dpm++ 2m"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image(pair, photo, name, strength):
    pipes = pair("Img2Img", scheduler=SCHEDULERS[name])
    compare(*pipes, "red cat", photo, strength=strength, **ASKED)


def test_image_to_image_with_the_defaults(pair, photo):
    compare(*pair("Img2Img"), "red cat", photo)
    compare(*pair("Img2Img", "sdxl"), "red cat", image=photo)


@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
def test_one_image_for_two_results(pair, photo, seeds):
    pipes = pair("Img2Img", scheduler=SCHEDULERS["euler_a"])
    compare(*pipes, "red cat", photo, num_images_per_prompt=2, seeds=seeds, **ASKED)


@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
def test_an_image_for_each_prompt(pair, photo, seeds):
    images = [photo, photo.transpose(0)]
    compare(*pair("Img2Img"), ["red cat", "cab"], images, seeds=seeds, **ASKED)


def test_images_as_arrays_tensors_and_latents(pair, photo):
    pipes = pair("Img2Img")
    array = np.asarray(photo, np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    latents = torch.randn(1, 4, 8, 16, generator=seeded(2))
    for image in (array, array[None], tensor, tensor[None] * 2 - 1, [tensor], latents):
        compare(*pipes, "red cat", image, **ASKED)


def test_odd_sizes_are_rounded_down(pair, photo):
    image = photo.resize((37, 19))
    compare(*pair("Img2Img"), "red cat", image, **ASKED)
    array = np.asarray(image, np.float32) / 255
    compare(*pair("Img2Img"), "red cat", array, **ASKED)


# -- inpainting ------------------------------------------------------------------------------------

INPAINTING = ["sd1", "sd1-inpainting", "sdxl"]


@pytest.mark.parametrize("family", INPAINTING)
@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", ["folder", "euler", "heun"])
def test_inpainting(pair, photo, mask, family, strength, name):
    pipes = pair("Inpaint", family, scheduler=SCHEDULERS[name])
    compare(*pipes, "red cat", image=photo, mask_image=mask, strength=strength, **SIZE, **ASKED)


@pytest.mark.parametrize("family", INPAINTING[:2])
@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_several_inpainted_images(pair, photo, mask, family, seeds, strength):
    pipes = pair("Inpaint", family, scheduler=SCHEDULERS["euler_a"])
    more = dict(num_images_per_prompt=2, seeds=seeds, strength=strength)
    compare(*pipes, "red cat", photo, mask, **more, **SIZE, **ASKED)


@pytest.mark.parametrize("family", INPAINTING[:2])
def test_inpainting_with_latents(pair, photo, mask, family):
    latents = torch.randn(1, 4, 8, 16, generator=seeded(2))
    for strength in (0.5, 1.0):
        more = dict(latents=latents, strength=strength)
        compare(*pair("Inpaint", family), "red cat", photo, mask, **more, **SIZE, **ASKED)


def test_masks_and_images_as_arrays(pair, photo, mask):
    pipes = pair("Inpaint")
    image = np.asarray(photo, np.float32) / 255
    plane = np.asarray(mask, np.float32) / 255
    for white in (plane, plane[None], plane[..., None], torch.from_numpy(plane)[None]):
        compare(*pipes, "red cat", image, white, **SIZE, **ASKED)
    compare(*pipes, "red cat", photo, mask.convert("RGB"), **SIZE, **ASKED)


def test_an_image_of_another_size_is_resized(pair, photo, mask):
    image, white = photo.resize((50, 40)), mask.resize((50, 40))
    compare(*pair("Inpaint"), "red cat", image, white, **SIZE, **ASKED)


@pytest.mark.parametrize("box", [(10, 10, 18, 30), (0, 0, 9, 7), (30, 50, 64, 60), (0, 20, 64, 24)])
def test_padding_mask_crop(pair, photo, box):
    from PIL import Image

    image = photo.resize((64, 60))
    white = Image.new("L", image.size, 0)
    white.paste(255, box)
    pipes = pair("Inpaint")
    compare(*pipes, "red cat", image, white, padding_mask_crop=4, **SIZE, **ASKED)
