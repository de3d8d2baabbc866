"""Which value wins: flag, record, variable, file, the model's own; and what a flag replaces."""

from __future__ import annotations

import itertools
import json
import os

import pytest
from PIL import Image
from small_models import save_wordless

from ldmref.apps.cli.output import Output
from ldmref.io.images.metadata import read_parameters
from ldmref.support.config import DEFAULT_KEYS


def recorded(path):
    return read_parameters(path)["ldmref"]


# -- a value that is set ---------------------------------------------------------------------------

VALUES = {  # key -> its values in the file, in the variable, by the flag
    "steps": (2, 3, 4), "cfg_scale": (1.5, 2.5, 3.5), "sampler": ("euler", "heun", "ddim"),
    "schedule": ("karras", "linspace", "trailing"), "width": (32, 48, 64), "height": (32, 48, 64),
    "negative_prompt": ("dog", "red", "blue"), "output": ("a.png", "b.png", "c.png"),
    "seed": (3, 4, 5), "count": (2, 3, 4), "rng": ("torch", "philox", "torch"),
}  # fmt: skip
FLAGS = {"cfg_scale": "--cfg"}


def test_every_key_has_values():
    assert {*VALUES} == {*DEFAULT_KEYS} - {"model"}


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)))
def test_flag_before_variable_before_file(ldm, work, model_folder, monkeypatch, key, given):
    """All eight combinations; without any the value is the one without settings."""
    for name, (value, is_there) in enumerate(zip(VALUES[key], given, strict=True)):
        if is_there and name == 0:
            (work / "ldmref.toml").write_text(f"[defaults]\n{key} = {json.dumps(value)}\n")
        if is_there and name == 1:
            monkeypatch.setenv(f"LDMREF_{key.upper()}", str(value))
    flag = FLAGS.get(key, f"--{key.replace('_', '-')}")
    argv = [flag, VALUES[key][2]] if given[2] else []
    ran = ldm("config", "show", "--origin", "--json", "-m", model_folder, *argv)
    row = json.loads(ran.out)[f"defaults.{key}"]
    origins = ("ldmref.toml", f"LDMREF_{key.upper()}", "flag")
    best = next((i for i in (2, 1, 0) if given[i]), None)
    if best is None:
        assert row["origin"] not in origins
    else:
        assert (row["value"], row["origin"]) == (VALUES[key][best], origins[best])


# -- an image's own size, guidance and noise levels ----------------------------------------------


@pytest.fixture
def image(work):
    path = work.parent / "given.png"
    Image.radial_gradient("L").resize((32, 16)).convert("RGB").save(path)
    return path


@pytest.fixture
def white(work):
    path = work.parent / "mask.png"
    Image.new("L", (32, 16), 255).save(path)
    return path


@pytest.mark.parametrize("mode", ["img2img", "inpaint", "invert"])
def test_a_configured_size_is_not_that_of_a_given_image(
    draw, work, monkeypatch, image, white, mode
):
    """Sizes of the settings are for images that are made from words alone."""
    argv = ["cat", "-i", image, "--steps", 2, "-o", "a.png"]
    argv += ["--mask", white] if mode == "inpaint" else []
    argv += ["--strength", "0.5"] if mode != "invert" else []
    monkeypatch.setenv("LDMREF_WIDTH", "48")
    (work / "ldmref.toml").write_text("[defaults]\nheight = 48\n")
    draw(mode, *argv)
    assert Image.open("a.png").size == (32, 16)
    draw("txt2img", "cat", "--steps", 1, "-o", "b.png")
    assert Image.open("b.png").size == (48, 48)
    draw("interpolate", "cat", "--to", "dog", "--frames", 2, "--steps", 1, "-o", "c.png")
    assert Image.open("c-0.png").size == (48, 48)


def test_a_flag_still_sizes_a_given_image(draw, monkeypatch, image):
    monkeypatch.setenv("LDMREF_WIDTH", "48")
    size = ["--width", 64, "--height", 32]
    draw("img2img", "cat", "-i", image, *size, "--strength", 1, "--steps", 1, "-o", "a.png")
    assert Image.open("a.png").size == (64, 32)


def test_a_configured_size_is_not_that_of_an_enlarged_image(ldm, tmp_path, monkeypatch, image):
    enlarger = save_wordless(tmp_path / "enlarger", "low_resolution")
    ran = ldm("superres", "-m", enlarger, "-i", image, "--steps", 1, "-o", "a.png")
    assert ran.code == 0, ran.err
    monkeypatch.setenv("LDMREF_WIDTH", "48")
    monkeypatch.setenv("LDMREF_HEIGHT", "48")
    ran = ldm("superres", "-m", enlarger, "-i", image, "--steps", 1, "-o", "b.png")
    assert ran.code == 0 and Image.open("a.png").size == Image.open("b.png").size


