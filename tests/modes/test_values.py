"""As what a value arrives, at both ends of its range; what the model decides if none is given."""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.advice.requests import advise
from ldmref.errors import InputError, LdmrefError, UsageError
from ldmref.models.config import Defaults
from ldmref.models.presets import preset
from ldmref.modes import Control, control, notation, validation
from ldmref.modes.validation import check_embeddings
from ldmref.samplers.schedule import sampling_sigmas

TINY = preset("tiny")
IMAGE = Image.new("RGB", (16, 16), "teal")
INPUTS = {"image": IMAGE, "mask": Image.new("L", (16, 16), 255)}


def request(mode="txt2img", config=TINY, **values):
    taken = {"img2img": ("image",), "invert": ("image",), "inpaint": ("image", "mask")}
    inputs = {name: INPUTS[name] for name in taken.get(mode, ())}
    return modes.plan(mode, config, **{"prompt": "a"} | inputs | values).job


def code_of(function, *arguments, **values):
    try:
        function(*arguments, **values)
    except LdmrefError as error:
        return error.code
    return ""


# -- single values --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [int, float, np.int8, np.uint64, np.float32, np.float64])
def test_numbers_may_be_of_any_kind(kind):
    r = request(cfg_scale=kind(3), sampler="ddim", eta=kind(1))
    assert (r.cfg_scale, r.eta) == (3.0, 1.0) and type(r.cfg_scale) is float
    if kind not in (float, np.float32, np.float64):
        r = request(steps=kind(3), seed=kind(7))
        assert (r.steps, r.seeds) == (3, (7,)) and type(r.steps) is type(r.seeds[0]) is int


@pytest.mark.parametrize(
    ("seed", "count", "want"),
    [
        (5, 3, (5, 6, 7)),
        ([5, 9, 5], 3, (5, 9, 5)),
        ((1, 0), 2, (1, 0)),
        (range(3), 3, (0, 1, 2)),
        (2**64 - 1, 3, (2**64 - 1, 0, 1)),
        ([2**64 - 1], 1, (2**64 - 1,)),
    ],
)
def test_seeds_of_several_images(seed, count, want):
    assert request(seed=seed, count=count).seeds == want


@pytest.mark.parametrize("chance", [-1, None, np.int64(-1)])
def test_random_seeds_have_32_bits_and_differ(chance):
    """As many as other programs can read."""
    seeds = request(seed=[chance, 4] * 20, count=40).seeds
    assert set(seeds[1::2]) == {4} and len({*seeds}) > 15 and max(seeds) < 2**32
    first, second = (request(seed=chance, count=2).seeds for _ in range(2))
    assert first != second and first[1] == (first[0] + 1) % 2**64 and max(first) <= 2**32


@pytest.mark.parametrize(
    ("positions", "want"),
    [
        (2, [0.0, 1.0]),
        (3, [0.0, 0.5, 1.0]),
        (np.int64(3), [0.0, 0.5, 1.0]),
        ([0.25], [0.25]),
        (np.array([1.0, 0.0]), [1.0, 0.0]),
        ((0, 1), [0.0, 1.0]),
    ],
)
def test_positions_are_evenly_spaced_or_a_list(positions, want):
    assert validation.check_positions("positions", positions) == want


@pytest.mark.parametrize(
    "wrong",
    [0, 1, 10_001, [], [0.0] * 10_001, [-0.01], [1.01], np.zeros((1, 2)), "0.5", b"0", {0.5}],
)
def test_wrong_positions(wrong):
    assert code_of(validation.check_positions, "positions", wrong) == "E-POSITIONS"


def test_as_many_positions_as_images():
    assert len(validation.check_positions("positions", [0.5] * 10_000)) == 10_000
    assert len(validation.check_positions("positions", 10_000)) == 10_000
    assert len(modes.plan("interpolate", TINY, prompt="a", prompt_b="b").job.seeds) == 8


TABLE = sampling_sigmas(TINY.scheduler)


