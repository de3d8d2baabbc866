"""Single files: tensors that may be left over in them, and files that are not a model."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.errors import CorruptModelError, KeyMismatchError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.compvis.keys import (
    autoencoder_table,
    clip_table,
    compvis_table,
    controlnet_table,
)
from ldmref.io.compvis.whole_file import FAMILIES, WHOLE_FILE
from ldmref.io.key_table import to_compvis
from ldmref.io.single_file import compare_file, recognise_file
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.io.text_encoder_files import list_owners
from ldmref.models.controlnet import ControlNetConfig
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
    found = recognise_file(file, CONFIG)
    flat = found.read()
    assert found.config == CONFIG and all(np.array_equal(flat[n], FLAT[n]) for n in FLAT)
    assert found.unused == [name]


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
        recognise_file(file, CONFIG)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_tensor_of_a_family_counts_as_left_over(name):
    entries = compvis_table(PRESETS[name]).values()
    shapes = {e.name: e.stored_shape for e in entries}
    report = compare_file(Header(shapes), WHOLE_FILE, PRESETS[name]).report
    assert report.fits and not report.ignored


def test_matrices_in_place_of_convolutions_of_size_one(tmp_path):
    """In the autoencoder's attention, and in the U-Nets of latent diffusion."""
    stored = {n: t[:, :, 0, 0] if ".attn_1." in n and t.ndim == 4 else t for n, t in WHOLE.items()}
    assert sum(stored[n].shape != WHOLE[n].shape for n in WHOLE) == 8
    flat = recognise_file(TensorFile(write(tmp_path / "a.st", stored)), CONFIG).read()
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
        recognise_file(TensorFile(write(tmp_path / "b.st", stored)), CONFIG)
    config = LDM_PRESETS["ldm-unconditional"]
    shapes = {e.name: e.stored_shape for e in compvis_table(config).values()}
    bare = {n: s[:-1] if n.endswith("qkv.weight") else s for n, s in shapes.items()}
    assert bare != shapes and compare_file(Header(bare), WHOLE_FILE, config).report.fits


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
    "a FLUX.2 model of another kind": [
        "double_stream_modulation_img.lin.weight",
        "double_blocks.0.img_attn.qkv.weight",
    ],
    "a text encoder of llama.cpp": ["blk.0.attn_q.weight", "token_embd.weight"],
    "a Stable Diffusion 3 model": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "a T5 text encoder": ["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"],
    "a U-Net of diffusers": ["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"],
    "a CLIP text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "a T5 text encoder of llama.cpp": ["enc.blk.0.attn_q.weight", "token_embd.weight"],
    "a CLIP text encoder, without": ["embeddings.position_ids", "encoder.layers.0.mlp.fc1.weight"],
    "a text encoder of OpenCLIP": ["ln_final.weight", "transformer.resblocks.0.ln_1.weight"],
    "an image encoder of CLIP": ["vision_model.embeddings.class_embedding"],
    "an IP-Adapter": ["ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"],
    "an IP-Adapter, which": ["double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight"],
    "a T2I-Adapter": ["adapter.body.0.block1.weight"],
    "one half of TAESD": ["1.weight", "3.conv.0.bias"],
    "a network that enlarges": ["model.1.sub.0.RDB1.conv1.0.weight"],
    "a ControlNet, not a model": ["input_blocks.0.0.weight", "input_hint_block.0.weight"],
    "SDXL's refiner": [
        "conditioner.embedders.0.model.ln_final.weight",
        "model.diffusion_model.out.0.weight",
    ],
    "empty": [],
}
PLACES = {"a LoRA": "--lora", "a T5": "--text-encoder", "a CLIP": "--text-encoder",
          "one half": "--vae", "an autoencoder": "--vae", "a ControlNet": "--control",
          "a textual": "--embedding", "a U-Net": "model_index.json",
          "SDXL's refiner": "base model", "a Flux": "Stable Diffusion 1"}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_files_that_are_no_model_are_named(tmp_path, what):
    path = write(tmp_path / "file.safetensors", FOREIGN[what])
    read = what == "a U-Net of diffusers"  # with a configuration, and then compared with it
    for told in (None,) if read else (None, CONFIG):
        with pytest.raises(KeyMismatchError, match=f"is {what.partition(', no')[0]}") as caught:
            recognise_file(TensorFile(path), told)
        assert "nearest" not in str(caught.value)
    hints = [hint for start, hint in PLACES.items() if what.startswith(start)]
    assert all(hint in caught.value.hint for hint in hints)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_nearest_family_shares_most_names(family):
    class Shapes:
        """A file of which only names and shapes are asked for."""

        def __init__(self):
            entries = compvis_table(PRESETS[family]).values()
            self.shapes = {e.name: e.stored_shape for e in entries if ".decoder." not in e.name}
            self.metadata = {}
            self.path = type("Path", (), {"name": "file"})
            self.squeezed = False

        def __iter__(self):
            return iter(self.shapes)

    with pytest.raises(KeyMismatchError) as caught:
        recognise_file(Shapes())
    alike = {family} | ({"sd2-base", "sd2-v"} if family in ("sd2-base", "sd2-v") else set())
    assert any(f"nearest is {name!r}" in str(caught.value) for name in alike)


