"""The three modes on a tiny random model: what they promise, whatever the model generates."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from PIL import Image
from rounding import same_latents

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.traced import TracedBackend
from ldmref.errors import Cancelled, ImageError, LdmrefError, NumericError, UsageError
from ldmref.models.presets import preset
from ldmref.modes.channels import encode_image
from ldmref.samplers import SAMPLERS
from ldmref.samplers.noise import Streams
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import sigma_grid


def pixels(image):
    return np.asarray(image, np.int16)


@pytest.fixture(scope="module")
def image():
    stream = np.random.default_rng(0)
    return Image.fromarray(stream.integers(0, 256, (16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def left_half():
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    return mask


USABLE = [name for name in SAMPLERS if not SAMPLERS[name].own_guidance]  # that is for flow matching


# -- txt2img --------------------------------------------------------------------------------------


def test_a_result_says_everything_about_itself(tiny):
    r = modes.txt2img(tiny, "a red heart", seed=7, count=2)
    assert [im.size for im in r.images] == [(16, 16)] * 2 and r.images[0].mode == "RGB"
    assert r.latents.shape == (2, 4, 8, 8) and r.latents.dtype == np.float32
    assert r.seeds == [7, 8] and r.params["seed"] == [7, 8]
    assert len(r) == 2 and r[1] is r.images[1] and list(r) == r.images
    assert json.loads(json.dumps(r.params)) == r.params
    assert r._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(name, marks=pytest.mark.slow if name == "rk45" else ()) for name in USABLE],
)
def test_params_replay_to_the_same_bytes(tiny, sampler):
    r = modes.txt2img(tiny, ["a cat", "a dog"], sampler=sampler, steps=3, negative_prompt="hat")
    p = {k: v for k, v in r.params.items() if k not in ("mode", "model", "backend", "ldmref")}
    again = modes.txt2img(tiny, **p)
    assert (again.latents == r.latents).all()
    single = {k: v for k, v in r.params_of(1).items() if k in p}
    assert (modes.txt2img(tiny, **single).latents == r.latents[1:]).all()


def test_an_image_depends_on_its_seed_alone(tiny64):
    """Not on its place in the batch, on the batch's size, or on the other prompts."""
    tiny = tiny64
    alone = modes.txt2img(tiny, "a cat", seed=11, sampler="ddpm")
    for r, i in [
        (modes.txt2img(tiny, "a cat", seed=9, count=4, sampler="ddpm"), 2),
        (modes.txt2img(tiny, ["a dog", "a cat"], seed=[3, 11], sampler="ddpm"), 1),
    ]:
        assert (r.latents[i] == alone.latents[0]).all()
    together = modes.txt2img(tiny, "a cat", seed=9, count=4, sampler="ddpm", batch_size=4)
    same_latents(together.latents[2], alone.latents[0])


def test_seeds_wrap_and_random_seeds_are_recorded(tiny):
    r = modes.txt2img(tiny, "a", seed=2**64 - 1, count=2, steps=1)
    assert r.seeds == [2**64 - 1, 0]
    r = modes.txt2img(tiny, "a", steps=1)
    again = modes.txt2img(tiny, "a", steps=1, seed=r.seeds[0])
    assert (again.latents == r.latents).all()
    assert modes.txt2img(tiny, "a", steps=1, seed=-1).seeds[0] >= 0


def test_backends_draw_the_same_image(tiny):
    pytest.importorskip("torch")
    other = ldmref.random_model("tiny", backend="torch")
    for sampler in USABLE:
        a, b = (modes.txt2img(m, "a cat", seed=1, sampler=sampler) for m in (tiny, other))
        assert np.abs(pixels(a[0]) - pixels(b[0])).max() <= 1
        assert b.params["backend"]["name"] == "torch"


def test_given_latents_replace_the_first_draw(tiny):
    noise = np.random.Generator(np.random.Philox(key=5)).standard_normal((4, 8, 8), np.float32)
    noise.flags.writeable = False
    given = modes.txt2img(tiny, "a cat", seed=99, latents=noise[None])
    assert (given.latents == modes.txt2img(tiny, "a cat", seed=5).latents).all()
    with pytest.raises(UsageError, match="shape"):
        modes.txt2img(tiny, "a cat", latents=noise)


