"""Inpainting ControlNets: Stable Diffusion 3's against diffusers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.modes import Control

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from control_kits import IMAGES as PHOTOS  # noqa: E402
from control_kits import LATENTS, MASK, PROMPT, make_kit, make_sd3_net  # noqa: E402
from diffusers import SD3ControlNetModel, StableDiffusion3ControlNetInpaintingPipeline  # noqa: E402

PHOTO, OTHER, _ = PHOTOS


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The folders of ControlNets by the channels of their hint after the latents.

    Also one with `force_zeros_for_pooled_projection`.
    """
    root = tmp_path_factory.mktemp("nets")
    make_sd3_net("unshifted", extra_conditioning_channels=1).save_pretrained(root / "unshifted")
    for extra in (0, 1, 2):
        make_sd3_net("joint", extra_conditioning_channels=extra).save_pretrained(root / str(extra))
    return root


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return make_kit("sd3", tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def model(kit):
    return kit.model


@pytest.mark.parametrize("net", ["1", "unshifted"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_images_are_those_of_diffusers(kit, nets, net, backend, monkeypatch):
    """All of it, also where the mask is black: nothing is put back after a step."""
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())
    parts = {name: part for name, part in kit.made.components.items() if part is not None}
    theirs = SD3ControlNetModel.from_pretrained(nets / net)
    pipe = StableDiffusion3ControlNetInpaintingPipeline(**parts, controlnet=theirs)
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        PROMPT,
        negative_prompt="dog",
        control_image=PHOTO,
        control_mask=MASK,
        controlnet_conditioning_scale=0.8,
        latents=torch.tensor(LATENTS),
        guidance_scale=4.0,
        num_inference_steps=4,
        output_type="np",
        height=16,
        width=24,
    ).images[0]
    model = ldmref.load(kit.folder, backend=backend)
    options = dict(negative_prompt="dog", latents=LATENTS, steps=4, cfg_scale=4.0)
    control = [Control(nets / net, weight=0.8)]
    found = modes.inpaint(model, PROMPT, PHOTO, MASK, control=control, **options)
    decoded = model.decode(model.backend.asarray(found.latents))
    whole = np.clip(np.asarray(model.backend.to_numpy(decoded))[0] / 2 + 0.5, 0, 1)
    difference = 255 * np.abs(whole.transpose(1, 2, 0) - want)
    assert difference.max() <= 1
    shown = np.asarray(found[0])
    assert np.abs(shown[:, :12] - np.round(want[:, :12] * 255)).max() <= 1
    assert (shown[:, 12:] == np.asarray(PHOTO)[:, 12:]).all()
    plain = modes.inpaint(model, PROMPT, PHOTO, MASK, **options)
    assert np.abs(np.asarray(plain[0])[:, :12] - np.round(want[:, :12] * 255)).max() > 8


def test_it_reads_the_image_and_the_mask(model, nets):
    asked = {"seed": 1, "steps": 2, "control": [Control(nets / "1")]}
    other_mask = Image.new("L", (24, 16), 0)
    other_mask.paste(255, (0, 0, 14, 16))
    plain, *others = (
        modes.inpaint(model, PROMPT, *given, **asked).latents
        for given in ((PHOTO, MASK), (OTHER, MASK), (PHOTO, other_mask))
    )
    assert all((other != plain).any() for other in others)


def test_a_strength_starts_from_the_image(model, nets):
    asked = {"seed": 1, "steps": 4, "control": [Control(nets / "1")]}
    far = modes.inpaint(model, PROMPT, PHOTO, MASK, **asked).latents
    near = modes.inpaint(model, PROMPT, PHOTO, MASK, 0.25, **asked).latents
    kept = modes.inpaint(model, PROMPT, PHOTO, MASK, 0.0, **asked)
    assert np.abs(near - kept.latents).max() < np.abs(far - kept.latents).max()
    assert (near != kept.latents).all()  # nothing is put back
    assert (np.asarray(kept[0]) == np.asarray(PHOTO)).all()


def test_a_region_is_read_alone(model, nets):
    """With only_masked, the net reads the region and its part of the mask."""
    large = Image.new("RGB", (48, 32), "teal")
    large.paste(PHOTO, (0, 0))
    mask = Image.new("L", (48, 32), 0)
    mask.paste(255, (4, 4, 12, 12))
    asked = {"seed": 1, "steps": 2, "only_masked": True, "padding": 2, "width": 24, "height": 16}
    control = [Control(nets / "1")]
    plain = modes.inpaint(model, PROMPT, large, mask, control=control, **asked)
    large.putpixel((47, 31), (0, 0, 0))  # far outside the region
    same = modes.inpaint(model, PROMPT, large, mask, control=control, **asked)
    assert (same.latents == plain.latents).all()


# -- what is refused, before any weights are loaded -----------------------------------------------


def refusal(model, mode, control, **more):
    with pytest.raises(LdmrefError) as caught:
        modes.plan(mode, model.config, prompt=PROMPT, control=[control], **more)
    assert caught.value.code == "E-CONTROL" and "\n" not in str(caught.value)
    return f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("txt2img", {}),
        ("img2img", {"image": PHOTO}),
        ("inpaint", {"image": PHOTO, "mask": MASK}),
    ],
)
def test_a_net_that_reads_a_mask_takes_no_other_image(model, nets, mode, given):
    told = refusal(model, mode, Control(nets / "1", PHOTO), **given)
    assert "reads the image and the mask of inpaint, and no other image" in told
    assert "run inpaint, with Control(net)" in told
    if mode != "inpaint":
        assert "run inpaint" in refusal(model, mode, Control(nets / "1"), **given)


def test_other_nets_need_an_image(model, nets):
    given = {"image": PHOTO, "mask": MASK}
    assert "needs an image to read" in refusal(model, "txt2img", Control(nets / "0"))
    assert "needs an image to read" in refusal(model, "inpaint", Control(nets / "0"), **given)


def test_two_further_channels_are_not_supported(model, nets):
    told = refusal(model, "inpaint", Control(nets / "2"), image=PHOTO, mask=MASK)
    assert "extra_conditioning_channels 2, not 0 or 1" in told
