"""LoRA of Z-Image in the names of every program, against diffusers: its weights and images."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from checkpoint_folders import load_diffusers

import ldmref
from ldmref import modes
from ldmref.families.z_image.files import comfyui_table
from ldmref.families.z_image.network import transformer_spec
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.io.key_table import list_stored_shapes
from ldmref.models.params import flatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from qwen3_networks import write_vocabulary
from safetensors.numpy import save_file
from z_image_pipelines import make_pipeline

RANK = 3
PEFT = (".lora_A.weight", ".lora_B.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")


@pytest.fixture
def made(tmp_path, skip):
    """(diffusers' pipeline, the folder that it writes)."""
    if find_spec("peft") is None:
        skip("peft", "needed for diffusers' own merging, is not installed")
    (tmp_path / "tokenizer").mkdir()
    pipe = make_pipeline(write_vocabulary(tmp_path / "tokenizer"))
    pipe.save_pretrained(tmp_path / "model")
    return pipe, tmp_path / "model"


def random_pair(shape, seed):
    draw = np.random.default_rng(seed).standard_normal
    return 0.3 * draw((RANK, shape[1])), 0.3 * draw((shape[0], RANK))


def list_layers(config):
    """Return the shapes of the matrices of the transformer by layer."""
    shapes = flatten(transformer_spec(config.denoiser))
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }


def list_stacked(config):
    """Return the same in ComfyUI's files, which stack queries, keys and values."""
    shapes = list_stored_shapes(comfyui_table(config))
    kept = {name: x for name, x in shapes.items() if name.endswith(".weight") and len(x) == 2}
    return {name.removesuffix(".weight"): x for name, x in kept.items() if ".qkv" in name}


def write_lora(path, layers, name_of, ends, alpha=None, dtype="float64"):
    tensors = {}
    for seed, (layer, shape) in enumerate(layers.items()):
        down, up = random_pair(shape, seed)
        tensors |= {name_of(layer) + ends[0]: down.astype(dtype)}
        tensors |= {name_of(layer) + ends[1]: up.astype(dtype)}
        if alpha is not None:
            tensors[name_of(layer) + ".alpha"] = np.asarray(alpha, dtype)
    save_file(tensors, str(path), {"format": "pt"})


def join_kohya(layer):
    return "lora_unet_" + layer.replace(".", "_")


FORMS = {  # the layers, their names, the ends of the tensors, alpha
    "diffusers": (list_layers, "transformer.{}".format, PEFT, None),
    "ai-toolkit": (list_layers, "diffusion_model.{}".format, PEFT, None),
    "with-alpha": (list_layers, "diffusion_model.{}".format, PEFT, 1.5),
    "default": (
        list_layers,
        "diffusion_model.{}".format,
        (".lora_A.default.weight", ".lora_B.default.weight"),
        None,
    ),
    "down-and-up": (list_layers, "diffusion_model.{}".format, KOHYA, 1.5),
    "kohya": (list_layers, join_kohya, KOHYA, 1.5),
}


@pytest.mark.parametrize("form", FORMS)
def test_merged_weights_are_those_of_diffusers(made, form, tmp_path):
    """In float64, of every matrix of the transformer."""
    pipe, folder = made
    layers, name_of, ends, alpha = FORMS[form]
    config, flat, _ = load_diffusers(folder)
    flat = {name: x.astype(np.float64) for name, x in flat.items()}
    write_lora(tmp_path / "a.safetensors", layers(config), name_of, ends, alpha)
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 0.7)]))
    pipe.transformer.double()
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    pipe.fuse_lora(components=["transformer"], lora_scale=0.7)
    pipe.unload_lora_weights()
    changed = 0
    for name, x in pipe.transformer.state_dict().items():
        want, got = x.numpy(), ours[f"transformer.{name}"]
        assert np.abs(got - want).max() <= 1e-10 * max(1.0, np.abs(want).max()), name
        changed += not np.array_equal(got, flat[f"transformer.{name}"])
    assert changed == len(layers(config)) == 52


NAMES = {
    "PEFT": (list_layers, "base_model.model.{}".format, PEFT),
    "comfyui": (list_stacked, "diffusion_model.{}".format, KOHYA),
    "kohya-stacked": (list_stacked, join_kohya, KOHYA),
}


@pytest.mark.parametrize("form", NAMES)
def test_other_names_change_the_same_weights(made, form, tmp_path):
    """PEFT's own, and those of trainers of ComfyUI's network, in which one layer is three."""
    _, folder = made
    layers, name_of, ends = NAMES[form]
    config, flat, _ = load_diffusers(folder)
    flat = {name: x.astype(np.float64) for name, x in flat.items()}
    write_lora(tmp_path / "a.safetensors", layers(config), name_of, ends, 1.5)
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 0.7)]))
    changed = 0
    for seed, (layer, shape) in enumerate(layers(config).items()):
        down, up = random_pair(shape, seed)
        change = 0.7 * 1.5 / RANK * up @ down
        parts = [layer] if form == "PEFT" else [layer.replace("qkv", f"to_{x}") for x in "qkv"]
        for part, rows in zip(parts, np.split(change, len(parts)), strict=True):
            name = f"transformer.{part}.weight"
            assert np.abs(ours[name] - flat[name] - rows).max() <= 1e-12
            changed += 1
    assert changed == sum(not np.array_equal(ours[name], flat[name]) for name in flat)


def test_a_product_of_kronecker_is_read(made, tmp_path):
    """LoKr, as ai-toolkit and LyCORIS write it."""
    _, folder = made
    config, flat, _ = load_diffusers(folder)
    draw = np.random.default_rng(0).standard_normal
    first, second = draw((4, 4)), draw((6, 6))
    names = ("diffusion_model.layers.0.attention.to_q", "lycoris_layers_0_attention_to_q")
    for name in names:
        tensors = {f"{name}.lokr_w1": first, f"{name}.lokr_w2": second}
        save_file(tensors | {f"{name}.alpha": np.asarray(1.0)}, str(tmp_path / "a.safetensors"))
        changed = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 1.0)]))
        key = "transformer.layers.0.attention.to_q.weight"
        want = flat[key] + np.kron(first, second)
        assert np.abs(changed[key] - want).max() <= 1e-5 * np.abs(want).max()


def test_images_are_those_of_diffusers(made, tmp_path):
    pipe, folder = made
    config, _, _ = load_diffusers(folder)
    write_lora(tmp_path / "a.safetensors", list_layers(config), "transformer.{}".format, PEFT,
               dtype="float32")  # fmt: skip
    size = {"width": 24, "height": 16}
    models = [ldmref.load(folder), ldmref.load(folder, lora=[tmp_path / "a.safetensors"])]
    options = {"seed": 5, "rng": "torch", "cfg_scale": 3.0, "steps": 3, **size}
    before, got = (modes.txt2img(model, "a red cat", **options).images[0] for model in models)
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    generator = torch.Generator().manual_seed(5)
    options = {"guidance_scale": 2.0, "num_inference_steps": 3, "output_type": "np", **size}
    want = pipe("a red cat", generator=generator, **options).images[0]
    assert np.abs(np.asarray(got).astype(int) - np.round(want * 255)).max() <= 1
    assert np.abs(np.asarray(before).astype(int) - np.round(want * 255)).max() > 8