def test_a_configured_scale_does_not_guide_an_inversion(draw, monkeypatch, image):
    draw("invert", "cat", "-i", image, "--steps", 2, "-o", "a.png")
    monkeypatch.setenv("LDMREF_CFG_SCALE", "7")
    draw("invert", "cat", "-i", image, "--steps", 2, "-o", "b.png")
    assert recorded("a.png")["cfg_scale"] == recorded("b.png")["cfg_scale"] == 1.0
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


@pytest.mark.parametrize("name", ["LDMREF_STEPS", "LDMREF_SCHEDULE"])
def test_given_noise_levels_replace_configured_ones(draw, monkeypatch, name):
    monkeypatch.setenv(name, {"LDMREF_STEPS": "7", "LDMREF_SCHEDULE": "karras"}[name])
    draw("txt2img", "cat", "--sigmas", "9.0,2.0,0.0", "-o", "a.png")
    assert recorded("a.png")["sigmas"] == [9.0, 2.0, 0.0] and recorded("a.png")["steps"] == 2


# -- a replay --------------------------------------------------------------------------------------

CHANGES = {  # flag -> value, and the record's key if it has another name
    "--steps": 5, "--schedule": "linspace", "--cfg": 3.5, "--seed": 9, "--width": 32,
    "--height": 32, "--negative-prompt": "dog", "--sampler": "ddim", "--eta": 0.25,
    "--clip-skip": 1, "--rng": "torch", "--tile": 16, "--sigmas": "8.0,1.0,0.0",
    "--prompt-weights": "a1111", "--long-prompts": "chunk",
}  # fmt: skip
KEYS = {"--cfg": "cfg_scale"}
IMAGES = {
    "plain": ["--steps", 3, "--schedule", "karras", "--sampler", "euler"],
    "sigmas": ["--sigmas", "9.0,3.0,1.0,0.0", "--sampler", "euler"],
    "eta": ["--steps", 3, "--sampler", "euler_a", "--eta", "0.5"],
}
# Keys of the record that a flag may change with its own, because they belong to it.
FOLLOWS = {
    "--steps": {"sigmas", "schedule"},
    "--schedule": {"sigmas"},
    "--sigmas": {"steps", "schedule"},
    "--sampler": {"eta", "schedule"},
}
VOLATILE = {"created", "seconds", "infotext"}


@pytest.mark.parametrize("origin", IMAGES)
@pytest.mark.parametrize("flag", CHANGES)
def test_a_flag_alone_replaces_what_an_image_records(ldm, draw, work, flag, origin, model_folder):
    """Only what belongs to the flag changes. A flag that the sampler cannot use is refused."""
    draw("txt2img", "cat", "--seed", 1, *IMAGES[origin], "-o", "a.png")
    ran = ldm("run", "--from", "a.png", "-m", model_folder, flag, CHANGES[flag], "-o", "b.png")
    if ran.code:
        assert flag == "--eta" and "E-ETA" in ran.err and origin != "eta", ran.err
        return
    before = recorded("a.png")
    after = recorded("b.png")
    key = KEYS.get(flag, flag[2:].replace("-", "_"))
    want = CHANGES[flag]
    want = [float(x) for x in want.split(",")] if flag == "--sigmas" else want
    assert after[key] == want
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert changed <= {key, *FOLLOWS.get(flag, ())} | VOLATILE
    if flag in ("--steps", "--schedule"):
        assert after.get("sigmas") is None
    if flag == "--sampler":
        assert after.get("eta") in (None, 0.0)  # the default of DDIM, not that of another sampler
    if flag == "--steps":
        assert after["steps"] == 5
    if flag == "--sigmas":
        assert after["steps"] == 2


# -- the next free name of a run -------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_all_images_of_a_run_share_its_number(work, taken):
    """One file of an earlier run is enough, whichever it is."""
    image = Image.new("RGB", (8, 8))
    (work / f"cat-7-0{taken + 1}.png").touch()
    (work / f"cat-7-2-0{(taken + 1) % 3 + 1}.png").touch()
    output = Output(None, ["cat"] * 4, [7, 7, 7, 8], None, False, False)
    output.check()
    written = [output.write(image, i, {}) for i in range(4)]
    assert written == ["cat-7-3-01.png", "cat-7-3-02.png", "cat-7-3-03.png", "cat-8.png"]


def test_a_file_of_one_seed_does_not_number_those_of_another(work, monkeypatch):
    looks = itertools.count()
    real = os.path.lexists

    def lexists(path):
        assert next(looks) < 50, "looks for a free name without end"
        return real(path)

    monkeypatch.setattr(os.path, "lexists", lexists)
    (work / "cat-8.png").touch()
    output = Output(None, ["cat"] * 3, [7, 7, 8], None, False, False)
    output.check()
    written = [output.write(Image.new("RGB", (8, 8)), i, {}) for i in range(3)]
    assert written == ["cat-7-01.png", "cat-7-02.png", "cat-8-2.png"]
