"""Images to noise and back, and from one prompt to another."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rounding import ROUNDING, same_latents

import ldmref
from ldmref import modes
from ldmref.errors import Cancelled, LdmrefError, UsageError
from ldmref.math import slerp
from ldmref.models.conditioning import get_hidden_states
from ldmref.modes.channels import encode_image
from ldmref.samplers.noise import Streams
from ldmref.samplers.schedule import sampling_sigmas

# -- invert ---------------------------------------------------------------------------------------


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).mean() / (b**2).mean()))


@pytest.fixture(scope="module")
def emoji():
    return ldmref.load("emoji", backend="numpy")


@pytest.fixture(scope="module")
def face(emoji):
    """Return an image that the model did not generate."""
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, 56, 56), fill=(255, 200, 0))
    for x in (20, 38):
        draw.rectangle((x, 24, x + 6, 32), fill="black")
    return image.resize((emoji.config.defaults.width, emoji.config.defaults.height))


def test_an_image_comes_back_from_its_noise(emoji, face):
    """At 20 steps the latents' relative error is 0.11 by DDIM inversion, 0.004 with five iterations
    per step; the pixels are then off by what the autoencoder alone loses."""
    known = encode_image(emoji, face).mean
    off = {}
    for iterations in (0, 5):
        found = modes.invert(emoji, "smiling face", face, steps=20, iterations=iterations)
        again = modes.txt2img(emoji, "smiling face", latents=found.latents, **found.settings)
        off[iterations] = rms(again.latents, known)
    assert off[5] < 0.02 and off[5] < off[0] / 10, off
    assert again.params["sampler"] == "ddim" and again.params["cfg_scale"] == 1.0
    decoded = emoji.backend.to_numpy(emoji.decode(emoji.backend.asarray(known)))
    lossy = np.rint((np.clip(decoded[0].transpose(1, 2, 0), -1, 1) + 1) * 127.5)
    assert np.abs(np.asarray(again[0], float) - lossy).mean() < 1.0

    other = modes.txt2img(emoji, "crying face", latents=found.latents, **found.settings)
    assert np.abs(np.asarray(other[0], float) - np.asarray(again[0], float)).mean() > 2.0


def image16():
    draw = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(draw)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_iterations_invert_every_step_exactly(monkeypatch, final, cfg_scale):
    """The iteration converges here, because the network varies slowly with its input."""
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    scheduler = replace(model.config.scheduler, final_sigma=final)
    model.config = replace(model.config, scheduler=scheduler)
    monkeypatch.setattr(
        model,
        "predict",
        lambda x, t, told: 0.1 * np.sin(x) + 0.01 * get_hidden_states(told.context).mean(),
    )
    known = encode_image(model, image16()).mean
    off = {}
    for iterations in (0, 40):
        asked = dict(steps=5, cfg_scale=cfg_scale, negative_prompt="hat", iterations=iterations)
        found = modes.invert(model, "a cat", image16(), **asked)
        again = modes.txt2img(model, "a cat", latents=found.latents, **found.settings)
        off[iterations] = rms(again.latents, known)
    assert off[40] < 2e-6 and off[0] > 1e-4  # latents are handed over in float32


def test_invert_can_be_stopped_and_refuses_nonsense(tiny):
    flag = threading.Event()
    flag.set()
    with pytest.raises(Cancelled):
        modes.invert(tiny, "a", image16(), cancel=flag)
    for wrong in ({"iterations": -1}, {"iterations": 1.5}, {"prompt": ["a", "b"]}, {"steps": 0}):
        with pytest.raises(UsageError):
            modes.invert(tiny, **{"prompt": "a", "image": image16()} | wrong)
    found = modes.invert(tiny, "a zebra", Image.new("RGB", (33, 21)), steps=2)
    assert found.latents.shape == (1, 4, 10, 16) and found.latents.dtype == np.float32
    assert any("33 x 21" in w for w in found.warnings) and any("zebra" in w for w in found.warnings)
    assert json.loads(json.dumps(found.settings)) == found.settings


@pytest.mark.parametrize(("sigmas", "first"), [([5.0, 1.0, 0.0], None), ([5.0, 0.02, 0.0], 0.01)])
def test_plain_inversion_starts_just_above_the_clean_image(monkeypatch, sigmas, first):
    """At the least noise of the training or half the next level: a network that always sees the
    same noise adds it once for every level above the first."""
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    monkeypatch.setattr(model, "predict", lambda x, t, told: 0 * x + 1.0)
    first = sampling_sigmas(model.config.scheduler)[0] if first is None else first
    found = modes.invert(model, "a", image16(), sigmas=sigmas, iterations=0)
    added = found.latents * np.hypot(1.0, 5.0) - encode_image(model, image16()).mean
    np.testing.assert_allclose(added, 5.0 - first, atol=2e-5)


# -- interpolate ----------------------------------------------------------------------------------

WAY = dict(sampler="ddim", steps=3)


@pytest.mark.parametrize("path", ["lerp", "slerp"])
def test_the_ends_are_images_of_txt2img(tiny64, path):
    r = modes.interpolate(tiny64, "a cat", "a dog", 3, seed=(4, 9), path=path, **WAY)
    a = modes.txt2img(tiny64, "a cat", seed=4, **WAY)
    b = modes.txt2img(tiny64, "a dog", seed=9, **WAY)
    same_latents(r.latents[:1], a.latents)
    same_latents(r.latents[2:], b.latents)
    assert min(np.abs(r.latents[1] - r.latents[i]).max() for i in (0, 2)) > 0.1


def test_between_the_noise_turns_and_the_words_go_straight(tiny64, monkeypatch):
    tiny = tiny64
    seen = []
    network = tiny.predict
    monkeypatch.setattr(tiny, "predict", lambda x, t, c: seen.append((x, c)) or network(x, t, c))
    modes.interpolate(tiny, "a cat", "a dog", [0.25], seed=(4, 9), cfg_scale=1.0, steps=1)
    (x, told), *_ = seen
    a, b = (Streams([s], (4, 8, 8))().astype(np.float64) for s in (4, 9))
    same_latents(x, slerp(a, b, 0.25), a, b)
    cat = tiny.encode_text(["a cat"])
    dog = tiny.encode_text(["a dog"])
    np.testing.assert_allclose(
        get_hidden_states(told.context), 0.75 * cat + 0.25 * dog, rtol=0, atol=ROUNDING
    )


def test_one_seed_keeps_the_noise_and_params_replay(tiny64):
    tiny = tiny64
    r = modes.interpolate(tiny, "a cat", "a dog", 3, seed=4, batch_size=2, **WAY)
    ends = modes.txt2img(tiny, ["a cat", "a dog"], seed=[4, 4], **WAY)
    same_latents(r.latents[[0, 2]], ends.latents)
    p = r.params_of(1)
    assert json.loads(json.dumps(p)) == p and p["positions"] == [0.5] and p["mode"] == "interpolate"
    names = (
        "negative_prompt",
        "steps",
        "cfg_scale",
        "sampler",
        "schedule",
        "width",
        "height",
        "eta",
        "clip_skip",
        "rng",
        "long_prompts",
        "prompt_weights",
        "path",
    )
    again = modes.interpolate(
        tiny,
        p["prompt"],
        p["prompt_b"],
        p["positions"],
        seed=(p["seed"], p["seed_b"]),
        **{name: p[name] for name in names},
    )
    same_latents(again.latents, r.latents[1:2])


def test_prompts_of_different_length_meet(tiny):
    r = modes.interpolate(
        tiny, "a cat", "a red dog with hat " * 5, [0.0, 0.5], seed=1, long_prompts="chunk", **WAY
    )
    assert np.isfinite(r.latents).all() and len(r) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"positions": 1}, "E-POSITIONS"),
        ({"positions": True}, "E-POSITIONS"),
        ({"positions": []}, "E-POSITIONS"),
        ({"positions": [0.5, 1.5]}, "E-POSITIONS"),
        ({"positions": "0.5"}, "E-POSITIONS"),
        ({"path": "arc"}, "E-PATH"),
        ({"prompt_b": ["a"]}, "E-PROMPT"),
        ({"prompt_b": "a" * 5000}, "E-PROMPT-LENGTH"),
        ({"seed": (1, 2, 3)}, "E-SEED"),
        ({"sampler": "ddpm"}, "E-SAMPLER"),
        ({"sampler": "ddim", "eta": 0.5}, "E-SAMPLER"),
        ({"sampler": "euler_a"}, "E-SAMPLER"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(tiny, changes, code):
    with pytest.raises(LdmrefError) as caught:
        modes.interpolate(tiny, **{"prompt": "a cat", "prompt_b": "a dog"} | changes)
    assert caught.value.code == code
