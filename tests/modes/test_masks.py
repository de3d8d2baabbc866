"""The threshold of a mask, and the direction in which its edge softens."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ldmref import modes
from ldmref.io.images.pil import to_images
from ldmref.modes.masks import cut_hole, find_kept_cells, shrink_mask


def pixels(image):
    return np.asarray(image, np.int16)


@pytest.fixture(scope="module")
def image():
    stream = np.random.default_rng(0)
    return Image.fromarray(stream.integers(0, 256, (32, 32, 3), np.uint8))


def halves(left, right, size=(32, 32)):
    mask = Image.new("L", size, right)
    mask.paste(left, (0, 0, size[0] // 2, size[1]))
    return mask


# -- one half -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rng", ["philox", "torch"])
@pytest.mark.parametrize("blur", [0, 2])
def test_grey_of_one_half_repaints_and_less_keeps(tiny, image, rng, blur):
    """128 of 255 is the first value that is at least one half; inverted, 127 becomes it."""
    asked = dict(seed=1, steps=2, rng=rng, mask_blur=blur)
    want = modes.inpaint(tiny, "a cat", image, halves(255, 0), **asked)
    grey = modes.inpaint(tiny, "a cat", image, halves(128, 127), **asked)
    inverted = modes.inpaint(tiny, "a cat", image, halves(127, 128), mask_invert=True, **asked)
    for got in (grey, inverted):
        assert (got.latents == want.latents).all()
        assert (pixels(got[0]) == pixels(want[0])).all()


def test_the_inputs_of_an_inpainting_network_are_cut_at_one_half(image):
    """The part of the image that the network sees is the complement of the part to repaint."""
    mask = halves(128, 127)
    assert (shrink_mask(mask, 2)[0, 0] == [[1.0] * 8 + [0.0] * 8] * 16).all()
    seen = cut_hole(image, mask, -1.0)[0]
    assert (seen[..., :16] == -1.0).all()
    want = pixels(image)[:, 16:].transpose(2, 0, 1) / 127.5 - 1.0
    np.testing.assert_allclose(seen[..., 16:], want, atol=1e-6)
    assert (find_kept_cells(mask, 2, nearest=True) == 1.0 - shrink_mask(mask, 2)).all()


def test_a_cell_is_kept_only_without_any_pixel_to_repaint():
    mask = Image.new("L", (8, 8), 0)
    mask.putpixel((3, 6), 1)  # the faint end of a blurred edge
    kept = find_kept_cells(mask, 2)[0, 0]
    assert kept[3, 1] == 0.0 and kept.sum() == 15.0
    assert find_kept_cells(mask, 2, nearest=True).all()  # its first pixel is black


# -- blur -----------------------------------------------------------------------------------------


def drawn_alone(model, result):
    """Decode the result's latents, before anything of the given image is pasted back."""
    ops = model.backend
    return pixels(to_images(ops.to_numpy(model.decode(ops.asarray(result.latents))))[0])


@pytest.mark.parametrize("blur", [1, 3])
def test_a_blurred_mask_softens_outwards(tiny, image, blur):
    """White stays all new, however wide the blur; next to it the new fades into the old."""
    mask = halves(255, 0)
    r = modes.inpaint(tiny, "a cat", image, mask, mask_blur=blur, seed=1, steps=2)
    got = pixels(r[0])
    old = pixels(image)
    new = drawn_alone(tiny, r)
    assert (got[:, :16] == new[:, :16]).all()
    far = 16 + 4 * blur
    assert (got[:, far:] == old[:, far:]).all()
    mixed = np.abs(got - old).sum(axis=(0, 2)) / np.abs(new - old).sum(axis=(0, 2))
    beside = mixed[15 : 16 + blur + 1]
    assert (np.diff(beside) < 0.0).all() and beside[0] == 1.0
    assert 0.2 < mixed[16] < 0.5  # a step blurred by a Gaussian is one half at the step itself


def test_without_blur_nothing_is_mixed(tiny, image):
    r = modes.inpaint(tiny, "a cat", image, halves(255, 0), seed=1, steps=2)
    got = pixels(r[0])
    assert (got[:, :16] == drawn_alone(tiny, r)[:, :16]).all()
    assert (got[:, 16:] == pixels(image)[:, 16:]).all()


# -- colours --------------------------------------------------------------------------------------


def photo(mode="RGB"):
    stream = np.random.default_rng(1)
    return Image.fromarray(stream.integers(0, 256, (32, 32, 3), np.uint8)).convert(mode)


def painted(colour, mode="RGB"):
    mask = Image.new(mode, (32, 32))
    mask.paste(colour, (8, 8, 24, 24))
    return mask


def compressed(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


MASKS = {  # name -> (mask, whether its colours are named)
    "photo": (photo(), True),
    "photo of a palette": (photo("P"), True),
    "photo, opaque": (photo("RGBA"), True),
    "photo of a camera": (compressed(photo()), True),
    "red selection": (painted((255, 0, 0)), True),
    "grey photo": (photo("L"), False),
    "grey photo in three channels": (photo("L").convert("RGB"), False),
    "grey photo of a camera": (compressed(photo("L").convert("RGB")), False),
    "white on black": (painted((255, 255, 255)), False),
    "black on transparency": (painted((0, 0, 0, 255), "RGBA"), False),
    "dark red on transparency": (painted((90, 0, 0, 255), "RGBA"), False),
    "array": (np.asarray(photo()), True),
    "grey array": (np.asarray(photo("L"), np.float32) / 255, False),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_with_colours_is_named(name, tiny, image):
    mask, coloured = MASKS[name]
    plan = modes.plan("inpaint", tiny.config, prompt="a", image=image, mask=mask, steps=1)
    said = [line for line in plan.warnings if "has colours" in line]
    assert len(said) == coloured
    assert all("white where the image is repainted" in line for line in said)
