"""The configuration files of transformers' Qwen3 and Qwen3-VL, and of models that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.qwen3.encoder import OUT_LAYERS, Qwen3Config
from ldmref.io.diffusers.checks import read_json, require_plain
from ldmref.io.diffusers.config import convert_autoencoder_config
from ldmref.io.diffusers.folder import get_class
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.samplers.config import SchedulerConfig

PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "use_sliding_window": (False,),
}
DEFAULTS: dict[str, Any] = {  # of transformers' class
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
}


def read_model(
    folder: Path,
    convert_transformer: Callable[[Mapping[str, Any]], DenoiserConfig],
    as_text_encoder: Callable[[Qwen3Config], Qwen3Config],
    scheduler: SchedulerConfig,
    defaults: Defaults,
) -> ModelConfig:
    """Read the configuration of a folder of diffusers whose text encoder is Qwen3.

    Args:
        folder: The folder.
        convert_transformer: Converts the configuration of its transformer.
        as_text_encoder: Adds to the text encoder's what its file does not say.
        scheduler: The schedule, such as that of `read_scheduler`.
        defaults: The defaults; images have the transformer's size.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    transformer = convert_transformer(read_json(folder / "transformer" / "config.json"))
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    side = transformer.sample_size * vae.factor
    return ModelConfig(
        denoiser=transformer,
        vae=vae,
        text_encoder=as_text_encoder(read_text_encoder(folder / "text_encoder")),
        scheduler=scheduler,
        defaults=replace(defaults, width=side, height=side),
    )


def read_pipeline(
    folder: Path,
    index: Mapping[str, Any],
    convert_transformer: Callable[[Mapping[str, Any]], DenoiserConfig],
    as_text_encoder: Callable[[Qwen3Config], Qwen3Config],
    defaults: Defaults,
) -> ModelConfig:
    """Read the configuration of a folder of diffusers whose files say all; see `read_model`.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.
        convert_transformer, as_text_encoder, defaults: Those of `read_model`.
    """
    scheduler = read_scheduler(folder, index)
    return read_model(folder, convert_transformer, as_text_encoder, scheduler, defaults)


def read_scheduler(folder: Path, index: Mapping[str, Any]) -> SchedulerConfig:
    """Read the configuration of the scheduler of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: There is none.
        CorruptModelError: It asks for something that is not supported.
    """
    data = read_json(folder / "scheduler" / "scheduler_config.json")
    return convert_scheduler_config(data, get_class(index, "scheduler"))


def read_text_encoder(folder: Path) -> Qwen3Config:
    """Read the configuration of a folder of transformers, whose last hidden state is read.

    Which states a family reads, and of how many tokens, is usually not in the file: replace
    `hidden_layers`, `final_norm` and `max_position_embeddings`. A small encoder says the layers
    under the name of the argument of diffusers' pipelines, `text_encoder_out_layers`.

    Args:
        folder: The folder of a Qwen3 model, or of Qwen3-VL, of which the text part is used.

    Raises:
        InputError: There is no config.json.
        CorruptModelError: It asks for something that is not supported.
    """
    return convert_text_config(read_json(folder / "config.json"))


def convert_text_config(data: Mapping[str, Any]) -> Qwen3Config:
    """Convert the contents of a config.json; see `read_text_encoder`.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    data = data.get("text_config") or data
    require_plain(data, PLAIN, "the text encoder's configuration")
    fields = {name: data.get(name, default) for name, default in DEFAULTS.items()}
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    require_plain(rope, {"rope_type": ("default",)}, "the text encoder's rotary positions")
    theta = rope.get("rope_theta", data.get("rope_theta", 10000.0))
    if data.get(OUT_LAYERS):
        fields["hidden_layers"] = tuple(data[OUT_LAYERS])
    return Qwen3Config(
        layer_norm_eps=float(fields.pop("rms_norm_eps")), rope_theta=float(theta), **fields
    )
