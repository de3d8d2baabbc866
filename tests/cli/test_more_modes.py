"""invert, interpolate, superres, seg2img and noise from files: images, records, replays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.declare import flag_names
from ldmref.io.images.metadata import read_parameters
from ldmref.modes.registry import MODES


def pixels(path):
    return np.asarray(Image.open(path))


def same(a, b):
    return bool((pixels(a) == pixels(b)).all())


def record(path):
    return read_parameters(path)["ldmref"]


@pytest.fixture(scope="module")
def tiny(model_folder):
    return ldmref.load(model_folder, backend="numpy")


# -- invert ---------------------------------------------------------------------------------------


def test_invert_edits_as_the_library_does(draw, tiny, material):
    flags = ["--cfg", 3, "--iterations", 2, "--resize", "fill", "--noise", "n.npy", "-o", "e.png"]
    flags += ["-W", 16, "-H", 16]
    ran = draw("invert", "a cat", "-i", "wide.png", "--edit", "a dog", "--edit", "a hat", *flags)
    assert "e-1.png" in ran.err
    small = {"width": 16, "height": 16}
    found = modes.invert(tiny, "a cat", "wide.png", resize="fill", iterations=2, **small)
    np.testing.assert_array_equal(np.load("n.npy"), found.latents)
    told = found.settings | {"cfg_scale": 3.0}
    for i, words in enumerate(("a dog", "a hat")):
        want = modes.txt2img(tiny, words, latents=found.latents, **told)
        assert (pixels(f"e-{i}.png") == np.asarray(want[0])).all()
    params = record("e-1.png")
    inverted = {"prompt": "a cat", "cfg_scale": 1.0, "iterations": 2}
    want = dict(
        mode="invert",
        prompt="a hat",
        cfg_scale=3.0,
        resize="fill",
        inverted=inverted,
        sampler="ddim",
        eta=0.0,
    )
    assert {key: params[key] for key in want} == want

    draw("run", "--from", "e-1.png", "-i", "wide.png", "-o", "again.png")
    assert same("again.png", "e-1.png") and record("again.png") == params | {"index": 0}
    draw("run", "--from", "e-1.png", "-i", "wide.png", "-p", "a dog", "-o", "other.png")
    assert same("other.png", "e-0.png")


def test_invert_alone_draws_the_image_again(draw, material):
    ran = draw("invert", "a cat", "-i", "a.png", "--progress", "plain")
    assert record("a-cat.png")["prompt"] == "a cat" and record("a-cat.png")["cfg_scale"] == 1.0
    assert "seed" not in ran.err and "seed" not in record("a-cat.png")
    assert "inversion, 4/4 steps" in ran.err and "\n4/4 steps" in ran.err
    draw("invert", "a cat", "-i", "a.png", "--iterations", 0, "-o", "rough.png")
    assert not same("a-cat.png", "rough.png")


def test_no_guidance_from_the_configuration_spoils_an_inversion(draw, material, monkeypatch):
    monkeypatch.setenv("LDMREF_CFG_SCALE", "7")
    monkeypatch.setenv("LDMREF_SAMPLER", "euler_a")
    draw("invert", "a cat", "-i", "a.png", "-o", "b.png")
    params = record("b.png")
    assert (params["cfg_scale"], params["sampler"]) == (1.0, "ddim")


def test_a_stopped_inversion_leaves_nothing(ldm, model_folder, material, work, monkeypatch):
    from ldmref.apps.cli.console import Console
    from ldmref.apps.cli.progress import Stop

    stops = []
    init_stop = Stop.__init__
    monkeypatch.setattr(Stop, "__init__", lambda self: init_stop(self) or stops.append(self))

    def stop(self, event):
        stops[0].exit_code = 130
        stops[0].set()

    monkeypatch.setattr(Console, "step_up", stop)
    before = sorted(work.iterdir())
    ran = ldm("invert", "a cat", "-i", "a.png", "-m", model_folder, "--noise", "n.npy")
    assert ran.code == 130 and "stopped; 0 of 1" in ran.err
    assert sorted(work.iterdir()) == before


# -- interpolate ----------------------------------------------------------------------------------


def test_interpolate_and_its_frames_again(draw, tiny, material, work):
    flags = ["--to", "a dog", "--seed", "3,5", "--path", "slerp", "--steps", 2, "--cfg", 1.5]
    ran = draw("interpolate", "a cat", *flags, "--frames", 3, "-o", "f.png", "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["params"]["positions"] for row in rows] == [[0.0], [0.5], [1.0]]
    want = modes.interpolate(
        tiny, "a cat", "a dog", 3, seed=(3, 5), path="slerp", steps=2, cfg_scale=1.5
    )
    assert all((pixels(f"f-{i}.png") == np.asarray(want[i])).all() for i in range(3))
    draw("run", "--from", "f-1.png", "-o", "again.png")
    assert same("again.png", "f-1.png") and record("again.png") == record("f-1.png") | {"index": 0}
    draw("run", "--from", "f-1.png", "--seed", "3", "-o", "other.png")
    assert record("other.png")["seed_b"] == 3 and not same("other.png", "f-1.png")
    draw("interpolate", "a cat", *flags, "--positions", "0.5", "-o", "half.png")
    assert same("half.png", "f-1.png")


def test_interpolate_between_seeds_alone_and_its_names(draw, work):
    draw("interpolate", "a cat", "--seed", "3,5", "--count", 2)
    assert {p.name for p in work.iterdir()} == {"a-cat-3-01.png", "a-cat-3-02.png"}
    draw("txt2img", "a cat", "--seed", 5, "-o", "end.png")
    assert same("a-cat-3-02.png", "end.png")
    draw("interpolate", "a cat", "--to", "a dog", "--frames", 2)
    (name,) = {p.name.split("-to-")[1][:5] for p in work.glob("a-cat-to-*")}
    assert name == "a-dog"


# -- superres and seg2img -------------------------------------------------------------------------


def test_superres(ldm, enlarger, material, work):
    of = ["-m", enlarger, "-i", "small.png"]
    ran = ldm("superres", *of, "--seed", 4, "-c", 2)
    assert ran.code == 0, ran.err
    names = ("small-superres-4.png", "small-superres-5.png")
    assert {p.name for p in work.glob("*superres*")} == set(names)
    want = modes.superres(ldmref.load(enlarger, backend="numpy"), "small.png", seed=4, count=2)
    assert want[0].size == (24, 16)
    assert all((pixels(n) == np.asarray(w)).all() for n, w in zip(names, want, strict=True))
    ran = ldm("run", "--from", names[1], *of, "-o", "again.png")
    assert ran.code == 0 and same("again.png", names[1]), ran.err
    assert record("again.png") == record(names[1]) | {"index": 0}


@pytest.mark.parametrize("flag", ["-i", "--image", "--map", "--segmentation"])
def test_seg2img(ldm, painter, material, flag):
    ran = ldm("seg2img", "-m", painter, flag, "map.png", "--seed", 4, "-o", "s.png")
    assert ran.code == 0, ran.err
    want = modes.seg2img(ldmref.load(painter, backend="numpy"), "map.png", seed=4)
    assert (pixels("s.png") == np.asarray(want[0])).all() and want[0].size == (24, 16)
    if flag == "-i":
        assert (
            ldm("run", "--from", "s.png", "-m", painter, "-i", "map.png", "-o", "t.png").code == 0
        )
        assert same("s.png", "t.png")


# -- what replays need ----------------------------------------------------------------------------


def test_resize_is_recorded_and_replayed(draw, material):
    at = ["-W", 16, "-H", 16, "--seed", 1]
    for how in ("stretch", "crop"):
        draw("img2img", "cat", "-i", "wide.png", "--resize", how, *at, "-o", f"{how}.png")
    assert record("stretch.png")["resize"] == "stretch" and not same("stretch.png", "crop.png")
    draw("run", "--from", "stretch.png", "-i", "wide.png", "-o", "again.png")
    assert same("again.png", "stretch.png") and record("again.png") == record("stretch.png")


def test_an_inverted_mask_is_recorded_and_replayed(draw, material):
    of = ["-i", "a.png", "--mask", "mask.png"]
    draw("inpaint", "cat", *of, "--mask-invert", "--seed", 1, "-o", "r.png")
    draw("run", "--from", "r.png", *of, "-o", "again.png")
    assert same("r.png", "again.png") and (pixels("r.png")[:8] == pixels("a.png")[:8]).all()


def test_noise_from_a_file(draw, ldm, tiny, material, model_folder):
    draw("txt2img", "cat", "--latents", "noise.npy", "--seed", 1, "-o", "n.png")
    want = modes.txt2img(tiny, "cat", latents=np.load("noise.npy"), seed=1)
    assert (pixels("n.png") == np.asarray(want[0])).all()
    ran = ldm("run", "-m", model_folder, "--from", "n.png", "-o", "again.png")
    assert ran.code == 2 and "--latents NOISE.npy" in ran.err
    ran = draw("run", "--from", "n.png", "--latents", "noise.npy", "-o", "again.png")
    assert same("n.png", "again.png") and "warning" not in ran.err
    np.save("other.npy", -np.load("noise.npy"))
    ran = draw("run", "--from", "n.png", "--latents", "other.npy", "-o", "other.png")
    assert "another --latents" in ran.err and not same("n.png", "other.png")


@pytest.mark.parametrize("mode", ["invert", "interpolate", "superres", "seg2img"])
def test_help_names_every_flag_of_the_table(ldm, mode):
    text = ldm(mode, "--help").out
    own = {"prompt": "--prompt", "prompt_b": "--to", "positions": "--positions"}
    for name, parameter in MODES[mode].parameters.items():
        flags = flag_names(parameter) or (own[name],)
        if mode not in ("superres", "seg2img") or name != "prompt":
            assert all(flag in text for flag in flags), name
    assert mode in ldm("--help").out
