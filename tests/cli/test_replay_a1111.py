"""Every sampler and schedule of A1111 on its own noise levels, and the notes of a replay."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref import modes
from ldmref.apps.a1111.reading import replay_parameters
from ldmref.apps.a1111.replay import replay_request
from ldmref.errors import LdmrefError
from ldmref.io.images.metadata import read_parameters
from ldmref.models.presets import preset
from ldmref.modes.registry import MODES
from ldmref.samplers import make_schedule
from ldmref.samplers.schedule import sampling_sigmas

SAMPLERS = {  # of A1111: the method here, whether its levels are made one too many
    "Euler": ("euler", False), "Euler a": ("euler_a", False), "Heun": ("heun", False),
    "LMS": ("lms_euler", False), "DPM2": ("dpm_solver_2", True),
    "DPM2 a": ("dpm_solver_2_a", True), "DPM++ 2S a": ("dpmpp_2s_a", False),
    "DPM++ 2M": ("dpmpp_2m", False), "DPM++ SDE": ("dpmpp_sde", False),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", False), "DPM++ 3M SDE": ("dpmpp_3m_sde", True),
}  # fmt: skip
AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
LINE = "CFG scale: 7, Seed: 12, Size: 512x512"
FLAGS = dict.fromkeys(
    ["sampler", "steps", "schedule", "sigmas", "strength", "clip_skip", "resize", "long_prompts"]
)


def in_log(values, n):
    """n values along a list, piecewise linear in the logarithm."""
    where = np.linspace(0, 1, n)
    return np.exp(np.interp(where, np.linspace(0, 1, len(values)), np.log(values)))


def theirs(name, schedule, n):
    """Return A1111's levels of n steps, by its formulas, for a model of Stable Diffusion."""
    table = np.asarray(sampling_sigmas(preset(name).scheduler))
    low = table[0]
    high = table[-1]
    u = np.linspace(0, 1, n)
    if schedule == "Uniform":
        levels = in_log(table[::-1], n)
    elif schedule == "SGM Uniform":
        levels = in_log(table[::-1], n + 1)[:-1]
    elif schedule == "Karras":
        levels = (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    elif schedule == "Exponential":
        levels = high * (low / high) ** u
    elif schedule == "Beta":
        from scipy.stats import beta

        levels = low + beta.ppf(1 - u, 0.6, 0.6) * (high - low)
    else:
        levels = np.asarray(AYS[name]) if n == 11 else in_log(AYS[name], n)
    return np.append(levels, 0.0)


def plan_replay(name, line, own=None, prompt="a cat"):
    """Return the plan of a replay with a preset, and all notes."""
    config = preset(name)
    params, notes = replay_parameters(f"{prompt}\n{line}")
    mode = params["mode"]
    flags = FLAGS | {k: v for k, v in params.items() if k not in ("a1111", "model", "mode")}
    flags, more = replay_request(mode, config, flags | (own or {}), params["a1111"], own or {})
    takes = MODES[mode].parameters
    values = {key: value for key, value in flags.items() if key in takes and value is not None}
    sources = {
        name: Image.new("RGB", (512, 512), "white") for name in ("image", "mask") if name in takes
    }
    return config, modes.plan(mode, config, **values, **sources), notes + more


def replayed(name, line, own=None, prompt="a cat"):
    """Return the resolved request of a replay with a preset, and all notes."""
    config, plan, notes = plan_replay(name, line, own, prompt)
    return config, plan.job, notes


def levels_of(config, request):
    """Return the noise levels on which the request runs."""
    schedule = make_schedule(
        config.scheduler, request.sampler, request.schedule, request.steps, request.sigmas
    )
    return schedule.sigmas[request.first_step :]


@pytest.mark.parametrize("n", [10, 11, 20, 30])
@pytest.mark.parametrize(
    "schedule", ["Uniform", "Karras", "Exponential", "SGM Uniform", "Align Your Steps", "Beta"]
)
@pytest.mark.parametrize("label", SAMPLERS)
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_every_pair_has_the_levels_of_a1111(name, label, schedule, n):
    line = f"Steps: {n}, Sampler: {label}, Schedule type: {schedule}, {LINE}"
    config, request, notes = replayed(name, line)
    method, discards = SAMPLERS[label]
    want = theirs(name, schedule, n + discards)
    want = np.delete(want, -2) if discards else want
    assert request.sampler.name == method
    np.testing.assert_allclose(levels_of(config, request), want, rtol=1e-11)
    said = " | ".join(notes)
    assert ("Brownian" in said) == ("SDE" in label)
    assert "start noise" in said and "levels" not in said


@pytest.mark.parametrize(("steps", "strength"), [(5, 0.6), (None, 0.5), (8, 1)])
@pytest.mark.parametrize("schedule", ["Uniform", "Karras", "SGM Uniform"])
def test_a_second_pass_has_the_levels_of_a1111(schedule, steps, strength):
    """It takes all of its steps, the last ones of a longer schedule."""
    line = f"Steps: 10, Sampler: Euler, Schedule type: {schedule}, {LINE}"
    line += f", Denoising strength: {strength}, Hires upscale: 2, Hires upscaler: Latent"
    line += f", Hires steps: {steps}" if steps else ""
    config, plan, _ = plan_replay("sd15", line)
    first, second = plan.passes
    taken = steps or 10
    n = int(taken / min(strength, 0.999))
    np.testing.assert_allclose(levels_of(config, first), theirs("sd15", schedule, 10), rtol=1e-11)
    want = theirs("sd15", schedule, n)[n - taken :]
    np.testing.assert_allclose(levels_of(config, second), want, rtol=1e-11)
    assert second.size == (1024, 1024)


def test_a_model_of_one_size_leaves_the_second_pass_out():
    line = f"Steps: 10, Sampler: Euler, {LINE}, Denoising strength: 0.5, Hires upscale: 2"
    params, _ = replay_parameters(f"a cat\n{line}")
    config = preset("sd15")
    config = replace(config, defaults=replace(config.defaults, one_size=True))
    values, notes = replay_request("txt2img", config, params, params["a1111"])
    assert not [name for name in values if name.startswith("upscale")]
    assert "the second pass of A1111 is left out" in " | ".join(notes)


@pytest.mark.parametrize(
    ("label", "method", "schedule"),
    [
        ("DPM++ 2M", "dpmpp_2m", "Karras"),
        ("DPM++ SDE", "dpmpp_sde", "Karras"),
        ("DPM++ 2S a", "dpmpp_2s_a", "Karras"),
        ("DPM2", "dpm_solver_2", "Karras"),
        ("DPM2 a", "dpm_solver_2_a", "Karras"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde", "Exponential"),
        ("DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun", "Exponential"),
        ("DPM++ 3M SDE", "dpmpp_3m_sde", "Exponential"),
        ("Euler", "euler", "Uniform"),
        ("Euler a", "euler_a", "Uniform"),
        ("Heun", "heun", "Uniform"),
        ("LMS", "lms_euler", "Uniform"),
    ],
)
def test_automatic_is_the_schedule_that_a1111_prefers(label, method, schedule):
    asked = [
        f"Steps: 20, Sampler: {label}, Schedule type: {kind}, {LINE}"
        for kind in ("Automatic", schedule)
    ]
    _, request, _ = replayed("sd15", asked[0])
    _, same, _ = replayed("sd15", asked[1])
    assert request.sampler.name == method and request.sigmas == same.sigmas
    old = replayed("sd15", f"Steps: 20, Sampler: {label}, {LINE}")[1]  # before "Schedule type"
    assert (old.sigmas == same.sigmas) is (schedule == "Uniform")


@pytest.mark.parametrize(
    ("label", "n", "steps", "begins", "said"),
    [
        ("DDIM", 20, 19, 951, None),
        ("DDIM", 30, 30, 991, None),
        ("PLMS", 50, 49, 981, None),
        ("UniPC", 20, 20, 999, "order 3, variant bh1"),
    ],
)
def test_ddim_plms_and_unipc_follow_compvis_timesteps(label, n, steps, begins, said):
    for kind in ("Automatic", "Karras"):  # which they ignore
        line = f"Steps: {n}, Sampler: {label}, Schedule type: {kind}, {LINE}"
        config, request, notes = replayed("sd15", line)
        levels = levels_of(config, request)
        table = sampling_sigmas(config.scheduler)
        assert len(levels) == steps + 1 and levels[0] == pytest.approx(table[begins], rel=1e-12)
        end = table[0 if label == "UniPC" else 1]
        assert levels[-1] == pytest.approx(end, rel=1e-12)
        assert len(notes) == (2 if said else 1) and (not said or said in notes[1])


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("label", ["Euler", "DPM2", "DPM++ 2M"])
def test_img2img_takes_the_steps_of_a1111(label, strength):
    """`sigmas[steps - t_enc - 1:]`: one step more than the strength says."""
    line = f"Steps: 20, Sampler: {label}, Schedule type: Karras, {LINE}"
    config, plan, notes = plan_replay("sd15", f"{line}, Denoising strength: {strength}")
    _, discards = SAMPLERS[label]
    want = theirs("sd15", "Karras", 20 + discards)
    want = (np.delete(want, -2) if discards else want)[20 - int(strength * 20) - 1 :]
    np.testing.assert_allclose(levels_of(config, plan.job), want, rtol=1e-11)
    said = " | ".join(notes)
    assert "posterior" in said and "start noise" not in said and "noise alone" not in said
    assert plan.params["resize"] == "stretch"


def test_what_img2img_and_inpaint_do_otherwise_is_named():
    line = f"Steps: 20, Sampler: Euler, Schedule type: Karras, {LINE}, Denoising strength: "
    assert "noise alone" in " | ".join(replayed("sd15", line + "1")[2])
    said = " | ".join(replayed("sd15", line + "0.5, Mask blur: 4")[2])
    assert "in every prediction" in said and "posterior" in said
    said = " | ".join(replayed("sd15", line + "0.5, RNG: CPU")[2])
    assert "A1111 makes the noise" in said
    said = " | ".join(replayed("sd15", line.replace("Euler", "DDIM") + "0.5")[2])
    assert "next lower one" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Sampler: Euler, Schedule type: KL Optimal", "the levels end at 0.0292"),
        ("Sampler: LCM, Schedule type: Automatic", "A1111's LCM has other"),
        (
            "Sampler: Euler, Schedule type: Align Your Steps 32",
            "'align your steps 32' is unknown",
        ),
        ("Sampler: DEIS", "A1111 has no sampler 'DEIS': sampled with deis"),
        ("Sampler: Euler, Schedule rho: 5", "not repeated: Schedule rho: 5"),
        ("Sampler: Euler, Hires upscale: 2, Hires upscaler: ESRGAN_4x", "second pass"),
        ("Sampler: Euler, Hires upscale: 2, Hires upscaler: Lanczos", "the second pass: A1111"),
    ],
)
def test_what_is_not_exact_is_named(line, said):
    assert said in " | ".join(replayed("sd15", f"Steps: 8, {line}, {LINE}")[2])


