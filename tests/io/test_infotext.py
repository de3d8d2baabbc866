"""A1111's text: every pair that is written, what its own mean, and what cannot be repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.apps.a1111.reading import replay_parameters
from ldmref.errors import InputError
from ldmref.io.images.infotext import infotext, parse_infotext
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
    return (
        LEAST
        | {
            "mode": "inpaint",
            "negative_prompt": "dog",
            "sampler": "dpmpp_2m_sde",
            "seed": 7,
            "schedule": "karras",
            "cfg_scale": 2.5,
            "strength": 0.75,
            "clip_skip": 1,
            "eta": 0.5,
            "mask_blur": 4.0,
            "rng": "torch",
            "ldmref": "1.2",
            "backend": {"name": "numpy"},
            "model": {
                "name": "v1",
                "sha256": "0123456789abcdef",
                "vae": {"name": "ft", "sha256": "fedcba9876543210"},
            },
        }
        | changes
    )


def replayed(line, prompt="a cat", negative=""):
    params, notes = replay_parameters(f"{prompt}\nNegative prompt: {negative}\n{line}")
    return params, " | ".join(notes)


# -- written --------------------------------------------------------------------------------------


def test_everything_that_is_known_stands_in_the_text():
    assert infotext(full()) == (
        "cat\nNegative prompt: dog\nSteps: 4, Sampler: DPM++ 2M SDE, Schedule type: Karras, "
        "CFG scale: 2.5, Seed: 7, Size: 24x16, Model hash: 0123456789, Model: v1, "
        "VAE hash: fedcba9876, VAE: ft, Denoising strength: 0.75, Clip skip: 2, Mask blur: 4, "
        "Eta: 0.5, RNG: CPU, Backend: numpy, Version: ldmref 1.2"
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


A1111S = {  # every sampler of A1111 1.10: the same method here, None: not offered
    "DPM++ 2M": "dpmpp_2m", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "dpmpp_2m_sde_heun", "DPM++ 2S a": "dpmpp_2s_a",
    "DPM++ 3M SDE": "dpmpp_3m_sde", "Euler a": "euler_a", "Euler": "euler", "LMS": "lms_euler",
    "Heun": "heun", "DPM2": "dpm_solver_2", "DPM2 a": "dpm_solver_2_a", "DDIM": "ddim",
    "PLMS": "pndm", "UniPC": "unipc_3", "LCM": "lcm", "DPM fast": None, "DPM adaptive": None,
    "Restart": None, "DDIM CFG++": None,
}  # fmt: skip
A1111_SCHEDULES = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal",
    "Align Your Steps", "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip


def test_a_name_of_a1111_is_written_only_for_what_a1111_means_by_it():
    for name in SAMPLERS:
        written = parse_infotext(infotext(LEAST | {"sampler": name}))["pairs"]["Sampler"]
        known = {label.lower(): method for label, method in A1111S.items()}
        assert written == f"ldmref {name}" or known[written.lower()] == name
    for schedule in SPACINGS:
        text = infotext(LEAST | {"schedule": schedule})
        written = parse_infotext(text)["pairs"]["Schedule type"]
        same = schedule in ("karras", "exponential")
        assert written == (schedule.capitalize() if same else f"ldmref {schedule}")
    for rng, written in (("torch", "CPU"), ("a1111-gpu", "NV"), ("philox", "ldmref philox")):
        assert f"RNG: {written}," in infotext(LEAST | {"rng": rng})
    assert "Eta DDIM: 0.5," in infotext(LEAST | {"eta": 0.5})
    assert "Eta: 0.5," in infotext(LEAST | {"eta": 0.5, "sampler": "euler_a"})


@given(
    st.sampled_from(sorted(SAMPLERS)),
    st.sampled_from([None, *sorted(SPACINGS)]),
    st.sampled_from(["txt2img", "img2img", "inpaint"]),
    st.floats(0.01, 1.0),
    st.integers(0, 3),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["philox", "torch", "a1111-gpu"]),
)
def test_our_own_text_is_read_back(sampler, schedule, mode, strength, skip, seed, rng):
    params = LEAST | {
        "mode": mode,
        "negative_prompt": "dog",
        "sampler": sampler,
        "seed": seed,
        "schedule": schedule,
        "rng": rng,
        "clip_skip": skip,
    }
    params |= {"strength": strength} if mode != "txt2img" else {}
    params |= {"mask_blur": 1.5} if mode == "inpaint" else {}
    got, notes = replay_parameters(infotext(params))
    assert get_sampler(got.pop("sampler")) is SAMPLERS[params.pop("sampler")]
    assert got.pop("model", None) in (None, {"name": None, "sha256": None})
    want = {k: v for k, v in params.items() if v is not None and (k != "clip_skip" or v)}
    assert got == want and len(notes) == (1 if schedule else 2)
    assert type(got["seed"]) is int and type(got["cfg_scale"]) is float


@pytest.mark.parametrize(
    ("written", "sampler", "schedule", "rng"),
    [
        ("Sampler: LMS, Schedule type: Linspace, RNG: torch", "LMS", "linspace", "torch"),
        ("Sampler: UniPC, Schedule type: Beta_sigma, RNG: philox", "UniPC", "beta_sigma", "philox"),
        ("Sampler: DPM++ 2M, Schedule type: Beta, RNG: a1111-gpu", "DPM++ 2M", "beta", "a1111-gpu"),
    ],
)
def test_older_text_of_ours_keeps_its_meaning(written, sampler, schedule, rng):
    """As version 0.1.0 wrote it, where LMS and UniPC were `lms` and `unipc`."""
    params, notes = replay_parameters(f"a cat\nSteps: 4, {written}, Seed: 1, Version: ldmref 0.1.0")
    assert (params["sampler"], params["schedule"], params["rng"]) == (sampler, schedule, rng)
    assert "a1111" not in params and len(notes) == 1


# -- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prompt", "negative", "pairs"),
    [
        ("a cat\nSteps: 1, Seed: 2, Size: 8x8", "a cat", "", 3),
        ("a cat\nSteps: 1, Seed: 2", "a cat\nSteps: 1, Seed: 2", "", 0),
        ("Steps: 1, Seed: 2, Size: 8x8", "", "", 3),
        ("", "", "", 0),
        ("a\nb\nNegative prompt: c\nd\nSteps: 1, Seed: 2, Size: 8x8", "a\nb", "c\nd", 3),
        ("a\n  Negative prompt:c\nSteps: 1, Seed: 2, Size: 8x8", "a", "c", 3),
        ("a Negative prompt: c\nSteps: 1, Seed: 2, Size: 8x8", "a Negative prompt: c", "", 3),
        ("Negative prompt: c\nSteps: 1, Seed: 2, Size: 8x8\n", "", "c", 3),
        # every line is stripped, and empty first lines are dropped, as in A1111
        ("a cat \n  b\t\n \nd\nSteps: 1, Seed: 2, Size: 8x8", "a cat\nb\n\nd", "", 3),
        ("a\nNegative prompt:\n\n c \n d\nSteps: 1, Seed: 2, Size: 8x8", "a", "c\nd", 3),
    ],
)
def test_where_the_prompts_end(text, prompt, negative, pairs):
    got = parse_infotext(text)
    assert (got["prompt"], got["negative_prompt"]) == (prompt, negative)
    assert len(got["pairs"]) == pairs
    assert (replay_parameters(text) is None) == (pairs == 0)


@pytest.mark.parametrize("label", A1111S)
def test_samplers_of_a1111(label):
    params, notes = replayed(f"Steps: 4, Sampler: {label}, CFG scale: 3, Seed: 12")
    assert params["sampler"] == (A1111S[label] or label.lower())
    assert params["a1111"]["label"] == label
    assert params["a1111"]["unknown"] is (A1111S[label] is None)
    assert "Sampler" not in notes


@pytest.mark.parametrize("label", A1111_SCHEDULES)
def test_schedules_of_a1111(label):
    for written in (label, label.lower().replace(" ", "_")):  # its label, its name
        params, notes = replayed(f"{LINE}, Schedule type: {written}")
        assert params["a1111"]["schedule"] == label.lower() and "schedule" not in params
        assert "Schedule type" not in notes


@pytest.mark.parametrize(
    ("sampler", "name", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("LMS Karras", "lms_euler", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("Euler", "euler", "uniform"),
        ("DPM++ 2M SDE Heun Karras", "dpmpp_2m_sde_heun", "karras"),
        ("DPM2 a Karras", "dpm_solver_2_a", "karras"),
        ("DPM++ SDE", "dpmpp_sde", "uniform"),
    ],
)
def test_old_names_of_samplers_hold_their_schedule(sampler, name, schedule):
    params, _ = replayed(f"Steps: 4, Sampler: {sampler}, Seed: 1")
    assert (params["sampler"], params["a1111"]["schedule"]) == (name, schedule)


def test_options_of_the_noise_levels():
    made = replayed(LINE)[0]["a1111"]
    assert made["beta"] == [0.6, 0.6]
    assert not (made["discard"] or made["padded"] or made["scaled"])
    line = f"{LINE}, Beta schedule alpha: 0.5, Beta schedule beta: 0.7"
    params, notes = replayed(
        f"{line}, Discard penultimate sigma: True, Pad conds: True, SGM noise multiplier: True"
    )
    made = params["a1111"]
    assert made["beta"] == [0.5, 0.7] and made["discard"] and made["padded"] and made["scaled"]
    assert "not repeated" not in notes
    params, notes = replayed(f"{LINE}, Beta schedule alpha: nan, Pad conds: 3, Schedule rho: 5")
    assert params["a1111"]["beta"] == [0.6, 0.6] and not params["a1111"]["padded"]
    for said in ("Beta schedule alpha: nan", "Pad conds: 3", "Schedule rho: 5"):
        assert said in notes


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("v1.10.1", False),
        ("v1.9.4-2-gabc", False),
        ("1.10.0", False),
        ("v1.6.0", True),
        ("f2.0.1v1.10.1", True),
        ("ComfyUI", True),
    ],
)
def test_other_versions_are_named(version, said):
    assert (f"version {version}" in replayed(f"{LINE}, Version: {version}")[1]) is said


@pytest.mark.parametrize(
    ("more", "name", "value"),
    [
        ("Eta: 0.5", "eta", 0.5),
        ("Eta DDIM: 0.25", "eta", 0.25),
        ("Clip skip: 3", "clip_skip", 2),
        ("Size: 640x512", "width", 640),
        ("Size: 640x512", "height", 512),
        ("RNG: CPU", "rng", "torch"),
        ("RNG: NV", "rng", "a1111-gpu"),
        ("Size: big", "width", None),
        ("RNG: GPU", "rng", "a1111-gpu"),
        ("Denoising strength: 0.5", "strength", 0.5),
        ("Denoising strength: 0.5", "mode", "img2img"),
        ("Denoising strength: 0.5, Mask blur: 4", "mask_blur", 4.0),
        ("Denoising strength: 0.5, Masked content: original", "mode", "inpaint"),
        ("Denoising strength: 0.5, Inpaint area: Only masked", "mode", "inpaint"),
        ("Mask blur: 4", "mode", "txt2img"),
        ("Model: v1", "model", {"name": "v1", "sha256": None}),
        ("Model hash: abc", "model", {"name": None, "sha256": "abc"}),
    ],
)
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


def test_a_second_pass_is_read():
    line = f"{LINE}, Denoising strength: 0.6, Hires upscale: 2, Hires steps: 5"
    for more, upscaler in (("", "latent"), ("Latent", "latent"), ("Lanczos", "lanczos")):
        params, notes = replayed(line + (f", Hires upscaler: {more}" if more else ""))
        assert params["mode"] == "txt2img" and "strength" not in params
        expected = {"upscale": 2.0, "upscale_steps": 5, "upscale_strength": 0.6}
        found = {name: value for name, value in params.items() if name.startswith("upscale")}
        assert found == expected | {"upscaler": upscaler}
        assert "Hires" not in notes and "second pass" not in notes


@pytest.mark.parametrize(
    "more", ["Hires upscale: 2, Hires upscaler: 4x-UltraSharp", "Hires resize: 1024x0"]
)
def test_a_second_pass_that_is_not_here_is_left_out(more):
    params, notes = replayed(f"{LINE}, Denoising strength: 0.6, {more}")
    assert params["mode"] == "txt2img" and "strength" not in params
    assert not [name for name in params if name.startswith("upscale")]
    assert "this is the first, smaller image" in notes and "Hires" in notes


def test_what_is_not_repeated_is_listed_and_what_is_about_no_pixel_is_not():
    silent = "Version: v1.10.1, User: me, Model: m, Backend: x, Model hash: 12"
    _, notes = replayed(f"{LINE}, Variation seed: 5, ENSD: 31337, {silent}")
    assert "not repeated: ENSD: 31337, Variation seed: 5" in notes
    assert not any(word in notes for word in ("Version", "User", "Model", "Backend", "Steps"))
    fields = {
        "Hires prompt": "a dog",
        "Refiner": "xl",
        "Hires schedule type": "Karras",
        "Refiner switch at": "0.8",
        "ControlNet 0": "canny",
        "Face restoration": "GFPGAN",
        "Tiling": "True",
        "Token merging ratio": "0.5",
        "VAE": "ft",
        "VAE hash": "12",
        "Lora hashes": "ab",
        "NGMS": "1",
        "Sigma churn": "5",
        "Schedule min sigma": "0.1",
        "Noise Schedule": "Zero Terminal SNR",
        "Extra noise": "0.1",
        "Emphasis": "No norm",
        "Variation seed strength": "0.3",
        "UniPC variant": "bh2",
        "Seed resize from": "8x8",
        "Masked content": "fill",
        "Conditional mask weight": "0.5",
    }
    _, notes = replayed(LINE + "".join(f", {key}: {value}" for key, value in fields.items()))
    for key, value in fields.items():
        assert f"{key}: {value}" in notes
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
    [
        ("[red:blue:0.5] cat", True),
        ("[red|blue] cat", True),
        ("a AND b", True),
        ("a BREAK b", False),
        ("[red] cat", False),
        ("SAND and BREAKS", False),
        ("(red:1.2) cat", False),
    ],
)
def test_notation_that_is_not_read_here_is_mentioned(prompt, edited):
    for texts in ((prompt, ""), ("", prompt)):
        notes = replayed(LINE, *texts)[1]
        assert ("AND in a prompt" in notes) is edited and "BREAK" not in notes
    ours = replay_parameters(f"{prompt}\n{LINE}, Schedule type: Karras, Version: ldmref 1.0")
    assert "prompt_weights" not in ours[0] and len(ours[1]) == 1


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a BREAK b", False),
        ("(a BREAK b)", True),
        ("[a BREAK b:2]", True),
        ("(a) BREAK b", False),
        (r"\(a BREAK b\)", False),
        ("a) BREAK (b", False),
        ("((a) BREAK b", True),
        ("(BREAKS)", False),
    ],
)
def test_a_break_in_brackets_is_mentioned(prompt, said):
    for texts in ((prompt, ""), ("", prompt)):
        assert ("BREAK within brackets" in replayed(LINE, *texts)[1]) is said
