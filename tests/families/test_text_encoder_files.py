"""Text encoders in files of their own, beside a transformer or a U-Net alone."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
from gguf_files import gguf_bytes
from PIL import Image
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.families.flux import files as flux_files
from ldmref.families.sd3 import files as sd3_files
from ldmref.io import open_checkpoint, read_model_config, save_folder
from ldmref.io.compvis.keys import autoencoder_table, open_clip_table
from ldmref.io.compvis.unet_file import list_stored
from ldmref.io.key_table import to_compvis
from ldmref.io.quantized.float8 import E4M3FN
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import TensorSource, write_tensors
from ldmref.io.text_encoder_files import LLAMA, rename_llama
from ldmref.models.params import flatten, init
from ldmref.models.taesd import TinyConfig, tiny_spec
from ldmref.modes.record import compare_models
from ldmref.ports.written import write_tiny_config

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from flux_networks import make_pipeline as make_flux  # noqa: E402
from sd3_networks import make_pipeline as make_sd3  # noqa: E402
from small_pipelines import pipeline  # noqa: E402

SIZE = {"width": 16, "height": 16}
NAMES = {
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
}
ORIGINALS = {"flux": flux_files, "sd3": sd3_files}


def generate(model):
    return modes.txt2img(model, "a cat", seed=1, steps=1, **SIZE).images[0]


def flat_network(model, network):
    """Return the parameters of a network, in the order of memory in which files hold them."""
    flat = flatten(model.params[network])
    return {name: np.ascontiguousarray(x, np.float32) for name, x in flat.items()}


class Parts:
    """A small model: its folder, and each of its networks as a file."""

    def __init__(self, family, place, monkeypatch):
        pipe = make_flux(True) if family == "flux" else make_sd3("3.5 medium")
        if family == "sd3":  # no file holds the projection of clip_l
            pipe.text_encoder.text_projection.weight.data = torch.eye(16)
        self.folder = place / "folder"
        pipe.save_pretrained(self.folder)
        self.place = place
        self.model = ldmref.load(self.folder)
        original = ORIGINALS[family]
        config = replace(self.model.config, name="small")
        if family == "sd3":  # a file does not say for which size its model was trained
            config = replace(config, denoiser=replace(config.denoiser, sample_size=14))
        monkeypatch.setattr(original, "make_presets", lambda: {"small": config})
        monkeypatch.setitem(ldmref.models.family.find_family(family).presets, "small", config)
        table = original.original_table(config)
        self.denoiser = place / "transformer.safetensors"
        save_file(to_compvis(flat_network(self.model, "transformer"), table), self.denoiser)
        self.vae = place / "ae.safetensors"
        save_file(
            to_compvis(flat_network(self.model, "vae"), autoencoder_table(config.vae)), self.vae
        )
        self.texts = {}
        for network, name in NAMES[family].items():
            tensors = flat_network(self.model, network)
            if name == "clip_l":
                tensors["text_projection.weight"] = np.full((16, 16), 9, np.float32)
            if name == "t5xxl":
                tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
            self.texts[network] = place / f"{name}.safetensors"
            save_file(tensors | {"logit_scale": np.ones((), np.float32)}, self.texts[network])

    def load(self, *texts, **options):
        return ldmref.load(
            self.denoiser, text_encoders=texts, vae=self.vae, tokenizer=self.folder, **options
        )


@pytest.fixture
def flux(tmp_path, monkeypatch):
    return Parts("flux", tmp_path, monkeypatch)


@pytest.fixture
def sd3(tmp_path, monkeypatch):
    (tmp_path / "sd3").mkdir()
    return Parts("sd3", tmp_path / "sd3", monkeypatch)


@pytest.mark.parametrize("family", NAMES)
def test_separate_files_are_the_model(family, tmp_path, monkeypatch):
    """In any order; each file is recognised by its tensors."""
    parts = Parts(family, tmp_path, monkeypatch)
    model = parts.load(*reversed(parts.texts.values()))
    for network in parts.texts:
        want = flat_network(parts.model, network)
        got = flat_network(model, network)
        assert got.keys() == want.keys()
        assert all(np.array_equal(got[name], want[name]) for name in want)
    assert generate(model) == generate(parts.model)
    recorded = modes.txt2img(model, "a cat", seed=1, steps=1, **SIZE).params["model"]
    names = [file["name"] for file in recorded["text_encoders"]]
    assert names == [*reversed(NAMES[family].values())]
    assert not list(compare_models(recorded, model))
    other = parts.load(*parts.texts.values())
    assert any("--text-encoder" in line for line in compare_models(recorded, other))


def test_t5_scaled_to_float8_and_in_gguf(flux):
    names = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
    llama = {theirs: ours for ours, theirs in LLAMA.items()}
    whole = flat_network(flux.model, "text_encoder_2")
    want = dict(whole)
    scaled, blocks = {"scaled_fp8": ("F8_E4M3", np.zeros(0, np.uint8))}, {}
    for name, x in whole.items():
        module, _, leaf = name.rpartition(".")
        number, _, inner = module.removeprefix("encoder.block.").partition(".")
        back = {theirs: ours for ours, theirs in names.items()}
        stored = back.get(module) or f"enc.blk.{number}.{llama[inner]}"
        assert rename_llama(f"{stored}.{leaf}") == name
        blocks[f"{stored}.{leaf}"] = (0, x.shape, struct.pack(f"<{x.size}f", *x.reshape(-1)))
        scaled[name] = "F32", x
        if name.endswith((".q.weight", ".wo.weight")):
            scale = np.float32(np.abs(x).max() / 448)
            codes = np.abs(E4M3FN[:127][:, None] - np.abs(x / scale).reshape(1, -1)).argmin(0)
            codes = codes.reshape(x.shape).astype(np.uint8) | (x < 0).astype(np.uint8) << 7
            scaled[name] = "F8_E4M3", codes
            scaled[f"{module}.scale_weight"] = "F32", scale.reshape(1)
            want[name] = E4M3FN[codes] * scale
    path = flux.place / "t5xxl_fp8_e4m3fn_scaled.safetensors"
    write_tensors(
        path, {n: TensorSource(k, x.shape, lambda x=x: x) for n, (k, x) in scaled.items()}
    )
    clip = flux.texts["text_encoder"]
    got = flat_network(flux.load(clip, path), "text_encoder_2")
    assert all(np.array_equal(got[name], want[name]) for name in want)
    assert any(not np.array_equal(got[name], whole[name]) for name in want)
    (flux.place / "t5-encoder.gguf").write_bytes(gguf_bytes(blocks))
    got = flat_network(flux.load(flux.place / "t5-encoder.gguf", clip), "text_encoder_2")
    assert all(np.array_equal(got[name], whole[name]) for name in whole)


def test_stable_diffusion_3_may_lack_t5(sd3):
    clips = [sd3.texts["text_encoder"], sd3.texts["text_encoder_2"]]
    assert read_model_config(sd3.denoiser).text_encoder_3 is not None
    without = read_model_config(sd3.denoiser, text_encoders=clips)
    assert without.text_encoder_3 is None
    model = sd3.load(*clips)
    assert model.config.text_encoder_3 is None
    assert generate(model) != generate(sd3.model)
    whole = read_model_config(sd3.denoiser, text_encoders=[*clips, sd3.texts["text_encoder_3"]])
    assert whole.text_encoder_3 == sd3.model.config.text_encoder_3
    # a file with both CLIPs is that of a model without T5, which a file beside it adds
    tensors = open_checkpoint(sd3.folder).tensors
    table = dict(sd3_files.original_table(without))
    stored = to_compvis(flat_network(sd3.model, "transformer"), table)
    for network, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        for key, x in tensors.items():
            if key.startswith(f"{network}."):
                path = f"text_encoders.{name}.transformer.{key.partition('.')[2]}"
                stored[path] = np.array(x)
    save_file(stored, sd3.denoiser)
    assert read_model_config(sd3.denoiser).text_encoder_3 is None
    assert generate(sd3.load(sd3.texts["text_encoder_3"])) == generate(sd3.model)


def test_another_text_encoder_takes_the_place_of_the_models(flux):
    clip = flat_network(flux.model, "text_encoder")
    save_file({name: 0.5 * x for name, x in clip.items()}, flux.place / "other.safetensors")
    changed = ldmref.load(flux.folder, text_encoders=[flux.place / "other.safetensors"])
    got = flat_network(changed, "text_encoder")
    assert all(np.array_equal(got[name], 0.5 * clip[name]) for name in clip)
    assert generate(changed) != generate(flux.model)


def test_a_unet_alone_with_clip_of_transformers_and_of_openclip(tmp_path):
    """And the names of transformers before 2022, without `text_model.`"""
    pipeline("sdxl").save_pretrained(tmp_path / "xl")
    model = ldmref.load(tmp_path / "xl")
    config = model.config
    unet, first, second = (
        flat_network(model, name) for name in ("unet", "text_encoder", "text_encoder_2")
    )
    save_file(to_compvis(unet, list_stored(config)), tmp_path / "unet.safetensors")
    old = {name.removeprefix("text_model."): x for name, x in first.items()}
    save_file(old, tmp_path / "clip_l.safetensors")
    assert config.text_encoder_2.hidden_act == "gelu"  # OpenCLIP's
    stored = to_compvis(second, open_clip_table(config.text_encoder_2))
    save_file(stored, tmp_path / "clip_g.safetensors")
    save_folder(tmp_path / "config", config, model.params, model.tokenizers, np.float32)
    (tmp_path / "config" / "model.safetensors").unlink()
    found = open_checkpoint(
        tmp_path / "unet.safetensors",
        tmp_path / "config",
        text_encoders=[tmp_path / "clip_g.safetensors", tmp_path / "clip_l.safetensors"],
    )
    for network, want in (("text_encoder", first), ("text_encoder_2", second)):
        for name, x in want.items():
            assert np.array_equal(found.tensors[f"{network}.{name}"], x)


def test_taesd_stands_for_the_autoencoder(flux):
    """And with it, nothing needs the weights that the files do not hold."""
    vae = flux.model.config.vae
    levels = (1,) * len(vae.block_out_channels)
    config = TinyConfig(3, 3, vae.latent_channels, 8, 8, levels, levels)
    folder = flux.place / "taesd"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(write_tiny_config(config)))
    tensors = flatten(init(tiny_spec(config), 0))
    save_file(
        {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()},
        folder / "diffusion_pytorch_model.safetensors",
    )
    whole = ldmref.load(flux.folder, vae=folder)
    flux.vae = folder
    for options in ({}, {"max_memory": "1GB"}):
        alone = flux.load(*flux.texts.values(), **options)
        assert "vae" not in alone.params
        image = generate(alone)
        assert image == generate(whole) != generate(flux.model)
        changed = [
            modes.img2img(model, "a cat", image, seed=1, steps=2, **SIZE).images[0]
            for model in (alone, whole)
        ]
        assert changed[0] == changed[1]


def test_files_are_hashed_when_an_image_records_them(flux, monkeypatch):
    """T5 has ten gigabytes, so loading reads none of them."""
    hashed = []
    real = TensorFile.sha256
    monkeypatch.setattr(
        TensorFile, "sha256", lambda self: hashed.append(self.path.name) or real(self)
    )
    model = flux.load(*flux.texts.values())
    assert hashed == ["ae.safetensors"]
    for _ in range(2):
        generate(model)
    names = {"clip_l.safetensors", "t5xxl.safetensors", "transformer.safetensors"}
    assert {*hashed[1:]} == names and len(hashed) == 4
    copy = pickle.loads(pickle.dumps(model))
    assert copy.modifications == model.modifications


# -- what is refused, before weights are read -----------------------------------------------------


def test_what_is_missing_is_named(flux):
    with pytest.raises(
        UsageError, match=r"without text_encoder \(clip, .*text_encoder_2 \(t5"
    ) as e:
        ldmref.load(flux.denoiser)
    assert "--text-encoder" in e.value.hint and "--vae" in e.value.hint
    with pytest.raises(UsageError, match=r"is without text_encoder_2 \(t5, \d+ layers"):
        flux.load(flux.texts["text_encoder"])


def test_a_file_twice_or_of_something_else(flux, sd3, tmp_path):
    clip = flux.texts["text_encoder"]
    with pytest.raises(UsageError, match="are both the model's text_encoder"):
        flux.load(clip, clip)
    with pytest.raises(KeyMismatchError, match="is an autoencoder, not a text encoder"):
        flux.load(flux.vae)
    with pytest.raises(KeyMismatchError, match="nearest is its text_encoder") as caught:
        flux.load(sd3.texts["text_encoder_2"])
    assert "text_encoder_2 (t5" in caught.value.hint
    with pytest.raises(InputError, match="no text encoder"):
        flux.load(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="must be a list"):
        ldmref.load(flux.folder, text_encoders=str(clip))


def test_the_flag(flux, capsys):
    command = ["txt2img", "-m", flux.denoiser, "-p", "a cat", "--vae", flux.vae, "--steps", 1]
    command += ["--tokenizer", flux.folder, "-W", 16, "-H", 16, "--seed", 1]
    command += ["-o", flux.place / "a.png"]
    for path in flux.texts.values():
        command += ["--text-encoder", path]
    assert main([str(word) for word in command]) == 0
    with Image.open(flux.place / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(generate(flux.model)))
