"""--control, --tile and the flags of inpainting: read, refused, recorded, replayed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from small_models import save_controlnet

from ldmref.io.compvis.keys import controlnet_table
from ldmref.io.images.metadata import read_parameters
from ldmref.io.key_table import to_compvis
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.presets import preset


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """Save a ControlNet of preset `tiny` as diffusers does, with random weights."""
    folder = save_controlnet(tmp_path_factory.mktemp("nets") / "edges")
    config = ControlNetConfig(preset("tiny").unet, conditioning_embedding_out_channels=(4, 8))
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert set(to_compvis(tensors, controlnet_table(config)))
    return folder


@pytest.fixture
def sources(work):
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save("a.png")
    Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save("wide.png")
    for name, size in (("m.png", (16, 16)), ("wide-m.png", (50, 40))):
        mask = Image.new("L", size, 0)
        mask.paste(255, (2, 2, 9, 9))
        mask.save(name)


def test_control_is_used_recorded_and_replayed(draw, ldm, net, sources, model_folder):
    draw("txt2img", "cat", "--seed", 1, "-o", "plain.png")
    spec = f"{net}:a.png:0.5:0-0.75"
    draw("txt2img", "cat", "--seed", 1, "--control", spec, "-o", "c.png")
    assert (pixels("plain.png") != pixels("c.png")).any()
    (told,) = read_parameters("c.png")["ldmref"]["control"]
    assert {k: told[k] for k in ("name", "weight", "start", "end")} == {
        "name": "edges",
        "weight": 0.5,
        "start": 0.0,
        "end": 0.75,
    }
    ran = ldm("run", "-m", model_folder, "--from", "c.png", "-o", "again.png")
    assert ran.code == 2 and "--control NET:IMAGE" in ran.err
    ran = draw("run", "--from", "c.png", "--control", spec, "-o", "again.png")
    assert (pixels("again.png") == pixels("c.png")).all() and "warning" not in ran.err
    ran = draw("run", "--from", "c.png", "--control", f"{net}:a.png", "-o", "other.png")
    assert "another --control 1: its weight was 0.5" in ran.err


@pytest.mark.parametrize("mode", ["img2img", "inpaint"])
def test_control_in_the_other_modes(draw, net, sources, mode):
    more = ["-i", "a.png", *(["--mask", "m.png"] if mode == "inpaint" else [])]
    for name, flags in (("p.png", []), ("c.png", ["--control", f"{net}:a.png"])):
        draw(mode, "cat", *more, "--seed", 1, "-o", name, *flags)
    assert (pixels("p.png") != pixels("c.png")).any()


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("net", "E-CONTROL"),
        (":a.png", "E-CONTROL"),
        ("NET:", "E-CONTROL"),
        ("NET:a.png:x", "E-CONTROL"),
        ("NET:a.png:1:0", "E-CONTROL"),
        ("NET:a.png:1:0-1:2", "E-CONTROL"),
        ("none:a.png", "E-CONTROL"),
        ("NET:none.png", "E-IMAGE-MISSING"),
        ("NET:a.png:99", "E-CONTROL-WEIGHT"),
        ("NET:a.png:1:0.5-0.2", "E-CONTROL-START"),
    ],
)
def test_wrong_controls_are_refused_before_weights_are_read(
    ldm, model_folder, net, sources, monkeypatch, spec, code
):
    monkeypatch.setattr("ldmref.apps.cli.session.load", None)
    ran = ldm("txt2img", "cat", "-m", model_folder, "--control", spec.replace("NET", str(net)))
    assert f"error[{code}]" in ran.err and ran.err.count("\n") <= 2


def test_inpainting_flags_are_recorded_and_replayed(draw, ldm, sources, model_folder):
    flags = [
        "--only-masked",
        "--padding",
        3,
        "--fill",
        "nothing",
        "--resample",
        "2,2",
        "--mask-blur",
        1,
        "--strength",
        0.9,
        "--seed",
        1,
    ]
    of = ["-i", "wide.png", "--mask", "wide-m.png"]
    draw("inpaint", "cat", *of, *flags, "-o", "r.png")
    told = read_parameters("r.png")["ldmref"]
    want = dict(only_masked=True, padding=3, fill="nothing", resample=[2, 2], width=16, height=16)
    assert {k: told[k] for k in want} == want
    draw("run", "--from", "r.png", *of, "-o", "again.png")
    assert (pixels("again.png") == pixels("r.png")).all()
    assert read_parameters("again.png")["ldmref"] == told
    ran = ldm("run", "-m", model_folder, "--from", "r.png", "-i", "wide.png")
    assert ran.code == 2 and "--mask MASK" in ran.err


def test_img2img_is_replayed_with_its_image(draw, sources):
    draw("img2img", "cat", "-i", "a.png", "--strength", 0.6, "--seed", 1, "-o", "r.png")
    draw("run", "--from", "r.png", "-i", "a.png", "-o", "again.png")
    assert (pixels("again.png") == pixels("r.png")).all()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--fill", "blur"], "E-FILL"),
        (["--padding", "-1"], "E-PADDING"),
        (["--resample", "3"], "E-RESAMPLE"),
        (["--resample", "0,3"], "E-RESAMPLE-JUMP-LENGTH"),
        (["--tile", "3"], "E-TILE"),
        (["--width", "32"], "E-SIZE"),
    ],
)
def test_wrong_flags_are_refused_before_weights_are_read(
    ldm, model_folder, sources, monkeypatch, flags, code
):
    monkeypatch.setattr("ldmref.apps.cli.session.load", None)
    of = ["-i", "a.png", "--mask", "m.png"]
    ran = ldm("inpaint", "cat", "-m", model_folder, *of, *flags)
    assert f"error[{code}]" in ran.err


def test_tiles_are_recorded_and_replayed(draw, sources):
    draw("txt2img", "cat", "--seed", 1, "-W", 64, "-H", 32, "--tile", 16, "-o", "t.png")
    assert read_parameters("t.png")["ldmref"]["tile"] == 16
    draw("run", "--from", "t.png", "-o", "again.png")
    assert (pixels("again.png") == pixels("t.png")).all()


def test_a_controlnet_is_exported_with_the_model(ldm, work, model_folder, net):
    pytest.importorskip("onnx")
    argv = ["export", "onnx", str(model_folder), "-o", "m", "--controlnet", str(net), "--json"]
    ran = ldm(*argv)
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["network"] for row in rows][1:3] == ["controlnet", "unet"]
    assert "mid_block_additional_residual" in rows[2]["inputs"]
    assert (work / "m" / "controlnet" / "model.onnx").exists()
    ran = ldm("export", "onnx", str(model_folder), "-o", "n", "--controlnet", "missing")
    assert ran.code == 3 and "missing" in ran.err and not (work / "n").exists()
