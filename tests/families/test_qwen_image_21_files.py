"""Files of Qwen-Image 2.1 that other programs write: LoRAs, GGUF and float8."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoint_folders import load_diffusers
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from float8_files import save_float8
from qwen_image_21_pipelines import make_pipeline

RANK = 2
NAMES = {  # of a layer of a LoRA, by program: how it begins, and its two matrices end
    "diffusers": ("transformer.", ".lora_A.weight", ".lora_B.weight"),
    "PEFT": ("base_model.model.", ".lora_A.weight", ".lora_B.weight"),
    "ai-toolkit": ("diffusion_model.", ".lora_A.weight", ".lora_B.weight"),
    "kohya": ("lora_unet_", ".lora_down.weight", ".lora_up.weight"),
}


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def write_lora(pipe, path, program):
    """Write a LoRA for every linear layer of the transformer, in the names of a program."""
    start, down_end, up_end = NAMES[program]
    tensors = {}
    for seed, (name, module) in enumerate(pipe.transformer.named_modules()):
        if not isinstance(module, torch.nn.Linear):
            continue
        draw = np.random.default_rng(seed).standard_normal
        layer = start + (name.replace(".", "_") if program == "kohya" else name)
        tensors[layer + down_end] = 0.3 * draw((RANK, module.in_features)).astype(np.float32)
        tensors[layer + up_end] = 0.3 * draw((module.out_features, RANK)).astype(np.float32)
        if program == "kohya":
            tensors[f"{layer}.alpha"] = np.asarray(float(RANK), np.float32)
    save_file(tensors, str(path), {"format": "pt"})
    return len(tensors) // (3 if program == "kohya" else 2)


@pytest.mark.parametrize("program", NAMES)
def test_loras_change_the_weights_that_diffusers_changes(folder, tmp_path, program):
    """All programs' files are the same LoRA."""
    theirs = make_pipeline()
    layers = write_lora(theirs, tmp_path / "a.safetensors", program)
    write_lora(theirs, tmp_path / "b.safetensors", "diffusers")
    config, flat, _ = load_diffusers(folder)
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 0.7)]))
    theirs.load_lora_weights(tmp_path, weight_name="b.safetensors")
    theirs.fuse_lora(components=["transformer"], lora_scale=0.7)
    theirs.unload_lora_weights()
    for name, x in theirs.transformer.state_dict().items():
        want = x.numpy()
        found = np.asarray(ours[f"transformer.{name}"])
        assert np.abs(found - want).max() <= 1e-5 * max(1.0, np.abs(want).max()), name
    changed = [name for name in flat if not np.array_equal(ours[name], flat[name])]
    assert len(changed) == layers


def save_gguf(path, tensors):
    """Write a GGUF file with the names of city96's converter; return its numbers."""
    from gguf_files import write_model

    return write_model(path, tensors, "Q8_0", "qwen_image")


@pytest.mark.parametrize("save", [save_gguf, save_float8])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_single_file_is_read_with_the_other_networks_of_a_folder(
    pipe, folder, tmp_path, save, prefix
):
    if save is save_gguf:
        pytest.importorskip("gguf")
    tensors = {prefix + name: x.numpy() for name, x in pipe.transformer.state_dict().items()}
    name = "a.gguf" if save is save_gguf else "a.safetensors"
    save_file(save(tmp_path / name, tensors), str(tmp_path / "plain.safetensors"))
    size = {"width": 64, "height": 32, "seed": 1, "steps": 2}
    images = [
        modes.txt2img(ldmref.load(tmp_path / file, config=folder), "a red cat", **size).images[0]
        for file in ("plain.safetensors", name)
    ]
    assert images[0] == images[1]


def test_a_folder_is_streamed_block_by_block(folder, monkeypatch):
    """With the image of the whole model: what is made of the text outlives the blocks."""
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    model = ldmref.load(folder)
    size = {"width": 64, "height": 32}
    image = modes.txt2img(model, "a red cat", seed=1, steps=3, **size).images[0]
    needs = model.estimate_memory(64, 32)
    model.max_memory = needs.peak_streamed(model.params.releasable)
    again = modes.txt2img(model, "a red cat", seed=1, steps=3, **size).images[0]
    assert again == image and model.params._streamed
