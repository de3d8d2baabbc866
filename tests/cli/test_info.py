"""backends, models, samplers, info, doctor: text and JSON."""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from small_models import save_flow

from ldmref.apps.cli import doctor as doctor_module
from ldmref.apps.cli.file_info import describe_value
from ldmref.backends import available
from ldmref.io.embedded import EMBEDDED
from ldmref.io.locate import find_model
from ldmref.models.presets import list_presets
from ldmref.samplers import SAMPLERS


def rows(ran):
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


@pytest.mark.parametrize("command", ["backends", "models", "samplers"])
def test_tables(command, ldm):
    models = {*EMBEDDED, *list_presets()}
    known = {"backends": available, "models": lambda: models, "samplers": lambda: SAMPLERS}
    names = [row["name"] for row in rows(ldm(command, "--json"))]
    assert set(names) == set(known[command]())
    text = ldm(command).out.splitlines()
    assert [line.split()[0] for line in text] == names


def test_the_embedded_model_is_the_one_in_the_package(ldm):
    found = rows(ldm("models", "--json"))
    row = next(row for row in found if (row["name"], row["kind"]) == ("emoji", "embedded"))
    tensors = safe_open(find_model("emoji") / "model.safetensors", "numpy")
    numbers = sum(np.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    assert (row["width"], row["height"], row["parameters"]) == (128, 128, numbers)


def test_samplers_say_what_is_declared(ldm):
    heun = next(row for row in rows(ldm("samplers", "--json")) if row["name"] == "heun")
    assert (heun["order"], heun["evaluations_per_step"], heun["stochastic"]) == (2, 2, False)


def test_backends_give_devices_or_a_reason(ldm):
    for row in rows(ldm("backends", "--json")):
        assert bool(row["devices"]) == row["usable"] == (not row["reason"])


def test_info_on_an_image(draw, ldm, work):
    draw("txt2img", "red\x1b[2J heart", "--seed", "1", "-o", "a.png")
    ran = ldm("info", "a.png")
    assert ran.code == 0 and "Steps: 4, Sampler: DDIM" in ran.out and "\x1b" not in ran.out
    (facts,) = rows(ldm("info", "a.png", "--json"))
    assert facts["ldmref"]["seed"] == 1 and facts["infotext"]["pairs"]["Seed"] == "1"
    assert (facts["width"], facts["height"], facts["other"]) == (16, 16, {})


def test_info_names_other_programs(ldm, work):
    chunk = PngInfo()
    chunk.add_text("workflow", "{}")
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=chunk)
    Image.new("RGB", (8, 8)).save("b.png")
    assert "ComfyUI" in ldm("info", "a.png").out
    assert "no record" in ldm("info", "b.png").out


def test_info_shows_the_samplers_and_texts_of_comfyui(ldm, work):
    """A graph of ComfyUI's default workflow; damaged ones are named and nothing more."""
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {"seed": 8, "steps": 20, "cfg": 7.5, "sampler_name": "euler",
                       "scheduler": "karras", "denoise": 1, "model": ["4", 0]},
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0]}},
    }  # fmt: skip
    texts = {"a": json.dumps(graph), "b": "{", "c": "[1]", "d": '{"3": 1}', "e": "[" * 100_000}
    for name, text in texts.items():
        chunk = PngInfo()
        chunk.add_text("prompt", text)
        Image.new("RGB", (8, 8)).save(f"{name}.png", pnginfo=chunk)
    lines = ldm("info", "a.png").out.splitlines()
    assert lines[1:] == [
        "also contains 'prompt', written by ComfyUI",
        "KSampler: seed 8, steps 20, cfg 7.5, sampler_name euler, scheduler karras, denoise 1",
        "CheckpointLoaderSimple: ckpt_name a.safetensors",
        "CLIPTextEncode: text a cat",
        "the graph of ComfyUI is not repeated by ldmref",
    ]
    for name in ("b", "c", "d", "e"):
        ran = ldm("info", f"{name}.png")
        assert ran.code == 0 and len(ran.out.splitlines()) == 2


def test_info_prints_no_python_of_a_configuration(ldm, model_folder):
    """Tuples, dictionaries and None are words; empty fields are left out."""
    out = ldm("info", model_folder).out
    assert not re.search(r"[{}\[\]']|\(\)|True|False|None|, ,|: \n", out), out
    assert re.search(r"block_out_channels \d+ \d+", out)
    nested = {"sizes": [64, 128], "rows": [[1, 2], [3]], "part": {"a": True, "b": None}, "c": ()}
    assert describe_value(nested) == "sizes 64 128, rows (1 2) (3), part (a yes)"
    assert describe_value(range(3)) == "range(0, 3)" and describe_value([1] * 17) == "(17 values)"


