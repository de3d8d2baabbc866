"""Single files: tensors that may be left over in them, and files that are not a model."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.errors import CorruptModelError, KeyMismatchError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.compvis.keys import autoencoder_table, compvis_table
from ldmref.io.compvis.single_file import (
    FAMILIES,
    find_config,
    list_unread,
    load_compvis,
    report_fit,
)
from ldmref.io.key_table import to_compvis
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import PRESETS
from ldmref.models.presets_ldm import LDM_PRESETS

CONFIG = PRESETS["tiny"]
FLAT = flatten(init(model_spec(CONFIG), 1))
WHOLE = to_compvis(FLAT, compvis_table(CONFIG))
CLIP = "cond_stage_model.transformer.text_model."


def write(path, names, shape=(2,)):
    found = names if isinstance(names, dict) else dict.fromkeys(names, np.zeros(shape, np.float32))
    write_tensors(path, {n: source(np.ascontiguousarray(t)) for n, t in found.items()})
    return path


# -- left over ------------------------------------------------------------------------------------

LEFT_OVER = [
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.text_projection",
    "cond_stage_model.logit_scale",
    "cond_stage_model.model.logit_scale",
    "conditioner.embedders.0.transformer.text_projection.weight",
    CLIP + "embeddings.position_ids",
    "first_stage_model.model_ema.decay",
    "first_stage_model.model_ema.encoderconv_inweight",
    "first_stage_model.loss.logvar",
    "model_ema.decay",
    "model_ema.num_updates",
    "alphas_cumprod",
    "alphas",
    "logvar",
    "denoiser.sigmas",
    "embedding_manager.embedder.x",
    "optimizer_states.0.state",
    "lr_schedulers.0.base_lrs",
    "global_step",
]


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_is_known_to_be_unused_is_listed_and_not_refused(tmp_path, name):
    file = TensorFile(write(tmp_path / "a.st", WHOLE | {name: np.zeros(2, np.float32)}))
    config, flat = load_compvis(file, CONFIG)
    assert config == CONFIG and all(np.array_equal(flat[n], FLAT[n]) for n in FLAT)
    assert list_unread(file, CONFIG) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "strange",
        "cond_stage_model.transformer.text_projection2",
        "first_stage_model.quantize.x",
        "model.diffusion_model.alphas",
        "conditioner.embedders.1.model.text_projection",
        "cond_stage_model.transformer.text_model.text_projection",
    ],
)
def test_anything_else_is_refused(tmp_path, name):
    file = TensorFile(write(tmp_path / "a.st", WHOLE | {name: np.zeros(2, np.float32)}))
    with pytest.raises(KeyMismatchError, match="1 unexpected"):
        load_compvis(file, CONFIG)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_tensor_of_a_family_counts_as_left_over(name):
    entries = compvis_table(PRESETS[name]).values()
    report = report_fit({e.name: e.stored_shape for e in entries}, PRESETS[name])
    assert report.fits and not report.ignored


def test_matrices_in_place_of_convolutions_of_size_one(tmp_path):
    """In the autoencoder's attention, and in the U-Nets of latent diffusion."""
    stored = {n: t[:, :, 0, 0] if ".attn_1." in n and t.ndim == 4 else t for n, t in WHOLE.items()}
    assert sum(stored[n].shape != WHOLE[n].shape for n in WHOLE) == 8
    _, flat = load_compvis(TensorFile(write(tmp_path / "a.st", stored)), CONFIG)
    assert all(np.array_equal(flat[n], FLAT[n]) for n in FLAT)
    table = autoencoder_table(CONFIG.vae)
    inner = {
        f"first_stage_model.{e.name}": stored[f"first_stage_model.{e.name}"] for e in table.values()
    }
    found = read_vae(write(tmp_path / "vae.st", inner), CONFIG.vae)
    assert all(np.array_equal(found.tensors[n], FLAT[f"vae.{n}"]) for n in found.tensors)
    wrong = "first_stage_model.encoder.mid.attn_1.q.weight"
    stored[wrong] = np.zeros((16, 8), np.float32)
    with pytest.raises(KeyMismatchError, match="1 misshapen"):
        load_compvis(TensorFile(write(tmp_path / "b.st", stored)), CONFIG)
    config = LDM_PRESETS["ldm-unconditional"]
    shapes = {e.name: e.stored_shape for e in compvis_table(config).values()}
    bare = {n: s[:-1] if n.endswith("qkv.weight") else s for n, s in shapes.items()}
    assert bare != shapes and report_fit(bare, config).fits


