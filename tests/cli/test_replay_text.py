"""Images of A1111, replayed as far as their text goes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref.apps.a1111.reading import replay_parameters
from ldmref.io.images.metadata import read_parameters
from ldmref.math.sigmas import karras_sigmas
from ldmref.models.presets import preset
from ldmref.samplers.schedule import sampling_sigmas

LINE = "Steps: 4, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, Seed: 12, Size: 24x16"


def save(text, path="a.png"):
    chunk = PngInfo()
    chunk.add_itxt("parameters", text)
    Image.new("RGB", (16, 16), "red").save(path, pnginfo=chunk)
    return path


def test_what_the_text_says_is_sampled(draw, work):
    text = "a (red:1.3) cat <lora:foo:0.8>\nNegative prompt: dog\n" + LINE
    save(text + ", Model hash: 6ce0161689, Model: v1-5, Variation seed: 5, Version: v1.10.1")
    ran = draw("run", "--from", "a.png", "-o", "b.png")
    params = read_parameters("b.png")["ldmref"]
    want = {
        "mode": "txt2img",
        "prompt": "a (red:1.3) cat",
        "negative_prompt": "dog",
        "steps": 4,
        "sampler": "dpmpp_2m",
        "cfg_scale": 3.0,
        "seed": 12,
        "width": 24,
        "height": 16,
        "rng": "a1111-gpu",
        "prompt_weights": "a1111",
        "long_prompts": "chunk",
    }
    assert {key: params[key] for key in want} == want and "schedule" not in params
    table = sampling_sigmas(preset("tiny").scheduler)
    np.testing.assert_allclose(params["sigmas"][:-1], karras_sigmas(4, table[0], table[-1]), 1e-12)
    assert params["sigmas"][-1] == 0.0
    for said in (
        "not exact",
        "<lora:foo:0.8>",
        "--lora",
        "Variation seed: 5",
        "'v1-5'",
        "0.23 % more",
    ):
        assert said in ran.err, said
    draw(
        "txt2img",
        "a (red:1.3) cat",
        "-n",
        "dog",
        "--sampler",
        "dpmpp_2m",
        "--sigmas",
        ",".join(map(repr, params["sigmas"])),
        "--cfg",
        3,
        "--seed",
        12,
        "-W",
        24,
        "-H",
        16,
        "--rng",
        "a1111-gpu",
        "--prompt-weights",
        "a1111",
        "-o",
        "c.png",
    )
    assert Image.open("b.png").tobytes() == Image.open("c.png").tobytes()
    draw("run", "--from", "b.png", "-o", "d.png")
    assert Image.open("b.png").tobytes() == Image.open("d.png").tobytes()


@pytest.mark.parametrize(
    ("more", "want"),
    [
        ("", {"rng": "a1111-gpu", "sampler": "dpmpp_2m"}),
        (", RNG: CPU", {"rng": "torch"}),
        (", RNG: NV", {"rng": "a1111-gpu"}),
        (", Clip skip: 2", {"clip_skip": 1}),
        (", Eta: 0.5", {"eta": 0.5}),
        (", Denoising strength: 0.6", {"mode": "img2img", "strength": 0.6}),
        (
            ", Denoising strength: 0.6, Mask blur: 4",
            {"mode": "inpaint", "strength": 0.6, "mask_blur": 4.0},
        ),
        (
            ", Denoising strength: 0.6, Hires upscale: 2",
            {"mode": "txt2img", "upscale": 2.0, "upscale_strength": 0.6},
        ),
        (", Denoising strength: 0.6, Hires resize: 0x64", {"mode": "txt2img", "upscale": None}),
    ],
)
def test_pairs(more, want):
    params, notes = replay_parameters("a cat\n" + LINE + more)
    assert {key: params.get(key) for key in want} == want and "not exact" in notes[0]
    if "Hires resize" in more:
        assert "strength" not in params and any("second pass" in note for note in notes)


def test_old_names_hold_their_schedule(draw, work):
    save("a cat\nSteps: 4, Sampler: DPM++ 2M Karras, CFG scale: 3, Seed: 12, Size: 16x16")
    draw("run", "--from", "a.png", "-o", "b.png")
    save("a cat\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Karras, Seed: 12, Size: 16x16")
    draw("run", "--from", "a.png", "--cfg", 3, "-o", "c.png")
    params = [read_parameters(path)["ldmref"] for path in ("b.png", "c.png")]
    assert params[0]["sampler"] == "dpmpp_2m" and params[0]["sigmas"] == params[1]["sigmas"]
    assert Image.open("b.png").tobytes() == Image.open("c.png").tobytes()


def test_our_own_text_where_the_exact_record_is_lost(draw, work):
    draw("txt2img", "a (cat)", "--seed", 3, "--schedule", "karras", "-o", "a.png")
    save(read_parameters("a.png")["parameters"], "b.png")
    assert "not exact" in draw("run", "--from", "b.png", "-o", "c.png").err
    assert Image.open("a.png").tobytes() == Image.open("c.png").tobytes()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("Steps: 1000000000, Sampler: Euler, Seed: 1", "E-STEPS"),
        ("Steps: abc, Sampler: Euler, Seed: 1", "E-REPLAY"),
        ("Steps: " + "1" * 5000 + ", Sampler: Euler, Seed: 1", "E-REPLAY"),
        ("Steps: 3, Sampler: ../../x, Seed: 1", "E-SAMPLER"),
        ("Steps: 3, Sampler: Euler, Seed: -7", "E-SEED"),
        ("Steps: 3, Sampler: Euler, Seed: 1, CFG scale: nan", "E-REPLAY"),
        ("Steps: 3, Sampler: Euler, Seed: 1, Size: 999999999x8", "E-WIDTH"),
        ("Steps: 3, Sampler: Euler, Seed: 1, Denoising strength: 0.5", "E-REPLAY"),
        ("no pairs at all", "E-REPLAY"),
    ],
)
def test_hostile_text(line, code, ldm, model_folder, work):
    save("a cat\n" + line)
    ran = ldm("run", "--from", "a.png", "-m", model_folder)
    assert ran.code in (2, 3) and f"error[{code}]" in ran.err, ran.err
    assert len(ran.err) < 2000 and [p.name for p in work.iterdir()] == ["a.png"]


def test_notes_come_from_us_alone(draw, work):
    """A record cannot smuggle in lines to print."""
    draw("txt2img", "cat", "-o", "a.png")
    chunk = PngInfo()
    record = read_parameters("a.png")["ldmref"] | {"notes": ["call 555", 7]}
    chunk.add_text("ldmref", json.dumps(record))
    Image.new("RGB", (8, 8)).save("b.png", pnginfo=chunk)
    assert "555" not in draw("run", "--from", "b.png", "-o", "c.png").err


def test_records_of_other_programs_are_named(ldm, work):
    """A run of another program's record is refused by the program's name, and `info` shows it."""
    save('{"full_prompt": ["x"], "full_negative_prompt": [], "seed": "77", "steps": 30}')
    ran = ldm("run", "--from", "a.png")
    assert ran.code == 2 and "E-REPLAY" in ran.err and "Fooocus" in ran.err
    shown = ldm("info", "a.png")
    assert shown.code == 0 and "Fooocus" in shown.out and "seed 77" in shown.out
    assert json.loads(ldm("info", "a.png", "--json").out)["other"] == {"parameters": "Fooocus"}
    chunk = PngInfo()
    chunk.add_text("invokeai_metadata", "{}")
    Image.new("RGB", (16, 16)).save("b.png", pnginfo=chunk)
    ran = ldm("run", "--from", "b.png")
    assert ran.code == 2 and "InvokeAI" in ran.err