@pytest.mark.parametrize(
    ("sigmas", "code"),
    [
        ([1.0, 0.0], ""),
        ((1.0, 0.5), ""),
        ([14, 7.5, 0], ""),
        (np.array([2.0, 1.0]), ""),
        ([14, 7, 0], ""),
        ([999, 500, 0], "E-SIGMAS"),
        ([1.0, 1.0], "E-SIGMAS"),
        ([1.0], "E-SIGMAS"),
        (np.array([[2.0, 1.0]]), "E-SIGMAS"),
        (np.linspace(9, 0, 1001), ""),
        (np.linspace(9, 0, 1002), "E-SIGMAS"),
        ([TABLE[-1] * 1.01, 0.0], ""),
        ([TABLE[-1] * 1.011, 0.0], "E-SIGMAS"),
        (["1.0", "0.0"], "E-SIGMAS"),
        ({2.0, 1.0}, "E-SIGMAS"),
    ],
)
def test_sigmas_that_the_model_can_take(sigmas, code):
    assert code_of(request, sigmas=sigmas) == code
    if not code:
        r = request(sigmas=sigmas)
        assert r.sigmas == tuple(float(x) for x in sigmas) and r.steps == len(sigmas) - 1


@pytest.mark.parametrize(("largest", "code"), [(1e6, ""), (1e6 + 0.5, "E-SIGMAS")])
def test_sigmas_of_any_model_have_an_end(largest, code):
    assert code_of(validation.check_sigmas, "sigmas", [largest, 0.0]) == code


@pytest.mark.parametrize(
    ("beside", "code"),
    [
        ({"steps": 2}, ""),
        ({"steps": 1}, "E-SIGMAS"),
        ({"steps": 3}, "E-SIGMAS"),
        ({"schedule": "karras"}, "E-SIGMAS"),
        ({"steps": 2, "schedule": "karras"}, "E-SIGMAS"),
    ],
)
def test_steps_beside_sigmas_must_agree(beside, code):
    assert code_of(request, sigmas=[2.0, 1.0, 0.0], **beside) == code


@pytest.mark.parametrize(
    ("resample", "code"),
    [
        ([2, 3], ""),
        ((4, 1), ""),
        ((5, 1), "E-RESAMPLE-JUMP-LENGTH"),
        (b"12", "E-RESAMPLE"),
        ("12", "E-RESAMPLE"),
        ((2,), "E-RESAMPLE"),
        ((2, 2.0), "E-RESAMPLE-TIMES"),
        ((True, 2), "E-RESAMPLE-JUMP-LENGTH"),
        ({2, 3}, "E-RESAMPLE"),
    ],
)
def test_jumps_of_repaint(resample, code):
    assert code_of(request, "inpaint", resample=resample, steps=4) == code
    if not code:
        assert request("inpaint", resample=resample, steps=4).resample == tuple(resample)


def test_noise_may_be_any_array_of_real_numbers():
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    for array in (noise, noise.tolist(), noise.astype(np.float32), np.zeros((1, 4, 8, 8), int)):
        got = request(latents=array).latents
        assert got.dtype == np.float32 and got is not array
        np.testing.assert_array_equal(got, np.asarray(array, np.float32))
    once_infinite = noise.copy()
    once_infinite[0, 1, 2, 3] = np.inf
    for wrong in (once_infinite, noise + 1j, [["x"]], [[1.0], [1.0, 2.0]], noise[0], noise[:, :3]):
        assert code_of(request, latents=wrong) == "E-LATENTS"


@pytest.mark.parametrize(
    ("array", "kept"),
    [
        (np.ones((1, 16, 32)), np.float64),
        (np.ones((1, 32), np.float16), np.float32),
        (np.ones((1, 16, 32), np.float32), np.float32),
        (np.ones((1, 16, 32), int), None),
        (np.ones(32), None),
        (np.ones((1, 1, 16, 32)), None),
        (np.ones((0, 16, 32)), None),
        (np.array([[1.0, np.nan]]), None),
    ],
)
def test_hidden_states_keep_their_precision_and_are_copied(array, kept):
    if kept is None:
        assert code_of(check_embeddings, "prompt_embeds", array) == "E-PROMPT-EMBEDS"
    else:
        got = check_embeddings("prompt_embeds", array)
        assert got.dtype == kept and not np.shares_memory(got, array)
        np.testing.assert_array_equal(got, array)


def test_lists_of_prompts_may_be_tuples_and_names_are_not_guessed():
    assert request(prompt=("a", "b")).prompts == ("a", "b")
    for values, code in (
        ({"prompt": {"a"}}, "E-PROMPT"),
        ({"rng": "Philox"}, "E-RNG"),
        ({"rng": None}, "E-RNG"),
        ({"strict_prompt": 1}, "E-STRICT-PROMPT"),
        ({"long_prompts": ["chunk"]}, "E-LONG-PROMPTS"),
        ({"schedule": 1}, "E-SCHEDULE"),
        ({"negative_prompt": "a" * 5000}, "E-PROMPT-LENGTH"),
    ):
        assert code_of(request, **values) == code, values
    assert code_of(validation.check_single_text, "prompt", ["a"]) == "E-PROMPT"


