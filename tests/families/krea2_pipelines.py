"""A small Krea 2 of diffusers, and its networks in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
)
from diffusers.models.autoencoders import autoencoder_kl_qwenimage
from diffusers.models.transformers import transformer_krea2
from qwen3_networks import SMALL, vl_in_double, write_vocabulary

from ldmref.families.krea2.text import CHAT

LAYERS = (1, 2, 3)
TRANSFORMER = dict(
    in_channels=16, num_layers=2, attention_head_dim=12, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=40, timestep_embed_dim=16, text_hidden_dim=20,
    num_text_layers=3, text_num_attention_heads=2, text_num_key_value_heads=2,
    text_intermediate_size=24, num_layerwise_text_blocks=2, num_refiner_text_blocks=2,
    axes_dims_rope=(4, 4, 4),
)  # fmt: skip
SCHEDULER = dict(
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=1.15,
    base_image_seq_len=256,
    max_image_seq_len=6400,
)


def make_transformer(**changes) -> Krea2Transformer2DModel:
    """Return a random transformer of a small size, of which every layer matters."""
    transformer = Krea2Transformer2DModel(**TRANSFORMER | changes)
    for parameter in transformer.parameters():  # tables and norms are 0 at first, scores tiny
        parameter.data += 0.2 * torch.randn_like(parameter)
    return transformer.eval()


def make_encoder() -> transformers.Qwen3VLModel:
    """Return a random Qwen3-VL of a small size, whose scores are not tiny."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [1, 1, 1]}
    text = SMALL | {"vocab_size": 500, "num_hidden_layers": 4, "rope_parameters": rope}
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=20)
    config = transformers.Qwen3VLConfig(
        text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0]}
    )
    encoder = transformers.Qwen3VLModel(config)
    for parameter in encoder.language_model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder.eval()


def make_autoencoder() -> AutoencoderKLQwenImage:
    """Return a random autoencoder of two levels."""
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=2,
        temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.4],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.3)
    return vae.eval()


def make_pipeline(folder: Path, distilled: bool = False) -> Krea2Pipeline:
    """Return a random pipeline for small images; `folder` is for its tokenizer.

    The chat around a prompt has as many tokens as with the vocabulary of Qwen.
    """
    vocabulary = write_vocabulary(folder, f"{CHAT.before} {CHAT.after}", 640)
    torch.manual_seed(0)
    transformer = make_transformer()
    encoder = make_encoder()
    vae = make_autoencoder()
    found = Krea2Pipeline(
        FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae,
        encoder,
        transformers.AutoTokenizer.from_pretrained(vocabulary),
        transformer,
        text_encoder_select_layers=LAYERS,
        is_distilled=distilled,
    )
    found.set_progress_bar_config(disable=True)
    return found


@contextmanager
def transformer_in_double() -> Iterator[None]:
    """Let diffusers' transformer compute norms, angles and the time's waves in float64."""

    def rotate(x, waves, sequence_dim):
        cos, sin = (part[None, :, None, :] for part in waves)
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_krea2, "apply_rotary_emb", rotate)
        patch.setattr(torch, "float32", torch.float64)  # of the time's frequencies
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@contextmanager
def networks_in_double() -> Iterator[None]:
    """Let all networks of diffusers' pipeline compute in float64."""
    with pytest.MonkeyPatch.context() as patch, transformer_in_double(), vl_in_double():
        up = autoencoder_kl_qwenimage.QwenImageUpsample
        patch.setattr(up, "forward", torch.nn.Upsample.forward)
        yield


def call_transformer(theirs, x, t, context, mask):
    """Return what diffusers' transformer predicts of latents, (n, z, h, w).

    Times are multiplied by 1000; the states of a token's layers are one beside the other.
    """
    n, c, height, width = x.shape
    rows, columns = height // 2, width // 2
    packed = x.reshape(n, c, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    length = context.shape[1]
    found = theirs(
        packed.reshape(n, rows * columns, 4 * c),
        context.unflatten(-1, (theirs.config.num_text_layers, -1)),
        t.to(x.dtype) / 1000.0,
        Krea2Pipeline.prepare_position_ids(length, rows, columns, x.device),
        mask != 0,
    ).sample
    found = found.reshape(n, rows, columns, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return found.reshape(n, c, height, width)
