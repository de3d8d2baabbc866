"""The good paths of txt2img, img2img, inpaint and run."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref.apps.cli import console, session
from ldmref.apps.cli.file_names import slugify
from ldmref.io.images.infotext import parse_infotext
from ldmref.io.images.metadata import read_parameters


def pixels(path):
    return np.asarray(Image.open(path))


def record(params, path):
    """An image that claims to be made with `params`."""
    chunk = PngInfo()
    chunk.add_text("ldmref", json.dumps(params))
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunk)


def test_default_name_and_recorded_seed(draw, work):
    ran = draw("txt2img", "Red HEART", "--seed", "7")
    assert [p.name for p in work.iterdir()] == ["red-heart-7.png"]
    assert ran.err.startswith("red-heart-7.png  seed 7  16x16  4 steps ddim  cfg 2  numpy  ")
    assert ran.out == "" and ran.err.count("\n") == 1
    assert read_parameters(work / "red-heart-7.png")["ldmref"]["seed"] == 7


def test_random_seed_is_printed_and_recorded(draw, work):
    told = draw("txt2img", "cat", "--seed", "-1", "-o", "a.png").err.split("seed ")[1].split()[0]
    assert read_parameters("a.png")["ldmref"]["seed"] == int(told)
    draw("txt2img", "cat", "--seed", told, "-o", "b.png")
    assert (pixels("a.png") == pixels("b.png")).all()


def test_same_command_same_bytes(draw, work):
    for name in ("a.png", "b.png"):
        draw("txt2img", "red heart", "--seed", "1", "-o", name)
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()


def test_shorthand(ldm, model_folder, work):
    assert ldm("red heart", "-m", model_folder, "--seed", "1").code == 0
    assert {p.name for p in work.iterdir()} == {"red-heart-1.png"}


def test_existing_default_names_are_numbered(draw, work):
    for _ in range(3):
        draw("txt2img", "cat", "--seed", "1")
    draw("txt2img", "cat", "--seed", "1,1")
    names = {f"cat-1{n}.png" for n in ("", "-2", "-3", "-01", "-02")}
    assert {p.name for p in work.iterdir()} == names


def test_folder_and_format(draw, work):
    (work / "out").mkdir()
    draw("txt2img", "cat", "--seed", "1", "-o", "out", "--format", "webp")
    draw("txt2img", "cat", "--seed", "1", "-o", "out/a.jpg")
    assert {p.name for p in (work / "out").iterdir()} == {"cat-1.webp", "a.jpg"}
    for path in (work / "out").iterdir():
        pairs = parse_infotext(read_parameters(path)["parameters"])["pairs"]
        assert (pairs["Seed"], pairs["Size"]) == ("1", "16x16")


def test_count(draw, work):
    ran = draw("txt2img", "cat", "--seed", "5", "-c", "3", "-o", "a.png")
    assert [line.split()[:3] for line in ran.err.splitlines()] == [
        [f"a-{i}.png", "seed", f"{5 + i}"] for i in range(3)
    ]
    draw("txt2img", "cat", "--seed", "6", "-o", "b.png")
    assert (pixels("b.png") == pixels("a-1.png")).all()
    assert read_parameters("a-1.png")["ldmref"]["seed"] == 6


def test_overwrite(draw, work):
    (work / "a.png").write_text("old")
    draw("txt2img", "cat", "-o", "a.png", "--overwrite")
    assert pixels("a.png").shape == (16, 16, 3)


def test_metadata_round_trip(draw, work):
    ran = draw(
        "txt2img", "a cat,\nred: blue ❤", "-n", "dog", "--seed", "1", "-o", "a.png", "--json"
    )
    told = json.loads(ran.out)
    found = read_parameters("a.png")
    assert found["ldmref"] == told["params"] and told["path"] == "a.png" and told["seed"] == 1
    parsed = parse_infotext(found["parameters"])
    assert parsed["prompt"] == "a cat,\nred: blue ❤" and parsed["negative_prompt"] == "dog"
    assert parsed["pairs"]["Sampler"] == "DDIM" and parsed["pairs"]["Steps"] == "4"


def test_no_metadata(draw, work):
    draw("txt2img", "cat", "-o", "a.png", "--no-metadata")
    assert read_parameters("a.png") == {}


def test_json_lines(draw):
    ran = draw("txt2img", "cat unheardof", "--seed", "3,9", "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["seed"] for row in rows] == [3, 9] and all(row["seconds"] >= 0 for row in rows)
    assert "unheardof" in rows[0]["warnings"][0]
    assert ran.err.startswith("ldmref: warning: ")


def test_the_seconds_of_an_image_do_not_hold_those_of_loading(draw, monkeypatch):
    """A model that takes an hour to load: the clock moves only there."""
    hours = [0.0]
    load = session.load_checkpoint

    def slow(*args, **options):
        hours[0] += 1.0
        return load(*args, **options)

    monkeypatch.setattr(session, "load_checkpoint", slow)
    monkeypatch.setattr(console.time, "monotonic", lambda: 3600.0 * hours[0])
    row = json.loads(draw("txt2img", "cat", "--json").out)
    assert hours == [1.0] and row["seconds"] == 0.0


def test_quiet(draw, work):
    ran = draw("txt2img", "cat unheardof", "-q", "--progress", "plain")
    assert ran.out == ran.err == "" and len(list(work.iterdir())) == 1


def test_progress(draw):
    assert "4/4 steps" in draw("txt2img", "cat", "--progress", "plain").err
    assert "[####" in draw("txt2img", "cat", "--progress", "bar").err
    assert "steps," not in draw("txt2img", "cat").err


def test_other_programs_flags(draw, work):
    ours = [
        "-n",
        "dog",
        "--steps",
        "3",
        "--cfg",
        "3",
        "--sampler",
        "dpmpp_2m",
        "--schedule",
        "karras",
    ]
    theirs = [
        "--negative",
        "dog",
        "--num-inference-steps=3",
        "--guidance_scale",
        "3",
        "--sampling-method",
        "DPM++ 2M",
        "--scheduler",
        "Karras",
    ]
    for name, flags in (("a.png", ours), ("b.png", theirs)):
        draw("txt2img", "cat", "--seed", "1", "-o", name, *flags)
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()


def test_prompt_and_image_from_standard_input(draw, work, monkeypatch):
    def feed(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    feed("\ufeffred heart\r\n".encode())
    draw("txt2img", "-", "-o", "a.png")
    assert read_parameters("a.png")["ldmref"]["prompt"] == "red heart"
    feed((work / "a.png").read_bytes())
    draw("img2img", "cat", "-i", "-", "-o", "b.png")
    assert pixels("b.png").shape == (16, 16, 3)


def test_img2img(draw, work):
    Image.new("RGB", (32, 32), "red").save("in.png")
    draw("img2img", "cat", "--init-img", "in.png", "--denoise", "0", "-o", "same.png")
    assert (pixels("same.png") == pixels("in.png")).all()
    draw("img2img", "cat", "-i", "in.png", "--seed", "1", "-W", "16", "-H", "16", "-o", "a.png")
    found = read_parameters("a.png")["ldmref"]
    assert found["mode"] == "img2img" and found["strength"] == 0.75 and found["width"] == 16


@pytest.mark.parametrize(
    ("size", "how", "drawn"), [((31, 20), "stretch", (30, 20)), ((1, 20), "fill", (16, 16))]
)
def test_img2img_resizes_with_a_warning(draw, work, size, how, drawn):
    """By little to what the model can take; and `run` repeats what was done."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save("in.png")
    for mode in ("img2img", "invert"):
        out = f"{mode}.png"
        again = f"{mode}-again.png"
        ran = draw(mode, "cat", "-i", "in.png", "-o", out, "--resize", "fill")
        told = f"resized ({how}) to {drawn[0]} x {drawn[1]}"
        assert f"warning: the image is {size[0]} x {size[1]}; {told}" in ran.err
        found = read_parameters(out)["ldmref"]
        assert (found["width"], found["height"]) == drawn and found["resize"] == how
        draw("run", "--from", out, "-i", "in.png", "-o", again)
        assert (pixels(again) == pixels(out)).all()


