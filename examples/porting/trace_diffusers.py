"""Record a diffusers pipeline of random weights, and save it for `ldmref diff`.

    python trace_diffusers.py pipeline port
    ldmref trace show port

For other weights, replace `random_pipeline()` by `StableDiffusionPipeline.from_pretrained`.
"""

import sys

try:
    import tokenizers
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
except ImportError as error:
    sys.exit(
        f"this example needs diffusers ({error}); pip install '.[torch]' diffusers transformers"
    )

from ldmref.trace import record_pipeline


def random_tokenizer():
    """Return CLIP's tokenizer with one token per letter."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def random_pipeline():
    """Return a Stable Diffusion pipeline of a few thousand random weights."""
    torch.manual_seed(0)
    tokenizer = random_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[16, 32],
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        cross_attention_dim=24,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=[8, 16],
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae,
        CLIPTextModel(text),
        tokenizer,
        unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )


def main(model="pipeline", port="port"):
    pipe = random_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(model)
    with record_pipeline(pipe, port):
        pipe("a red heart", num_inference_steps=2, height=32, width=32)


if __name__ == "__main__":
    main(*sys.argv[1:])
