"""A small FLUX.3 of diffusers, and its networks in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKLFlux2,
    Flux3AutoBlocks,
    Flux3DistilledAutoBlocks,
    Flux3Transformer2DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.transformers import transformer_flux3
from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor
from qwen3_networks import SMALL


def make_transformer(**options: Any) -> Flux3Transformer2DModel:
    """Return a random transformer of a small size, whose scores are not tiny."""
    torch.manual_seed(0)
    model = Flux3Transformer2DModel(**options).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def with_positions(x: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of diffusers' transformer of those of ours, without a mask."""
    height, width = x["x"].shape[2:]
    grid = torch.cartesian_prod(*(torch.arange(k) for k in (1, height, width, 1))).double()
    grid[:, 1:3] *= 0.5
    length = x["context"].shape[1]
    found = {
        "hidden_states": x["x"].flatten(2).transpose(1, 2),
        "encoder_hidden_states": x["context"],
        "timestep": x["t"] / 1000.0,
        "img_ids": grid,
        "txt_ids": torch.cartesian_prod(*(torch.arange(k) for k in (1, 1, 1, length))).double(),
    }
    if x.get("t_next") is not None:
        found["target_timestep"] = x["t_next"] / 1000.0
    if x.get("reference_tokens") is not None:
        found["image_cond_hidden_states"] = x["reference_tokens"]
        found["image_cond_ids"] = x["reference_places"][0]
    return found


def join_cells(tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return tokens (n, h * w, c) as latents (n, c, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


@contextmanager
def transformer_in_double() -> Iterator[None]:
    """Let diffusers' transformer compute norms, angles and the time's waves in float64."""

    def rotary(dim, pos, theta=10000.0, **options):
        steps = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        angles = torch.outer(pos.double(), theta**-steps).repeat_interleave(2, dim=1)
        return angles.cos(), angles.sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_flux3, "get_1d_rotary_pos_embed", rotary)
        patch.setattr(torch, "float32", torch.float64)  # of the time's frequencies
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


class Processor:
    """The part of Qwen3-VL's processor that the pipeline calls: its tokenizer and template."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def apply_chat_template(self, *args: Any, **options: Any) -> str:
        return self.tokenizer.apply_chat_template(*args, **options)


def make_encoder() -> transformers.Qwen3VLForConditionalGeneration:
    """Return a random Qwen3-VL of a small size, whose scores are not tiny."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [1, 1, 1]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = transformers.Qwen3VLConfig(
        text_config=SMALL | {"rope_parameters": rope, "text_encoder_out_layers": [1, 2]},
        vision_config=vision | {"out_hidden_size": 20, "deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
    )
    encoder = transformers.Qwen3VLForConditionalGeneration(config)
    for parameter in encoder.model.language_model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder.eval()


def make_pipeline(vocabulary: Path, flow_map: bool = False) -> Any:
    """Return a random pipeline for small images, with a tokenizer of that folder."""
    transformer = make_transformer(
        in_channels=16,
        cond_in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=40,
        axes_dims_rope=(4, 4, 4, 4),
        flow_map=flow_map,
    )
    vae = AutoencoderKLFlux2(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 12],
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    blocks = Flux3DistilledAutoBlocks() if flow_map else Flux3AutoBlocks()
    blocks.sub_blocks.pop("prompt_upsampler")  # a language model of 9 billion parameters
    pipe = blocks.init_pipeline()
    pipe.update_components(
        transformer=transformer,
        vae=vae.eval(),
        text_encoder=make_encoder(),
        tokenizer=Processor(transformers.AutoTokenizer.from_pretrained(vocabulary)),
        image_processor=Flux3ImageProcessor(),
    )
    return pipe


def save_pipeline(pipe: Any, path: Path) -> Path:
    """Write the folder of a pipeline, with its tokenizer, as the makers' has it."""
    pipe.save_pretrained(str(path), overwrite_modular_index=True)
    pipe.tokenizer.tokenizer.save_pretrained(path / "tokenizer")
    return path


def set_scale(pipe: Any, scale: float) -> None:
    """Give a pipeline a guidance scale; the distilled model has none."""
    if getattr(pipe, "guider", None) is not None:
        pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=scale))


def run(pipe: Any, prompt: str, seed: int, scale: float | None = None, **options: Any) -> Any:
    """Return the image of a pipeline, (h, w, 3) in [0, 1]; without a scale, at its own."""
    if scale is not None:
        set_scale(pipe, scale)
    return pipe(
        prompt=prompt,
        generator=torch.Generator().manual_seed(seed),
        text_encoder_out_layers=(1, 2),
        **{"output_type": "np", "output": "images"} | options,
    )[0]