def test_inpaint_keeps_black_pixels(draw, work):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(noise).save("in.png")
    Image.fromarray(mask).save("mask.png")
    draw("inpaint", "cat", "-i", "in.png", "--mask", "mask.png", "-o", "a.png")
    draw("inpaint", "cat", "-i", "in.png", "--mask", "mask.png", "--mask-invert", "-o", "b.png")
    assert (pixels("a.png")[:, :8] == noise[:, :8]).all()
    assert (pixels("a.png")[:, 8:] != noise[:, 8:]).any()
    assert (pixels("b.png")[:, 8:] == noise[:, 8:]).all()
    assert (pixels("b.png")[:, :8] != noise[:, :8]).any()


def test_where_the_backend_comes_from(draw, work, monkeypatch):
    def used(*flags):
        ran = draw("txt2img", "cat", "--json", *flags)
        return json.loads(ran.out)["params"]["backend"]

    (work / "ldmref.toml").write_text('[backend]\nname = "numpy"\ndtype = "float64"\n')
    assert used()["dtype"] == "float64"
    (work / "other.toml").write_text('[backend]\nname = "numpy"\ndtype = "float16"\n')
    assert used("--config", "other.toml")["dtype"] == "float16"
    monkeypatch.setenv("LDMREF_DTYPE", "float32")
    assert used()["dtype"] == "float32"
    assert used("--dtype", "float64")["dtype"] == "float64"
    pytest.importorskip("torch")
    monkeypatch.setenv("LDMREF_BACKEND", "torch")
    assert used()["name"] == "torch"
    assert used("--backend", "numpy")["name"] == "numpy"