def test_cfg_zero_ignores_the_prompt_and_one_the_negative(tiny):
    a, b = (modes.txt2img(tiny, p, seed=1, cfg_scale=0).latents for p in ("a cat", "a dog"))
    assert (a == b).all()
    a, b = (
        modes.txt2img(tiny, "a cat", negative_prompt=n, seed=1, cfg_scale=1).latents
        for n in ("", "hat")
    )
    assert (a == b).all()
    a, b = (modes.txt2img(tiny, p, seed=1).latents for p in ("a cat", "a dog"))
    assert (a != b).any()


def test_callback_sees_every_step_and_cancel_stops_between_two(tiny):
    seen = []
    modes.txt2img(tiny, "a cat", seed=1, steps=4, callback=seen.append)
    assert [(e.step, e.steps) for e in seen] == [(i, 4) for i in range(4)]
    assert seen[0].x0.shape == seen[0].latents.shape == (1, 4, 8, 8)
    assert seen[-1].preview()[0].size == (16, 16)
    seen[0].latents[:] = 0  # a copy

    flag = threading.Event()

    def stop_in_second_image(event):
        if event.first == 1 and event.step == 1:
            flag.set()

    with pytest.raises(Cancelled) as caught:
        modes.txt2img(tiny, "a", seed=1, count=3, callback=stop_in_second_image, cancel=flag)
    assert len(caught.value.partial) == 1 and caught.value.partial.seeds == [1]


def test_an_exception_of_the_callback_leaves_the_model_usable(tiny):
    def bad(event):
        raise ZeroDivisionError

    before = modes.txt2img(tiny, "a", seed=1).latents
    with pytest.raises(ZeroDivisionError):
        modes.txt2img(tiny, "a", seed=1, callback=bad)
    assert (modes.txt2img(tiny, "a", seed=1).latents == before).all()


def test_words_that_do_not_fit_are_listed(tiny):
    r = modes.txt2img(tiny, "a " * 14 + "green hat", seed=1, steps=1)
    assert any("green hat" in w for w in r.warnings)
    r = modes.txt2img(tiny, "a zebra", seed=1, steps=1)
    assert any("zebra" in w for w in r.warnings)
    assert modes.txt2img(tiny, "a cat", seed=1, steps=1).warnings == []


def test_nan_is_an_error_and_no_black_image():
    model = ldmref.random_model("tiny", backend="numpy")
    model.params.unet.conv_out.bias[0] = np.nan
    with pytest.raises(NumericError):
        modes.txt2img(model, "a", seed=1)


@pytest.mark.parametrize(
    "arguments,code",
    [
        ({"steps": 0}, "E-STEPS"),
        ({"steps": 1001}, "E-STEPS"),
        ({"steps": 1.5}, "E-STEPS"),
        ({"steps": True}, "E-STEPS"),
        ({"steps": "20"}, "E-STEPS"),
        ({"width": 13}, "E-SIZE"),
        ({"height": 0}, "E-HEIGHT"),
        ({"width": 8192, "height": 8192}, "E-SIZE-LIMIT"),
        ({"sampler": "eular"}, "E-SAMPLER"),
        ({"schedule": "kerras"}, "E-SCHEDULE"),
        ({"seed": -2}, "E-SEED"),
        ({"seed": 2**64}, "E-SEED"),
        ({"seed": 1.5}, "E-SEED"),
        ({"seed": [1, 2, 3]}, "E-SEED"),
        ({"count": 0}, "E-COUNT"),
        ({"cfg_scale": float("nan")}, "E-CFG-SCALE"),
        ({"cfg_scale": "7"}, "E-CFG-SCALE"),
        ({"eta": 1.5}, "E-ETA"),
        ({"eta": 0.5, "sampler": "heun"}, "E-ETA"),
        ({"clip_skip": 2}, "E-CLIP-SKIP"),
        ({"rng": "dice"}, "E-RNG"),
        ({"prompt": ""}, None),
        ({"prompt": None}, "E-PROMPT"),
        ({"prompt": []}, "E-PROMPT"),
        ({"prompt": "a\ud800"}, "E-PROMPT"),
        ({"prompt": "a" * 5000}, "E-PROMPT-LENGTH"),
        ({"negative_prompt": ["a", "b"]}, "E-PROMPT"),
        ({"strength": 1.5}, "E-STRENGTH"),
        ({"strength": float("nan")}, "E-STRENGTH"),
        ({"strength": 0.1}, "E-STRENGTH"),
        ({"strength": 0.0}, None),
        ({"mask_blur": -1}, "E-MASK-BLUR"),
    ],
)
def test_arguments_are_checked_before_anything_is_computed(arguments, code):
    mode = "txt2img"
    arguments = {"prompt": "a cat"} | arguments
    if {"strength", "mask_blur"} & set(arguments):
        image = Image.new("RGB", (16, 16))
        mode = "inpaint"
        arguments = arguments | {"image": image, "mask": image}
    if code is None:
        modes.plan(mode, preset("tiny"), **arguments)
        return
    with pytest.raises(LdmrefError) as caught:
        modes.plan(mode, preset("tiny"), **arguments)
    assert caught.value.code == code


