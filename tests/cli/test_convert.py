"""`ldmref convert`, and the flags --vae and --lora."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shlex
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ldmref
from ldmref.io import save_folder
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.images.metadata import read_parameters
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.params import flatten
from ldmref.models.presets import PRESETS

torch = pytest.importorskip("torch")


class Payload:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.fixture
def checkpoint(work):
    torch.manual_seed(0)
    state = {"a.weight": torch.randn(4, 3), "b": torch.randn(5).bfloat16(), "c": torch.arange(3)}
    torch.save({"state_dict": state, "epoch": 3}, work / "model.ckpt")
    return state


def test_pickle_to_safetensors(ldm, checkpoint, work):
    ran = ldm("convert", "model.ckpt", "model.safetensors")
    assert ran.code == 0 and ran.out == ""
    assert (
        "model.safetensors  3 tensors" in ran.err and "left out" in ran.err and "epoch" in ran.err
    )
    file = TensorFile(work / "model.safetensors")
    assert set(file) == set(checkpoint)
    for name, tensor in checkpoint.items():
        assert np.array_equal(file[name], tensor.float().numpy()), name
    assert sorted(p.name for p in work.iterdir()) == ["model.ckpt", "model.safetensors"]


def test_existing_files_are_kept(ldm, checkpoint, work):
    (work / "out.safetensors").write_bytes(b"mine")
    ran = ldm("convert", "model.ckpt", "out.safetensors")
    assert ran.code == 8 and "E-EXISTS" in ran.err
    assert (work / "out.safetensors").read_bytes() == b"mine"
    assert ldm("convert", "model.ckpt", "out.safetensors", "--overwrite").code == 0
    assert len(TensorFile(work / "out.safetensors")) == 3


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_hostile_pickles_do_not_run(ldm, work, legacy, nested):
    value = {"state_dict": {"w": torch.ones(1), "x": [Payload()]}} if nested else Payload()
    torch.save(value, "bad.ckpt", _use_new_zipfile_serialization=not legacy)
    ran = ldm("convert", "bad.ckpt", "out.safetensors")
    assert ran.code == 3 and "error[E-PICKLE]" in ran.err and "system" in ran.err
    assert [p.name for p in work.iterdir()] == ["bad.ckpt"]


def test_mistakes(ldm, checkpoint, work, model_folder):
    whole = (work / "model.ckpt").read_bytes()
    (work / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (work / "text.ckpt").write_text("hello")
    (work / "other.pt").write_bytes(pickle.dumps({"w": 1}))
    (work / "keep").mkdir()
    (work / "keep" / "letter.txt").write_text("dear")
    for argv, code, word in (
        (["cut.ckpt", "a.safetensors"], 3, "E-PICKLE-DAMAGED"),
        (["text.ckpt", "a.safetensors"], 3, "E-PICKLE-FORMAT"),
        (["other.pt", "a.safetensors"], 3, "E-PICKLE-FORMAT"),
        (["gone.ckpt", "a.safetensors"], 3, "E-"),
        (["gone", "a.safetensors"], 3, "E-MODEL"),
        (["model.ckpt", "folder"], 2, "must end in .safetensors"),
        (["model.ckpt", "no/a.safetensors"], 8, "E-FOLDER"),
        (["model.ckpt", "model.ckpt"], 2, "same file"),
        ([model_folder, "keep", "--overwrite"], 8, "not replaced"),
        (["model.ckpt"], 2, "E-USAGE"),
    ):
        ran = ldm("convert", *argv)
        assert (ran.code, word in ran.err) == (code, True), (argv, ran.err)
        assert ran.err.count("\n") <= 2
    left = {"model.ckpt", "cut.ckpt", "text.ckpt", "other.pt", "keep"}
    assert {p.name for p in work.iterdir()} == left
    assert (work / "keep" / "letter.txt").read_text() == "dear"


def test_refusals_name_convert(ldm, checkpoint, work):
    shutil.copy("model.ckpt", "renamed.safetensors")
    for name in ("model.ckpt", "renamed.safetensors"):
        ran = ldm("txt2img", "cat", "-m", name)
        assert ran.code == 3 and f"ldmref convert {name} " in ran.err


def test_native_to_compvis_and_back(ldm, model_folder, work):
    """The same numbers, and the same image."""
    ran = ldm("convert", model_folder, "one.safetensors")
    assert ran.code == 0
    names = set(TensorFile(work / "one.safetensors"))
    assert "model.diffusion_model.input_blocks.0.0.weight" in names
    tokenizer = model_folder / "tokenizer.json"
    ran = ldm(
        "convert",
        "one.safetensors",
        "back",
        "--model-config",
        model_folder,
        "--tokenizer",
        tokenizer,
    )
    assert ran.code == 0, ran.err
    before = open_checkpoint(model_folder).tensors
    back = open_checkpoint(work / "back")
    config, after = back.config, back.tensors
    assert config.unet == PRESETS["tiny"].unet and before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    for name, folder in (("a.png", model_folder), ("b.png", "back")):
        assert ldm("txt2img", "red heart", "--seed", "1", "-m", folder, "-o", name).code == 0
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_a_file_that_does_not_say_which_model_it_is_is_named(ldm, model_folder, work):
    """The command that opens it is part of the warning, also where a folder's name has a space."""
    odd = work / "a model"
    shutil.copytree(model_folder, odd)
    ran = ldm("convert", odd, "one.safetensors")
    assert ran.code == 0 and "warning: one.safetensors does not say which model it is" in ran.err
    alone = ldm("txt2img", "a", "-m", "one.safetensors", "--steps", "1")
    assert alone.code == 3, alone.err
    [given] = re.findall(r"opened with (.*?);", ran.err)
    words = shlex.split(given)
    assert words == ["--model-config", str(odd)]
    tokenizer = ("--tokenizer", odd / "tokenizer.json")
    drawn = ldm("txt2img", "a", "-m", "one.safetensors", *words, *tokenizer, "--steps", "1")
    assert drawn.code == 0, drawn.err
    folder = ldm("convert", odd, "two")
    assert folder.code == 0 and "does not say" not in folder.err


