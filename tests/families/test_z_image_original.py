"""Single files of Z-Image: the makers' names and ComfyUI's, against diffusers' conversion."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import CorruptModelError, KeyMismatchError
from ldmref.families.qwen3.encoder import LLAMA, QWEN3, rename_tensor
from ldmref.families.transformer_files import PREFIX
from ldmref.families.z_image import files
from ldmref.families.z_image.files import comfyui_table, makers_table, recognise
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.models import preset
from ldmref.models.params import flatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
import torch
from diffusers.loaders.single_file_utils import (
    convert_z_image_transformer_checkpoint_to_diffusers,
)
from float8_files import save_float8
from gguf_files import write_model
from qwen3_networks import write_vocabulary
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save_file
from z_image_pipelines import make_pipeline

TABLES = {"makers": makers_table, "comfyui": comfyui_table}
TEXT = "text_encoders.qwen3_4b.transformer.model."
SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the folder of a small pipeline, its model)."""
    place = tmp_path_factory.mktemp("z-image")
    pipe = make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))
    pipe.save_pretrained(place)
    return place, ldmref.load(place)


def flat_network(model, network):
    flat = flatten(model.params[network])
    return {name: np.ascontiguousarray(x, np.float32) for name, x in flat.items()}


def stored_transformer(model, names, prefix=""):
    """Return the transformer's tensors as a file holds them."""
    return to_compvis(flat_network(model, "transformer"), TABLES[names](model.config, prefix))


def know(monkeypatch, config):
    """Let files of this configuration be recognised, as those of the published size are."""
    config = replace(config, name="small")
    monkeypatch.setattr(files, "make_presets", lambda: {"small": config})


def generate(model):
    return modes.txt2img(model, "a cat", seed=1, steps=2, **SIZE).images[0]


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_table_is_that_of_diffusers_in_both_directions(made, prefix):
    """ComfyUI's; a norm that some files hold and nothing reads is left out."""
    _, model = made
    want = flat_network(model, "transformer")
    stored = stored_transformer(model, "comfyui", prefix)
    theirs = {name: torch.tensor(x) for name, x in stored.items()}
    assert not any(".to_q." in name or "norm_k" in name for name in stored)
    theirs[f"{prefix}norm_final.weight"] = torch.ones(24)
    converted = convert_z_image_transformer_checkpoint_to_diffusers(theirs)
    assert converted.keys() == want.keys()
    assert all(np.array_equal(converted[name].numpy(), x) for name, x in want.items())
    back = to_native(stored, comfyui_table(model.config, prefix))
    assert all(np.array_equal(back[name], x) for name, x in want.items())


def test_names_of_the_published_files():
    """ComfyUI's has 453 tensors of the 521, since queries, keys and values are one."""
    config = preset("z-image")
    shapes = list_stored_shapes(comfyui_table(config, PREFIX))
    assert len(shapes) == 453 and len(list_stored_shapes(makers_table(config))) == 521
    assert shapes[f"{PREFIX}layers.29.attention.qkv.weight"] == (11520, 3840)
    assert shapes[f"{PREFIX}noise_refiner.1.attention.q_norm.weight"] == (128,)
    assert shapes[f"{PREFIX}context_refiner.0.attention.out.weight"] == (3840, 3840)
    assert shapes[f"{PREFIX}final_layer.adaLN_modulation.1.weight"] == (3840, 256)
    assert shapes[f"{PREFIX}x_embedder.weight"] == (3840, 64)


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("names", TABLES)
@pytest.mark.parametrize("name", ["z-image-turbo", "z-image-tiny"])
def test_files_are_recognised_by_their_shapes(names, prefix, name):
    config = preset(name)
    shapes = list_stored_shapes(TABLES[names](config, prefix))
    kind = names == "comfyui"
    assert recognise(shapes, prefix, kind) == config
    assert recognise(shapes, prefix, not kind) is None
    assert recognise(shapes, "another.", kind) is None
    assert recognise(shapes | {f"{prefix}x_pad_token": (1, 7)}, prefix, kind) is None  # Lumina 2


