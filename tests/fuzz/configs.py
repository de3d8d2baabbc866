"""Targets that are JSON: configurations, diffusers' folders, requests, tokenizers' files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint_folders import load_diffusers
from PIL import Image

from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.diffusers.folder import read_diffusers_config
from ldmref.io.native import read_config
from ldmref.models.config import ModelConfig
from ldmref.models.family import list_families
from ldmref.models.model import model_spec
from ldmref.models.params import count
from ldmref.models.presets import PRESETS
from ldmref.models.validate import config_from_dict
from ldmref.modes.registry import MODES
from ldmref.prompts.clip import END, START, WORD_END
from ldmref.prompts.clip_vocabulary import load_tokenizer
from ldmref.prompts.wordpiece import wordpiece_tokenizer
from ldmref.prompts.words import word_tokenizer

from .cached import constants_cached
from .guard import SCRATCH, Target, file
from .mutate import dump, mutate_json
from .texts import TINY, tokenize

KNOWN_FAMILIES = tuple(list_families())  # imported before files are watched

SAFE = re.compile(r"([a-z_0-9]{1,20}/)?[A-Za-z_][A-Za-z_0-9.-]{0,60}")


def folder(name: str) -> Callable[[bytes], Path]:
    """Prepare a folder: a JSON object of paths and contents, JSON or text.

    Any other input is the first file of `name`, a path with the folder before it.
    """
    top, _, first = name.partition("/")
    root = SCRATCH / top
    present = set()

    def prepare(data: bytes) -> Path:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        files: dict[Path, bytes] = {root / first: data}
        if isinstance(content, dict):
            files = {
                root / path: _bytes(value)
                for path, value in content.items()
                if SAFE.fullmatch(path)
            }
        for path in present - {*files}:
            path.unlink(missing_ok=True)
        present.clear()
        for path, value in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                continue
            path.write_bytes(value)
            present.add(path)
        return root

    return prepare


def _bytes(value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else dump(value)


# -- configurations -------------------------------------------------------------------------------


def _config_seeds() -> list[bytes]:
    names = ("tiny", "emoji", "ldm-imagenet")
    return [dump({"schema": 1} | PRESETS[name].to_dict()) for name in names if name in PRESETS]


def plan_with(config: ModelConfig) -> None:
    """Count the shapes and plan a request."""
    assert config_from_dict(config.to_dict()) == config
    assert count(model_spec(config)) > 0
    for sampler in (None, "ddim", "dpmpp_2m"):
        try:
            modes.plan("txt2img", config, prompt="", sampler=sampler, steps=3, seed=1)
        except LdmrefError as error:
            assert error.code.startswith("E-")


@constants_cached
def run_config(path: Path) -> None:
    """Check that an accepted configuration survives writing, and can be planned with."""
    plan_with(read_config(path))


# -- diffusers ------------------------------------------------------------------------------------

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "sample_size": 8, "in_channels": 4,
    "out_channels": 4, "block_out_channels": [32, 64], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "cross_attention_dim": 32,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "attention_head_dim": 2,
    "norm_num_groups": 16, "norm_eps": 1e-5,
}  # fmt: skip
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "latent_channels": 4,
    "layers_per_block": 1, "norm_num_groups": 16, "in_channels": 3, "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "scaling_factor": 0.18215, "sample_size": 16,
}  # fmt: skip
TEXT = {"architectures": ["CLIPTextModel"], "vocab_size": 100, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "eos_token_id": 99, "projection_dim": 32}  # fmt: skip
SCHEDULERS: tuple[dict[str, Any], ...] = (
    {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1},
    {"_class_name": "DDIMScheduler", "clip_sample": True, "clip_sample_range": 1.0,
     "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
     "solver_order": 2, "use_karras_sigmas": False, "lambda_min_clipped": -5.1,
     "timestep_spacing": "linspace"},
    {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", "disable_corrector": [0],
     "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5},
    {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear",
     "final_sigmas_type": "sigma_min", "prediction_type": "v_prediction"},
)  # fmt: skip
BETAS = {
    "num_train_timesteps": 100,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
}


def _diffusers_seeds() -> list[bytes]:
    def entry(name: str, library: str = "diffusers") -> list[str]:
        return [library, name]

    seeds = []
    for scheduler in SCHEDULERS:
        index = {
            "_class_name": "StableDiffusionPipeline",
            "unet": entry(UNET["_class_name"]),
            "vae": entry("AutoencoderKL"),
            "scheduler": entry(scheduler["_class_name"]),
            "text_encoder": entry("CLIPTextModel", "transformers"),
        }
        shards = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-1-of-1.safetensors"}}
        seeds.append(
            {
                "model_index.json": index,
                "unet/config.json": UNET,
                "vae/config.json": VAE,
                "text_encoder/config.json": TEXT,
                "scheduler/scheduler_config.json": BETAS | scheduler,
                "unet/diffusion_pytorch_model.safetensors.index.json": shards,
            }
        )
    bert = {
        "vocab_size": 100,
        "d_model": 32,
        "encoder_ffn_dim": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "head_dim": 8,
    }
    seeds.append(
        {
            "model_index.json": {"_class_name": "LDMTextToImagePipeline"},
            "unet/config.json": UNET,
            "vqvae/config.json": VAE,
            "bert/config.json": bert,
            "scheduler/scheduler_config.json": BETAS | SCHEDULERS[1],
        }
    )
    unet = {
        "in_channels": 6,
        "out_channels": 3,
        "block_out_channels": [32, 64],
        "sample_size": 8,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "norm_num_groups": 16,
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 8,
    }
    vq = VAE | {"_class_name": "VQModel", "latent_channels": 3, "num_vq_embeddings": 16}
    seeds.append(
        {
            "model_index.json": {"_class_name": "LDMSuperResolutionPipeline"},
            "unet/config.json": unet,
            "vqvae/config.json": vq,
            "scheduler/scheduler_config.json": BETAS | SCHEDULERS[1],
        }
    )
    return [dump(seed) for seed in seeds]


@constants_cached
def run_diffusers(path: Path) -> None:
    """Plan with a folder whose configuration is accepted; its weights are missing."""
    plan_with(read_diffusers_config(path))
    load_diffusers(path)
    raise AssertionError("there are no weights")


def _controlnet_seeds() -> list[bytes]:
    config = {name: value for name, value in UNET.items() if not name.startswith(("up_", "out_"))}
    config |= {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": [4, 8]}
    return [dump({"config.json": config, "diffusion_pytorch_model.safetensors": ""})]


@constants_cached
def run_controlnet(path: Path) -> None:
    """Read a ControlNet's configuration, without weights."""
    open_controlnet(path)
    raise AssertionError("there are no weights")