def test_one_step_of_ddim_is_none_in_a1111():
    _, request, notes = replayed("sd15", f"Steps: 1, Sampler: DDIM, {LINE}")
    assert request.sigmas is None and request.steps == 1
    assert "does nothing with so few steps" in " | ".join(notes)


def test_scaled_start_noise_needs_no_note():
    line = f"Steps: 8, Sampler: Euler, Schedule type: Karras, {LINE}"
    assert "start noise" in " | ".join(replayed("sd15", line)[2])
    _, _, notes = replayed("sd15", line + ", SGM noise multiplier: True")
    assert len(notes) == 1


@pytest.mark.parametrize(("name", "skipped"), [("sd15", 1), ("sd2-base", 0), ("sdxl", 0)])
def test_clip_skip_acts_where_a1111_lets_it(name, skipped):
    """SDXL and Stable Diffusion 2 always take the layer of their training."""
    line = f"Steps: 8, Sampler: Euler, {LINE}, Clip skip: 2"
    assert replayed(name, line)[1].clip_skip == skipped
    assert replayed(name, line, {"clip_skip": 1})[1].clip_skip == 1


def test_flags_replace_what_a1111_did():
    line = f"Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, {LINE}"
    config, request, _ = replayed("sd15", line, {"steps": 10})
    np.testing.assert_allclose(levels_of(config, request), theirs("sd15", "Karras", 10), 1e-11)
    config, request, _ = replayed("sd15", line, {"sampler": "dpm_solver_2"})
    want = np.delete(theirs("sd15", "Karras", 21), -2)
    np.testing.assert_allclose(levels_of(config, request), want, rtol=1e-11)
    _, request, _ = replayed("sd15", line, {"sampler": "Euler Exponential"})
    assert (request.sampler.name, request.schedule, request.sigmas) == (
        "euler",
        "exponential",
        None,
    )
    _, request, _ = replayed("sd15", line, {"schedule": "linspace"})
    assert (request.schedule, request.steps, request.sigmas) == ("linspace", 20, None)
    _, request, _ = replayed("sd15", line, {"sigmas": (3.0, 1.0, 0.0), "steps": None})
    assert request.sigmas == (3.0, 1.0, 0.0)
    _, request, _ = replayed("sd15", line, {"long_prompts": "truncate"})
    assert request.long_prompts == "truncate"
    _, request, _ = replayed("sd15", line)
    assert request.long_prompts == "chunk"