# -- no model -------------------------------------------------------------------------------------

FOREIGN = {
    "a LoRA": ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"],
    "a LoRA, no": ["unet.mid_block.attentions.0.proj_in.lora_A.weight"],
    "a LoHa": ["lora_unet_conv_in.hada_w1_a"],
    "a textual inversion, no": ["emb_params"],
    "a textual inversion of SDXL": ["clip_l", "clip_g"],
    "a ControlNet": ["control_model.input_hint_block.0.weight"],
    "a ControlNet, no": ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"],
    "an autoencoder": ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"],
    "an autoencoder, no": ["first_stage_model.encoder.conv_in.weight"],
    "a Flux model": ["img_in.weight", "double_blocks.0.img_attn.qkv.weight"],
    "a Flux model, no": ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"],
    "a Flux.2 model": ["double_stream_modulation_img.lin.weight",
                       "double_blocks.0.img_attn.qkv.weight"],
    "a text encoder of llama.cpp": ["blk.0.attn_q.weight", "token_embd.weight"],
    "a Stable Diffusion 3 model": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "a T5 text encoder": ["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"],
    "a U-Net of diffusers": ["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"],
    "a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "SDXL's refiner": ["conditioner.embedders.0.model.ln_final.weight",
                       "model.diffusion_model.out.0.weight"],
    "empty": [],
}  # fmt: skip
PLACES = {"a LoRA": "--lora", "an autoencoder": "--vae", "a ControlNet": "--control",
          "a textual": "--embedding", "a U-Net": "model_index.json",
          "SDXL's refiner": "base model", "a Flux": "Stable Diffusion 1"}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_files_that_are_no_model_are_named(tmp_path, what):
    path = write(tmp_path / "file.safetensors", FOREIGN[what])
    for told in (None, CONFIG):
        with pytest.raises(KeyMismatchError, match=f"is {what.partition(', no')[0]}") as caught:
            find_config(TensorFile(path), told)
        assert "nearest" not in str(caught.value)
    hints = [hint for start, hint in PLACES.items() if what.startswith(start)]
    assert all(hint in caught.value.hint for hint in hints)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_nearest_family_shares_most_names(family):
    class Shapes:
        """A file of which only names and shapes are asked for."""

        def __init__(self):
            entries = compvis_table(PRESETS[family]).values()
            self.shapes = {e.name: e.stored_shape for e in entries if "first_stage" not in e.name}
            self.metadata = {}
            self.path = type("Path", (), {"name": "file"})

        def __iter__(self):
            return iter(self.shapes)

    with pytest.raises(KeyMismatchError) as caught:
        find_config(Shapes())
    alike = {family} | ({"sd2-base", "sd2-v"} if family in ("sd2-base", "sd2-v") else set())
    assert any(f"nearest is {name!r}" in str(caught.value) for name in alike)


def test_a_small_model_is_near_to_its_kind(tmp_path):
    """And not to the family with the fewest tensors."""
    with pytest.raises(KeyMismatchError, match="nearest is 'sd15'"):
        find_config(TensorFile(write(tmp_path / "a.safetensors", WHOLE)))


def test_a_file_that_shares_nothing_is_near_to_nothing(tmp_path):
    with pytest.raises(KeyMismatchError, match="none of its 2 tensors") as caught:
        find_config(TensorFile(write(tmp_path / "a.safetensors", ["x.y", "z"])))
    assert "supported are" in caught.value.hint


def test_damaged_gguf_is_named(tmp_path, capsys):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(99))
    with pytest.raises(CorruptModelError, match="version 0 is not 2 or 3"):
        ldmref.load(tmp_path / "a.gguf")
    assert main(["info", str(tmp_path / "a.gguf")]) == 3
    assert "error[E-GGUF]" in capsys.readouterr().err


def test_adapters_are_not_read_from_gguf(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(99))
    for name in ("lora", "vae"):
        given = tmp_path / "a.gguf" if name == "vae" else [tmp_path / "a.gguf"]
        with pytest.raises(CorruptModelError, match="is a GGUF file") as caught:
            ldmref.load("emoji", **{name: given})
        assert caught.value.code == "E-GGUF" and "only models" in caught.value.hint


def test_info_tells_what_a_file_is(tmp_path, capsys):
    path = write(tmp_path / "style.safetensors", FOREIGN["a LoRA"])
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "kind: a LoRA" in said and "--lora" in said
