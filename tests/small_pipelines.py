"""Small random pipelines of diffusers and transformers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
import tokenizers  # noqa: E402

from ldmref.math.embedding import timestep_embedding  # noqa: E402

VAE = dict(
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
)
TEXT = dict(
    vocab_size=300,
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=77,
    bos_token_id=298,
    eos_token_id=299,
    pad_token_id=299,
)
UNET = dict(
    sample_size=8,
    block_out_channels=[16, 32],
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    cross_attention_dim=24,
    attention_head_dim=2,
)
SD_SCHEDULE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def unet(**changes):
    return diffusers.UNet2DConditionModel(**UNET | changes)


def text(**changes):
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT | changes))


def components(family):
    """(pipeline class, its components) of a small random model of a family."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    torch.manual_seed(0)
    kind = StableDiffusionPipeline
    extra = {"safety_checker": None, "feature_extractor": None}
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1, **SD_SCHEDULE)
    if family == "sd1":
        parts = {"unet": unet(), "text_encoder": text()}
    elif family == "sd1-inpainting":
        kind = StableDiffusionInpaintPipeline
        parts = {"unet": unet(in_channels=9)}
        parts["text_encoder"] = text()
    elif family == "sd2":
        parts = {
            "unet": unet(attention_head_dim=[2, 4], use_linear_projection=True),
            "text_encoder": text(hidden_act="gelu"),
        }
        scheduler = diffusers.DDIMScheduler(
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            **SD_SCHEDULE,
        )
    else:
        big = dict(hidden_size=32, num_attention_heads=4, hidden_act="gelu", projection_dim=32)
        big |= dict(pad_token_id=0, eos_token_id=2)
        parts = {
            "unet": unet(
                attention_head_dim=[2, 4],
                use_linear_projection=True,
                cross_attention_dim=56,
                down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
                up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
                transformer_layers_per_block=[1, 2],
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=32 + 48,
            ),
            "text_encoder": text(),
            "text_encoder_2": transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(**TEXT | big)
            ),
        }
        kind = StableDiffusionXLPipeline
        extra = {}
        scheduler = EulerDiscreteScheduler(steps_offset=1, **SD_SCHEDULE)
    factor = 0.13025 if family == "sdxl" else 0.18215
    parts |= {"vae": AutoencoderKL(scaling_factor=factor, **VAE), "scheduler": scheduler}
    return kind, parts | extra


def tokenizer(pad="<|endoftext|>"):
    """CLIP's tokenizer with single characters and a few merges: 300 tokens."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:147]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>")]
    words = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    return transformers.CLIPTokenizer(
        vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77
    )


def pipeline(family):
    """Return a small random pipeline of diffusers."""
    kind, parts = components(family)
    parts["tokenizer"] = tokenizer()
    if family == "sdxl":
        parts["tokenizer_2"] = tokenizer("!")
    if family != "sdxl":
        parts["requires_safety_checker"] = False
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def embed_timesteps_exactly(unet):
    """Change a U-Net to embed timesteps in float64; diffusers embeds them in float32."""
    width = unet.time_proj.num_channels
    unet.time_proj.forward = lambda t: timestep_embedding(t.double(), width)
