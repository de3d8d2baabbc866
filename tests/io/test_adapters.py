"""Autoencoders, ControlNets and embeddings from files: where they may lie, what fits a model."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import ldmref
from ldmref.errors import InputError, KeyMismatchError, LdmrefError, UsageError
from ldmref.io.adapters.autoencoder import (
    AutoencoderFile,
    convert_tiny_config,
    find_half,
    read_vae,
    require_fit,
    swap_vae,
)
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.io.compvis.keys import autoencoder_table, controlnet_table
from ldmref.io.diffusers.config import convert_controlnet_config
from ldmref.io.key_table import to_compvis
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.autoencoder import autoencoder_spec
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyConfig, tiny_spec

TINY = preset("tiny")
VAE = TINY.vae
FLAT = flatten(init(autoencoder_spec(VAE), 1))
VAE_JSON = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "scaling_factor": 1.0,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def write(path, tensors):
    sources = {n: source(np.ascontiguousarray(t)) for n, t in tensors.items()}
    write_tensors(path, sources, overwrite=True)
    return path


def code_of(function, *arguments, **values):
    try:
        function(*arguments, **values)
    except LdmrefError as error:
        return error.code
    return ""


def same(found, flat=FLAT):
    return set(found.tensors) == set(flat) and all(
        (found.tensors[n] == flat[n]).all() for n in flat
    )


# -- autoencoders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["", "first_stage_model.", "state_dict.", "state_dict.first_stage_model."]
)
def test_a_file_in_compvis_names_may_hold_more_than_the_autoencoder(tmp_path, prefix):
    stored = {prefix + n: t for n, t in to_compvis(FLAT, autoencoder_table(VAE)).items()}
    rest = ["loss.logvar", "model_ema.decay", "logvar", "x.num_batches_tracked"]
    stored |= {prefix + n: np.zeros(2, np.float32) for n in rest}
    if "first_stage" in prefix:
        stored["model.diffusion_model.out.2.bias"] = np.zeros(4, np.float32)
    path = write(tmp_path / "kl.safetensors", stored)
    found = read_vae(path, VAE)
    assert same(found) and found.config == VAE and found.name == "kl"
    assert found.record == {"name": "kl", "sha256": TensorFile(path).sha256()}
    more = write(tmp_path / "more.safetensors", stored | {prefix + "strange": np.zeros(2)})
    assert code_of(read_vae, more, VAE) == "E-KEYS"
    assert code_of(read_vae, path) == "E-KEYS"  # of Stable Diffusion's size by default


@pytest.mark.parametrize("place", ["", "vae"])
def test_a_folder_of_diffusers_or_the_model_around_it(tmp_path, place):
    folder = tmp_path / "model" / place
    folder.mkdir(parents=True)
    weights = write(folder / "diffusion_pytorch_model.safetensors", FLAT)
    (folder / "config.json").write_text(json.dumps(VAE_JSON))
    assert same(read_vae(tmp_path / "model")) and read_vae(tmp_path / "model").config == VAE
    assert read_vae(folder).name == (place or "model")
    alone = read_vae(weights)  # its configuration is next to it
    assert same(alone) and alone.config == VAE and alone.name == "diffusion_pytorch_model"
    (folder / "config.json").write_text(json.dumps(VAE_JSON | {"_class_name": "UNet2DModel"}))
    assert code_of(read_vae, folder) == "E-VAE" and code_of(read_vae, weights) == "E-KEYS"
    assert same(read_vae(weights, VAE))
    assert code_of(read_vae, tmp_path / "gone.safetensors") == "E-VAE"


def test_a_tiny_autoencoder_has_the_channels_of_the_model(tmp_path):
    for channels in (4, 16):
        flat = flatten(init(tiny_spec(TinyConfig(latent_channels=channels)), 0))
        path = write(tmp_path / f"{channels}.safetensors", flat)
        found = read_vae(path, dataclasses.replace(VAE, latent_channels=channels))
        assert found.config == TinyConfig(latent_channels=channels) and same(found, flat)
    assert code_of(read_vae, path, VAE) == "E-KEYS"
    fields = {
        "latent_channels": 16,
        "in_channels": 1,
        "num_encoder_blocks": [1, 2],
        "encoder_block_out_channels": [32, 32],
        "decoder_block_out_channels": [48],
        "num_decoder_blocks": [3],
    }
    config = convert_tiny_config(fields)
    assert (
        config == TinyConfig(1, 3, 16, 32, 48, (1, 2), (3,))
        and convert_tiny_config({}) == TinyConfig()
    )
    for half in ("encoder", "decoder"):
        assert code_of(convert_tiny_config, {f"{half}_block_out_channels": [32, 64]}) == "E-CONFIG"


def test_another_autoencoder_takes_the_place_of_the_models(tmp_path):
    model = flatten(init(model_spec(TINY), 2))
    config = dataclasses.replace(VAE, scaling_factor=0.5)
    new, flat = swap_vae(TINY, model, AutoencoderFile("kl", config, FLAT, ""))
    assert new == dataclasses.replace(TINY, vae=config) and flat.keys() == model.keys()
    for name, tensor in flat.items():
        vae = name.startswith("vae.")
        assert tensor is (FLAT[name.removeprefix("vae.")] if vae else model[name])
    tiny = AutoencoderFile("t", TinyConfig(num_encoder_blocks=(1, 1)), {}, "")
    assert swap_vae(TINY, model, tiny) == (TINY, model)  # it decodes in addition to the model's own


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"latent_channels": 3}, False),
        ({"block_out_channels": (8, 8, 16)}, False),
        ({"block_out_channels": (8,)}, False),
        ({"layers_per_block": 3}, True),
    ],
)
def test_latents_of_another_shape_are_refused(change, fits):
    vae = AutoencoderFile("kl", dataclasses.replace(VAE, **change), {}, "")
    if fits:
        require_fit(TINY, vae)
        return
    with pytest.raises(UsageError) as caught:
        require_fit(TINY, vae)
    theirs = (vae.config.latent_channels, f"1/{vae.config.factor}")
    assert caught.value.code == "E-VAE" and all(
        str(x) in str(caught.value) for x in (*theirs, "1/2")
    )


# -- ControlNets ----------------------------------------------------------------------------------

NET = ControlNetConfig(TINY.unet, conditioning_embedding_out_channels=(4, 8))
NET_FLAT = flatten(init(controlnet_spec(NET), 1))
U = TINY.unet
NET_JSON = {
    "_class_name": "ControlNetModel", "in_channels": 4, "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1,
    "cross_attention_dim": 32, "attention_head_dim": 2, "norm_num_groups": 8, "sample_size": 8,
    "conditioning_embedding_out_channels": [4, 8],
}  # fmt: skip


def test_a_controlnet_of_diffusers(tmp_path):
    folder = tmp_path / "canny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(NET_JSON))
    weights = write(folder / "diffusion_pytorch_model.safetensors", NET_FLAT)
    found = open_controlnet(folder)
    assert (
        found.name == "canny"
        and found.config.unet.in_channels == found.config.unet.out_channels == 4
    )
    assert found.config.unet.attention_levels == (True, False) and found.config.factor == NET.factor
    tensors = found.tensors()
    assert tensors.keys() == NET_FLAT.keys() and all(
        (tensors[n] == NET_FLAT[n]).all() for n in tensors
    )
    assert found.sha256() == TensorFile(weights).sha256()
    for change, code in (
        ({"_class_name": "UNet2DConditionModel"}, "E-CONTROL"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "E-CONFIG"),
        ({"global_pool_conditions": True}, "E-CONFIG"),
        ({"conditioning_embedding_out_channels": 4}, "E-CONFIG"),
        ({"conditioning_channels": 1}, "E-KEYS"),
    ):
        (folder / "config.json").write_text(json.dumps(NET_JSON | change))
        assert code_of(open_controlnet, folder) == code, change


def test_what_a_controlnets_configuration_omits():
    config = convert_controlnet_config({})
    assert config.conditioning_embedding_out_channels == (16, 32, 96, 256)
    assert (config.conditioning_channels, config.factor) == (3, 8)
    assert config.unet == dataclasses.replace(UNetConfig(), cross_attention_dim=1280)


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_a_controlnet_in_compvis_names(tmp_path, prefix):
    stored = {prefix + n: t for n, t in to_compvis(NET_FLAT, controlnet_table(NET)).items()}
    wide = ControlNetConfig(TINY.unet)
    path = write(tmp_path / "net.safetensors", stored)
    assert code_of(open_controlnet, path, TINY.unet) == "E-KEYS"  # of another hint encoder
    flat = flatten(init(controlnet_spec(wide), 1))
    stored = {prefix + n: t for n, t in to_compvis(flat, controlnet_table(wide)).items()}
    if prefix:
        stored["model.diffusion_model.out.2.bias"] = np.zeros(4, np.float32)
    path = write(tmp_path / "wide.safetensors", stored)
    inpainting = dataclasses.replace(
        TINY.unet, in_channels=9
    )  # whose ControlNets see latents alone
    for unet in (TINY.unet, inpainting):
        found = open_controlnet(path, unet)
        assert found.name == "wide" and found.tensors().keys() == flat.keys()
    assert code_of(open_controlnet, path) == "E-KEYS"  # of none of the published sizes
    assert code_of(open_controlnet, tmp_path / "gone.safetensors") == "E-CONTROL"


# -- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "want"),
    [
        ({"<toy>": (4,)}, [("<toy>", (1, 4), "")]),
        ({"<toy>": (3, 4)}, [("<toy>", (3, 4), "")]),
        ({"emb_params": (2, 4)}, [("bad-hands", (2, 4), "")]),
        (
            {"clip_g": (2, 6), "clip_l": (2, 4)},
            [("bad-hands", (2, 4), "clip_l"), ("bad-hands", (2, 6), "clip_g")],
        ),
    ],
)
def test_words_of_embeddings(tmp_path, tensors, want):
    values = {
        name: np.arange(np.prod(s), dtype=np.float16).reshape(s) for name, s in tensors.items()
    }
    path = write(tmp_path / "bad-hands.safetensors", values)
    for word in (None, "mine"):
        got = read_embeddings(path, word)
        assert [(e.word, e.vectors.shape, e.encoder) for e in got] == [
            (word or w, s, n) for w, s, n in want
        ]
        assert all(e.vectors.dtype == np.float32 for e in got)
    for more in (["a", "b"], ["a", "b", "c", "d"], ["clip_l", "emb_params"]):
        other = write(
            tmp_path / f"{len(more)}{more[0]}.safetensors", dict.fromkeys(more, np.ones(2))
        )
        with pytest.raises(LdmrefError) as caught:
            read_embeddings(other)
        assert caught.value.code == "E-EMBEDDING" and f"{len(more)} tensors" in str(caught.value)
        assert (", ..." in str(caught.value)) == (len(more) > 3)


# -- TAESD in its author's files ------------------------------------------------------------------

# The numbers of the convolutions and blocks in the author's `nn.Sequential`.
BLOCKS = {
    "encoder": (1, 3, 4, 5, 7, 8, 9, 11, 12, 13),
    "decoder": (3, 4, 5, 8, 9, 10, 13, 14, 15, 18),
}
ENDS = {"encoder": (0, 14), "decoder": (1, 19)}
RESAMPLING = {"encoder": (2, 6, 10), "decoder": (7, 12, 17)}


def write_halves(folder, channels=4, seed=1, name="taesd"):
    """Write both files with random numbers, and return their tensors by half and name."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (0.05 * rng.standard_normal(shape)).astype(np.float32)

    tensors = {}
    for half, numbers in BLOCKS.items():
        first, last = ENDS[half]
        sizes = {first: (64, 3), last: (channels, 64)}
        if half == "decoder":
            sizes = {first: (64, channels), last: (3, 64)}
        found = {}
        for number, (out, into) in sizes.items():
            found |= {f"{number}.weight": draw(out, into, 3, 3), f"{number}.bias": draw(out)}
        found |= {f"{number}.weight": draw(64, 64, 3, 3) for number in RESAMPLING[half]}
        for number in numbers:
            for i in (0, 2, 4):
                found[f"{number}.conv.{i}.weight"] = draw(64, 64, 3, 3)
                found[f"{number}.conv.{i}.bias"] = draw(64)
        assert len(found) == 67
        tensors[half] = found
        write(folder / f"{name}_{half}.safetensors", found)
    return tensors


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_taesd_of_its_author(tmp_path, half, channels):
    tensors = write_halves(tmp_path, channels)
    found = read_vae(tmp_path / f"taesd_{half}.safetensors")
    assert found.name == "taesd" and found.config == TinyConfig(latent_channels=channels)
    for part, shift in (("encoder", 0), ("decoder", 1)):
        for name, x in tensors[part].items():
            number, _, rest = name.partition(".")
            assert np.array_equal(found.tensors[f"{part}.layers.{int(number) - shift}.{rest}"], x)
    assert len(found.tensors) == 134
    path = tmp_path / f"taesd_{half}.safetensors"
    assert find_half(TensorFile(path).shapes) == half
    assert {read_vae(one).sha256 for one in tmp_path.iterdir()} == {found.sha256}


