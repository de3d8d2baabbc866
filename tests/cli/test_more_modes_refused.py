"""The further modes and replays of them refuse bad input before any weight is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def claim(params):
    """r.png, an image that claims to be made with `params`."""
    chunk = PngInfo()
    chunk.add_text("ldmref", json.dumps(params))
    Image.new("RGB", (8, 8)).save("r.png", pnginfo=chunk)


@pytest.mark.parametrize(
    ("mode", "needed"), [("invert", "-i IMAGE"), ("superres", "-i IMAGE"), ("seg2img", "-i MAP")]
)
def test_a_replay_names_what_is_missing(ldm, work, mode, needed):
    claim({"mode": mode, "prompt": ""})
    ran = ldm("run", "--from", "r.png")
    assert ran.code == 2 and ran.err.startswith("ldmref: error[E-REPLAY]")
    assert f"hint: add {needed}" in ran.err and len(ran.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mode": "invert"}, "E-REPLAY"),
        ({"mode": "invert", "inverted": {"prompt": 3}}, "E-REPLAY"),
        ({"mode": "invert", "edit": "a", "prompt": None}, "E-REPLAY"),
        ({"mode": "invert", "inverted": {"prompt": "a"}}, "E-ITERATIONS"),
        ({"mode": "invert", "inverted": {"prompt": "a", "iterations": 1}, "resize": 1}, "E-RESIZE"),
        ({"mode": "interpolate"}, "E-POSITIONS"),
        ({"mode": "interpolate", "positions": {"a": 1}}, "E-POSITIONS"),
        ({"mode": "interpolate", "positions": [0.5], "seed_b": "x"}, "E-SEED"),
        ({"mode": "interpolate", "positions": [0.5], "path": [1]}, "E-PATH"),
        ({"mode": "interpolate", "positions": [0.5], "prompt_b": 7}, "E-PROMPT"),
        ({"mode": "img2img", "resize": "zoom"}, "E-RESIZE"),
        ({"mode": "superres"}, "E-MODE"),
        ({"mode": "load"}, "E-REPLAY"),
        ({"mode": ["txt2img"]}, "E-REPLAY"),
    ],
    ids=str,
)
def test_hostile_records(change, code, ldm, model_folder, material, monkeypatch):
    monkeypatch.setattr("ldmref.apps.cli.session.load", None)
    claim({"prompt": "cat", "seed": 1} | change)
    image = ["-i", "a.png"] if change["mode"] in ("img2img", "invert", "superres") else []
    ran = ldm("run", "--from", "r.png", "-m", model_folder, *image, "-o", "x.png")
    assert ran.code == 2 and ran.err.startswith(f"ldmref: error[{code}]"), ran.err


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("txt2img", ["-i", "a.png"]),
        ("invert", ["-i", "a.png", "--sampler", "heun"]),
        ("invert", ["-i", "a.png", "--latents", "noise.npy"]),
        ("interpolate", ["-c", "2"]),
        ("superres", ["-i", "a.png", "-p", "cat"]),
        ("superres", ["-i", "a.png", "--cfg", "2"]),
        ("seg2img", ["-i", "map.png", "--mask", "mask.png"]),
    ],
)
def test_run_refuses_flags_that_mean_nothing(ldm, material, mode, flags):
    claim({"mode": mode, "prompt": ""})
    ran = ldm("run", "--from", "r.png", *flags)
    assert (
        ran.code == 2
        and "error[E-USAGE]" in ran.err
        and f"{mode}, which does not take --" in ran.err
    )


# -- bad input ------------------------------------------------------------------------------------

INV = ["invert", "cat", "-i", "a.png"]
TURN = ["interpolate", "cat"]
BAD = [
    ("no image", ["invert", "cat"], "E-USAGE", 2),
    ("no prompt", ["invert", "-i", "a.png"], "E-USAGE", 2),
    ("a missing image", ["invert", "cat", "-i", "gone.png"], "E-IMAGE-MISSING", 3),
    ("iterations -1", [*INV, "--iterations", "-1"], "E-ITERATIONS", 2),
    ("iterations 1.5", [*INV, "--iterations", "1.5"], "E-USAGE", 2),
    ("a sampler", [*INV, "--sampler", "heun"], "E-USAGE", 2),
    ("an edit too long", [*INV, "--edit", "x" * 10_000], "E-PROMPT-LENGTH", 2),
    ("cfg nan", [*INV, "--cfg", "nan"], "E-CFG-SCALE", 2),
    ("noise as .png", [*INV, "--noise", "n.png"], "E-FORMAT", 8),
    ("noise into no folder", [*INV, "--noise", "gone/n.npy"], "E-FOLDER", 8),
    ("noise over a file", [*INV, "--noise", "noise.npy"], "E-EXISTS", 8),
    ("two edits to stdout", [*INV, "--edit", "a", "--edit", "b", "-o", "-"], "E-OUTPUT", 2),
    ("one frame", [*TURN, "--frames", "1"], "E-POSITIONS", 2),
    ("positions beyond 1", [*TURN, "--positions", "0,1.5"], "E-POSITIONS", 2),
    ("positions as words", [*TURN, "--positions", "a,b"], "E-POSITIONS", 2),
    ("an unknown path", [*TURN, "--path", "arc"], "E-USAGE", 2),
    ("three seeds", [*TURN, "--seed", "1,2,3"], "E-SEED", 2),
    ("a sampler with fresh noise", [*TURN, "--sampler", "euler_a"], "E-SAMPLER", 2),
    ("eta", [*TURN, "--sampler", "ddim", "--eta", "1"], "E-SAMPLER", 2),
    ("a second prompt too long", [*TURN, "--to", "x" * 10_000], "E-PROMPT-LENGTH", 2),
    ("frames to stdout", [*TURN, "-o", "-"], "E-OUTPUT", 2),
    ("two prompts", [*TURN, "dog"], "E-USAGE", 2),
    ("superres of a model for words", ["superres", "-i", "a.png"], "E-MODE", 2),
    ("seg2img of a model for words", ["seg2img", "-i", "map.png"], "E-MODE", 2),
    ("superres told a prompt", ["superres", "cat", "-i", "a.png"], "E-USAGE", 2),
    ("superres with guidance", ["superres", "-i", "a.png", "--cfg", "2"], "E-USAGE", 2),
    ("superres of nothing", ["superres"], "E-USAGE", 2),
    ("superres of a text file", ["superres", "-i", "noise.npy"], "E-IMAGE", 3),
    ("seg2img of a photograph", ["seg2img", "-i", "a.png"], "E-IMAGE", 3),
    ("no such noise", ["txt2img", "cat", "--latents", "gone.npy"], "E-LATENTS", 3),
    ("an image as noise", ["txt2img", "cat", "--latents", "a.png"], "E-LATENTS", 3),
    ("noise of one for two", ["txt2img", "cat", "-c", 2, "--latents", "noise.npy"], "E-LATENTS", 2),
    ("noise of objects", ["txt2img", "cat", "--latents", "objects.npy"], "E-LATENTS", 3),
    ("noise with NaN", ["txt2img", "cat", "--latents", "nan.npy"], "E-LATENTS", 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "code", "exit_code"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_refused_before_weights_are_read(
    argv, code, exit_code, ldm, work, material, model_folder, monkeypatch
):
    np.save("objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.save("nan.npy", np.full((1, 4, 8, 8), np.nan, np.float32))
    before = {p.name: p.read_bytes() for p in work.iterdir()}
    monkeypatch.setattr("ldmref.apps.cli.session.load", None)
    ran = ldm(*argv, "-m", model_folder)
    lines = ran.err.splitlines()
    assert ran.code == exit_code and lines[0].startswith(f"ldmref: error[{code}]: "), ran.err
    assert all(line.startswith("hint: ") for line in lines[1:]) and len(lines) <= 2
    assert {p.name: p.read_bytes() for p in work.iterdir()} == before and ran.out == ""


@pytest.mark.parametrize(
    ("mode", "source", "code"),
    [
        ("superres", "gone.png", "E-IMAGE-MISSING"),
        ("txt2img", "", "E-MODE"),
        ("seg2img", "classes.png", "E-CLASS"),
        ("seg2img", "odd.png", "E-SIZE"),
    ],
)
def test_the_special_models_refuse(
    ldm, material, enlarger, painter, monkeypatch, mode, source, code
):
    Image.new("L", (16, 16), 5).save("classes.png")
    Image.new("L", (15, 16)).save("odd.png")
    monkeypatch.setattr("ldmref.apps.cli.session.load", None)
    model = painter if mode == "seg2img" else enlarger
    ran = ldm(mode, "-m", model, *(["-i", source] if source else ["cat"]), "-o", "x.png")
    assert f"error[{code}]" in ran.err, ran.err
