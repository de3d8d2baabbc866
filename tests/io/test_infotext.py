"""A1111's text: every pair that is written, what its own mean, and what cannot be repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.errors import InputError
from ldmref.io.pictures.infotext import infotext, parse_infotext, replay_parameters
from ldmref.samplers import SAMPLERS, SPACINGS, get_sampler

LEAST = {
    "prompt": "cat",
    "steps": 4,
    "sampler": "ddim",
    "cfg_scale": 3.0,
    "width": 24,
    "height": 16,
}
LINE = "Steps: 4, Sampler: Euler, CFG scale: 3, Seed: 12"


def full(**changes):
    return LEAST | {
        "mode": "inpaint", "negative_prompt": "dog", "sampler": "dpmpp_2m_sde", "seed": 7,
        "schedule": "karras", "cfg_scale": 2.5, "strength": 0.75, "clip_skip": 1, "eta": 0.5,
        "mask_blur": 4.0, "rng": "torch", "ldmref": "1.2", "backend": {"name": "numpy"},
        "model": {"name": "v1", "sha256": "0123456789abcdef",
                  "vae": {"name": "ft", "sha256": "fedcba9876543210"}},
    } | changes  # fmt: skip


def replayed(line, prompt="a cat", negative=""):
    params, notes = replay_parameters(f"{prompt}\nNegative prompt: {negative}\n{line}")
    return params, " | ".join(notes)


# -- written --------------------------------------------------------------------------------------


def test_everything_that_is_known_stands_in_the_text():
    assert infotext(full()) == (
        "cat\nNegative prompt: dog\nSteps: 4, Sampler: DPM++ 2M SDE, Schedule type: Karras, "
        "CFG scale: 2.5, Seed: 7, Size: 24x16, Model hash: 0123456789, Model: v1, "
        "VAE hash: fedcba9876, VAE: ft, Denoising strength: 0.75, Clip skip: 2, Mask blur: 4, "
        "Eta: 0.5, RNG: torch, Backend: numpy, Version: ldmref 1.2"
    )
    line = "Steps: 4, Sampler: DDIM, CFG scale: 3, Size: 24x16, Version: ldmref"
    assert infotext(LEAST) == f"cat\n{line}"
    none = {"eta": 0.0, "mask_blur": 0.0, "clip_skip": 0, "negative_prompt": "", "schedule": None}
    assert infotext(LEAST | none) == f"cat\n{line}"
    assert "Denoising strength: 0," in infotext(LEAST | {"strength": 0.0})
    assert "Seed: 0," in infotext(LEAST | {"seed": 0})


@pytest.mark.parametrize(
    "name", ["a, b", "a: b", "a\nb", 'say "x", y', "plain", "ü, é", "a\\b, c", 'a "b"']
)
def test_values_are_quoted_where_they_would_be_misread(name):
    text = infotext(LEAST | {"model": {"name": name}})
    assert parse_infotext(text)["pairs"]["Model"] == name
    assert ('Model: "' in text) == any(c in name for c in ",:\n")
    assert len(text.splitlines()) == 2 and "\\u" not in text


@given(
    st.sampled_from(sorted(SAMPLERS)), st.sampled_from([None, *sorted(SPACINGS)]),
    st.sampled_from(["txt2img", "img2img", "inpaint"]), st.floats(0.01, 1.0), st.integers(0, 3),
    st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_our_own_text_is_read_back(sampler, schedule, mode, strength, skip, seed):
    params = LEAST | {"mode": mode, "negative_prompt": "dog", "sampler": sampler, "seed": seed,
                      "schedule": schedule, "rng": "philox", "clip_skip": skip}  # fmt: skip
    params |= {"strength": strength} if mode != "txt2img" else {}
    params |= {"mask_blur": 1.5} if mode == "inpaint" else {}
    got, notes = replay_parameters(infotext(params))
    assert get_sampler(got.pop("sampler")) is SAMPLERS[params.pop("sampler")]
    assert got.pop("model", None) in (None, {"name": None, "sha256": None})
    want = {k: v for k, v in params.items() if v is not None and (k != "clip_skip" or v)}
    assert got == want and len(notes) == 1
    assert type(got["seed"]) is int and type(got["cfg_scale"]) is float


# -- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prompt", "negative", "pairs"),
    [("a cat\nSteps: 1, Seed: 2, Size: 8x8", "a cat", "", 3),
     ("a cat\nSteps: 1, Seed: 2", "a cat\nSteps: 1, Seed: 2", "", 0),
     ("Steps: 1, Seed: 2, Size: 8x8", "", "", 3), ("", "", "", 0),
     ("a\nb\nNegative prompt: c\nd\nSteps: 1, Seed: 2, Size: 8x8", "a\nb", "c\nd", 3),
     ("a\n  Negative prompt:c\nSteps: 1, Seed: 2, Size: 8x8", "a", "c", 3),
     ("a Negative prompt: c\nSteps: 1, Seed: 2, Size: 8x8", "a Negative prompt: c", "", 3),
     ("Negative prompt: c\nSteps: 1, Seed: 2, Size: 8x8\n", "", "c", 3)],
)  # fmt: skip
def test_where_the_prompts_end(text, prompt, negative, pairs):
    got = parse_infotext(text)
    assert (got["prompt"], got["negative_prompt"]) == (prompt, negative)
    assert len(got["pairs"]) == pairs
    assert (replay_parameters(text) is None) == (pairs == 0)


A1111_SCHEDULES = (
    "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "Align Your Steps",
    "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip


@pytest.mark.parametrize("label", A1111_SCHEDULES)
def test_every_schedule_of_a1111_has_one_here(label):
    params, notes = replayed(f"{LINE}, Schedule type: {label}")
    assert params["schedule"] in SPACINGS and "no schedule" not in notes
    assert "Schedule type" not in notes  # it is repeated
    alike = {"karras": "karras", "exponential": "exponential", "ddim": "leading"}
    assert params["schedule"] == alike.get(label.lower(), params["schedule"])


def test_schedules_that_mean_the_same():
    lines = {label: f"{LINE}, Schedule type: {label}" for label in A1111_SCHEDULES}
    by = {label: replayed(line)[0]["schedule"] for label, line in lines.items()}
    assert by["Uniform"] == by["Normal"] == "linspace" and by["Polyexponential"] == "exponential"
    assert by["SGM Uniform"] == by["Simple"] == "trailing"
    assert (by["Beta"], by["Align Your Steps"]) == ("beta_sigma", "ays")
    params, notes = replayed(f"{LINE}, Schedule type: {'K' * 60}")
    assert "schedule" not in params and "k" * 40 in notes and "k" * 41 not in notes


@pytest.mark.parametrize(
    ("schedule", "samplers"),
    [("karras", ("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a")),
     ("exponential", ("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE")),
     ("leading", ("DDIM", "PLMS")), ("linspace", ("Euler", "Euler a", "Heun", "LMS"))],
)  # fmt: skip
def test_what_automatic_means_for_each_sampler(schedule, samplers):
    for sampler in samplers:
        line = f"Steps: 4, Sampler: {sampler}, Schedule type: Automatic, Seed: 1"
        assert replayed(line)[0]["schedule"] == schedule, sampler
        old = replayed(line.replace("Schedule type: Automatic, ", "Size: 8x8, "))[0]["schedule"]
        assert old == ("leading" if schedule == "leading" else "linspace"), sampler


@pytest.mark.parametrize(
    "sampler", ["DPM++ 2M Karras", "DPM++ 2M SDE Exponential", "Euler", "DPM++ SDE"]
)
def test_old_names_of_samplers_hold_their_schedule(sampler):
    params, notes = replayed(f"Steps: 4, Sampler: {sampler}, Seed: 1")
    assert params["sampler"] == sampler
    assert ("schedule" in params) == (not sampler.endswith(("Karras", "Exponential")))
    assert ("Brownian" in notes) == ("SDE" in sampler)


@pytest.mark.parametrize(
    ("more", "name", "value"),
    [("Eta: 0.5", "eta", 0.5), ("Eta DDIM: 0.25", "eta", 0.25), ("Clip skip: 3", "clip_skip", 2),
     ("Size: 640x512", "width", 640), ("Size: 640x512", "height", 512),
     ("RNG: CPU", "rng", "torch"), ("RNG: NV", "rng", "a1111-gpu"), ("Size: big", "width", None),
     ("RNG: GPU", "rng", "a1111-gpu"),
     ("Denoising strength: 0.5", "strength", 0.5), ("Denoising strength: 0.5", "mode", "img2img"),
     ("Denoising strength: 0.5, Mask blur: 4", "mask_blur", 4.0),
     ("Denoising strength: 0.5, Masked content: original", "mode", "inpaint"),
     ("Denoising strength: 0.5, Inpaint area: Only masked", "mode", "inpaint"),
     ("Mask blur: 4", "mode", "txt2img"), ("Model: v1", "model", {"name": "v1", "sha256": None}),
     ("Model hash: abc", "model", {"name": None, "sha256": "abc"})],
)  # fmt: skip
def test_what_pairs_mean(more, name, value):
    params, notes = replayed(f"{LINE}, {more}")
    assert params.get(name) == value
    assert params["prompt_weights"] == "a1111" and "not exact" in notes


def test_numbers_have_their_types():
    params, _ = replayed(LINE + ", Denoising strength: 1, Eta: 1, Mask blur: 1")
    kinds = {name: type(params[name]) for name in ("steps", "seed", "cfg_scale", "strength", "eta")}
    assert kinds == {"steps": int, "seed": int, "cfg_scale": float, "strength": float, "eta": float}
    for wrong in ("Steps: four", "Seed: x", "CFG scale: high", "Clip skip: 1.5", "Eta: e"):
        with pytest.raises(InputError) as caught:
            replayed(f"{LINE}, {wrong}")
        assert caught.value.code == "E-REPLAY"


def test_a_second_pass_is_left_out():
    params, notes = replayed(f"{LINE}, Denoising strength: 0.6, Hires upscale: 2, Hires steps: 5")
    assert params["mode"] == "txt2img" and "strength" not in params
    assert "second pass" in notes and "Hires upscale: 2" in notes


def test_what_is_not_repeated_is_listed_and_what_is_about_no_pixel_is_not():
    silent = "Version: v1.10, User: me, Model: m, Backend: x, Model hash: 12"
    _, notes = replayed(f"{LINE}, Variation seed: 5, ENSD: 31337, {silent}")
    assert "not repeated: ENSD: 31337, Variation seed: 5" in notes
    assert not any(word in notes for word in ("Version", "User", "Model", "Backend", "Steps"))
    _, notes = replayed(LINE)
    assert "not repeated" not in notes
    _, notes = replayed(f"{LINE}, Style: {'y' * 200}")
    assert "y" * (80 - len("Style: ")) in notes and "y" * 80 not in notes


@pytest.mark.parametrize("where", ["prompt", "negative"])
@pytest.mark.parametrize("kind", ["lora", "lyco", "hypernet"])
def test_networks_in_a_prompt_are_left_out_and_named(where, kind):
    tag = f"<{kind}:foo:0.8>"
    params, notes = replayed(LINE, **{where: f"a red cat {tag}"})
    name = "prompt" if where == "prompt" else "negative_prompt"
    assert params[name] == "a red cat" and tag in notes and "lora=" in notes
    assert "AND" not in notes
    _, notes = replayed(LINE, f"a <{kind}:{'z' * 200}>")
    assert notes.count("z") == 80 - len(f"<{kind}:")


@pytest.mark.parametrize(
    ("prompt", "edited"),
    [("[red:blue:0.5] cat", True), ("[red|blue] cat", True), ("a AND b", True), ("a BREAK b", True),
     ("[red] cat", False), ("SAND and BREAKS", False), ("(red:1.2) cat", False)],
)  # fmt: skip
def test_notation_that_is_not_read_here_is_mentioned(prompt, edited):
    for texts in ((prompt, ""), ("", prompt)):
        assert ("AND and BREAK" in replayed(LINE, *texts)[1]) is edited
    ours = replay_parameters(f"{prompt}\n{LINE}, Version: ldmref 1.0")
    assert "prompt_weights" not in ours[0] and len(ours[1]) == 1


@pytest.mark.parametrize(
    ("prompt", "negative", "chunked"),
    [("a " * 50, "", False), ("a " * 51, "", True), ("cat", "b " * 51, True),
     ("a, " * 25, "", False),
     ("a, " * 26, "", True), ("antidisestablishmentarianism " * 20, "b " * 51, False)],
)  # fmt: skip
def test_long_prompts_are_read_in_chunks(prompt, negative, chunked):
    params, _ = replayed(LINE, prompt, negative)
    assert (params.get("long_prompts") == "chunk") is chunked