def test_what_compvis_cannot_name(ldm, work):
    ran = ldm("convert", "emoji", "emoji.safetensors")
    assert ran.code == 2 and "class embedding" in ran.err and not list(work.iterdir())


def test_a_model_with_a_transformer_becomes_a_folder_only(ldm, work):
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    params = {name: p for name, p in model.params.items() if name != "text_encoder_3"}
    config = dataclasses.replace(model.config, text_encoder_3=None)
    save_folder(work / "sd3", config, params, [model.tokenizer] * 2, np.float32)
    ran = ldm("convert", "sd3", "one.safetensors")
    assert ran.code == 2 and "has a transformer in place of the U-Net" in ran.err
    assert "to write a folder" in ran.err and not (work / "one.safetensors").exists()


@pytest.fixture(scope="session")
def style(model_folder, tmp_path_factory):
    shape = flatten(ldmref.load(model_folder, backend="numpy").params)["unet.conv_in.weight"].shape
    draw = np.random.default_rng(0).standard_normal
    path = tmp_path_factory.mktemp("loras") / "my:style.safetensors"
    tensors = {
        "lora_unet_conv_in.lora_down.weight": draw((2, *shape[1:])).astype(np.float32),
        "lora_unet_conv_in.lora_up.weight": draw((shape[0], 2, 1, 1)).astype(np.float32),
    }
    save_file(tensors, str(path))
    return path