@pytest.mark.parametrize(
    ("sampler", "schedule", "want"),
    [
        ("euler", None, ("euler", "leading")),
        ("Euler", "KARRAS", ("euler", "karras")),
        (" DPM++ 2M Karras ", None, ("dpmpp_2m", "karras")),
        ("euler karras", "Karras", ("euler", "karras")),
    ],
)
def test_names_of_samplers_and_schedules(sampler, schedule, want):
    r = request(sampler=sampler, schedule=schedule)
    assert (r.sampler.name, r.schedule) == want


def test_a_schedule_in_the_name_of_the_sampler_and_another_contradict_each_other():
    assert code_of(request, sampler="euler karras", schedule="beta") == "E-SCHEDULE"


# -- what the model decides -----------------------------------------------------------------------


def test_what_is_not_given_is_as_the_model_says():
    defaults = Defaults(steps=7, cfg_scale=3.5, inpaint_cfg_scale=2.0, width=20, height=12)
    scheduler = dataclasses.replace(TINY.scheduler, sampler="euler_a", spacing="trailing")
    config = dataclasses.replace(TINY, defaults=defaults, scheduler=scheduler)
    r = request(config=config)
    assert (r.steps, r.cfg_scale, r.width, r.height) == (7, 3.5, 20, 12)
    assert (r.sampler.name, r.schedule, r.eta) == ("euler_a", "trailing", r.sampler.eta)
    assert (r.clip_skip, r.rng, r.batch_size, r.negative_prompts) == (0, "philox", 1, ("",))
    assert request("inpaint", config).cfg_scale == 2.0 and type(r.cfg_scale) is float
    assert request("img2img", config).cfg_scale == 3.5
    plain = dataclasses.replace(config, defaults=dataclasses.replace(defaults, inpaint_cfg_scale=0))
    assert request("inpaint", plain).cfg_scale == 3.5


def test_zero_is_a_value_and_not_the_default():
    r = request(cfg_scale=0, sampler="euler_a", eta=0, seed=0)
    assert (r.cfg_scale, r.eta, r.seeds) == (0.0, 0.0, (0,))
    assert request("inpaint", cfg_scale=0).cfg_scale == 0.0
    assert request("img2img", strength=0).first_step == request("img2img").steps


def test_invert_is_ddim_without_guidance_unless_asked():
    plan = modes.plan(
        "invert", TINY, prompt="a", negative_prompt="b", image=IMAGE, steps=3, clip_skip=1
    )
    assert plan.job.cfg_scale == 1.0 and plan.job.sampler.name == "ddim"
    assert plan.settings == {
        "steps": 3,
        "cfg_scale": 1.0,
        "schedule": plan.job.schedule,
        "sigmas": None,
        "width": 16,
        "height": 16,
        "clip_skip": 1,
        "negative_prompt": ["b"],
        "sampler": "ddim",
        "long_prompts": "truncate",
        "prompt_weights": "none",
        "eta": 0.0,
    }
    wide = modes.plan("invert", TINY, prompt="a", image=IMAGE, width=32, cfg_scale=0.0)
    assert (wide.settings["width"], wide.settings["height"]) == (32, 16)
    assert wide.settings["cfg_scale"] == 0.0


@pytest.mark.parametrize(
    ("mode", "model", "named"),
    [
        ("superres", "tiny", "txt2img"),
        ("seg2img", "tiny", "txt2img"),
        ("txt2img", "ldm-superres", "superres"),
        ("seg2img", "ldm-superres", "superres"),
        ("img2img", "ldm-semantic", "seg2img"),
        ("superres", "ldm-semantic", "seg2img"),
    ],
)
def test_a_mode_that_the_model_has_not_is_refused_with_one_that_it_has(mode, model, named):
    inputs = {"superres": {"image": IMAGE}, "seg2img": {"segmentation": np.zeros((16, 16), int)}}
    values = inputs.get(mode, {"prompt": "a", "image": IMAGE})
    values = {"prompt": "a"} if mode == "txt2img" else values
    with pytest.raises(UsageError) as caught:
        modes.plan(mode, preset(model), **values)
    assert caught.value.code == "E-MODE" and named in caught.value.hint
    concat = {"superres": "low_resolution", "seg2img": "segmentation"}
    assert concat.get(mode, "") in str(caught.value)


