"""Every mistake gets its code, its exit code and one line; nothing is left behind."""

from __future__ import annotations

import pickle

import pytest
from PIL import Image

from ldmref.apps.cli.main import main

TXT = ["txt2img", "cat"]
IMG = ["img2img", "cat"]
PAINT = ["inpaint", "cat"]
HERE = ["-i", "../in/image.png"]
MASK = ["--mask", "../in/mask.png"]

BAD = [
    ("unknown backend", [*TXT, "--backend", "nunpy"], "E-BACKEND-NAME", 2),
    ("unknown device", [*TXT, "--device", "tpu"], "E-DEVICE", 5),
    ("unknown dtype", [*TXT, "--dtype", "float31"], "E-DTYPE", 2),
    ("unknown sampler", [*TXT, "--sampler", "eular"], "E-SAMPLER", 2),
    ("unknown schedule", [*TXT, "--schedule", "carras"], "E-SCHEDULE", 2),
    ("unknown flag", [*TXT, "--stpes", "3"], "E-USAGE", 2),
    ("unknown short flag", [*TXT, "-Z"], "E-USAGE", 2),
    ("unknown command", ["txt2imgg", "cat"], "E-USAGE", 2),
    ("unknown format", [*TXT, "--format", "gif"], "E-USAGE", 2),
    ("flag without value", [*TXT, "--steps"], "E-USAGE", 2),
    ("no prompt", ["txt2img"], "E-USAGE", 2),
    ("prompt without quotes", [*TXT, "dog"], "E-USAGE", 2),
    ("prompt too long", ["txt2img", "x" * 10_000], "E-PROMPT-LENGTH", 2),
    ("prompt with a lone surrogate", ["txt2img", "a \udcff"], "E-PROMPT", 2),
    ("negative prompt too long", [*TXT, "-n", "x" * 10_000], "E-PROMPT-LENGTH", 2),
    ("steps 0", [*TXT, "--steps", "0"], "E-STEPS", 2),
    ("steps -1", [*TXT, "--steps", "-1"], "E-STEPS", 2),
    ("steps 1.5", [*TXT, "--steps", "1.5"], "E-USAGE", 2),
    ("steps 1001", [*TXT, "--steps", "1001"], "E-STEPS", 2),
    ("width 13", [*TXT, "--width", "13"], "E-SIZE", 2),
    ("width 0", [*TXT, "-W", "0"], "E-WIDTH", 2),
    ("height too large", [*TXT, "-W", "8192", "-H", "8192"], "E-SIZE-LIMIT", 6),
    ("cfg nan", [*TXT, "--cfg", "nan"], "E-CFG-SCALE", 2),
    ("cfg with a comma", [*TXT, "--cfg", "7,5"], "E-USAGE", 2),
    ("eta 2", [*TXT, "--sampler", "ddim", "--eta", "2"], "E-ETA", 2),
    ("eta for heun", [*TXT, "--sampler", "heun", "--eta", "1"], "E-ETA", 2),
    ("clip skip 99", [*TXT, "--clip-skip", "99"], "E-CLIP-SKIP", 2),
    ("count 0", [*TXT, "--count", "0"], "E-COUNT", 2),
    ("batch 0", [*TXT, "--batch", "0"], "E-BATCH-SIZE", 2),
    ("seed -2", [*TXT, "--seed", "-2"], "E-SEED", 2),
    ("seed 2^64", [*TXT, "--seed", str(2**64)], "E-SEED", 2),
    ("seed x", [*TXT, "--seed", "x"], "E-SEED", 2),
    ("seed 1.0", [*TXT, "--seed", "1.0"], "E-SEED", 2),
    ("two seeds, three images", [*TXT, "--seed", "1,2", "-c", "3"], "E-SEED", 2),
    ("strength 1.5", [*IMG, *HERE, "--strength", "1.5"], "E-STRENGTH", 2),
    ("strength -0.1", [*IMG, *HERE, "--strength", "-0.1"], "E-STRENGTH", 2),
    ("strength below a step", [*IMG, *HERE, "--strength", "0.1"], "E-STRENGTH", 2),
    ("mask blur -1", [*PAINT, *HERE, *MASK, "--mask-blur", "-1"], "E-MASK-BLUR", 2),
    ("no image", IMG, "E-USAGE", 2),
    ("no mask", [*PAINT, *HERE], "E-USAGE", 2),
    ("missing image", [*IMG, "-i", "gone.png"], "E-IMAGE-MISSING", 3),
    ("image from the network", [*IMG, "-i", "http://localhost/a.png"], "E-IMAGE-MISSING", 3),
    ("text file named .png", [*IMG, "-i", "../in/text.png"], "E-IMAGE", 3),
    ("missing mask", [*PAINT, *HERE, "--mask", "gone.png"], "E-IMAGE-MISSING", 3),
    ("inpaint at an odd size", [*PAINT, "-i", "../in/odd.png", *MASK], "E-SIZE", 3),
    ("img2img to an odd size", [*IMG, *HERE, "-W", "13"], "E-SIZE", 2),
    ("output folder missing", [*TXT, "-o", "gone/a.png"], "E-FOLDER", 8),
    ("output folder below a file", [*TXT, "-o", "../in/image.png/new/"], "E-FOLDER", 8),
    ("output folder that is a file", [*TXT, "-o", "../in/image.png/"], "E-FOLDER", 8),
    ("missing model file", [*TXT, "-m", "gone.safetensors"], "E-MODEL", 3),
    ("preset as model", [*TXT, "-m", "sd15"], "E-MODEL", 3),
    ("output exists", [*TXT, "-o", "../in/image.png"], "E-EXISTS", 8),
    ("one of many outputs exists", [*TXT, "-c", "2", "-o", "../in/many.png"], "E-EXISTS", 8),
    ("output of an unknown kind", [*TXT, "-o", "a.gif"], "E-FORMAT", 8),
    ("output without ending", [*TXT, "-o", "a"], "E-FORMAT", 8),
    ("format against the ending", [*TXT, "-o", "a.png", "--format", "webp"], "E-FORMAT", 2),
    ("two images to stdout", [*TXT, "-c", "2", "-o", "-"], "E-OUTPUT", 2),
    ("image and JSON to stdout", [*TXT, "--json", "-o", "-"], "E-OUTPUT", 2),
    ("missing model", [*TXT, "-m", "gone"], "E-MODEL", 3),
    ("pickle as model", [*TXT, "-m", "../in/model.ckpt"], "E-PICKLE", 3),
    ("pickle named safetensors", [*TXT, "-m", "../in/pickled"], "E-PICKLE", 3),
    ("missing configuration", [*TXT, "--config", "gone.toml"], "E-CONFIG-FILE", 3),
    ("broken configuration", [*TXT, "--config", "../in/broken.toml"], "E-CONFIG-FILE", 3),
    ("unknown key in it", [*TXT, "--config", "../in/typo.toml"], "E-CONFIG-KEY", 2),
    ("replay of what records nothing", ["run", "--from", "../in/image.png"], "E-REPLAY", 2),
    ("info on nothing", ["info", "gone.png"], "E-IMAGE-MISSING", 3),
    ("info on a folder", ["info", "../in"], "E-MODEL", 3),
    ("train without data", ["train", "-o", "out"], "E-USAGE", 2),
    ("train on nothing", ["train", "--data", "gone", "-o", "out"], "E-DATA", 3),
    ("train with lr 0", ["train", "--data", "../in", "-o", "out", "--lr", "0"], "E-LR", 2),
    ("train at size 9", ["train", "--data", "../in", "-o", "out", "--size", "9"], "E-SIZE", 2),
    ("train for 0 steps", ["train", "--data", "../in", "-o", "out", "--steps", "0"], "E-USAGE", 2),
]