def test_where_defaults_come_from(draw, work, monkeypatch):
    def steps(*flags):
        return json.loads(draw("txt2img", "cat", "--json", *flags).out)["params"]["steps"]

    assert steps() == 4
    (work / "ldmref.toml").write_text("[defaults]\nsteps = 3\n")
    assert steps() == 3
    monkeypatch.setenv("LDMREF_STEPS", "2")
    assert steps() == 2
    assert steps("--steps", "1") == 1
    assert "defaults.steps = 2 from LDMREF_STEPS" in draw("txt2img", "cat", "-v").err


def test_run_replays(draw, ldm, model_folder, work):
    draw(
        "txt2img", "red heart", "--seed", "3", "--sampler", "euler_a", "--eta", "0.5", "-o", "a.png"
    )
    draw("run", "--from", "a.png", "-o", "b.png")
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
    draw("run", "--from", "a.png", "-o", "c.png", "--sampler", "heun", "-p", "cat")
    found = read_parameters("c.png")["ldmref"]
    assert (found["sampler"], found["prompt"], found["seed"]) == ("heun", "cat", 3)
    draw("img2img", "cat", "-i", "a.png", "-o", "d.png")
    ran = ldm("run", "--from", "d.png", "-m", model_folder)
    assert ran.code == 2 and "another image" in ran.err and "-i IMAGE" in ran.err


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"prompt": ["a", "b"]}, "E-REPLAY"),
        ({"steps": 10**9}, "E-STEPS"),
        ({"steps": "4"}, "E-STEPS"),
        ({"sampler": 5}, "E-SAMPLER"),
        ({"seed": -5}, "E-SEED"),
        ({"cfg_scale": float("nan")}, "E-CFG-SCALE"),
        ({"width": 10**6}, "E-WIDTH"),
        ({"rng": "dice"}, "E-RNG"),
    ],
    ids=str,
)
def test_hostile_records(change, code, draw, ldm, model_folder, work):
    draw("txt2img", "cat", "-o", "a.png")
    record(read_parameters("a.png")["ldmref"] | change, "c.png")
    ran = ldm("run", "--from", "c.png", "-m", model_folder)
    assert ran.code == 2 and ran.err.startswith(f"ldmref: error[{code}]"), ran.err


def test_run_never_opens_the_recorded_model(draw, ldm, work):
    draw("txt2img", "cat", "-o", "a.png")
    model = {"name": "/etc", "sha256": "0"}
    record(read_parameters("a.png")["ldmref"] | {"model": model}, "b.png")
    assert "another model: the image records '/etc'" in draw("run", "--from", "b.png").err


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red heart", "a-red-heart"),
        ("../../etc/passwd", "etc-passwd"),
        ("-rf --help", "rf-help"),
        ("Äpfel & Öl", "apfel-ol"),
        ("❤", "red-heart"),
        ("🐶 on 👩🏿‍🚀", "dog-face-on-woman-astronaut-dark-skin-tone"),
        ("", "image"),
        ("x" * 500, "x" * 80),
        ("a\0b\n", "a-b"),
    ],
)
def test_slug(prompt, name):
    assert slugify(prompt) == name


def test_speed_and_memory(draw, ldm, model_folder, work):
    for name, flags in {
        "a.png": ("--speed", "exact"),
        "b.png": ("--speed", "fast", "--max-memory", "400MB"),
        "c.png": ("--max-memory", "265.1MB", "-v"),
    }.items():
        ran = draw("txt2img", "cat", "--seed", "7", "-o", name, *flags)
        assert np.abs(pixels(name).astype(int) - pixels("a.png")).max() <= 1
    assert (
        "memory about 0.3 GB, 0.3 GB with one network at a time, or 0.3 GB with one block"
        in ran.err
    )
    assert read_parameters("a.png")["ldmref"]["backend"]["speed"] == "exact"
    assert read_parameters("c.png")["ldmref"]["backend"]["speed"] == "fast"
    for flags, code, exit_code in (
        (("--max-memory", "100MB"), "E-MEMORY", 6),
        (("--max-memory", "lots"), "E-MAX-MEMORY", 2),
        (("--speed", "warp"), "E-SPEED", 2),
    ):
        ran = ldm("txt2img", "-m", model_folder, "cat", "-o", "d.png", *flags)
        assert ran.code == exit_code and f"error[{code}]" in ran.err
        assert ran.err.count("\n") <= 2 and not (work / "d.png").exists()
