"""An image of a batch is the image generated alone: per mode, backend, stream and batch size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes

PROMPTS = ["a cat", "a red dog", "heart"]
NEGATIVES = ["", "hat", "a green face"]
SEEDS = [5, 2**40, 7]
IMAGE = Image.fromarray(
    np.random.Generator(np.random.Philox(key=3)).integers(0, 256, (16, 16, 3), np.uint8)
)
MASK = Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), ((0, 8), (4, 4))))
SOURCES = {
    "txt2img": {},
    "img2img": {"image": IMAGE, "strength": 0.7},
    "inpaint": {"image": IMAGE, "mask": MASK},
}
# Matrix products of another shape may round otherwise: the bound is in units of the latents' size.
BOUND = {"float32": 2e-5, "float64": 1e-13}


@pytest.fixture(scope="module", params=["numpy", "torch"])
def models(request):
    """`tiny` in float32 and float64 on a backend."""
    if request.param == "torch":
        pytest.importorskip("torch")
    return {
        dtype: ldmref.random_model("tiny", backend=request.param, dtype=dtype) for dtype in BOUND
    }


def draw(mode, model, prompt, **options):
    settings = {"steps": 2, "sampler": "euler_a", "cfg_scale": 3.0} | options
    return getattr(modes, mode)(model, prompt, **SOURCES[mode], **settings)


def alone(mode, model, **options):
    """Generate each image in a separate call."""
    return [
        draw(mode, model, prompt, negative_prompt=negative, seed=seed, **options)
        for prompt, negative, seed in zip(PROMPTS, NEGATIVES, SEEDS, strict=True)
    ]


def together(mode, model, **options):
    return draw(mode, model, PROMPTS, negative_prompt=NEGATIVES, seed=SEEDS, **options)


@pytest.mark.parametrize("rng", ["philox", "torch"])
@pytest.mark.parametrize("mode", SOURCES)
def test_one_at_a_time_is_alone_bit_for_bit(models, mode, rng):
    """The default: prompts, negative prompts and seeds differ from image to image."""
    model = models["float32"]
    singles = alone(mode, model, rng=rng)
    for options in ({}, {"batch_size": 1}):
        r = together(mode, model, rng=rng, **options)
        assert r.seeds == SEEDS
        for i, single in enumerate(singles):
            assert (r.latents[i] == single.latents[0]).all()
            assert r[i].tobytes() == single[0].tobytes()
    assert len({image.tobytes() for image in r}) == 3


@pytest.mark.parametrize("mode", SOURCES)
def test_count_counts_the_seeds_up(models, mode):
    model = models["float32"]
    r = draw(mode, model, "a cat", seed=2**64 - 2, count=3)
    assert r.seeds == [2**64 - 2, 2**64 - 1, 0]
    for i, seed in enumerate(r.seeds):
        single = draw(mode, model, "a cat", seed=seed)
        assert (r.latents[i] == single.latents[0]).all()
        assert r[i].tobytes() == single[0].tobytes()
    backwards = draw(mode, model, "a cat", seed=r.seeds[::-1], count=3)
    assert (backwards.latents[::-1] == r.latents).all()


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("mode", SOURCES)
def test_several_at_a_time_are_alone_within_rounding(models, mode, dtype):
    model = models[dtype]
    for rng in ("philox", "torch"):
        singles = alone(mode, model, rng=rng)
        want = np.concatenate([single.latents for single in singles])
        for size in (2, 8):
            r = together(mode, model, rng=rng, batch_size=size)
            # latents are handed out in float32
            bound = max(BOUND[dtype], np.finfo(np.float32).eps / 2) * np.abs(want).max()
            assert np.abs(r.latents - want).max() <= bound
            for image, single in zip(r, singles, strict=True):
                off = np.abs(np.asarray(image, int) - np.asarray(single[0], int))
                assert off.max() <= (1 if dtype == "float32" else 0)


@pytest.mark.parametrize("mode", SOURCES)
def test_a_neighbour_is_not_seen(models, mode):
    """In one batch of one size, an image does not depend on the others' words or seeds."""
    model = models["float32"]
    first = together(mode, model, batch_size=3)
    others = draw(
        mode,
        model,
        [PROMPTS[0], "a blue hat", "dog"],
        negative_prompt=["", "", "cat"],
        seed=[SEEDS[0], 1, 2],
        batch_size=3,
    )
    assert (first.latents[0] == others.latents[0]).all()
    assert not (first.latents[1] == others.latents[1]).all()