@pytest.fixture
def inputs(work, model_folder):
    """../in: good and bad files."""
    folder = work.parent / "in"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "image.png")
    Image.new("RGB", (16, 16), "red").save(folder / "many-1.png")
    Image.new("L", (16, 16), 255).save(folder / "mask.png")
    Image.new("L", (8, 8), 255).save(folder / "small.png")
    Image.new("RGB", (13, 16)).save(folder / "odd.png")
    (folder / "text.png").write_text("no image")
    (folder / "model.ckpt").write_bytes(pickle.dumps({}))
    (folder / "broken.toml").write_text("[backend\n")
    (folder / "typo.toml").write_text("[defaults]\nstpes = 3\n")
    (folder / "pickled").mkdir()
    for file in model_folder.iterdir():
        (folder / "pickled" / file.name).write_bytes(file.read_bytes())
    (folder / "pickled/model.safetensors").write_bytes(pickle.dumps({}))
    return folder


def assert_refused(ran, code, exit_code, work, argv=()):
    assert ran.code == exit_code, ran.err
    lines = ran.err.splitlines()
    assert [line for line in lines if "error[" in line] == [lines[0]]
    assert lines[0].startswith(f"ldmref: error[{code}]: ")
    assert all(line.startswith("hint: ") for line in lines[1:]) and len(lines) <= 2
    assert "Traceback" not in ran.err and (ran.out == "" or "--json" in argv)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "code", "exit_code"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_refused(argv, code, exit_code, ldm, work, inputs, model_folder):
    if argv[0] in ("txt2img", "img2img", "inpaint") and "-m" not in argv:
        argv = [*argv, "-m", model_folder]
    before = sorted(inputs.rglob("*"))
    assert_refused(ldm(*argv), code, exit_code, work, argv)
    assert sorted(inputs.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "value", "code", "exit_code"),
    [
        ("LDMREF_STEPS", "abc", "E-ENV", 2),
        ("LDMREF_STEPS", "0", "E-STEPS", 2),
        ("LDMREF_STEP", "3", "E-ENV", 2),
        ("LDMREF_BACKEND", "nunpy", "E-BACKEND-NAME", 2),
        ("LDMREF_CONFIG", "gone.toml", "E-CONFIG-FILE", 3),
    ],
)
def test_environment_refused(name, value, code, exit_code, ldm, work, model_folder, monkeypatch):
    monkeypatch.setenv(name, value)
    assert_refused(ldm("txt2img", "cat", "-m", model_folder), code, exit_code, work)