KEYS = (
    "Steps",
    "Sampler",
    "Schedule type",
    "Denoising strength",
    "Clip skip",
    "Eta",
    "Seed",
    "Beta schedule alpha",
    "Discard penultimate sigma",
    "Hires upscale",
    "Hires steps",
    "RNG",
)
VALUES = (*SAMPLERS, "DDIM", "PLMS", "UniPC", "LCM", "Restart", "Karras", "KL Optimal", "DDIM",
          "Align Your Steps", "Turbo", "0", "1", "2", "3", "20", "501", "1000", "1001", "-1", "0.5",
          "0.999", "nan", "inf", "1e400", "True", "CPU", "x")  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)))
@settings(max_examples=500, deadline=None)
def test_any_text_is_replayed_or_refused(pairs):
    """With one clear line, never with another error."""
    line = ", ".join(f"{key}: {value}" for key, value in ({"Steps": "20"} | pairs).items())
    try:
        config, request, notes = replayed("sd15", f"{line}, {LINE}")
    except LdmrefError as error:
        assert error.code != "E-INTERNAL" and "\n" not in str(error)
        return
    levels = levels_of(config, request)
    assert (np.diff(levels) < 0).all() and notes
    assert len(levels) >= 2 or request.strength == 0.0


# -- programs with names of their own -------------------------------------------------------------