def test_info_on_a_model(ldm, model_folder):
    (facts,) = rows(ldm("info", model_folder, "--json"))
    assert facts["config"]["name"] == "tiny" and len(facts["sha256"]) == 64
    tensor = next(t for t in facts["tensors"] if t["name"] == "unet.conv_in.weight")
    assert (tensor["dtype"], tensor["shape"], tensor["numbers"]) == ("F16", [16, 4, 3, 3], 576)
    short = ldm("info", model_folder).out
    assert "unet.conv_in.weight" not in short and "--tensors lists them" in short
    assert short.count("\n") < 15
    assert "unet.conv_in.weight" in ldm("info", model_folder, "--tensors").out


def test_info_on_a_damaged_model(ldm, model_folder, work):
    (work / "m").mkdir()
    (work / "m/config.json").write_text((model_folder / "config.json").read_text())
    assert ldm("info", "m").code == 3
    (work / "m/model.safetensors").write_bytes(b"\xff" * 100)
    ran = ldm("info", "m")
    assert ran.code == 3 and "error[E-SAFETENSORS]" in ran.err


def test_doctor(ldm):
    ran = ldm("doctor", "--json")
    assert ran.code == 0, ran.err
    findings = {f["topic"]: f for f in json.loads(ran.out)}
    assert findings["self-test numpy"]["ok"] and findings["self-test image"]["ok"]
    assert findings["numpy"]["ok"] and "blas kernels" in findings


def test_doctor_fails_with_its_self_test(ldm, monkeypatch):
    bad = doctor_module.Diagnosis("self-test numpy", "233 of 234 comparisons hold", False)
    monkeypatch.setattr(doctor_module, "run_self_test", lambda: [bad])
    ran = ldm("doctor")
    assert ran.code == 4 and "BAD self-test numpy" in ran.out and "error[E-SELF-TEST]" in ran.err


def test_doctor_knows_the_declared_minimum_versions():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = dict(re.split(">=", line) for line in project["project"]["dependencies"])
    assert declared == doctor_module.MINIMUM


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_info_prints_what_a_flow_reads_and_json_has_everything(name, ldm, tmp_path):
    folder = save_flow(tmp_path / "m", name)
    out = ldm("info", folder).out
    [scheduler] = [line for line in out.splitlines() if line.startswith("scheduler: ")]
    assert "shift" in scheduler and not re.search("beta|rescale|variance|steps_offset", scheduler)
    [clip] = [line for line in out.splitlines() if line.startswith("text_encoder: ")]
    assert "eos_token_id" in clip and "relative" not in clip
    [facts] = rows(ldm("info", folder, "--json"))
    assert facts["config"]["scheduler"]["beta_start"] == 0.00085


# -- files that are neither images nor models -----------------------------------------------------

CLASSES = {
    "AutoencoderKL": "--vae",
    "AutoencoderTiny": "--vae",
    "ControlNetModel": "--control",
    "SD3ControlNetModel": "--control",
    "FluxTransformer2DModel": "model_index.json",
}


@pytest.mark.parametrize(("kind", "flag"), CLASSES.items())
def test_info_on_the_folder_of_one_network(kind, flag, ldm, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind}))
    done = ldm("info", tmp_path)
    assert done.code == 0 and kind in done.out and flag in done.out
    row = json.loads(ldm("info", "--json", tmp_path).out)
    assert row["class"] == kind and row["fits"] is False and flag in row["hint"]


def test_info_on_the_folder_of_a_text_encoder(ldm, tmp_path):
    for kind in ("CLIPTextModelWithProjection", "T5EncoderModel"):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [kind]}))
        assert "--text-encoder" in ldm("info", tmp_path).out


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.pth", "a.bin", "without-ending"])
def test_info_on_a_damaged_pickle_says_so_or_how_to_convert_it(name, ldm, tmp_path):
    """By its ending a pickle is read for the names of its tensors, which these do not have."""
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    old = tmp_path / f"old-{name}"
    old.write_bytes(b"\x80\x02}q\x00.")
    for path in (tmp_path / name, old):
        done = ldm("info", path)
        assert done.code == 3 and "E-PICKLE" in done.err
        damaged = ("E-PICKLE-DAMAGED", "E-PICKLE-FORMAT")
        assert "ldmref convert" in done.err or any(code in done.err for code in damaged)


def test_info_finds_a_model_by_its_content(ldm, model_folder, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes((model_folder / "model.safetensors").read_bytes())
    done = ldm("info", path)
    assert done.code == 0 and "give the folder" in done.out


@pytest.mark.parametrize(("ending", "wanted"), [("gguf", "GGUF"), ("safetensors", "safetensors")])
def test_info_on_a_page_that_was_saved_instead(ending, wanted, ldm, tmp_path):
    (tmp_path / f"a.{ending}").write_text("<!DOCTYPE html><html>")
    assert f"an HTML page, not a {wanted} file" in ldm("info", tmp_path / f"a.{ending}").err
