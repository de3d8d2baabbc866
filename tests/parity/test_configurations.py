"""Fields that a folder's configurations leave out: the defaults are those of the classes."""

from __future__ import annotations

import inspect
import json
import shutil

import numpy as np
import pytest

import ldmref
from ldmref.errors import CorruptModelError, LdmrefError
from ldmref.io.checkpoint import read_model_config
from ldmref.io.diffusers import config as diffusers_config
from ldmref.io.diffusers import ldm as diffusers_ldm
from ldmref.io.diffusers.folder import read_diffusers_config

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
sd1 = pytest.mark.parametrize("family", ["sd1"], indirect=True)
xl = pytest.mark.parametrize("family", ["sdxl"], indirect=True)


def defaults(kind):
    return {
        name: tuple(p.default) if isinstance(p.default, list) else p.default
        for name, p in inspect.signature(kind.__init__).parameters.items()
    }


def test_defaults_are_those_of_the_classes():
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig

    text = transformers.CLIPTextConfig()
    tables = (
        (diffusers_config.UNET_DEFAULTS, defaults(diffusers.UNet2DConditionModel)),
        (
            diffusers_config.UNET_DEFAULTS,
            defaults(diffusers.ControlNetModel)
            | {"out_channels": 4, "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3},
        ),
        (
            diffusers_config.VAE_DEFAULTS | diffusers_config.KL_DEFAULTS,
            defaults(diffusers.AutoencoderKL),
        ),
        (diffusers_config.VAE_DEFAULTS | {"latent_channels": 3}, defaults(diffusers.VQModel)),
        (diffusers_config.TEXT_DEFAULTS, vars(text)),
        (diffusers_ldm.UNET2D_DEFAULTS, defaults(diffusers.UNet2DModel)),
        (diffusers_ldm.BERT_DEFAULTS, defaults(LDMBertConfig)),
    )
    for ours, theirs in tables:
        assert ours == {name: theirs[name] for name in ours}


def changed(folder, path, file, **fields):
    """Return a copy of a folder with other fields in a configuration; None leaves a field out."""
    shutil.copytree(folder, path, dirs_exist_ok=True)
    facts = json.loads((path / file).read_text()) | fields
    facts = {name: value for name, value in facts.items() if value is not None}
    (path / file).write_text(json.dumps(facts))
    return path


@sd1
@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("unet/config.json", "in_channels"),
        ("unet/config.json", "out_channels"),
        ("vae/config.json", "latent_channels"),
        ("vae/config.json", "layers_per_block"),
        ("text_encoder/config.json", "max_position_embeddings"),
    ],
)
def test_a_field_left_out_has_the_default(folder, family, tmp_path, file, field):
    """Here the small model happens to have it."""
    path = changed(folder, tmp_path / folder.name, file, **{field: None})
    assert read_diffusers_config(path) == read_diffusers_config(folder)


@sd1
@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        (f"{part}/config.json", field, value)
        for part, fields in {
            "unet": ("block_out_channels", "cross_attention_dim", "down_block_types"),
            "vae": ("block_out_channels", "down_block_types"),
            "text_encoder": ("hidden_size", "vocab_size", "num_attention_heads"),
        }.items()
        for field in fields
        for value in (None, "x", [[]], 0, {})
    ],
)
def test_nonsense_is_one_line(folder, family, tmp_path, file, field, value):
    path = changed(folder, tmp_path / "m", file, **{field: value})
    try:
        ldmref.load(path, backend="numpy")
    except LdmrefError as error:
        assert "\n" not in str(error)
    else:
        assert value is None or (field == "down_block_types" and not value)


@sd1
def test_a_trained_size_of_two_numbers(folder, family, tmp_path):
    path = changed(folder, tmp_path / "m", "unet/config.json", sample_size=[8, 12])
    config = read_model_config(path)
    assert (config.defaults.height, config.defaults.width) == (16, 24)


@xl
def test_the_refiner_is_named(folder, family, tmp_path):
    shutil.copytree(folder, tmp_path / "refiner")
    shutil.rmtree(tmp_path / "refiner" / "text_encoder")
    with pytest.raises(CorruptModelError, match="SDXL's refiner, which is not supported"):
        ldmref.load(tmp_path / "refiner")


@sd1
def test_one_network_of_a_folder_is_named(folder, family):
    for part, kind in (("unet", "UNet2DConditionModel"), ("text_encoder", "CLIPTextModel")):
        with pytest.raises(CorruptModelError, match=kind) as caught:
            ldmref.load(folder / part)
        assert "the folder around it" in caught.value.hint


@sd1
def test_an_autoencoder_s_file_has_the_scale_of_the_configuration_beside_it(
    folder, family, tmp_path
):
    from ldmref.io.adapters.autoencoder import read_vae
    from ldmref.models.config import AutoencoderConfig

    own = read_vae(folder)
    path = changed(folder / "vae", tmp_path / "other", "config.json", scaling_factor=0.5)
    file = path / "diffusion_pytorch_model.safetensors"
    model = ldmref.load(folder, backend="numpy", vae=file)
    assert model.config.vae.scaling_factor == 0.5 != own.config.scaling_factor
    assert read_vae(file).config == read_vae(path).config
    assert np.array_equal(read_vae(file).tensors["quant_conv.bias"], own.tensors["quant_conv.bias"])
    for text in (json.dumps({"schema": 1}), json.dumps({"_class_name": "UNet2DConditionModel"})):
        (path / "config.json").write_text(text)  # of something else
        assert read_vae(file, own.config).config == own.config
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    tiny.save_pretrained(tmp_path / "tiny")
    found = read_vae(tmp_path / "tiny" / "diffusion_pytorch_model.safetensors", AutoencoderConfig())
    assert found.config == read_vae(tmp_path / "tiny").config
