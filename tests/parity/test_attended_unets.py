"""Guidance in cross-attention, against diffusers' U-Nets with a processor of the published kind."""

from __future__ import annotations

import numpy as np
import pytest
from closeness import close

from ldmref.families.unet import describe_unet
from ldmref.models.unet import unet
from ldmref.samplers import AttentionGuided

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from attended import Attended  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("numbers", [(5.0, 2.5, 0.25), (4.0, 1.1)])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"], indirect=True)
def test_the_network_is_that_of_diffusers(ours, theirs, ops, numbers):
    """Without a weight it is 0.5, as in the published code; norms are sums of magnitudes."""
    config, params = ours
    x = RNG.standard_normal((2, 4, 8, 8))
    context = RNG.standard_normal((4, 7, config.unet.cross_attention_dim))
    arrays = [x, np.zeros(2), context]
    added = {}
    if config.unet.addition_embed_type:
        width = config.unet.projection_class_embeddings_input_dim
        width -= 6 * config.unet.addition_time_embed_dim
        arrays += [RNG.standard_normal((4, width)), np.zeros((4, 6))]  # exact in float32
        added = {"text_embeds": arrays[3][2:], "time_ids": arrays[4][2:]}
    double = theirs.unet.double()
    before = dict(double.attn_processors)
    whole = (*numbers, 0.5)[:3]
    double.set_attn_processor(
        {
            name: Attended(processor, whole, 1) if ".attn2." in name else processor
            for name, processor in before.items()
        }
    )
    added = {name: torch.tensor(part) for name, part in added.items()}
    with torch.no_grad():
        want = double(
            torch.tensor(x), torch.zeros(2), torch.tensor(context), added_cond_kwargs=added
        ).sample
    double.set_attn_processor(before)
    theirs.unet.float()
    arrays = [ops.asarray(part) for part in arrays]
    steered = describe_unet(config.unet).steered
    got = steered(ops, params.unet, config.unet, *arrays, steering=(AttentionGuided(*numbers),))
    close(got, want, ops, 1e-10)
    plain = [part if part.ndim in (1, 4) else part[2:, ...] for part in arrays]
    assert np.abs(ops.to_numpy(unet(ops, params.unet, config.unet, *plain) - got)).max() > 1e-6
