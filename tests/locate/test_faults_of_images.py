"""Faults of the blocks of an autoencoder of diffusers, whose arrays are images (n, c, h, w)."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("diffusers")

import diffusers
import torch
from rewired_modules import Fault, changed

import ldmref
from ldmref.locate import diff_modules

FAULTS = {
    "the residual is the normalized array": Fault(
        "decoder", "attention_processor.AttnProcessor2_0.__call__",
        (("query = attn.to_q(hidden_states)",
          "residual = hidden_states.mT.reshape(residual.shape); "
          "query = attn.to_q(hidden_states)"),),
        ("mid_block.attentions.0.add",),
        "the residual is the output of mid_block.attentions.0.group_norm instead of the input of "
        "mid_block.attentions.0.group_norm",
    ),
    "an activation before the norm": Fault(
        "decoder", "resnet.ResnetBlock2D.forward",
        (("self.norm2(hidden_states)", "self.norm2(torch.nn.functional.silu(hidden_states))"),),
        ("norm2",), "an activation is applied before the norm: SiLU",
    ),
    "an activation before a convolution": Fault(
        "decoder", "resnet.ResnetBlock2D.forward",
        (("self.conv2(hidden_states)", "self.conv2(torch.tanh(hidden_states))"),),
        ("conv2",), "an activation is applied before {}: tanh",
    ),
}  # fmt: skip


@functools.cache
def decoder() -> torch.nn.Module:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(  # type: ignore[attr-defined]
        block_out_channels=(16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    return vae.decoder


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_added_or_applied_to_images_is_said(name):
    fault = FAULTS[name]
    network = decoder()
    z = torch.randn((1, 4, 4, 6), generator=torch.Generator().manual_seed(1))
    with changed(fault), ldmref.recording(network, call="decoder") as run, torch.inference_mode():
        network(z)
    report = diff_modules(run.trace, {"decoder": network})
    assert report.faults, str(report)
    for row in report.faults:
        assert row.layer.endswith(fault.layers), str(report)
        assert row.cause == fault.words.format(row.layer), str(report)
