"""Warnings about what is seldom meant; estimates and limits of what a request takes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import ResourceError, UsageError
from ldmref.models.presets import preset
from ldmref.modes.advice import advise
from ldmref.modes.generate import decode_images

IMAGE = Image.new("RGB", (16, 16), "teal")
SEEDED = {"seed": 1, "steps": 2}


def warnings(model, mode="txt2img", **arguments):
    return " ".join(getattr(modes, mode)(model, "a", **arguments, **SEEDED).warnings)


def test_an_ordinary_request_has_no_warning(tiny):
    assert modes.txt2img(tiny, "red heart", **SEEDED).warnings == []


@pytest.mark.parametrize(("scale", "warned"), [(51.0, True), (-80.0, True), (50.0, False)])
def test_a_large_guidance_scale_is_warned_about(tiny, scale, warned):
    assert ("cfg_scale" in warnings(tiny, cfg_scale=scale)) is warned


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"cfg_scale": 0},
            "cfg_scale 0 draws the empty (negative) prompt; 1 means without guidance",
        ),
        (
            {"cfg_scale": 0, "negative_prompt": "b"},
            "cfg_scale 0 draws the negative prompt; 1 means",
        ),
        ({"cfg_scale": 0, "guidance": "rescale"}, "cfg_scale 0 draws the empty (negative) prompt"),
        ({"cfg_scale": 0, "guidance": "perp_neg"}, "cfg_scale 0 draws the empty (negative) prompt"),
        ({"cfg_scale": 0, "sampler": "euler_cfgpp"}, ""),  # whose usual scales are 0 to 1
        ({"cfg_scale": 1}, ""),
        ({"cfg_scale": 0.1}, ""),
        ({}, ""),
    ],
)
def test_a_guidance_scale_of_zero_is_said_to_leave_nothing_of_the_prompt(tiny, arguments, said):
    found = warnings(tiny, **arguments)
    assert said in found and ("draws" in found) is bool(said)


def test_a_network_that_reads_a_guidance_scale_of_zero_reads_the_prompt_too():
    model = ldmref.random_model("flux-tiny")
    assert "draws" not in warnings(model, cfg_scale=0, width=32, height=32)


def test_strength_zero_is_warned_about_and_gives_the_image_back(tiny):
    r = modes.img2img(tiny, "a", IMAGE, strength=0, **SEEDED)
    assert "strength 0" in " ".join(r.warnings) and r[0].tobytes() == IMAGE.tobytes()


def test_float16_on_numpy_is_warned_about():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float16")
    assert "float16" in warnings(model)


@pytest.mark.parametrize("prompt", ["a (red:1.3) cat", "a (very (red): -0.5) cat (x:1)"])
def test_weights_that_are_text_are_mentioned(tiny, prompt):
    said = " ".join(modes.txt2img(tiny, prompt, **SEEDED).warnings)
    assert "prompt_weights" in said
    read = modes.txt2img(tiny, prompt, prompt_weights="a1111", **SEEDED).warnings
    assert "prompt_weights" not in " ".join(read)


def test_a_lora_in_a_prompt_is_mentioned(tiny):
    for options in ({}, {"prompt_weights": "a1111"}):
        said = modes.txt2img(tiny, ["a <lora:x:0.8>"] * 2, **options, **SEEDED).warnings
        assert sum("--lora" in line for line in said) == 1


def test_an_interpolation_between_equals_is_mentioned(tiny):
    def lines(prompt_b, seed):
        return modes.interpolate(tiny, "a", prompt_b, 2, seed=seed, steps=1).warnings

    assert "nothing to interpolate" in " ".join(lines("a", 1))
    assert "nothing to interpolate" in " ".join(lines("a", [1, 1]))
    assert not lines("a", [1, 2]) and "nothing" not in " ".join(lines("red", 1))


@pytest.mark.parametrize(
    ("name", "size", "far"),
    [
        ("emoji", (96, 64), True),
        ("emoji", (64, 40), True),
        ("emoji", (72, 64), False),
        ("sd15", (512, 768), False),
        ("sd15", (1088, 1024), True),
        ("sd15", (192, 512), True),
        ("sdxl", (1536, 640), False),
    ],
)
def test_sizes_far_from_the_trained_one_are_warned_about(tiny, name, size, far):
    config = preset(name)
    request = modes.plan("txt2img", config, prompt="a", width=size[0], height=size[1]).job
    assert bool(advise(config, request, tiny.backend)) is far


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


# -- images in other forms ----------------------------------------------------------------------


def test_float_and_boolean_arrays_draw_what_images_draw(tiny):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    drawn_mask = Image.fromarray(mask.astype(np.uint8) * 255)
    want = modes.inpaint(tiny, "a", Image.fromarray(pixels), drawn_mask, **SEEDED)
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
    r = modes.inpaint(tiny, "a", IMAGE, mask, rng="torch", **SEEDED)
    assert "latent cells" in " ".join(r.warnings)
    assert modes.inpaint(tiny, "a", IMAGE, mask, **SEEDED).warnings == []


# -- estimates and limits -------------------------------------------------------------------------


def calls_of_the_unet(model, mode="txt2img", **arguments):
    images = []
    unet = model.predict
    model.predict = lambda latents, *rest, **more: (
        images.append(latents.shape[0]) or unet(latents, *rest, **more)
    )
    getattr(modes, mode)(model, "a", **arguments)
    return sum(images)


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("txt2img", {"steps": 3}),
        ("txt2img", {"steps": 3, "count": 2, "cfg_scale": 1.0}),
        ("txt2img", {"steps": 3, "batch_size": 2, "count": 2}),
        ("txt2img", {"steps": 3, "sampler": "pndm"}),
        ("txt2img", {"steps": 5, "sampler": "lms"}),
        ("img2img", {"image": IMAGE, "strength": 0.5, "steps": 6, "sampler": "deis_3"}),
        (
            "inpaint",
            {
                "image": IMAGE,
                "mask": IMAGE,
                "steps": 6,
                "resample": (3, 2),
                "sampler": "deis_3",
            },
        ),
        ("img2img", {"image": IMAGE, "strength": 0.5, "steps": 4}),
        ("inpaint", {"image": IMAGE, "mask": IMAGE, "steps": 4, "resample": (2, 2)}),
        (
            "inpaint",
            {"image": IMAGE, "mask": IMAGE, "steps": 6, "resample": (2, 2), "strength": 0.5},
        ),
    ],
)
def test_evaluations_are_counted_exactly(mode, arguments):
    model = ldmref.random_model("tiny", backend="numpy")
    cost = modes.plan(mode, model.config, prompt="a", **arguments).estimate(model)
    assert cost.evaluations == calls_of_the_unet(model, mode, **arguments)
    assert cost.flops > 0 and cost.memory > 2**20 and 0.0 < cost.seconds < 60.0


def test_a_request_over_the_limit_is_refused_before_anything_is_drawn():
    model = ldmref.random_model("tiny", backend="numpy")
    model.max_seconds = 1e-9
    model.predict = model.encode_prompts = None
    with pytest.raises(ResourceError) as caught:
        modes.txt2img(model, "a", seed=1)
    assert caught.value.code == "E-SECONDS"
    with pytest.raises(ResourceError):
        modes.invert(model, "a", IMAGE)


def test_limits_come_from_argument_and_environment(monkeypatch):
    monkeypatch.setenv("LDMREF_MAX_SECONDS", "2.5")
    monkeypatch.setenv("LDMREF_MAX_MEMORY", "3GB")
    model = ldmref.load()
    assert (model.max_seconds, model.max_memory) == (2.5, 3 * 10**9)
    assert ldmref.load(max_seconds=7.0).max_seconds == 7.0
    for wrong in (0, -1.0, float("nan"), float("inf"), "x", True):
        with pytest.raises(UsageError) as caught:
            ldmref.load(max_seconds=wrong)
        assert caught.value.code == "E-MAX-SECONDS"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_out_of_memory_says_what_is_needed_and_the_model_draws_on(error):
    model = ldmref.random_model("tiny", backend="numpy")

    def fails(*arguments, **options):
        raise error

    want = modes.txt2img(model, "a", **SEEDED).latents
    unet = model.predict
    model.predict = fails
    with pytest.raises(ResourceError) as caught:
        modes.txt2img(model, "a", **SEEDED)
    size = model.estimate_memory(16, 16).peak_resident / 1e9
    assert caught.value.code == "E-MEMORY" and f"about {size:.1f} GB" in str(caught.value)
    model.predict = unet
    assert (modes.txt2img(model, "a", **SEEDED).latents == want).all()
    model.predict = lambda *a, **k: (_ for _ in ()).throw(RuntimeError("another"))
    with pytest.raises(RuntimeError, match="another"):
        modes.txt2img(model, "a", **SEEDED)


def test_images_of_latents_are_finite(tiny):
    assert len(decode_images(tiny, np.zeros((1, *tiny.latent_shape(16, 16)), np.float32))) == 1