def _vae_seeds() -> list[bytes]:
    tiny = {
        "_class_name": "AutoencoderTiny",
        "act_fn": "relu",
        "latent_channels": 4,
        "encoder_block_out_channels": [64, 64],
        "num_encoder_blocks": [1, 3],
        "decoder_block_out_channels": [64, 64],
        "num_decoder_blocks": [3, 1],
        "upsampling_scaling_factor": 2,
    }
    vq = VAE | {"_class_name": "VQModel", "latent_channels": 3, "num_vq_embeddings": 16}
    return [dump({"config.json": config}) for config in (VAE, tiny, vq)]


@constants_cached
def run_vae(path: Path) -> None:
    """Read an autoencoder's configuration, without weights."""
    read_vae(path)
    raise AssertionError("there are no weights")


# -- requests -------------------------------------------------------------------------------------


def _request_seeds() -> list[bytes]:
    common = {"prompt": "red heart", "steps": 3, "seed": 1}
    more = {
        "negative_prompt": "x",
        "cfg_scale": 2.0,
        "clip_skip": 0,
        "long_prompts": "chunk",
        "prompt_weights": "a1111",
        "schedule": "karras",
        "batch_size": 2,
        "tile": 64,
        "eta": 0.5,
        "sampler": "euler_a",
        "rng": "torch",
        "count": 2,
        "width": 16,
        "height": 16,
        "latents": [[[[0.0] * 8] * 8] * 4] * 2,
    }
    extras = {
        "img2img": {"image": 1, "strength": 0.5, "resize": "fill"},
        "inpaint": {
            "image": 1,
            "mask": 1,
            "fill": "noise",
            "only_masked": True,
            "padding": 3,
            "resample": [2, 2],
            "mask_invert": True,
            "mask_blur": 2,
        },
        "interpolate": {"prompt_b": "cat", "positions": [0.0, 0.5], "path": "slerp"},
        "invert": {"image": 1, "iterations": 2},
    }
    seeds = [{"mode": "txt2img"} | common, {"mode": "txt2img"} | common | more]
    seeds += [{"mode": mode} | common | extra for mode, extra in extras.items()]
    del seeds[-1]["seed"]  # invert has none
    return [dump(seed) for seed in seeds]


