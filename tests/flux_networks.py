"""Tiny transformers of Flux.1 as diffusers makes them, in float64."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.models.transformers import transformer_flux
from small_pipelines import tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from ldmref.families.flux import FluxConfig
from ldmref.math import timestep_embedding

SIZES = dict(
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=12,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=16,
    axes_dims_rope=(2, 4, 6),
)


def make_transformer(guidance, channels=4):
    """Return diffusers' transformer, in which no bias or norm has its initial value."""
    torch.manual_seed(0)
    theirs = FluxTransformer2DModel(
        in_channels=4 * channels, out_channels=16, guidance_embeds=guidance, **SIZES
    )
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return theirs.eval()


def in_float64(theirs, monkeypatch):
    """Return the transformer in float64, also where diffusers computes in float32."""
    theirs = theirs.double()
    theirs.time_text_embed.time_proj.forward = lambda t: timestep_embedding(t.double(), 256)
    theirs.pos_embed.forward = _positions.__get__(theirs.pos_embed)
    monkeypatch.setattr(transformer_flux, "apply_rotary_emb", _rotate)
    return theirs


def _positions(self, ids):
    """Return cosines and sines as diffusers' class does, without its rounding to float32."""
    angles = [
        torch.outer(ids[:, i].double(), self.theta ** (-torch.arange(0, dim, 2).double() / dim))
        for i, dim in enumerate(self.axes_dim)
    ]
    return torch.cat(angles, dim=-1).cos(), torch.cat(angles, dim=-1).sin()


def _rotate(x, turns, sequence_dim):
    """Multiply neighbouring channels as complex numbers; x: (n, l, heads, d)."""
    assert sequence_dim == 1
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    cos, sin = (part[None, :, None, :] for part in turns)
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(3)


def config_of(guidance, channels=4):
    """Return our configuration of the same transformer."""
    return FluxConfig(in_channels=channels, out_channels=4, guidance_embeds=guidance, **SIZES)


T5 = Path(__file__).parent / "prompts" / "t5"


def make_pipeline(guidance):
    """Return a small random `FluxPipeline` with a factor of 2 between latents and pixels."""
    transformer = make_transformer(guidance)
    vae = AutoencoderKL(
        block_out_channels=[8, 16],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    clip = CLIPTextConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=298,
        eos_token_id=2,  # as in the published files: the token with the largest id is pooled
        pad_token_id=299,
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=420,
            d_model=20,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )
    for parameter in t5.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    shift = dict(shift=3.0, use_dynamic_shifting=True) if guidance else dict(shift=1.0)
    made = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=vae.eval(),
        text_encoder=CLIPTextModel(clip).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=t5.eval(),
        tokenizer_2=T5TokenizerFast.from_pretrained(T5),
    )
    made.set_progress_bar_config(disable=True)
    return made


def make_fill_pipeline():
    """Return a small random `FluxFillPipeline`: latents, masked latents and 2 x 2 mask pixels."""
    parts = {name: part for name, part in make_pipeline(True).components.items() if part}
    made = FluxFillPipeline(**parts | {"transformer": make_transformer(True, channels=12)})
    made.set_progress_bar_config(disable=True)
    return made


def make_control_pipeline(kind=FluxControlPipeline):
    """Return a small random `FluxControlPipeline`: latents, and latents of the control image."""
    parts = {name: part for name, part in make_pipeline(True).components.items() if part}
    made = kind(**parts | {"transformer": make_transformer(True, channels=8)})
    made.set_progress_bar_config(disable=True)
    return made
