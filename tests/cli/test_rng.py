"""`--rng` on the command line: passed on, recorded, replayed, checked."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ldmref.io.images.metadata import read_parameters
from ldmref.samplers.noise import STREAMS

KINDS = ("philox", "torch", "torch-bf16", "a1111-gpu")


def test_each_rng_draws_another_image_and_is_recorded(draw, work):
    for name in (*KINDS, "cuda:RTX-4090D"):
        draw("txt2img", "cat", "--seed", "3", "--rng", name, "-o", f"{name}.png")
        assert read_parameters(f"{name}.png")["ldmref"]["rng"] == name
    images = [np.asarray(Image.open(f"{name}.png")) for name in KINDS]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])
    draw("txt2img", "cat", "--seed", "3", "-o", "default.png")
    assert (work / "default.png").read_bytes() == (work / "philox.png").read_bytes()


def test_run_replays_the_recorded_rng_and_a_flag_overrides_it(draw, work):
    draw("txt2img", "cat", "--seed", "3", "--sampler", "euler_a", "--rng", "torch", "-o", "a.png")
    draw("run", "--from", "a.png", "-o", "b.png")
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
    draw("run", "--from", "a.png", "--rng", "a1111-gpu", "-o", "c.png")
    assert read_parameters("c.png")["ldmref"]["rng"] == "a1111-gpu"


def test_the_other_modes_take_it(draw, work):
    Image.new("RGB", (16, 16), "red").save("in.png")
    Image.new("L", (16, 16), 255).save("mask.png")
    for mode, extra in (("img2img", ()), ("inpaint", ("--mask", "mask.png"))):
        draw(mode, "cat", "-i", "in.png", *extra, "--rng", "torch", "-o", f"{mode}.png")
        assert read_parameters(f"{mode}.png")["ldmref"]["rng"] == "torch"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("torhc", "did you mean 'torch'?"), ("a1111", "did you mean 'a1111-gpu'?"), ("dice", "Known")],
)
def test_an_unknown_rng_is_refused(word, hint, ldm, model_folder, work):
    ran = ldm("txt2img", "-m", model_folder, "cat", "--rng", word)
    assert ran.code == 2 and "error[E-RNG]" in ran.err and hint in ran.err
    assert all(name in ran.err for name in tuple(STREAMS)) and not list(work.iterdir())