def sd_cpp(more, schedule=" karras", rng="cuda", sampler="euler"):
    """Return a line as stable-diffusion.cpp writes it."""
    return (
        f"Steps: 20, CFG scale: 7.000000, {more}Seed: 12, Size: 512x512, Model: v1-5.safetensors, "
        f"RNG: {rng}, Sampler: {sampler}{schedule}, Version: stable-diffusion.cpp"
    )


@pytest.mark.parametrize(
    ("rng", "ours", "noted"),
    [("cpu", "torch", False), ("cuda", "a1111-gpu", False), ("std_default", "a1111-gpu", True)],
)
def test_the_noise_of_stable_diffusion_cpp(rng, ours, noted):
    """std_default is the generator of the C++ library, which every compiler may choose."""
    params, notes = replay_parameters("a cat\n" + sd_cpp("", rng=rng))
    assert params["rng"] == ours
    assert any("RNG std_default is not here" in note for note in notes) is noted
    assert any("not repeated: RNG: std_default" in note for note in notes) is noted


def test_an_unknown_noise_of_a1111_is_named():
    _, _, notes = replayed("sd15", f"Steps: 20, Sampler: Euler, RNG: TPU, {LINE}")
    assert "RNG: TPU" in " | ".join(notes)


@pytest.mark.parametrize(
    ("schedule", "same"), [("", "Uniform"), (" discrete", "Uniform"), (" karras", "Karras"),
                           (" exponential", "Exponential"), (" sgm_uniform", "SGM Uniform")],
)  # fmt: skip
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "dpm++2m", "dpm2"])
def test_levels_of_stable_diffusion_cpp(sampler, schedule, same):
    """Those of A1111, and no level is left out for dpm2."""
    config, request, _ = replayed("sd15", sd_cpp("Eta: inf, ", schedule, sampler=sampler))
    np.testing.assert_allclose(levels_of(config, request), theirs("sd15", same, 20), rtol=1e-11)


def test_a_schedule_of_stable_diffusion_cpp_that_is_not_here_is_named():
    _, _, notes = replayed("sd15", sd_cpp("", " gits"))
    assert "'gits' is unknown" in " | ".join(notes)


def test_a_method_of_stable_diffusion_cpp_with_the_name_of_another_is_named():
    _, _, notes = replayed("sd15", sd_cpp("", sampler="ipndm_v"))
    assert "stable-diffusion.cpp's ipndm_v is another method" in " | ".join(notes)


def test_lists_and_json_of_stable_diffusion_cpp_are_no_pairs():
    text = sd_cpp("Skip layers: [7, 8, 9, ], ") + ', SDCPP: {"prompt": "x, Seed: 99, Steps: 3"}'
    params, notes = replay_parameters("a cat\n" + text)
    assert (params["seed"], params["steps"]) == (12, 20)
    assert "not repeated: Skip layers: [7, 8, 9, ]" in notes