def test_files_of_other_sizes():
    turbo = preset("z-image-turbo")
    other = replace(turbo, denoiser=replace(turbo.denoiser, n_layers=8))
    assert recognise(list_stored_shapes(comfyui_table(other)), comfyui=True) == other
    narrow = replace(turbo.denoiser, n_heads=60, axes_dims=(16, 24, 24))
    shapes = list_stored_shapes(comfyui_table(replace(turbo, denoiser=narrow)))
    assert recognise(shapes, comfyui=True) is None


@pytest.mark.parametrize("names", TABLES)
def test_the_transformer_beside_a_folder_and_an_autoencoder(made, names, tmp_path):
    folder, model = made
    stored = stored_transformer(model, names, PREFIX)
    save_file(stored, tmp_path / "z_image.safetensors")
    vae = to_compvis(flat_network(model, "vae"), autoencoder_table(model.config.vae))
    save_file(vae, tmp_path / "ae.safetensors")
    for added in (None, tmp_path / "ae.safetensors"):
        found = ldmref.load(tmp_path / "z_image.safetensors", config=folder, vae=added)
        assert generate(found) == generate(model)
    lost = next(name for name in stored if name.endswith("layers.1.feed_forward.w2.weight"))
    stored.pop(lost)
    save_file(stored, tmp_path / "short.safetensors")
    with pytest.raises(KeyMismatchError, match="1 missing"):
        ldmref.load(tmp_path / "short.safetensors", config=folder)


def test_separate_files_are_the_model(made, tmp_path, monkeypatch):
    """As ComfyUI has them: transformer, autoencoder, and Qwen3 with transformers' names."""
    folder, model = made
    know(monkeypatch, model.config)
    save_file(stored_transformer(model, "comfyui"), tmp_path / "z_image_turbo.safetensors")
    vae = to_compvis(flat_network(model, "vae"), autoencoder_table(model.config.vae))
    save_file(vae, tmp_path / "ae.safetensors")
    text = {f"model.{name}": x for name, x in flat_network(model, "text_encoder").items()}
    text["lm_head.weight"] = text["model.embed_tokens.weight"]
    save_file(text, tmp_path / "qwen_3_4b.safetensors")
    found = ldmref.load(
        tmp_path / "z_image_turbo.safetensors",
        text_encoders=[tmp_path / "qwen_3_4b.safetensors"],
        vae=tmp_path / "ae.safetensors",
        tokenizer=folder,
    )
    assert generate(found) == generate(model)


SAVED = {
    "q8_0.gguf": lambda path, tensors: write_model(path, tensors, "Q8_0", "lumina2"),
    "q4_0.gguf": lambda path, tensors: write_model(path, tensors, "Q4_0", "lumina2"),
    "float8.safetensors": save_float8,
}


@pytest.mark.parametrize("name", SAVED)
def test_quantised_files_stand_for_their_numbers(made, name, tmp_path):
    folder, model = made
    want = SAVED[name](tmp_path / name, stored_transformer(model, "comfyui"))
    save_file(want, tmp_path / "plain.safetensors")
    plain, found = (
        ldmref.load(tmp_path / file, config=folder) for file in ("plain.safetensors", name)
    )
    assert generate(found) == generate(plain) != generate(model)


def write_llama(path, model, architecture="qwen3", theta=1e6):
    """Write the text encoder as llama.cpp does, in Q8_0; return its numbers by our names."""
    ours = {theirs: name for name, theirs in LLAMA.items()}
    ends = {"embed_tokens": "token_embd", "norm": "output_norm"}
    stored = {}
    for name, x in flat_network(model, "text_encoder").items():
        module, _, leaf = name.rpartition(".")
        _, number, *inner = module.split(".", 2) if "." in module else ("", "", "")
        path_there = ends.get(module) or f"blk.{number}.{ours[inner[0]]}"
        assert rename_tensor(f"{path_there}.{leaf}") == name
        stored[f"{path_there}.{leaf}"] = x
    fields = {f"{architecture}.rope.freq_base": theta}
    want = write_model(path, stored, "Q8_0", architecture, fields)
    return {rename_tensor(name): x for name, x in want.items()}


