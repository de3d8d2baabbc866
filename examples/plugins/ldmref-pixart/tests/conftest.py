"""A small PixArt of diffusers, and ldmref's model of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldmref.testing import add_entry_points

add_entry_points(Path(__file__).parents[1])


@pytest.fixture(scope="session")
def pipe(tmp_path_factory):
    """Return a random `PixArtSigmaPipeline` for small images."""
    import torch
    import transformers
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "\u2581",
        *"abcdehilmnorstu",
        "\u2581red",
        "\u2581cat",
    ]
    tokenizer = Tokenizer(models.Unigram([(p, -1.0 - i / 9) for i, p in enumerate(pieces)], 2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=20,
        use_additional_conditions=False,
    )
    text = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=64,
            d_model=20,
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )
    for network in (transformer, text):
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 12],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    found = PixArtSigmaPipeline(fast, text.eval(), vae.eval(), transformer.eval(), scheduler)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="session")
def folder(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("pixart")
    pipe.save_pretrained(path)
    return path