@pytest.mark.parametrize(
    ("model", "values", "code"),
    [
        ("ldm-unconditional", {"prompt": "", "cfg_scale": 2.0}, "E-CFG-SCALE"),
        ("ldm-unconditional", {"prompt": "", "cfg_scale": 1.0}, ""),
        ("ldm-imagenet", {"prompt": "7", "cfg_scale": 2.0}, ""),
        ("ldm-imagenet", {"prompt": "7", "negative_prompt": "cat"}, "E-CLASS"),
        ("emoji", {"long_prompts": "chunk"}, "E-LONG-PROMPTS"),
        ("emoji", {"long_prompts": "truncate"}, ""),
        ("sd15", {"long_prompts": "chunk"}, ""),
    ],
)
def test_what_the_text_encoder_can_follow(model, values, code):
    assert code_of(request, config=preset(model), **values) == code


@pytest.mark.parametrize(
    ("name", "dtype", "warned"),
    [("numpy", "float16", True), ("numpy", "float32", False), ("torch", "float16", False)],
)
def test_a_slow_precision_is_mentioned_where_it_is_slow(name, dtype, warned):
    ops = SimpleNamespace(name=name, dtype=dtype)
    assert bool(advise(TINY, request(), ops)) is warned


def test_full_strength_is_nothing_to_warn_about():
    ops = SimpleNamespace(name="numpy", dtype="float32")
    assert advise(TINY, request("img2img", strength=1.0), ops) == []
    assert len(advise(TINY, request("img2img", strength=0.0), ops)) == 1


def test_both_prompts_of_an_interpolation_are_checked_and_seeds_are_recorded_as_a_pair():
    def planned(config, prompt, prompt_b, **values):
        return modes.plan("interpolate", config, prompt=prompt, prompt_b=prompt_b, **values)

    for prompts in (("1", "cat"), ("cat", "1")):
        assert code_of(planned, preset("ldm-imagenet"), *prompts) == "E-CLASS"
    params = planned(TINY, "a", "b", positions=2, seed=(4, 9)).params
    assert (params["seed"], params["seed_b"]) == ([4, 4], 9)
    params = planned(TINY, "a", "b", positions=2, seed=4).params
    assert (params["seed"], params["seed_b"]) == ([4, 4], 4)


@pytest.mark.parametrize("prompts", [("cat", ""), ("1", "cat")])
def test_prompts_of_a_denoiser_are_checked_before_the_weights_are_touched(prompts):
    weightless = SimpleNamespace(config=preset("ldm-imagenet"))
    assert code_of(ldmref.denoiser, weightless, *prompts) == "E-CLASS"


def test_what_has_no_effect_is_not_recorded():
    inputs = {"prompt": "a", "seed": 1} | INPUTS
    assert "padding" not in modes.plan("inpaint", TINY, **inputs).params
    assert modes.plan("inpaint", TINY, **inputs, only_masked=True).params["padding"] == 32
    image = {"prompt": "a", "image": IMAGE}
    first, second = (modes.plan("invert", TINY, **image).params for _ in range(2))
    assert first == second  # no random seed


@pytest.mark.parametrize("mode", ["img2img", "invert"])
def test_how_an_image_was_resized_is_recorded(mode):
    odd = {"prompt": "a", "image": Image.new("RGB", (33, 21))}
    params = modes.plan(mode, TINY, **odd).params
    assert (params["resize"], params["width"], params["height"]) == ("stretch", 32, 20)
    params = modes.plan(mode, TINY, **odd, width=16, resize="fill").params
    assert (params["resize"], params["width"], params["height"]) == ("fill", 16, 20)


# -- on the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "text", "want"),
    [
        (notation.parse_seeds, "7", 7),
        (notation.parse_seeds, "-1", -1),
        (notation.parse_seeds, "1,2", [1, 2]),
        (notation.parse_seeds, "3,-1,5", [3, -1, 5]),
        (notation.parse_seeds, "9" * 40, int("9" * 40)),
        (notation.parse_jumps, "10,3", (10, 3)),
        (notation.parse_jumps, "1" * 9 + ",1", (111111111, 1)),
        (notation.parse_positions, "0,0.5, 1", [0.0, 0.5, 1.0]),
        (notation.parse_positions, "1", [1.0]),
        (notation.parse_sigmas, "14.6,7,0", [14.6, 7.0, 0.0]),
    ],
)
def test_values_as_text(parse, text, want):
    assert parse(text) == want