def test_a_half_of_taesd_without_the_other(tmp_path):
    write_halves(tmp_path)
    (tmp_path / "taesd_encoder.safetensors").unlink()
    path = tmp_path / "taesd_decoder.safetensors"
    with pytest.raises(InputError, match="its encoder is missing") as caught:
        read_vae(path)
    assert "taesd_encoder.safetensors" in caught.value.hint
    decoder = ldmref.load_taesd(path, "numpy")
    assert decoder.decode(np.zeros((1, 4, 2, 2), np.float32)).shape == (1, 3, 16, 16)
    with pytest.raises(UsageError, match="without the encoder"):
        decoder.encode(np.zeros((1, 3, 8, 8), np.float32))
    write_halves(tmp_path)
    path.unlink()
    for load in (read_vae, ldmref.load_taesd):
        with pytest.raises(InputError, match="its decoder is missing"):
            load(tmp_path / "taesd_encoder.safetensors")


def test_taesd_of_other_networks_is_refused(tmp_path):
    """Those of Flux.2 and SANA have other layers; two halves may be of different models."""
    tensors = write_halves(tmp_path)
    path = tmp_path / "taesd_decoder.safetensors"
    write(path, tensors["decoder"] | {"3.pool.0.weight": np.zeros((256, 64, 1, 1), np.float32)})
    with pytest.raises(KeyMismatchError, match=r"1 unexpected \(3.pool"):
        read_vae(path)
    write_halves(tmp_path, 16)
    write(path, tensors["decoder"])
    with pytest.raises(KeyMismatchError, match="is not the encoder of TAESD"):
        read_vae(path)
