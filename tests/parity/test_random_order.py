"""One seed gives diffusers' image: its own pipelines, on the same random weights.

`rng="torch"` has to sample everything that the pipelines sample, in their order. The first test
asks the pipelines themselves for their order, which docs/random.md states.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.models.params import flatten

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

STEPS = 4
SIZE = 16


@pytest.fixture(scope="module")
def model():
    """The tiny preset, ending at sigma 0 like diffusers' schedulers with `set_alpha_to_one`."""
    model = ldmref.random_model("tiny", seed=3, backend="numpy")
    scheduler = dataclasses.replace(model.config.scheduler, final_sigma="zero")
    model.config = dataclasses.replace(model.config, scheduler=scheduler)
    return model


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def mask():
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (0, 0, SIZE // 2, SIZE))
    return mask


def filled(network, params):
    state = {k: torch.from_numpy(np.array(x, np.float32)) for k, x in flatten(params).items()}
    network.load_state_dict(state, strict=True)
    return network.eval()


def unet_of(config, **changes):
    kinds = ["CrossAttn" if attends else "" for attends in config.attention_levels]
    arguments = {
        "sample_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in kinds[::-1]),
        "attention_head_dim": config.num_heads,
        "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.norm_num_groups,
        "norm_eps": config.norm_eps,
    }
    return diffusers.UNet2DConditionModel(**arguments | changes)


def pipeline(kind, model, scheduler, unet=None):
    """Return a diffusers pipeline on the model's weights; prompts come in as embeddings."""
    v = model.config.vae
    s = model.config.scheduler
    vae = diffusers.AutoencoderKL(
        latent_channels=v.latent_channels,
        block_out_channels=v.block_out_channels,
        layers_per_block=v.layers_per_block,
        norm_num_groups=v.norm_num_groups,
        down_block_types=("DownEncoderBlock2D",) * len(v.block_out_channels),
        up_block_types=("UpDecoderBlock2D",) * len(v.block_out_channels),
        scaling_factor=v.scaling_factor,
    )
    grid = {
        "num_train_timesteps": s.num_train_timesteps,
        "beta_schedule": s.beta_schedule,
        "beta_start": s.beta_start,
        "beta_end": s.beta_end,
        "timestep_spacing": s.spacing,
        "steps_offset": s.steps_offset,
    }
    if scheduler == "ddim":
        theirs = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **grid)
    else:
        theirs = diffusers.EulerAncestralDiscreteScheduler(**grid)
    pipe = getattr(diffusers, kind)(
        vae=filled(vae, model.params.vae),
        text_encoder=None,
        tokenizer=None,
        unet=unet or filled(unet_of(model.config.unet), model.params.unet),
        scheduler=theirs,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts(model, n):
    texts = {"prompt_embeds": "a cat", "negative_prompt_embeds": ""}
    return {k: torch.from_numpy(model.encode_text([t] * n)) for k, t in texts.items()}


def generators(*seeds):
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


# -- the order of the pipelines themselves --------------------------------------------------------


@pytest.fixture
def spy(monkeypatch):
    """Who called `randn_tensor`, call after call."""
    from diffusers.models.autoencoders import vae
    from diffusers.pipelines.stable_diffusion import (
        pipeline_stable_diffusion as txt2img,
    )
    from diffusers.pipelines.stable_diffusion import (
        pipeline_stable_diffusion_img2img as img2img,
    )
    from diffusers.pipelines.stable_diffusion import (
        pipeline_stable_diffusion_inpaint as inpaint,
    )
    from diffusers.schedulers import scheduling_ddim

    seen = []
    for module, name in [
        (vae, "posterior"),
        (txt2img, "noise"),
        (img2img, "noise"),
        (inpaint, "noise"),
        (scheduling_ddim, "step"),
    ]:
        original = module.randn_tensor

        def spying(*args, _name=name, _original=original, **kwargs):
            seen.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(module, "randn_tensor", spying)
    return seen


@pytest.mark.parametrize(
    ("mode", "channels", "strength", "first"),
    [
        ("StableDiffusionPipeline", 4, None, ["noise"]),
        ("StableDiffusionImg2ImgPipeline", 4, 0.5, ["posterior", "noise"]),
        ("StableDiffusionImg2ImgPipeline", 4, 1.0, ["posterior", "noise"]),
        ("StableDiffusionInpaintPipeline", 4, 0.5, ["posterior", "noise", "posterior"]),
        ("StableDiffusionInpaintPipeline", 4, 1.0, ["posterior", "noise", "posterior"]),
        ("StableDiffusionInpaintPipeline", 9, 0.5, ["posterior", "noise", "posterior"]),
        ("StableDiffusionInpaintPipeline", 9, 1.0, ["noise", "posterior"]),
    ],
)
def test_what_diffusers_draws(model, image, mask, spy, mode, channels, strength, first):
    unet = unet_of(model.config.unet, in_channels=channels) if channels != 4 else None
    pipe = pipeline(mode, model, "ddim", unet)
    arguments = {"strength": strength, "image": image, "mask_image": mask}
    if mode == "StableDiffusionPipeline":
        arguments = {}
    elif mode == "StableDiffusionImg2ImgPipeline":
        del arguments["mask_image"]
    if mode != "StableDiffusionImg2ImgPipeline":
        arguments |= {"width": SIZE, "height": SIZE}
    pipe(
        **prompts(model, 1),
        num_inference_steps=STEPS,
        eta=1.0,
        generator=generators(1),
        output_type="latent",
        **arguments,
    )
    assert spy == first + ["step"] * int(STEPS * (strength or 1.0))


# -- the same latents from the same seed ----------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "euler_a"])
@pytest.mark.parametrize(
    ("mode", "kind", "strength"),
    [
        ("txt2img", "StableDiffusionPipeline", None),
        ("img2img", "StableDiffusionImg2ImgPipeline", 0.5),
        ("inpaint", "StableDiffusionInpaintPipeline", 0.5),
        ("inpaint", "StableDiffusionInpaintPipeline", 1.0),
    ],
)
def test_one_seed_gives_the_image_of_diffusers(model, image, mask, sampler, mode, kind, strength):
    mine = {}
    seeds = [7, 123456789012]
    theirs = {"output_type": "latent", "generator": generators(*seeds), "guidance_scale": 3.0}
    if mode == "txt2img":
        theirs |= {"width": SIZE, "height": SIZE}
    else:
        mine |= {"image": image, "strength": strength}
        theirs |= {"image": [image] * 2, "strength": strength}
    if mode == "inpaint":
        mine |= {"mask": mask}
        theirs |= {"mask_image": [mask] * 2, "width": SIZE, "height": SIZE}
    if sampler == "ddim":
        theirs |= {"eta": 1.0}
    pipe = pipeline(kind, model, sampler)
    want = pipe(**prompts(model, 2), num_inference_steps=STEPS, **theirs).images.numpy()
    r = getattr(modes, mode)(
        model,
        "a cat",
        rng="torch",
        seed=seeds,
        count=2,
        steps=STEPS,
        cfg_scale=3.0,
        sampler=sampler,
        schedule="leading",
        eta=1.0,
        **mine,
    )
    np.testing.assert_allclose(r.latents, want, rtol=0, atol=2e-4 * np.abs(want).max())