@pytest.mark.parametrize(
    ("parse", "wrong", "code"),
    [
        (notation.parse_seeds, ("", "1.5", "a", "1,", ",1", "--1", "1 2", "9" * 41), "E-SEED"),
        (notation.parse_jumps, ("", "10", "1,2,3", "-1,2", "1,", "1" * 10 + ",1"), "E-RESAMPLE"),
        (notation.parse_positions, ("", "a", "0,,1"), "E-POSITIONS"),
        (notation.parse_sigmas, ("", "a", "1;0"), "E-SIGMAS"),
    ],
)
def test_text_that_is_no_value(parse, wrong, code):
    for text in wrong:
        assert code_of(parse, text) == code, text


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("canny:edges.png", ("canny", "edges.png", 1.0, 0.0, 1.0, None)),
        ("canny:edges.png:0.8", ("canny", "edges.png", 0.8, 0.0, 1.0, None)),
        ("canny:edges.png:-1:0.25-0.5", ("canny", "edges.png", -1.0, 0.25, 0.5, None)),
        ("union:edges.png:0.8:0-1:2", ("union", "edges.png", 0.8, 0.0, 1.0, 2)),
    ],
)
def test_controls_as_text(text, want):
    got = control.parse_control(text)
    assert (got.net, got.image, got.weight, got.start, got.end, got.mode) == want


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        ":",
        ":e.png",
        "a:b:x",
        "a:b:1:0",
        "a:b:1:half-1",
        "a:b:1:0-1:canny",
        "a:b:1:0-1:2:3",
    ],
)
def test_text_that_is_no_control(wrong):
    """A control without an image is one of an inpainting ControlNet."""
    assert code_of(control.parse_control, wrong) == "E-CONTROL"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({}, ""),
        ({"weight": -10}, ""),
        ({"weight": 10}, ""),
        ({"weight": -10.1}, "E-CONTROL-WEIGHT"),
        ({"start": 0, "end": 1}, ""),
        ({"start": 0.99}, ""),
        ({"end": 0.01}, ""),
        ({"start": 1.0}, "E-CONTROL-START"),
        ({"start": 1.5, "end": 2}, "E-CONTROL-START"),
        ({"end": 1.01}, "E-CONTROL-END"),
        ({"start": 0.5, "end": 0.4}, "E-CONTROL-START"),
    ],
)
def test_numbers_of_a_control(values, code):
    one = Control("net", IMAGE, **values)
    assert code_of(control.check_controls, "control", [one] * 16) == code
    if not code:
        (got,) = control.check_controls("control", (one,))
        assert all(type(x) is float for x in (got.weight, got.start, got.end))
        want = {"weight": 1.0, "start": 0.0, "end": 1.0} | values
        assert {"weight": got.weight, "start": got.start, "end": got.end} == want


def test_more_controls_than_anybody_needs_are_refused():
    one = Control("net", IMAGE)
    for wrong in ([one] * 17, [one, "net"], {"net": one}, "net"):
        assert code_of(control.check_controls, "control", wrong) == "E-CONTROL"


def test_noise_in_a_file(tmp_path):
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    for name, array in (("double", noise), ("half", noise.astype(np.float16))):
        np.save(tmp_path / name, array)
        got = notation.read_noise(str(tmp_path / f"{name}.npy"))
        assert got.dtype == np.float32 and type(got) is np.ndarray and got.flags.writeable
        np.testing.assert_array_equal(got, array.astype(np.float32))
    broken = noise.copy()
    broken[0, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "large.npy", noise * 1e300)
    np.save(tmp_path / "whole.npy", np.zeros((1, 4, 8, 8), int))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "several.npz", noise)
    (tmp_path / "text.npy").write_text("noise")
    (tmp_path / "folder.npy").mkdir()
    for name in (
        "nan.npy",
        "large.npy",
        "whole.npy",
        "objects.npy",
        "several.npz",
        "text.npy",
        "folder.npy",
        "missing.npy",
    ):
        with pytest.raises(InputError) as caught, warnings.catch_warnings(action="error"):
            notation.read_noise(str(tmp_path / name))
        assert caught.value.code == "E-LATENTS", name