IMAGE = Image.new("RGB", (16, 16), "red")


def as_request(data: bytes) -> dict[str, Any]:
    """Return a JSON object, with an image where one belongs."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    request = content if isinstance(content, dict) else {"mode": "txt2img", "prompt": content}
    images = {name: IMAGE for name in ("image", "mask", "segmentation") if name in request}
    request.pop("control", None)  # no JSON
    return request | images | {"mode": str(request.get("mode"))}


@constants_cached
def run_request(request: dict[str, Any]) -> None:
    """Check that an accepted request resolves to JSON which makes the same request again."""
    mode = request.pop("mode")
    plan = modes.plan(mode, TINY, **request)
    params = json.loads(json.dumps(plan.params))
    again = {name: value for name, value in params.items() if name in MODES[mode].parameters}
    images = {
        name: request[name]
        for name in ("image", "mask", "segmentation", "latents")
        if name in request
    }
    if mode in ("txt2img", "img2img", "inpaint"):
        again |= images
        assert json.loads(json.dumps(modes.plan(mode, TINY, **again).params)) == params


# -- tokenizers' files ----------------------------------------------------------------------------


def _tokenizer_seeds() -> list[bytes]:
    letters = [
        "a",
        "b",
        "c",
        "!",
        "a" + WORD_END,
        "b" + WORD_END,
        "c" + WORD_END,
        "ab",
        "abc" + WORD_END,
    ]
    vocab = {token: id for id, token in enumerate([*letters, START, END])}
    merges = ["a b", f"ab c{WORD_END}"]
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": merges,
        "unk_token": END,
        "end_of_word_suffix": WORD_END,
    }
    added = [
        {
            "id": len(vocab),
            "content": "<x>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": True,
            "special": False,
        }
    ]
    special = {"pad_token": {"content": "!"}}
    words = json.loads(word_tokenizer(["red heart", "blue cat"], 20).to_str())
    wordpiece = {
        "model": {
            "type": "WordPiece",
            "vocab": {
                t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", "red"])
            },
        }
    }
    merge_text = "\n".join(["#version: 0.2", *merges, ""])
    files: list[dict[str, Any]] = [
        {"tokenizer.json": {"model": model, "added_tokens": added, "padding": {"pad_token": "!"}}},
        {"vocab.json": vocab, "merges.txt": merge_text, "special_tokens_map.json": special},
        {
            "vocab.json": vocab,
            "merges.txt": merge_text,
            "added_tokens.json": {"<x>": len(vocab)},
            "tokenizer_config.json": {"pad_token": "!"},
        },
        {"tokenizer.json": words},
        {"tokenizer.json": wordpiece},
        {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n##s\n"},
    ]
    return [dump(seed) for seed in files]


def run_tokenizer_files(path: Path) -> None:
    """Run every reader of tokenizers on the same folder; an accepted one must tokenize."""
    for read, source in (
        (load_tokenizer, path),
        (load_tokenizer, path / "tokenizer.json"),
        (wordpiece_tokenizer, path),
        (load_tokenizer, path / "merges.txt"),
    ):
        try:
            tokenize(read(source, 8), "abc red hearts é!")
        except LdmrefError as error:
            assert error.code.startswith("E-")


# -- fuzzing of fixed files -----------------------------------------------------------------------

TARGETS = {
    "config": Target(run_config, _config_seeds, file("config.json"), mutate_json),
    "diffusers": Target(
        run_diffusers, _diffusers_seeds, folder("diffusers/model_index.json"), mutate_json
    ),
    "controlnet-folder": Target(
        run_controlnet, _controlnet_seeds, folder("controlnet/config.json"), mutate_json
    ),
    "vae-folder": Target(run_vae, _vae_seeds, folder("vae/config.json"), mutate_json),
    "request": Target(run_request, _request_seeds, as_request, mutate_json),
    "tokenizer-files": Target(
        run_tokenizer_files, _tokenizer_seeds, folder("tokenizer/tokenizer.json"), mutate_json
    ),
}
