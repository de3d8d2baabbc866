"""The files of Stable Diffusion 3: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ldmref.errors import short_repr
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.text import T5_TOKENS
from ldmref.io.diffusers.checks import COMPLETE, config_error, read_json
from ldmref.io.diffusers.config import (
    T5_CLASS,
    convert_autoencoder_config,
    convert_t5_config,
    convert_text_config,
)
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.diffusers.folder import get_class
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.models.config import TEXT_ENCODERS, Defaults, ModelConfig, TextConfig

PIPELINES = (
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
    "StableDiffusion3ControlNetPipeline",
)
OMITTED: dict[str, Any] = {  # of diffusers' class, where it has other values than the published
    "num_layers": 18,
    "num_attention_heads": 18,
    "pos_embed_max_size": 96,
}
Transformer = TypeVar("Transformer", bound=MMDiTConfig)
WITHOUT_T5 = (
    f'{COMPLETE}; or, for a model without T5, write [null, null] for "text_encoder_3" and '
    '"tokenizer_3" in model_index.json'
)
HINTS = {name: WITHOUT_T5 if name == TEXT_ENCODERS[2] else COMPLETE for name in TEXT_ENCODERS}


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    transformer = convert_transformer_config(read_json(folder / "transformer" / "config.json"))
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    texts: dict[str, Any] = {
        name: convert_encoder_config(read_json(folder / name / "config.json", HINTS[name]), kind)
        for name in TEXT_ENCODERS
        if (kind := get_class(index, name))  # T5 may be missing
    }
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = get_class(index, "scheduler")
    side = transformer.sample_size * vae.factor
    return ModelConfig(
        denoiser=transformer,
        vae=vae,
        scheduler=convert_scheduler_config(scheduler, kind, str(index["_class_name"])),
        defaults=Defaults(28, 7.0, width=side, height=side),
        **texts,
    )


def convert_encoder_config(data: Mapping[str, Any], kind: str) -> TextConfig:
    """Convert the configuration of a text encoder of this class.

    Raises:
        CorruptModelError: It is another kind of T5.
    """
    if kind == T5_CLASS:
        return convert_t5_config(data, T5_TOKENS)
    return convert_text_config(data, xl=True, class_name=kind)


def convert_transformer_config(data: Mapping[str, Any]) -> MMDiTConfig:
    """Convert the configuration of an `SD3Transformer2DModel`; see `read_transformer`."""
    return read_transformer(MMDiTConfig(**OMITTED), data)


def read_transformer(
    omitted: Transformer, data: Mapping[str, Any], text: bool = True
) -> Transformer:
    """Return the configuration of a transformer, or of its ControlNet.

    Args:
        omitted: The values of the fields that the file omits.
        data: The contents of the file.
        text: Whether the blocks have a stream for the text.

    Raises:
        CorruptModelError: The width of the projected text is not that of the image; or as
            `read_denoiser`.
    """
    fields = {
        "qk_norm": data.get("qk_norm") or "",
        "joint_attention_dim": data.get("joint_attention_dim", omitted.joint_attention_dim) or 0,
    }
    found = read_denoiser(omitted, {**data, **fields})
    text_width = data.get("caption_projection_dim", 1152)
    if text and text_width != found.width:
        raise config_error(
            f"the transformer has caption_projection_dim = {short_repr(text_width)}, its image "
            f"tokens {found.width}: both streams must be as wide"
        )
    return found
