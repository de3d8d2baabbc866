"""A small DiT of diffusers, and ldmref's model of the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ldmref.testing import add_entry_points

add_entry_points(Path(__file__).parents[1])


@pytest.fixture(scope="session")
def pipe():
    """Return a random `DiTPipeline` for images of 16 x 16 pixels."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
    )
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 12],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    found = DiTPipeline(transformer.eval(), vae.eval(), DDIMScheduler())
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="session")
def folder(pipe, tmp_path_factory):
    """Return the folder that diffusers writes, with names of classes as in the published ones."""
    path = tmp_path_factory.mktemp("dit")
    pipe.save_pretrained(path)
    index = path / "model_index.json"
    names = {"id2label": {str(i): f"class {i}, and more" for i in range(1000)}}
    index.write_text(json.dumps(json.loads(index.read_text()) | names))
    return path
