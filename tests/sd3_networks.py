"""Tiny transformers and pipelines of Stable Diffusion 3, as diffusers makes them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.normalization import RMSNorm
from small_pipelines import tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from ldmref.families.sd3.config import MMDiTConfig
from ldmref.math import timestep_embedding

SIZES = dict(
    sample_size=8,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=40,
    pooled_projection_dim=24,
    pos_embed_max_size=7,
)
KINDS = {
    "3 medium": {},
    "3.5 large": {"qk_norm": "rms_norm"},
    "3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}


def make_transformer(kind):
    """Return diffusers' transformer, in which no bias or norm has its initial value."""
    torch.manual_seed(0)
    theirs = SD3Transformer2DModel(**SIZES, **KINDS[kind], caption_projection_dim=16)
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return theirs.eval()


def in_float64(theirs):
    """Return the transformer in float64, also where diffusers computes in float32."""
    theirs = theirs.double()
    theirs.time_text_embed.time_proj.forward = lambda t: timestep_embedding(t.double(), 256)
    for module in theirs.modules():
        if isinstance(module, RMSNorm):
            module.forward = _rms_norm.__get__(module)
    return theirs


def _rms_norm(self, x):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def config_of(kind):
    """Return our configuration of the same transformer."""
    return MMDiTConfig(**SIZES, **KINDS[kind])


def make_t5():
    """Return T5's encoder with large random scores."""
    config = T5Config(
        vocab_size=420,
        d_model=40,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    model = T5EncoderModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


TEXT = dict(
    vocab_size=300,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=77,
    bos_token_id=298,
    eos_token_id=2,  # as in the published files: the token with the largest id is pooled
    pad_token_id=299,
)


T5 = Path(__file__).parent / "prompts" / "t5"


def make_pipeline(kind, with_t5=True):
    """Return a small random `StableDiffusion3Pipeline` for images of 16 x 16 pixels."""
    transformer = make_transformer(kind)
    vae = AutoencoderKL(
        block_out_channels=[8, 16],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    encoders = [
        CLIPTextModelWithProjection(CLIPTextConfig(**TEXT, **fields)).eval()
        for fields in (
            dict(hidden_size=16, projection_dim=16),
            dict(hidden_size=20, projection_dim=8, hidden_act="gelu"),
        )
    ]
    made = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=encoders[0],
        tokenizer=tokenizer(),
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer("!"),
        text_encoder_3=make_t5() if with_t5 else None,
        tokenizer_3=T5TokenizerFast.from_pretrained(T5) if with_t5 else None,
    )
    made.set_progress_bar_config(disable=True)
    return made