def test_the_second_pass_of_stable_diffusion_cpp():
    hires = (
        "Hires upscale: Latent, Hires scale: 1.5, Hires resize: 0x0, Hires steps: 0, "
        "Denoising strength: 0.6, "
    )
    params, notes = replay_parameters("a cat\n" + sd_cpp(hires))
    assert (params["upscaler"], params["upscale"]) == ("latent", 1.5)
    assert params["upscale_strength"] == 0.6 and params["mode"] == "txt2img"
    assert not any("not repeated" in note for note in notes)


def test_eta_of_a_sampler_without_one_is_left_out_and_named():
    _, request, notes = replayed("sd15", f"Steps: 20, Sampler: Euler, {LINE}, Eta: 0.5")
    assert request.eta is None and "eta 0.5 has no effect on euler" in " | ".join(notes)
    _, request, notes = replayed("sd15", f"Steps: 20, Sampler: Euler a, {LINE}, Eta: 0.5")
    assert request.eta == 0.5 and "eta" not in " | ".join(notes)


@pytest.mark.parametrize("key", ["Guidance", "Distilled CFG Scale"])
@pytest.mark.parametrize(("name", "scale"), [("flux-dev", 3.5), ("sd15", 1.0)])
def test_the_guidance_that_a_network_reads(key, name, scale):
    """stable-diffusion.cpp and Forge record it beside the scale of the other guidance."""
    version = "stable-diffusion.cpp" if key == "Guidance" else "f2.0.1"
    line = f"Steps: 20, Sampler: euler, CFG scale: 1, {key}: 3.5, Seed: 1, Size: 512x512"
    params, _ = replay_parameters(f"a cat\n{line}, Version: {version}")
    values, notes = replay_request("txt2img", preset(name), FLAGS | params, params["a1111"])
    assert values["cfg_scale"] == scale and "second guidance" not in " | ".join(notes)
    params["cfg_scale"] = 4.0
    values, notes = replay_request("txt2img", preset(name), FLAGS | params, params["a1111"])
    assert ("second guidance" in " | ".join(notes)) is (name == "flux-dev")


@pytest.mark.parametrize(
    "end", ["\nTemplate: a {cat|dog}", "\nTemplate: a __x__\nNegative Template: y"]
)
def test_templates_of_dynamic_prompts_follow_the_line(end):
    text = f"a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler, {LINE}{end}"
    params, notes = replay_parameters(text)
    assert (params["prompt"], params["negative_prompt"]) == ("a cat", "dog")
    assert params["steps"] == 20 and any("Template: " in note for note in notes)


@pytest.mark.parametrize("comma", [", ", "| ", " | "])
def test_templates_and_bars_of_sd_next(comma):
    pairs = comma.join(["Steps: 20", "Sampler: Euler a", "Seed: 12", "Size: 512x512",
                        "CFG scale: 6", "App: SD.Next", "Version: 3c1a0f2"])  # fmt: skip
    text = f"a cat\nNegative prompt: dog\nTemplate: a __pet__\nNegative template: x\n{pairs}"
    params, notes = replay_parameters(text)
    assert (params["prompt"], params["negative_prompt"]) == ("a cat", "dog")
    assert (params["sampler"], params["seed"], params["cfg_scale"]) == ("euler_a", 12, 6.0)
    said = " | ".join(notes)
    assert "SD.Next 3c1a0f2" in said and "Template: a __pet__" in said


# -- on the command line --------------------------------------------------------------------------


def save(text, path="a.png"):
    chunk = PngInfo()
    chunk.add_itxt("parameters", text)
    Image.new("RGB", (16, 16), "red").save(path, pnginfo=chunk)
    return path


SMALL = "Steps: 3, Sampler: LMS, Schedule type: Karras, Seed: 12, Size: 16x16"


def test_what_follows_break_and_what_is_long_is_read(draw, work):
    """A1111 always reads all of a prompt, in chunks."""
    long = " ".join(["cat"] * 40)  # the tiny model reads 14 tokens at once
    for prompt in ("red heart BREAK blue sky", long):
        save(f"{prompt}\n{SMALL}")
        ran = draw("run", "--from", "a.png", "--overwrite", "-o", "b.png")
        params = read_parameters("b.png")["ldmref"]
        assert params["long_prompts"] == "chunk" and "truncated" not in params
        assert "left out" not in ran.err and "does not" in ran.err and "AND" not in ran.err
        assert params["sampler"] == "lms_euler"


