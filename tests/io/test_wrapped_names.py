"""Prefixes of frameworks are left out of names, and complete checkpoints hold all networks."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file
from single_files import TINY, list_files

from ldmref.errors import KeyMismatchError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.adapters.lora_changes import lora_changes
from ldmref.io.adapters.lora_file import open_lora
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.text_encoder_files import add_text_encoders
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import preset

WRAPPED = {
    "module": "module.{}",
    "compiled": "_orig_mod.{}",
    "both": "module._orig_mod.{}",
    "denoiser": "diffusion_model.{}",
}


def read(flag, path, config):
    """Return the tensors that a flag reads from a file, by our names."""
    if flag == "-m":
        return recognise_file(open_model_file(path), config).read()
    if flag == "--vae":
        return read_vae(path, config.vae).tensors
    if flag == "--text-encoder":
        _, (file,) = add_text_encoders([path], config)
        return file.read()
    changes = lora_changes(config, open_lora(path))
    return {f"{name} {role}": x for name, c in changes.items() for role, x in c.parts.items()}


@pytest.mark.parametrize("name", TINY)
def test_prefixes_of_frameworks_are_left_out(tmp_path, name):
    config = preset(name)
    plain, wrapped = tmp_path / "plain.safetensors", tmp_path / "wrapped.safetensors"
    for file in list_files(name):
        if file.what.startswith("complete"):
            continue
        save_file(file.tensors, plain)
        want = read(file.flag, plain, config)
        assert want
        for kind, pattern in WRAPPED.items():
            save_file({pattern.format(k): x for k, x in file.tensors.items()}, wrapped)
            got = read(file.flag, wrapped, config)
            assert got.keys() == want.keys(), (file.what, kind)
            assert all(np.array_equal(got[k], x) for k, x in want.items()), (file.what, kind)


def test_single_blocks_may_be_compiled(tmp_path):
    (file, *_) = list_files("flux-tiny")
    blocks = {k.replace("double_blocks.0.", "double_blocks.0._orig_mod."): k for k in file.tensors}
    assert any("_orig_mod" in name for name in blocks)
    save_file({k: file.tensors[old] for k, old in blocks.items()}, tmp_path / "a.safetensors")
    save_file(file.tensors, tmp_path / "b.safetensors")
    config = preset("flux-tiny")
    got, want = (read("-m", tmp_path / f"{x}.safetensors", config) for x in "ab")
    assert all(np.array_equal(got[k], x) for k, x in want.items())


def test_a_prefix_of_some_names_is_none(tmp_path):
    (file, *_) = list_files("flux-tiny")
    first = next(iter(file.tensors))
    mixed = {k if k == first else f"module.{k}": x for k, x in file.tensors.items()}
    save_file(mixed, tmp_path / "a.safetensors")
    with pytest.raises(KeyMismatchError, match="a Flux model of another kind"):
        read("-m", tmp_path / "a.safetensors", preset("flux-tiny"))


def test_a_token_of_siglip_is_left_out_and_its_network_named(tmp_path):
    config = preset("z-image-tiny")
    path = tmp_path / "a.safetensors"
    for file in list_files("z-image-tiny"):
        if not file.what.startswith("denoiser"):
            continue
        prefix = (
            "model.diffusion_model." if "model.diffusion_model." in next(iter(file.tensors)) else ""
        )
        token = {f"{prefix}siglip_pad_token": np.zeros((1, 24), np.float32)}
        save_file(file.tensors | token, path)
        assert read("-m", path, config)
        layer = {f"{prefix}siglip_embedder.1.weight": np.zeros((24, 8), np.float32)}
        save_file(file.tensors | token | layer, path)
        for given in (config, None):
            with pytest.raises(
                KeyMismatchError, match="Z-Image Omni, whose transformer also reads"
            ):
                read("-m", path, given)


@pytest.mark.parametrize("name", [name for name in TINY if name != "tiny"])
def test_a_complete_checkpoint_holds_all_networks(tmp_path, name):
    config = preset(name)
    shapes = flatten(model_spec(config))
    complete = [file for file in list_files(name) if file.what.startswith("complete")]
    assert complete
    for file in complete:
        save_file(file.tensors, tmp_path / "a.safetensors")
        opened = recognise_file(open_model_file(tmp_path / "a.safetensors"), config)
        assert opened.networks == {key.partition(".")[0] for key in shapes} and not opened.unused
        read_shapes = {key: np.shape(x) for key, x in opened.read().items()}
        assert read_shapes == shapes
    prefix = "model.diffusion_model."
    odd = {f"{prefix}a.weight": np.zeros(2, np.float32)}
    odd |= {k: x for k, x in file.tensors.items() if k.startswith("text_encoders.")}
    save_file(odd, tmp_path / "a.safetensors")
    with pytest.raises(KeyMismatchError, match="a denoiser and text encoders that fits no supp"):
        recognise_file(open_model_file(tmp_path / "a.safetensors"))
