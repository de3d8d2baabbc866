"""Models of a few kilobytes: the tables of a recipe, and folders with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ldmref import random_model
from ldmref.cases.shrink import shrink
from ldmref.io.native import save_folder
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import Defaults, TextConfig
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init, tree_map
from ldmref.models.presets import preset
from ldmref.prompts.unigram import unigram_tokenizer
from ldmref.training.distill.student import initial_student, make_student
from ldmref.training.finetune.recipe import DistillConfig

T5 = Path(__file__).parent / "prompts" / "t5"
SMALL_MODEL = {
    "preset": "tiny",
    "unet": {"block_out_channels": [8, 8], "norm_num_groups": 2, "cross_attention_dim": 8},
    "vae": {"block_out_channels": [4, 4], "norm_num_groups": 2},
    "text_encoder": {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8},
}


def save_wordless(folder, concat, **changes):
    """Preset `tiny` without words, told an image or a map by three further channels."""
    tiny = preset("tiny")
    text = TextConfig(model_type="none", num_hidden_layers=1)
    changed = {"in_channels": 7, "out_channels": 4, "attention": "self", "cross_attention_dim": 0}
    config = replace(
        tiny,
        name=concat,
        concat=concat,
        denoiser=replace(tiny.unet, **changed),
        text_encoder=text,
        defaults=Defaults(3, 1.0, 16, 16),
        **changes,
    )
    save_folder(folder, config, init(model_spec(config), 0), [tokenizer_for(text)], np.float32)
    return folder


def save_flow(folder, name="sd3-tiny"):
    """Save a small version of a model of flow matching, with random weights."""
    config = preset(name) if name.endswith("-tiny") else shrink(preset(name))
    words = random_model("sd3-tiny", backend="numpy").tokenizer
    *clip, t5 = config.text_encoders
    tokenizers = [words] * len(clip) + [unigram_tokenizer(T5, t5.max_position_embeddings)]
    save_folder(folder, config, init(model_spec(config), 0), tokenizers, np.float32)
    return folder


def save_map(folder, model):
    """A flow map of a model, as its distillation begins: the same networks, with a second time."""
    config = make_student(model.config, DistillConfig())
    name = config.denoiser.network
    teacher = tree_map(model.backend.to_numpy, model.params[name])
    params = {**model.params, name: initial_student(config, teacher, 0)}
    save_folder(folder, config, params, [model.tokenizer], np.float32)


def save_controlnet(folder):
    """Save a ControlNet for preset `tiny` as diffusers does, with random weights."""
    u = preset("tiny").unet
    config = ControlNetConfig(u, conditioning_embedding_out_channels=(4, 8))
    kinds = ["CrossAttnDownBlock2D" if with_it else "DownBlock2D" for with_it in u.attention_levels]
    told = {
        "_class_name": "ControlNetModel",
        "in_channels": u.in_channels,
        "down_block_types": kinds,
        "block_out_channels": u.block_out_channels,
        "layers_per_block": u.layers_per_block,
        "norm_num_groups": u.norm_num_groups,
        "cross_attention_dim": u.cross_attention_dim,
        "attention_head_dim": u.num_heads,
        "conditioning_embedding_out_channels": [4, 8],
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(told))
    tensors = flatten(init(controlnet_spec(config), 1))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


def config_for(mode, config):
    """Return a small model's configuration, or that of a model of flow matching for `edit`."""
    return preset("sd3-tiny") if mode == "edit" else config