def test_a1111_names_of_samplers():
    for name, want in [
        ("Euler a", ("euler_a", "leading")),
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("DDIM", ("ddim", "leading")),
    ]:
        request = modes.plan("txt2img", preset("tiny"), prompt="a", sampler=name).job
        assert (request.sampler.name, request.schedule) == want


# -- img2img --------------------------------------------------------------------------------------


def test_strength_zero_gives_the_image_back_and_one_ignores_it(tiny, image):
    r = modes.img2img(tiny, "a cat", image, strength=0, seed=1)
    assert (pixels(r[0]) == pixels(image)).all()
    black = Image.new("RGB", (16, 16))
    a, b = (modes.img2img(tiny, "a cat", p, strength=1, seed=1).latents for p in (image, black))
    assert (a == b).all()
    a, b = (modes.img2img(tiny, "a cat", p, strength=0.5, seed=1).latents for p in (image, black))
    assert (a != b).any()


@pytest.mark.parametrize("steps,strength,run", [(50, 0.75, 37), (50, 0.58, 28), (10, 0.1, 1)])
def test_steps_that_strength_leaves_are_counted_as_diffusers_does(
    tiny, image, steps, strength, run
):
    seen = []
    modes.img2img(tiny, "a", image, strength, steps=steps, seed=1, callback=seen.append)
    assert len(seen) == run


def test_another_size_is_resized_and_said_so(tiny):
    """diffusers' rule: both sides rounded down to whole latent cells."""
    for size, drawn in (((33, 21), (32, 20)), ((31, 9), (30, 8)), ((1, 8), (16, 16))):
        r = modes.img2img(tiny, "a", Image.new("RGB", size), 0.5, seed=1)
        assert r[0].size == drawn and f"the image is {size[0]} x {size[1]}" in r.warnings[0]
    middle = Image.new("RGB", (80, 80))
    large = Image.new("RGB", (200, 200))
    assert modes.img2img(tiny, "a", middle, 0.5, seed=1)[0].size == (16, 16)
    assert modes.inpaint(tiny, "a", middle, Image.new("L", (80, 80)), steps=1)[0].size == (80, 80)
    assert modes.img2img(tiny, "a", middle, 0.5, seed=1, width=20, resize="fill")[0].size == (
        20,
        80,
    )
    odd = modes.img2img(tiny, "a", Image.new("RGB", (33, 21)), 0.5, seed=1, width=16)
    assert odd[0].size == (16, 20)
    huge = modes.sizing.size_image(tiny.config, large, None, None, "fill")
    assert huge.image.size == (16, 16) and huge.resize == "fill"
    for size in ((32, 20), (18, 14)):
        r = modes.img2img(tiny, "a", Image.new("RGB", size), 0.5, seed=1)
        assert r[0].size == size and not r.warnings
    with pytest.raises(ImageError, match="multiples of 2") as caught:
        modes.inpaint(tiny, "a", Image.new("RGB", (33, 21)), Image.new("L", (33, 21)))
    assert "to 32 x 20" in caught.value.hint and "only_masked" in caught.value.hint
    with pytest.raises(ImageError, match="too large"):
        modes.inpaint(tiny, "a", large, Image.new("L", (200, 200)))


