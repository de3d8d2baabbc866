"""Merged LoRAs against diffusers' own `load_lora_weights` and `fuse_lora`, tensor by tensor."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec

import numpy as np
import pytest
from checkpoint_folders import load_diffusers
from safetensors.numpy import save_file

from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.io.compvis.keys import unet_table

torch = pytest.importorskip("torch")
WEIGHT = 0.7
ALPHA = 1.5  # one for all: of several, diffusers 0.42 loses those of the attention layers

KOHYA_PARTS = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
ENDINGS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "kohya sgm": (".lora_down.weight", ".lora_up.weight"),
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "peft with metadata": (".lora_A.weight", ".lora_B.weight"),
    "diffusers": (".lora.down.weight", ".lora.up.weight"),
}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
UNET = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVS = (
    "conv1",
    "conv2",
    "time_emb_proj",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
)


def layers(flat):
    """Yield the layers to change, as (network, path)."""
    for name in flat:
        part, _, path = name.removesuffix(".weight").partition(".")
        if not name.endswith(".weight") or flat[name].ndim not in (2, 4):
            continue
        if part == "unet" and path.endswith(UNET + CONVS):
            yield part, path
        elif part.startswith("text_encoder") and path.endswith(TEXT):
            yield part, path


def name_of(part, path, notation, config, family):
    if notation.startswith("kohya"):
        start = KOHYA_PARTS[part]
        if family == "sdxl":
            start = start.replace("te_", "te1_")
        if notation == "kohya sgm" and part == "unet":
            path = unet_table(config.unet)[f"{path}.weight"].name.removesuffix(".weight")
        return start + path.replace(".", "_")
    if part == "text_encoder" and notation == "peft":  # as transformers 5 names it
        path = path.removeprefix("text_model.")
    return f"{part}.{path}"


def lora_file(path, config, flat, family, notation):
    """Return a random LoRA of rank 3 (2 in the text encoders) for all layers."""
    draw = np.random.default_rng(0)
    (down_end, up_end) = ENDINGS[notation]
    tensors = {}
    for part, layer in layers(flat):
        shape = flat[f"{part}.{layer}.weight"].shape
        rank = 3 if part == "unet" else 2
        name = name_of(part, layer, notation, config, family)
        if notation == "diffusers" and part != "unet":
            down_end = ".lora_linear_layer.down.weight"
            up_end = ".lora_linear_layer.up.weight"
        ones = (1,) * (len(shape) - 2)
        down = draw.standard_normal((rank, *shape[1:]))
        up = draw.standard_normal((shape[0], rank, *ones))
        tensors |= {name + down_end: down.astype(np.float32), name + up_end: up.astype(np.float32)}
        if notation.startswith("kohya"):
            tensors[f"{name}.alpha"] = np.asarray(ALPHA, np.float32)
    metadata = {}
    if notation == "peft with metadata":
        facts = {"r": 3, "lora_alpha": 1.5, "target_modules": ["to_q"], "peft_type": "LORA"}
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in facts.items()})}
        tensors = {n: t for n, t in tensors.items() if n.startswith("unet.") and ".to_q." in n}
    save_file(tensors, str(path), metadata | {"format": "pt"})
    return len(tensors)


@pytest.fixture
def peft(skip):
    """diffusers merges LoRAs through peft; without it, tests/io/test_lora.py has a dense oracle."""
    if find_spec("peft") is None or find_spec("accelerate") is None:
        skip("peft", "with accelerate, needed for diffusers' own merging, is not installed")


@pytest.mark.parametrize("notation", ENDINGS)
def test_fused_by_diffusers(folder, theirs, family, notation, tmp_path, peft):
    if notation == "kohya sgm" and family != "sdxl":
        pytest.skip("kohya takes CompVis' names for SDXL only")
    config, flat, _ = load_diffusers(folder)
    used = lora_file(tmp_path / "a.safetensors", config, flat, family, notation)
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", WEIGHT)]))

    pipe = copy.deepcopy(theirs)
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    pipe.fuse_lora(lora_scale=WEIGHT)
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "fused")
    _, want, _ = load_diffusers(tmp_path / "fused")
    changed = [name for name in flat if not np.array_equal(ours[name], flat[name])]
    assert len(changed) == used / (3 if notation.startswith("kohya") else 2)
    for name in flat:
        bound = 2e-6 * max(1.0, float(np.abs(want[name]).max()))
        assert np.abs(ours[name] - want[name]).max() <= bound, name