def test_broken_toml_in_the_working_folder(ldm, work, model_folder):
    (work / "ldmref.toml").write_text("steps = \n")
    ran = ldm("txt2img", "cat", "-m", model_folder)
    assert ran.code == 3 and "error[E-CONFIG-FILE]" in ran.err


def test_cupy_without_gpu(ldm, work, model_folder):
    from ldmref.backends import available

    if not available()["cupy"]:
        pytest.skip("there is a GPU")
    ran = ldm("txt2img", "cat", "-m", model_folder, "--backend", "cupy")
    assert ran.code == 5 and ran.err.startswith("ldmref: error[E-") and not list(work.iterdir())


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ([*TXT, "--stpes", "3"], "did you mean '--steps'"),
        ([*TXT, "--cfg-scal", "3"], "did you mean '--cfg-scale'"),
        ([*TXT, "--cfg", "7,5"], "decimal point"),
        ([*TXT, "--sampler", "eular"], "did you mean 'euler'"),
        (["bakends"], "did you mean 'backends'"),
        ([*TXT, "dog"], "quotes"),
        ([*TXT, "-o", "a.gif"], ".png"),
    ],
)
def test_hints(argv, hint, ldm, model_folder):
    argv = [*argv, "-m", model_folder] if argv[0] == "txt2img" else argv
    assert hint in ldm(*argv).err.splitlines()[1]


def test_errors_as_json(ldm):
    import json

    ran = ldm("txt2img", "cat", "-m", "gone", "--json")
    error = json.loads(ran.out)["error"]
    assert (error["code"], error["exit"], ran.code) == ("E-MODEL", 3, 3)
    assert "error[E-MODEL]" in ran.err


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (KeyError("x"), "E-INTERNAL", 1),
        (MemoryError(), "E-MEMORY", 6),
        (RecursionError("deep\nvery"), "E-INTERNAL", 1),
        (OSError(28, "No space left on device"), "E-WRITE", 8),
        (KeyboardInterrupt(), "E-CANCELLED", 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_foresaw(error, code, exit_code, ldm, work, model_folder, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("ldmref.apps.cli.session.load_checkpoint", fail)
    assert_refused(ldm("txt2img", "cat", "-m", model_folder), code, exit_code, work)


def test_traceback_only_when_asked_for(ldm, monkeypatch):
    argv = ["txt2img", "cat", "-m", "gone"]
    assert "Traceback" in ldm(*argv, "-v").err
    monkeypatch.setenv("LDMREF_DEBUG", "1")
    assert "Traceback" in ldm(*argv).err


def test_control_characters_stay_on_one_line(ldm):
    ran = ldm("txt2img", "cat", "-m", "a\nldmref: error[E-FAKE]: b\x1b[2J")
    assert ran.err.count("\n") == 2 and "\x1b" not in ran.err


def test_nothing_is_loaded_for_a_mistake(work, model_folder, monkeypatch):
    name = "ldmref.apps.cli.session.load_checkpoint"
    monkeypatch.setattr(name, lambda *a, **k: pytest.fail("loaded"))
    assert main(["txt2img", "cat", "-m", str(model_folder), "--steps", "0"]) == 2


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("gone.safetensors", "no such file: gone.safetensors", ""),
        ("./gone", "no such file: ./gone", ""),
        ("sub/gone.safetensors", "no such file: sub/gone.safetensors", ""),
        ("modle.safetensors", "no such file: modle.safetensors", "'model.safetensors'"),
        ("sd15", "'sd15' is a preset: networks without weights", "give a file of weights"),
        ("gone", "no model 'gone'", "Known: emoji"),
        ("owner/model", "no model 'owner/model'", "--fetch"),
    ],
)
def test_models_that_are_not_there(name, message, hint, ldm, work):
    (work / "model.safetensors").touch()
    ran = ldm("txt2img", "cat", "-m", name)
    assert ran.code == 3 and f"error[E-MODEL]: {message}" in ran.err and hint in ran.err


def test_a_new_folder_is_created_with_the_first_image(draw, ldm, work, model_folder):
    ran = ldm("txt2img", "cat", "-m", model_folder, "-o", "a/b/", "--steps", 5000)
    assert ran.code == 2 and not list(work.iterdir())
    draw("txt2img", "cat", "--seed", "1,2", "-o", "a/b/", "--format", "webp")
    assert {p.name for p in (work / "a/b").iterdir()} == {"cat-1.webp", "cat-2.webp"}