@pytest.mark.parametrize("ending", [".gguf", ".ckpt", ".onnx"])
def test_a_name_of_another_format_is_refused(ldm, model_folder, work, ending):
    """A folder `model.gguf` would pass for a quantised file."""
    ran = ldm("convert", model_folder, f"model{ending}")
    assert ran.code == 2 and "E-LAYOUT" in ran.err
    assert f"convert writes .safetensors files and folders, not {ending}" in ran.err
    assert f"hint: leave {ending} out of OUT" in ran.err
    assert not (work / f"model{ending}").exists()


def test_lora_flag(draw, style, work):
    draw("txt2img", "cat", "--seed", "1", "-o", "plain.png")
    draw("txt2img", "cat", "--seed", "1", "-o", "a.png", "--lora", f"{style}:0.5")
    draw(
        "txt2img",
        "cat",
        "--seed",
        "1",
        "-o",
        "b.png",
        "--lora",
        f"{style}:0.25",
        "--lora",
        f"{style}:0.25",
    )
    draw("txt2img", "cat", "--seed", "1", "-o", "full.png", "--lora", style)
    records = {
        n: read_parameters(f"{n}.png")["ldmref"]["model"] for n in ("plain", "a", "b", "full")
    }
    assert "loras" not in records["plain"]
    (one,) = records["a"]["loras"]
    assert (one["name"], one["weight"], len(one["sha256"])) == ("my:style", 0.5, 64)
    assert [r["weight"] for r in records["b"]["loras"]] == [0.25, 0.25]
    assert records["full"]["loras"][0]["weight"] == 1.0
    from PIL import Image

    pixels = {name: np.asarray(Image.open(f"{name}.png")).astype(int) for name in records}
    assert (pixels["plain"] != pixels["a"]).any() and (pixels["a"] != pixels["full"]).any()
    assert abs(pixels["a"] - pixels["b"]).max() <= 1


def test_replay_says_that_a_lora_is_missing(draw, style, work):
    draw("txt2img", "cat", "--seed", "1", "-o", "a.png", "--lora", f"{style}:0.5")
    again = draw("run", "--from", "a.png", "-o", "b.png")
    assert "another --lora" in again.err and "my:style" in again.err
    same = draw("run", "--from", "a.png", "-o", "c.png", "--lora", f"{style}:0.5")
    assert "warning" not in same.err
    assert (work / "a.png").read_bytes() == (work / "c.png").read_bytes()


def test_bad_loras(ldm, model_folder, style, work):
    save_file({"lora_unet_x.alpha": np.ones(())}, "strange.safetensors")
    for lora, code, word in (
        ("gone.safetensors", 3, "E-MODEL"),
        (f"{style}:x", 2, "E-LORA-WEIGHT"),
        (f"{style}:nan", 2, "E-LORA-WEIGHT"),
        ("strange.safetensors", 3, "1 unexpected (lora_unet_x.alpha)"),
    ):
        ran = ldm("txt2img", "cat", "-m", model_folder, "--lora", lora)
        assert (ran.code, word in ran.err) == (code, True), ran.err
    assert [p.name for p in work.iterdir()] == ["strange.safetensors"]


def test_vae_flag(draw, ldm, model_folder, work):
    flat = load_file(model_folder / "model.safetensors")
    vae = {n.removeprefix("vae."): t.astype(np.float32) for n, t in flat.items() if n[:4] == "vae."}
    save_file({n: t * np.float32(0.5) for n, t in vae.items()}, "half.safetensors")
    draw("txt2img", "cat", "--seed", "1", "-o", "a.png")
    draw("txt2img", "cat", "--seed", "1", "-o", "b.png", "--vae", "half.safetensors")
    assert read_parameters("b.png")["ldmref"]["model"]["vae"]["name"] == "half"
    from PIL import Image

    a, b = (np.asarray(Image.open(name)) for name in ("a.png", "b.png"))
    assert (a != b).any()
    ran = ldm("txt2img", "cat", "-m", model_folder, "--vae", "gone.safetensors")
    assert ran.code == 3 and "E-VAE" in ran.err
