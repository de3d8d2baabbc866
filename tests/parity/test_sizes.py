"""Images whose sides are whole latent cells, and no more: as large as those of diffusers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.loading_networks import load_controlnet
from ldmref.models.presets import PRESETS
from ldmref.modes import Control

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
SIZE = dict(width=26, height=18)  # latents of 13 x 9, which the second level rounds up
THEIRS = dict(num_inference_steps=4, guidance_scale=3.0)
OURS = dict(steps=4, cfg_scale=3.0, rng="torch", seed=5)
DDIM = dict(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)
sd1 = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def difference(a, b):
    a, b = (np.asarray(image).astype(int) for image in (a, b))
    assert a.shape == b.shape
    return int(abs(a - b).max())


def seeded():
    return torch.Generator("cpu").manual_seed(5)


def noise_image(width, height):
    draw = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(draw)


@pytest.fixture(scope="module")
def both(theirs, family, tmp_path_factory):
    """Return the small pipeline with DDIM, and ours of its folder."""
    made = type(theirs)(
        **theirs.components | {"scheduler": diffusers.DDIMScheduler(**DDIM)},
        **({} if family == "sdxl" else {"requires_safety_checker": False}),
    )
    made.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("sizes") / family
    made.save_pretrained(folder)
    return made, ldmref.load(folder, backend="numpy")


def of_theirs(kind, theirs, **more):
    made = kind(**theirs.components, **more, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_txt2img(both, family, monkeypatch):
    """Their pipelines ask for multiples of 8, which the real autoencoders' factor is; ours is 2."""
    theirs, model = both
    monkeypatch.setattr(type(theirs), "check_inputs", lambda *args, **options: None)
    want = theirs("red cat", generator=seeded(), **SIZE, **THEIRS).images[0]
    got = modes.txt2img(model, "red cat", **SIZE, **OURS)
    assert got[0].size == (26, 18) and difference(got[0], want) <= 2


@sd1
@pytest.mark.parametrize("size", [(26, 18), (27, 19), (33, 25), (32, 5)])
def test_img2img_at_the_size_of_the_image(both, family, size):
    """Rounded down to whole latent cells, and stretched by that little."""
    theirs, model = both
    pipe = of_theirs(diffusers.StableDiffusionImg2ImgPipeline, theirs)
    image = noise_image(*size)
    want = pipe("red cat", image, 0.6, generator=seeded(), **THEIRS).images[0]
    got = modes.img2img(model, "red cat", image, 0.6, **OURS)
    assert got[0].size == tuple(side - side % 2 for side in size)
    assert difference(got[0], want) <= 2
    warnings = [text for text in got.warnings if not text.startswith("strength 0.6 of 4 steps")]
    assert ["resized" in warning for warning in warnings] == (
        [] if got[0].size == size else [True, False] if size == (32, 5) else [True]
    )


@pytest.mark.parametrize("family", ["sd1-inpainting"], indirect=True)
def test_inpaint(both, family):
    theirs, model = both
    image = noise_image(26, 18)
    mask = Image.new("L", (26, 18))
    mask.paste(255, (3, 4, 17, 18))
    want = theirs("red cat", image, mask, generator=seeded(), **SIZE, **THEIRS).images[0]
    got = modes.inpaint(model, "red cat", image, mask, **OURS)[0]
    where = np.asarray(mask) > 0
    assert abs(np.asarray(got).astype(int) - np.asarray(want).astype(int))[where].max() <= 2
    assert (np.asarray(got)[~where] == np.asarray(image)[~where]).all()


@sd1
def test_controlnet(both, family, tmp_path):
    theirs, model = both
    torch.manual_seed(3)
    net = diffusers.ControlNetModel.from_unet(
        theirs.unet, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
    )
    for name, p in net.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(p, std=0.3)
    net.eval().save_pretrained(tmp_path / "net")
    pipe = of_theirs(diffusers.StableDiffusionControlNetPipeline, theirs, controlnet=net)
    hint = noise_image(26, 18)
    want = pipe("red cat", hint, generator=seeded(), **SIZE, **THEIRS).images[0]
    control = [Control(load_controlnet(tmp_path / "net", model.backend), hint)]
    got = modes.txt2img(model, "red cat", control=control, **SIZE, **OURS)
    plain = modes.txt2img(model, "red cat", **SIZE, **OURS)
    assert difference(got[0], want) <= 2 < difference(plain[0], want)


def test_multiples_of_every_family():
    """Multiples are of the autoencoder's factor, or of all halvings if residual blocks halve."""
    special = {"ldm-churches": 8 * 16, "ldm-inpainting": 4 * 8}
    for name, config in PRESETS.items():
        assert config.size_multiple == special.get(name, config.vae.factor), name
    with pytest.raises(UsageError, match="multiple of 8, not 516"):
        modes.plan("txt2img", PRESETS["sd15"], prompt="cat", width=516)
    assert modes.plan("txt2img", PRESETS["sdxl"], prompt="cat", width=1016).job.width == 1016
