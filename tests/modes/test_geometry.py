"""Positions of pixels: regions, sizes, rounding, fills and the input channels of a U-Net."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import LdmrefError
from ldmref.io.images.pil import to_array
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import Defaults, TextConfig
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.modes import masks
from ldmref.modes.batch_network import repeat
from ldmref.modes.channels import encode_array, encode_image, make_input_channels, masked_pixel
from ldmref.modes.initial import MaskedImage, Posterior
from ldmref.modes.seg2img import read_labels
from ldmref.modes.sizing import size_image
from ldmref.modes.start import constrain_known
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.noise import Streams

TINY = preset("tiny")
SD15 = preset("sd15")
LANCZOS = Image.Resampling.LANCZOS
TEAL = Image.new("RGB", (16, 16), "teal")
SEEDED = {"seed": 1, "steps": 2}


def noise_image(width, height):
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def mask_with(box, size):
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def code_of(mode, config, **values):
    try:
        modes.plan(mode, config, **({"prompt": "a"} if mode != "superres" else {}), **values)
    except LdmrefError as error:
        return error.code
    return ""


# -- masks ----------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
@example(127, 0, 1)  # 127 / 255 is below one half
@example(128, 0, 1)
def test_images_are_mixed_to_the_nearest_colour(new, old, m):
    drawn, kept = (Image.new("RGB", (1, 1), (c, 255 - c, c)) for c in (new, old))
    got = np.asarray(masks.paste(drawn, kept, Image.new("L", (1, 1), m)))[0, 0]
    exact = (m * new + (255 - m) * old) / 255
    assert got[0] == got[2] == np.rint(exact) and got[1] == 255 - got[0]


@given(st.data())
def test_a_region_holds_the_mask_and_has_the_proportions_of_what_is_drawn(data):
    size = (data.draw(st.integers(8, 90)), data.draw(st.integers(8, 90)))
    ends = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in size]
    padding = data.draw(st.integers(0, 9))
    drawn = data.draw(st.sampled_from([(8, 8), (8, 24)]))
    mask = mask_with((ends[0][0], ends[1][0], ends[0][1], ends[1][1]), size)
    box = masks.find_region(mask, padding, drawn)
    lengths = [box[2] - box[0], box[3] - box[1]]
    for i, (first, last) in enumerate(ends):
        wanted = max(0, first - padding), min(size[i], last + padding)
        before = wanted[0] - box[i]
        after = box[i + 2] - wanted[1]
        assert 0 <= box[i] <= wanted[0] and wanted[1] <= box[i + 2] <= size[i]
        if 0 < box[i] and box[i + 2] < size[i]:
            assert abs(before - after) <= 1  # grown evenly
    shape = lengths[0] * drawn[1] - lengths[1] * drawn[0]
    if lengths[0] < size[0] and lengths[1] < size[1]:
        assert abs(shape) <= max(drawn)
    assert masks.find_region(Image.new("L", size), padding, drawn)[2:] != (0, 0)


def test_without_a_mask_the_region_is_the_image():
    assert masks.find_region(Image.new("L", (60, 40)), 3, (16, 16)) == (0, 0, 60, 40)


def test_a_mask_is_cut_before_it_is_blurred_and_blurred_only_if_asked():
    grey = Image.new("L", (8, 8), 128)
    image = noise_image(8, 8)
    grey.paste(127, (4, 0, 8, 8))
    want = np.asarray(mask_with((0, 0, 4, 8), (8, 8)))
    assert (np.asarray(masks.size_mask(grey, image)) == want).all()
    inverted = masks.size_mask(grey, image, invert=True)
    assert (np.asarray(inverted) == 255 - want).all()
    slightly = np.asarray(masks.size_mask(grey, image, 0.5))
    assert (slightly[:, :4] == 255).all() and 0 < slightly[0, 4] < 128


@pytest.mark.parametrize("nearest", [False, True])
def test_cells_of_a_mask_that_is_not_square(nearest):
    kept = masks.find_kept_cells(mask_with((4, 0, 8, 2), (12, 6)), 2, nearest)
    assert kept.shape == (1, 1, 3, 6) and kept.dtype == np.float32
    assert (kept[0, 0, 0] == [1, 1, 0, 0, 1, 1]).all() and (kept[0, 0, 1:] == 1).all()


@pytest.mark.parametrize(("rng", "kept"), [("philox", [0, 0, 0, 1]), ("torch", [1, 0, 0, 1])])
def test_a_cell_that_the_mask_touches_is_drawn_or_under_torch_kept_by_its_first_pixel(
    tiny, rng, kept
):
    inputs = {"image": noise_image(16, 16), "mask": mask_with((1, 0, 6, 16), (16, 16))}
    start = modes.plan("inpaint", TINY, prompt="a", rng=rng, seed=1, **inputs).start(tiny)
    assert (start.keep[0, 0, :, :4] == kept).all() and (start.keep[0, 0, :, 4:] == 1).all()


@pytest.mark.parametrize(
    ("rng", "channels", "at", "vanishes"),
    [
        ("philox", False, 3, False),
        ("torch", False, 3, True),
        ("philox", True, 3, True),
        ("torch", True, 3, True),
        ("torch", True, 4, False),
        ("torch", False, 4, False),
    ],
)
def test_a_white_pixel_between_the_first_ones_of_the_cells_vanishes(rng, channels, at, vanishes):
    mask = mask_with((at, 4, at + 1, 5), (8, 8))
    assert masks.vanishes(mask, 2, rng, channels) == vanishes


def test_the_region_goes_back_where_it_was_cut():
    image = noise_image(30, 20)
    mask = mask_with((6, 5, 9, 9), (30, 20))
    box = (4, 3, 14, 11)
    new = Image.new("RGB", (40, 32), (1, 2, 3))
    part, small = masks.crop_region(image, mask, box, (10, 8))
    assert part.tobytes() == image.crop(box).tobytes() and small.size == (10, 8)
    assert small.tobytes() == mask.crop(box).tobytes()
    got = np.asarray(masks.paste_region(new, image, mask, box))
    inside = np.asarray(mask) == 255
    assert (got[inside] == (1, 2, 3)).all() and (got[~inside] == np.asarray(image)[~inside]).all()
    back = masks.paste_region(part.resize((20, 16), LANCZOS), image, mask, box)
    whole = part.resize((20, 16), LANCZOS).resize((10, 8), LANCZOS)
    assert (np.asarray(back)[5:9, 6:9] == np.asarray(whole)[2:6, 2:5]).all()


@pytest.mark.parametrize(("half", "sigma"), [(12, 6.0), (20, 10.0), (60, 16.0)])
def test_a_fill_is_smoothed_over_half_the_depth_of_the_hole(half, sigma):
    """A step blurred by a Gaussian has the slope 255 / (sigma sqrt(2 pi)) where it was."""
    size = (4 * half, 8 * half)
    image = Image.new("RGB", size, (0, 40, 0))
    image.paste((255, 40, 0), (size[0] // 2, 0, *size))
    hole = mask_with((half, half, 3 * half, 7 * half), size)
    got = np.asarray(masks.fill_surroundings(image, hole), float)[size[1] // 2, :, 0]
    rise = got[size[0] // 2 + 3] - got[size[0] // 2 - 3]
    assert rise / 6 * sigma * np.sqrt(2 * np.pi) == pytest.approx(255, rel=0.04)
    assert (np.asarray(masks.fill_surroundings(image, hole))[..., 1:] == (40, 0)).all()


def test_an_image_without_anything_kept_is_filled_with_grey():
    got = masks.fill_surroundings(noise_image(4, 6), Image.new("L", (4, 6), 255))
    assert got.size == (4, 6) and got.getpixel((0, 0)) == (128, 128, 128)


def test_latents_below_the_mask_take_mean_and_spread_of_the_content():
    hole = np.array([0.0, 1.0])
    image = Posterior(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    content = Posterior(np.array([5.0, 6.0]), np.array([7.0, 8.0]))
    got = masks.fill_latents(image, hole, content)
    assert (got.mean.tolist(), got.std.tolist()) == ([1.0, 6.0], [3.0, 8.0])
    got = masks.fill_latents(image, hole, None)
    assert (got.mean.tolist(), got.std.tolist()) == ([1.0, 0.0], [3.0, 0.0])


# -- input channels -------------------------------------------------------------------------------


@pytest.mark.parametrize("concat", ["", "masked_image"])
def test_what_an_inpainting_network_is_shown(tiny64, concat):
    """Stable Diffusion: mask, masked image; latent diffusion: that, mask from -1 to 1."""
    config = dataclasses.replace(tiny64.config, concat=concat)
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    model.config = config
    mask = np.zeros((1, 1, 8, 10))
    mask[..., :3] = 1.0
    latents = np.random.default_rng(0).standard_normal((3, 4, 8, 10))
    shown = MaskedImage(mask, Posterior(latents[:1], latents[:1]))
    got = make_input_channels(model, (20, 16), shown, latents)
    signed = 2.0 * mask - 1.0 if concat else mask
    parts = [signed.repeat(3, 0), latents]
    want = np.concatenate(parts[::-1] if concat else parts, axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-6)

    nothing = make_input_channels(model, (20, 16))
    level = -1.0 if concat else 0.0
    assert masked_pixel(config) == level
    blank = model.encode_image(model.backend.asarray(np.full((1, 3, 16, 20), level)))
    parts = [np.ones((1, 1, 8, 10)), blank]
    want = np.concatenate(parts[::-1] if concat else parts, axis=1)
    np.testing.assert_allclose(nothing, want, rtol=1e-6, atol=1e-6)


def test_channels_that_are_an_array_are_shown_as_they_are(tiny64):
    given = np.random.default_rng(0).standard_normal((1, 3, 8, 8))
    got = make_input_channels(tiny64, (16, 16), given)
    np.testing.assert_array_equal(got, given)


def test_the_hole_in_the_image_that_the_network_sees_is_grey_by_default():
    image = noise_image(6, 4)
    mask = mask_with((0, 0, 3, 4), (6, 4))
    seen = masks.cut_hole(image, mask)
    assert seen.shape == (1, 3, 4, 6) and (seen[..., :3] == 0.0).all()
    np.testing.assert_array_equal(seen[..., 3:], to_array([image])[..., 3:])


def test_examples_are_repeated_as_a_block(tiny64):
    """Conditional and unconditional half see the same channels in the same order."""
    x = np.arange(6.0).reshape(2, 3)
    got = repeat(tiny64.backend, tiny64.backend.asarray(x), 4)
    np.testing.assert_array_equal(got, np.concatenate([x, x]))
    assert repeat(tiny64.backend, x, 2) is x


def wordless(concat, channels):
    """Return a small model without words that gets an image or a map next to the latents."""
    text = TextConfig(model_type="none", num_hidden_layers=1)
    told = {"in_channels": 4 + channels, "attention": "self", "cross_attention_dim": 0}
    config = dataclasses.replace(
        TINY,
        name=concat,
        concat=concat,
        denoiser=dataclasses.replace(TINY.unet, **told),
        text_encoder=text,
        defaults=Defaults(1, 1.0, 16, 16),
        segmentation_classes=channels,
    )
    backend = get_backend("numpy", dtype="float64")
    return LatentDiffusion(backend, config, init(model_spec(config)), tokenizer_for(text))


@pytest.mark.parametrize("mode", ["superres", "seg2img"])
def test_the_network_is_shown_the_same_beside_every_image(mode, monkeypatch):
    model = wordless({"superres": "low_resolution", "seg2img": "segmentation"}[mode], 3)
    seen = []
    unet = model.predict
    monkeypatch.setattr(model, "predict", lambda x, *rest: seen.append(x) or unet(x, *rest))
    labels = np.random.default_rng(0).integers(0, 3, (12, 20))
    small = noise_image(10, 6)
    given = {"image": small} if mode == "superres" else {"segmentation": labels}
    r = getattr(modes, mode)(model, **given, count=3, batch_size=2, seed=1, steps=1)
    assert [image.size for image in r] == [(20, 12)] * 3 and r.latents.shape == (3, 4, 6, 10)
    beside = to_array([small]) if mode == "superres" else model.encode_segmentation(labels[None])
    assert [x.shape for x in seen] == [(2, 7, 6, 10), (1, 7, 6, 10)]
    for x in seen:
        np.testing.assert_allclose(x[:, 4:], np.repeat(beside, len(x), axis=0), rtol=1e-6)


@pytest.fixture(scope="module")
def inpainting():
    """Return a small model with channels for mask and masked image."""
    unet = dataclasses.replace(TINY.unet, in_channels=9)
    config = dataclasses.replace(TINY, denoiser=unet)
    small = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    return LatentDiffusion(small.backend, config, init(model_spec(config)), small.tokenizer)


@pytest.mark.parametrize("rng", ["philox", "torch"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_draws_and_channels_of_an_inpainting_network(inpainting, monkeypatch, rng, strength):
    """Under torch: a sample of the image, unless it is not seen; noise; the masked image."""
    image = noise_image(16, 16)
    mask = mask_with((0, 0, 6, 16), (16, 16))
    seen = []
    unet = inpainting.predict
    monkeypatch.setattr(inpainting, "predict", lambda x, *rest: seen.append(x) or unet(x, *rest))
    asked = {"seed": 4, "steps": 2, "sampler": "ddim", "rng": rng, "cfg_scale": 1.0}
    r = modes.inpaint(inpainting, "a", image, mask, strength, **asked)
    shown = seen[0][:, 4:]
    np.testing.assert_array_equal(shown[0, 0], masks.shrink_mask(mask, 2)[0, 0])
    posterior = encode_array(inpainting, masks.cut_hole(image, mask))
    streams = Streams([4], (4, 8, 8), rng)
    sampled = strength < 1.0 and rng == "torch"
    masked = posterior.mean
    draws = [streams() for _ in range(3)]
    if rng == "torch":
        masked = masked + posterior.std * draws[1 + sampled]
    np.testing.assert_allclose(shown[:, 1:], masked, rtol=1e-6, atol=1e-6)
    if strength == 1.0:
        np.testing.assert_allclose(seen[0][:, :4], draws[0], rtol=1e-6)
    white = np.asarray(mask) == 255
    assert (np.asarray(r[0])[~white] == np.asarray(image)[~white]).all()
    assert np.isfinite(modes.txt2img(inpainting, "a", seed=1, steps=1).latents).all()
    assert np.isfinite(modes.invert(inpainting, "a", image, steps=1).latents).all()


@pytest.mark.parametrize("sigma", [0.0, 0.5, 2.0])
def test_what_is_kept_has_the_noise_of_the_level_and_is_clean_at_the_last(tiny64, sigma):
    rng = np.random.default_rng(0)
    image, noise, x = rng.standard_normal((3, 1, 4, 2, 2))
    keep = np.zeros((1, 1, 2, 2))
    keep[..., 0] = 1.0
    last = sigma == 0.5
    interval = Interval(2, 3, 3 if last else 4, 3.0, sigma)
    got = constrain_known(tiny64.backend, keep, image, noise)(x, interval)
    known = image * np.hypot(1.0, 0.5) if last else image + sigma * noise
    np.testing.assert_allclose(got[..., 0], known[..., 0], rtol=1e-12)
    np.testing.assert_array_equal(got[..., 1], x[..., 1])


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "size", "drawn"),
    [
        (TINY, (64, 64), None),
        (TINY, (66, 64), (16, 16)),
        (TINY, (2, 2), None),
        (TINY, (1, 9), (16, 16)),
        (TINY, (9, 1), (16, 16)),
        (SD15, (8, 8192), None),
        (SD15, (8192, 8), None),
        (SD15, (8, 8200), (512, 512)),
        (SD15, (8200, 8), (512, 512)),
        (preset("emoji"), (80, 64), None),
        (preset("emoji"), (64, 96), (64, 64)),
    ],
)
def test_an_image_is_drawn_at_its_size_or_the_models(config, size, drawn):
    sized = size_image(config, Image.new("RGB", size), None, None, "fill")
    assert (sized.image.size, sized.resize) == (drawn or size, "fill")
    told = "resized (fill)" if drawn else "resize=fill changes nothing"
    assert len(sized.warnings) == 1 and told in sized.warnings[0]
    if drawn is None:
        assert size_image(config, Image.new("RGB", size), None, None, "crop").warnings == []


@pytest.mark.parametrize(
    ("given", "drawn"),
    [((16, None), (16, 20)), ((None, 16), (32, 16)), ((16, 16), (16, 16)), ((34, 22), (34, 22))],
)
def test_a_side_that_is_given_holds_and_the_other_is_the_images(given, drawn):
    image = noise_image(33, 21)
    sized = size_image(TINY, image, *given, "crop")
    assert (sized.image.size, sized.resize, sized.warnings) == (drawn, "crop", [])
    assert sized.image.tobytes() == ImageOps.fit(image, drawn, LANCZOS).tobytes()


def test_an_image_that_only_needs_rounding_is_stretched():
    image = noise_image(33, 21)
    sized = size_image(TINY, image, None, None, "crop")
    assert sized.resize == "stretch" and "33 x 21" in sized.warnings[0]
    assert sized.image.tobytes() == image.resize((32, 20), LANCZOS).tobytes()


def test_bars_beside_an_image_are_white():
    sized = size_image(TINY, Image.new("RGB", (8, 4), "red"), 8, 8, "fill")
    column = np.asarray(sized.image)[:, 0]
    assert (column[:2] == 255).all() and (column[2:6] == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("size", "given", "code"),
    [
        ((16, 1), {"width": 16}, "E-SIZE"),
        ((16, 2), {"width": 16}, ""),
        ((1, 16), {"height": 16}, "E-SIZE"),
        ((4, 8192), {"width": 2}, ""),
        ((4, 8194), {"width": 2}, "E-SIZE"),
    ],
)
def test_a_size_that_no_image_can_be_brought_to(size, given, code):
    assert code_of("img2img", TINY, image=Image.new("RGB", size), **given) == code


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((128, 128), ""),
        ((130, 128), "E-SIZE"),
        ((2, 2), ""),
        ((1, 2), "E-SIZE"),
        ((17, 16), "E-SIZE"),
    ],
)
def test_inpainting_takes_the_image_as_it_is_or_not_at_all(size, code):
    image = Image.new("RGB", size)
    mask = Image.new("L", size, 255)
    assert code_of("inpaint", TINY, image=image, mask=mask) == code
    if not code:
        same = {"width": size[0], "height": size[1]}
        assert code_of("inpaint", TINY, image=image, mask=mask, **same) == ""
        assert code_of("inpaint", TINY, image=image, mask=mask, height=size[1] + 2) == "E-SIZE"


@pytest.mark.parametrize(
    ("values", "code", "hint"),
    [
        ({"width": 128, "height": 128}, "", ""),
        ({"width": 130, "height": 128}, "E-SIZE-LIMIT", ""),
        ({"width": 13}, "E-SIZE", "12 or 14"),
        ({"height": 1}, "E-SIZE", "use 2"),
        ({"tile": 11}, "E-TILE", "use 10"),
    ],
)
def test_sizes_that_fit_are_named(values, code, hint):
    try:
        modes.plan("txt2img", TINY, prompt="a", **values)
        assert not code
    except LdmrefError as error:
        assert error.code == code and hint in error.hint


# -- small images and maps of classes -----------------------------------------------------------


def test_an_animation_is_enlarged_from_its_first_frame_with_a_warning(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    plan = modes.plan("superres", preset("ldm-superres"), image=tmp_path / "a.png")
    assert "animation" in " ".join(plan.warnings)
    np.testing.assert_array_equal(plan.start(None).channels, to_array(frames[:1]))


def test_a_small_image_is_shown_as_it_is():
    small = noise_image(64, 32)
    plan = modes.plan("superres", preset("ldm-superres"), image=small, latents=None, count=2)
    start = plan.start(None)
    np.testing.assert_array_equal(start.channels, to_array([small]))
    assert start.noise is None and len(plan.job.seeds) == 2


@pytest.mark.parametrize(
    ("size", "code"), [((32, 24), ""), ((33, 32), "E-SIZE"), ((32, 33), "E-SIZE")]
)
def test_a_small_image_must_halve_as_often_as_the_network_does(size, code):
    config = preset("ldm-superres")
    unet = dataclasses.replace(config.unet, resnet_updown=True)
    config = dataclasses.replace(config, denoiser=unet)
    assert code_of("superres", config, image=noise_image(*size)) == code


@pytest.mark.parametrize(
    "labels",
    [np.array([[0, 3], [2, 1]], kind) for kind in (np.uint8, np.int32, np.uint16, np.int64)]
    + [
        Image.fromarray(np.array([[0, 3], [2, 1]], np.uint8)),
        Image.fromarray(np.array([[0, 3], [2, 1]], np.uint8)).convert("I"),
        Image.fromarray(np.array([[0, 3], [2, 1]], np.uint16)),
        Image.fromarray(np.array([[0, 3], [2, 1]], np.uint8)).convert("P"),
    ],
)
def test_a_map_of_classes_may_be_an_array_or_an_image(labels):
    got = read_labels(labels)
    assert got.dtype == np.int64 and got.tolist() == [[0, 3], [2, 1]]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2)),
        np.zeros((2, 2), bool),
        np.zeros((1, 2, 2), int),
        np.zeros((0, 2), int),
        Image.new("RGB", (2, 2)),
        Image.new("F", (2, 2)),
        Image.new("LA", (2, 2)),
    ],
)
def test_what_is_no_map_of_classes_is_refused(wrong):
    with pytest.raises(LdmrefError) as caught:
        read_labels(wrong)
    assert caught.value.code == "E-IMAGE"


def test_a_map_is_as_high_and_wide_as_the_image_and_an_image_of_two_sizes_is_encoded(tiny):
    config = preset("ldm-semantic")
    m = config.size_multiple
    plan = modes.plan("seg2img", config, segmentation=np.zeros((m, 2 * m), int))
    assert (plan.job.width, plan.job.height) == (2 * m, m)
    assert encode_image(tiny, noise_image(20, 16)).mean.shape == (1, 4, 8, 10)


@pytest.mark.parametrize("size", [(300, 200), (128, 128), (96, 64), (40, 40), (8, 8)])
def test_a_photo_for_a_small_model_comes_at_the_size_it_knows(size):
    plan = modes.plan("img2img", preset("emoji"), prompt="a", image=Image.new("RGB", size))
    assert (plan.job.width, plan.job.height) == (64, 64) and plan.warnings
    wide = modes.plan(
        "img2img", preset("emoji"), prompt="a", image=Image.new("RGB", size), width=96
    )
    assert wide.job.width == 96
    near = modes.plan("img2img", preset("emoji"), prompt="a", image=Image.new("RGB", (72, 64)))
    assert (near.job.width, near.warnings) == (72, ())
    large = modes.plan("img2img", preset("sd15"), prompt="a", image=Image.new("RGB", (768, 1024)))
    assert (large.job.width, large.job.height) == (768, 1024)


# -- images in other forms ------------------------------------------------------------------------


def test_float_and_boolean_arrays_draw_what_images_draw(tiny):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    mask_image = Image.fromarray(mask.astype(np.uint8) * 255)
    want = modes.inpaint(tiny, "a", Image.fromarray(pixels), mask_image, **SEEDED)
    for image in (pixels / 255.0, (pixels / 255.0).astype(np.float32)):
        got = modes.inpaint(tiny, "a", image, mask, **SEEDED)
        assert got[0].tobytes() == want[0].tobytes()
    torch = pytest.importorskip("torch")
    got = modes.inpaint(
        tiny, "a", torch.from_numpy(pixels / 255.0), torch.from_numpy(mask), **SEEDED
    )
    assert got[0].tobytes() == want[0].tobytes()


@pytest.mark.parametrize("mode", ["img2img", "inpaint"])
def test_an_animation_is_drawn_from_its_first_frame_with_a_warning(tiny, mode, tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    path = tmp_path / "animation.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    mask = {"mask": Image.new("L", (16, 16), 255)} if mode == "inpaint" else {}
    got = getattr(modes, mode)(tiny, "a", path, **mask, strength=0.5, **SEEDED)
    want = getattr(modes, mode)(tiny, "a", frames[0], **mask, strength=0.5, **SEEDED)
    assert got[0].tobytes() == want[0].tobytes() and "animation" in " ".join(got.warnings)


def test_a_mask_that_falls_between_the_cells_is_mentioned(tiny):
    mask = Image.new("L", (16, 16))
    mask.putpixel((3, 3), 255)
    r = modes.inpaint(tiny, "a", TEAL, mask, rng="torch", **SEEDED)
    assert "latent cells" in " ".join(r.warnings)
    assert modes.inpaint(tiny, "a", TEAL, mask, **SEEDED).warnings == []