def test_the_text_encoder_of_llama_cpp(made, tmp_path):
    folder, model = made
    want = write_llama(tmp_path / "Qwen3-4B-Q8_0.gguf", model)
    found = ldmref.load(folder, text_encoders=[tmp_path / "Qwen3-4B-Q8_0.gguf"])
    got = flat_network(found, "text_encoder")
    assert all(np.array_equal(got[name], x) for name, x in want.items())
    assert generate(found) != generate(model)


@pytest.mark.parametrize(
    ("architecture", "theta", "words"),
    [("qwen3vl", 5e6, "rope_theta is 5e\\+06 \\(Qwen3-VL\\)"), ("qwen3vl", 1e6, "it is Qwen3-VL")],
)
def test_a_sibling_is_refused_that_llama_cpp_names(made, architecture, theta, words, tmp_path):
    folder, model = made
    write_llama(tmp_path / "a.gguf", model, architecture, theta)
    with pytest.raises(KeyMismatchError, match=words) as caught:
        ldmref.load(folder, text_encoders=[tmp_path / "a.gguf"])
    assert "ldmref info" in caught.value.hint


def test_a_sibling_is_refused_that_reads_images(made, tmp_path):
    """As a file, and in the folder."""
    folder, model = made
    text = {f"model.{name}": x for name, x in flat_network(model, "text_encoder").items()}
    text["visual.patch_embed.proj.weight"] = np.ones(4, np.float32)
    save_file(text, tmp_path / "qwen3vl_4b.safetensors")
    with pytest.raises(KeyMismatchError, match="it is Qwen3-VL, and Qwen3 is wanted"):
        ldmref.load(folder, text_encoders=[tmp_path / "qwen3vl_4b.safetensors"])
    copy = tmp_path / "folder"
    shutil.copytree(folder, copy)
    save_file(text, copy / "text_encoder" / "model.safetensors")
    with pytest.raises(KeyMismatchError, match="text_encoder is not the model's text encoder"):
        ldmref.load(copy)


def test_a_sibling_is_refused_by_its_configuration(made, tmp_path):
    folder, _ = made
    copy = tmp_path / "folder"
    shutil.copytree(folder, copy)
    path = copy / "text_encoder" / "config.json"
    data = json.loads(path.read_text())
    data["rope_parameters"]["rope_theta"] = 5e6
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptModelError, match=r"must be 1e\+06 \(Qwen3\), not 5e\+06 \(Qwen3-VL"):
        ldmref.load(copy)


def test_a_hash_tells_siblings_apart(made, tmp_path, capsys):
    """That of a norm as float32: equal for the same weights in another type, and in the folder."""
    folder, model = made
    text = flat_network(model, "text_encoder")
    half = {f"model.{name}": torch.tensor(x).to(torch.bfloat16) for name, x in text.items()}
    torch_save_file(half, tmp_path / "half.safetensors")
    rounded = {name: x.float().numpy() for name, x in half.items()}
    save_file(rounded, tmp_path / "same.safetensors")
    changed = rounded | {f"model.{QWEN3.table}": 1.01 * rounded[f"model.{QWEN3.table}"]}
    save_file(changed, tmp_path / "sibling.safetensors")
    found = []
    for path in (
        tmp_path / "half.safetensors",
        tmp_path / "same.safetensors",
        tmp_path / "sibling.safetensors",
        folder,
    ):
        assert main(["info", str(path)]) == 0
        found += re.findall(
            rf"text encoder: {QWEN3.table} sha256 (\w{{64}})", capsys.readouterr().out
        )
    assert len(found) == 4 and found[0] == found[1] and len({*found}) == 3


def test_a_file_of_every_network(made, tmp_path, monkeypatch):
    folder, model = made
    know(monkeypatch, model.config)
    tensors = stored_transformer(model, "comfyui", PREFIX)
    vae = to_compvis(flat_network(model, "vae"), autoencoder_table(model.config.vae))
    tensors |= {f"vae.{name}": x for name, x in vae.items()}
    text = flat_network(model, "text_encoder")
    tensors |= {f"{TEXT}{name}": x for name, x in text.items()}
    tensors["text_encoders.qwen3_4b.logit_scale"] = np.ones((), np.float32)
    save_file(tensors, tmp_path / "all.safetensors")
    found = ldmref.load(tmp_path / "all.safetensors", tokenizer=folder)
    assert generate(found) == generate(model)