@pytest.mark.parametrize(
    ("prompt", "negative", "padded", "comma"),
    [
        ("cat", "dog", False, False),
        ("cat BREAK dog", "", True, False),
        ("cat BREAK dog", "a BREAK b", False, False),
        ("a, b " * 20, "", True, True),
        ("a b " * 20, "c d " * 20, False, False),
    ],
)
def test_chunks_that_a1111_makes_otherwise_are_named(prompt, negative, padded, comma, draw, work):
    save(f"{prompt}\nNegative prompt: {negative}\n{SMALL}")
    err = draw("run", "--from", "a.png", "-o", "b.png").err
    assert ("number of chunks" in err) is padded and ("last comma" in err) is comma
    save(f"{prompt}\nNegative prompt: {negative}\n{SMALL}, Pad conds: True")
    assert "number of chunks" not in draw("run", "--from", "a.png", "-o", "c.png").err


def test_a_text_without_a_model_says_nothing_of_one(draw, work):
    save(f"a cat\n{SMALL}")
    err = draw("run", "--from", "a.png", "-o", "b.png").err
    assert "another model" not in err and "records the model" not in err
    save(f"a cat\n{SMALL}, Model: v1-5")
    err = draw("run", "--from", "a.png", "-o", "c.png").err
    assert "'v1-5' without a digest" in err and "another model: recorded" not in err
    save(f"a cat\n{SMALL}, Model hash: 6ce0161689")
    assert "another model: the image records '6ce0161689'" in draw("run", "--from", "a.png").err


@pytest.mark.parametrize("label", ["Restart", "DPM fast", "DPM adaptive", "DDIM CFG++"])
def test_samplers_that_are_missing_are_refused_with_an_alternative(label, ldm, draw, model_folder):
    save(f"a cat\nSteps: 3, Sampler: {label}, Schedule type: Karras, Seed: 1, Size: 16x16")
    ran = ldm("run", "--from", "a.png", "-m", model_folder)
    assert ran.code == 2 and "error[E-SAMPLER]" in ran.err and "--sampler" in ran.err
    draw("run", "--from", "a.png", "--sampler", "euler", "-o", "b.png")
    assert len(read_parameters("b.png")["ldmref"]["sigmas"]) == 4


def test_names_of_samplers_on_the_command_line_are_those_of_ldmref(draw, work):
    """In any case of letters: `LMS` and `UniPC` are `lms` and `unipc`, as docs/modes.md says."""
    for label, name in (("LMS", "lms"), ("UniPC", "unipc"), ("DPM++ 2M Karras", "dpmpp_2m")):
        draw("txt2img", "red", "--steps", 3, "--sampler", label, "--overwrite", "-o", "a.png")
        assert read_parameters("a.png")["ldmref"]["sampler"] == name
        draw("run", "--from", "a.png", "--overwrite", "-o", "b.png")
        assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": [1, 2, 3]},
        {"seed": [1]},
        {"seed": []},
        {"prompt": ["a", "b"]},
        {"negative_prompt": ["a", "b"]},
        {"positions": [0.5] * 5},
        {"positions": 5},
    ],
)
@pytest.mark.parametrize("mode", ["txt2img", "interpolate"])
def test_a_record_makes_one_image(mode, change, ldm, draw, model_folder, work):
    more = ("--to", "blue", "--frames", 2) if mode == "interpolate" else ()
    draw(mode, "red", *more, "--steps", 2, "--seed", 1, "-o", "a.png")
    path = "a-0.png" if more else "a.png"
    record = read_parameters(path)["ldmref"]
    draw("run", "--from", path, "-o", "b.png")
    chunk = PngInfo()
    chunk.add_text("ldmref", json.dumps(record | change))
    Image.new("RGB", (8, 8)).save("c.png", pnginfo=chunk)
    before = {file.name for file in work.iterdir()}
    ran = ldm("run", "--from", "c.png", "-m", model_folder)
    assert ran.code == 2 and "error[E-REPLAY]" in ran.err and "several images" in ran.err
    assert {file.name for file in work.iterdir()} == before


def test_a_record_does_not_choose_the_rules_of_a1111(draw, work):
    """Only A1111's text leads to its noise levels, not a key in a stranger's JSON."""
    draw("txt2img", "red", "--steps", 2, "--seed", 1, "-o", "a.png")
    record = read_parameters("a.png")["ldmref"] | {"a1111": {"schedule": "karras"}, "own": ["x"]}
    chunk = PngInfo()
    chunk.add_text("ldmref", json.dumps(record))
    Image.new("RGB", (8, 8)).save("b.png", pnginfo=chunk)
    draw("run", "--from", "b.png", "-o", "c.png")
    assert Image.open("a.png").tobytes() == Image.open("c.png").tobytes()