def test_none_means_the_default(tiny, image, left_half):
    for mode, extra, default in (("img2img", (), 0.75), ("inpaint", (left_half,), 1.0)):
        draw = getattr(modes, mode)
        a = draw(tiny, "a", image, *extra, None, negative_prompt=None, seed=1)
        b = draw(tiny, "a", image, *extra, seed=1)
        assert a.params == b.params and a.params["strength"] == default
        assert a.params["negative_prompt"] == "" and (a.latents == b.latents).all()


@pytest.mark.parametrize(
    ("prompt", "negative", "count"),
    [
        (["cat", "cat"], ["x", "y"], 1),
        (["cat", "cat"], ["x", "x"], 1),
        (["cat", "dog"], ["x", "x"], 2),
        (["cat", "cat", "dog"], ["x", "y", "x"], 2),
        ("cat", "x", 3),
        (["cat"], ["x"], 1),
    ],
)
def test_params_draw_the_same_again(tiny, prompt, negative, count):
    """Together, and each image alone."""
    r = modes.txt2img(tiny, prompt, negative_prompt=negative, count=count, seed=1, steps=1)
    names = ("prompt", "negative_prompt", "seed", "count", "steps")
    again = modes.txt2img(tiny, **{name: r.params[name] for name in names})
    assert (again.latents == r.latents).all()
    told = [(p, n) for p, n in zip(listed(prompt), listed(negative), strict=True)]
    for i in range(len(r)):
        alone = r.params_of(i)
        assert (alone["prompt"], alone["negative_prompt"]) == told[i // count]
        one = modes.txt2img(tiny, **{name: alone[name] for name in names})
        assert (one.latents[0] == r.latents[i]).all()


def listed(texts):
    return [texts] if isinstance(texts, str) else texts


@pytest.mark.parametrize("how", ["crop", "stretch", "fill"])
def test_resize_modes(tiny, how):
    wide = Image.new("RGB", (64, 16), "black")
    r = modes.img2img(tiny, "a", wide, 0, resize=how, width=16, height=16, seed=1)
    assert r[0].size == (16, 16)
    assert (pixels(r[0])[0] == (255 if how == "fill" else 0)).all()


# -- inpaint --------------------------------------------------------------------------------------


@pytest.mark.parametrize("blur", [0, 2])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_kept_pixels_come_back_bit_for_bit(tiny, image, left_half, blur, strength):
    r = modes.inpaint(tiny, "a cat", image, left_half, strength, mask_blur=blur, seed=1)
    far = 8 if blur == 0 else 15
    assert (pixels(r[0])[:, far:] == pixels(image)[:, far:]).all()
    assert (pixels(r[0])[:, :8] != pixels(image)[:, :8]).any()


def test_black_mask_keeps_everything_and_white_equals_img2img(tiny, image):
    black = Image.new("L", (16, 16), 0)
    white = Image.new("L", (16, 16), 255)
    r = modes.inpaint(tiny, "a", image, black, seed=1)
    assert (pixels(r[0]) == pixels(image)).all() and r.warnings
    a = modes.inpaint(tiny, "a", image, white, 0.5, seed=1)
    b = modes.img2img(tiny, "a", image, 0.5, seed=1)
    assert (pixels(a[0]) == pixels(b[0])).all()


def test_a_single_white_pixel_still_repaints_its_latent_cell(tiny, image):
    mask = Image.new("L", (16, 16), 0)
    mask.putpixel((5, 5), 255)
    r = modes.inpaint(tiny, "a cat", image, mask, seed=1)
    changed = (pixels(r[0]) != pixels(image)).any(axis=2)
    assert changed[5, 5] and changed.sum() == 1


def test_known_latents_are_left_clean_outside_the_mask(tiny64, image, left_half):
    r = modes.inpaint(tiny64, "a cat", image, left_half, seed=1)
    known = encode_image(tiny64, image).mean
    same_latents(r.latents[..., 4:], known[..., 4:])
    assert np.abs(r.latents - known)[..., :4].max() > 0.1


@pytest.fixture
def idle(monkeypatch):
    """Return a model whose network sees no noise. The sampler leaves its start as it was."""
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    monkeypatch.setattr(model, "predict", lambda latents, t, context: 0 * latents)
    return model


def grid(model, steps):
    levels = sampling_sigmas(model.config.scheduler)
    return sigma_grid(levels, "leading", steps, "sigma_min", 1)


def test_txt2img_starts_from_the_exact_prior(idle):
    """x_T of the discrete model is N(0, 1): sqrt(1 + sigma^2) times noise in sigma coordinates."""
    r = modes.txt2img(idle, "a", seed=4, steps=5)
    first, *_, last = grid(idle, 5)
    want = np.hypot(1, first) / np.hypot(1, last) * Streams([4], (4, 8, 8))()
    same_latents(r.latents, want)


def test_img2img_starts_from_the_noised_image(idle, image):
    r = modes.img2img(idle, "a", image, 0.5, seed=4, steps=4)
    _, _, sigma, *_, last = grid(idle, 4)
    mean = encode_image(idle, image).mean
    noise = sigma * Streams([4], (4, 8, 8))()
    want = (mean + noise) / np.hypot(1, last)  # decoded in variance-preserving scale
    same_latents(r.latents, want, mean, noise)


def test_painted_transparency_is_the_mask(tiny, image, left_half):
    painted = Image.new("RGBA", (16, 16), "white")
    painted.putalpha(left_half)
    a = modes.inpaint(tiny, "a", image, painted, seed=1)
    b = modes.inpaint(tiny, "a", image, left_half, seed=1)
    assert (pixels(a[0]) == pixels(b[0])).all()


def test_a_mask_of_another_size_is_stretched(tiny, image, left_half):
    a = modes.inpaint(tiny, "a", image, left_half.resize((8, 4)), seed=1)
    b = modes.inpaint(tiny, "a", image, left_half, seed=1)
    assert (pixels(a[0]) == pixels(b[0])).all() and not b.warnings
    (warning,) = a.warnings
    assert warning.startswith("the mask is 8 x 4, the image 16 x 16")


def test_sizes_that_do_not_fit_are_refused(tiny, image, left_half):
    with pytest.raises(ImageError, match="multiples of 2"):
        modes.inpaint(tiny, "a", image.resize((17, 16)), left_half)


# -- saving ---------------------------------------------------------------------------------------


def test_save_names_and_refusals(tiny, tmp_path):
    r = modes.txt2img(tiny, "a cat", seed=3, count=2, steps=1)
    assert [p.name for p in r.save(tmp_path / "a.png")] == ["a-0.png", "a-1.png"]
    assert [p.name for p in r.save(tmp_path)] == ["txt2img-3-0.png", "txt2img-4-1.png"]
    with pytest.raises(LdmrefError) as caught:
        r.save(tmp_path / "a.png")
    assert caught.value.exit_code == 8
    r.save(tmp_path / "a.png", overwrite=True)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png"] * 4


def test_the_noise_stream_is_the_one_of_record():
    """The Philox stream is part of the contract: the same seed, for years."""
    draw = Streams([0, 12345], (2,))()
    np.testing.assert_array_equal(
        draw, np.load(__file__.replace("test_modes.py", "golden_noise.npy"))
    )


def test_keys_and_values_of_the_prompt_are_made_once(monkeypatch):
    traced = TracedBackend(get_backend("numpy", dtype="float64"))
    model = ldmref.random_model("tiny", backend=traced)
    width = model.config.unet.cross_attention_dim
    length = model.tokenizer.length

    def projections(steps):
        traced.records.clear()
        image = modes.txt2img(model, "red heart", seed=1, steps=steps, width=48)
        of_context = [r for r in traced.records if r.inputs[0] == (2, length, width)]
        return image, sum(r.name == "linear" for r in of_context)

    once = projections(1)[1]
    image = projections(4)[0]
    assert once > 0 and projections(4)[1] == once
    # as it would be without the cache
    for module in ("ldmref.models.conditioning", "ldmref.modes.batch_network"):
        monkeypatch.setattr(f"{module}.add_cache", lambda ops, conditioning: conditioning)
    again, count = projections(4)
    assert count == 4 * once
    np.testing.assert_array_equal(image.latents, again.latents)