def test_a_small_model_is_near_to_its_kind(tmp_path):
    """And not to the family with the fewest tensors."""
    with pytest.raises(KeyMismatchError, match="nearest is 'sd15'"):
        recognise_file(TensorFile(write(tmp_path / "a.safetensors", WHOLE)))


def test_a_file_that_shares_nothing_is_near_to_nothing(tmp_path):
    with pytest.raises(KeyMismatchError, match="none of its 2 tensors") as caught:
        recognise_file(TensorFile(write(tmp_path / "a.safetensors", ["x.y", "z"])))
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


# -- relatives of models --------------------------------------------------------------------------

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
SHALLOW = {  # transformers in a row by block, as in ComfyUI's supported_models.py
    "SSD-1B": {"input_blocks.7": 4, "input_blocks.8": 4, "input_blocks.4": 2, "middle_block": 0},
    "Vega": {"input_blocks.7": 2, "input_blocks.8": 2, "input_blocks.4": 1, "middle_block": 0},
}


def list_shapes(family):
    return {e.name: e.stored_shape for e in compvis_table(PRESETS[family]).values()}


def make_relative(what):
    shapes = list_shapes("sdxl" if what not in ("InstructPix2Pix", "merged") else "sd15")
    for block, depth in SHALLOW.get(what, {}).items():
        pattern = rf"model\.diffusion_model\.{block}\.1\.transformer_blocks\.(\d+)\."
        kept = {n: re.match(pattern, n) for n in shapes}
        shapes = {n: s for n, s in shapes.items() if not kept[n] or int(kept[n][1]) < depth}
    if what in ("InstructPix2Pix", "CosXL Edit"):
        shapes[FIRST] = (320, 8, 3, 3)
    if what.startswith("CosXL"):
        shapes |= {"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()}
    if what == "Playground":
        shapes |= {"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)}
    return shapes


class Header(dict):
    """A file of which only names and shapes are asked for."""

    def __init__(self, shapes):
        super().__init__(shapes)
        self.shapes = shapes
        self.metadata = {}
        self.path = Path("file.safetensors")
        self.squeezed = False


@pytest.mark.parametrize(
    "what", ["InstructPix2Pix", "CosXL Edit", "CosXL, ", "Playground", "SSD-1B", "Vega"]
)
@pytest.mark.parametrize("alone", [False, True])
def test_a_relative_of_a_model_is_named(what, alone):
    """Also where the U-Net is alone, with and without its prefix."""
    prefix = "model.diffusion_model."
    shapes = make_relative(what.strip(", "))
    if alone:
        shapes = {
            n.removeprefix(prefix): s
            for n, s in shapes.items()
            if n.startswith(prefix) or n.startswith("edm")
        }
    file = Header(shapes)
    with pytest.raises(KeyMismatchError, match=re.escape(what)) as caught:
        recognise_file(file)
    assert "nearest" not in str(caught.value) and "not supported" in caught.value.hint


def test_a_model_merged_with_a_controlnet_is_the_model():
    """Such as control_sd15_canny, which holds Stable Diffusion as well."""
    net = controlnet_table(ControlNetConfig(PRESETS["sd15"].unet)).values()
    shapes = list_shapes("sd15")
    both = shapes | {f"control_model.{e.name}": e.stored_shape for e in net}
    file = Header(both)
    found = recognise_file(file)
    assert found.config.name == "sd15"
    assert {*found.unused} == {*both} - {*shapes}


def test_a_controlnet_without_prefix_is_no_unet():
    net = controlnet_table(ControlNetConfig(PRESETS["sd15"].unet)).values()
    file = Header({e.name: e.stored_shape for e in net})
    with pytest.raises(KeyMismatchError, match="is a ControlNet"):
        recognise_file(file)


def test_info_tells_what_a_file_is(tmp_path, capsys):
    path = write(tmp_path / "style.safetensors", FOREIGN["a LoRA"])
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "kind: a LoRA" in said and "--lora" in said


def test_info_names_the_models_of_a_text_encoder(tmp_path, capsys, monkeypatch):
    """Sizes of the presets, in a file without numbers."""
    table = clip_table(PRESETS["sd2-base"].text_encoder)
    header, end = {}, 0
    for entry in table.values():
        begin, end = end, end + 2 * math.prod(entry.shape)
        header[entry.name] = {"dtype": "F16", "shape": entry.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path = tmp_path / "clip_h.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    monkeypatch.setattr(TensorFile, "sha256", lambda self: "0")  # of 680 MB
    assert list_owners(open_model_file(path)) == ["sd2-base", "sd2-v", "sd2-inpainting"]
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "sd2-base or sd2-v" in said and "--text-encoder" in said
