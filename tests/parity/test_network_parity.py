"""Every network of every family, layer for layer, against diffusers and transformers in float64."""

from __future__ import annotations

import numpy as np
import pytest
from closeness import close

from ldmref.models.autoencoder import decode, encode
from ldmref.models.text import text_encoder, text_encoder_pooled
from ldmref.models.unet import unet

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("t,bound", [([0.0, 0.0], 1e-10), ([3.0, 900.5], 1e-5)])
def test_unet(ours, theirs, ops, t, bound):
    """diffusers embeds the time in float32 whatever the type, which is exact at t = 0 only."""
    config, params = ours
    draw = np.random.default_rng(0).standard_normal
    x = draw((2, config.unet.in_channels, 8, 8))
    t = np.asarray(t)
    context = draw((2, 7, config.unet.cross_attention_dim))
    pooled = draw((2, 32))
    sizes = np.tile([64.0, 48, 0, 8, 32, 16], (2, 1)) * (t[1] > 0)
    double = theirs.unet.double()
    xl = config.text_encoder_2 is not None
    added = {"text_embeds": torch.tensor(pooled), "time_ids": torch.tensor(sizes)}
    with torch.no_grad():
        want = double(
            torch.tensor(x),
            torch.tensor(t),
            torch.tensor(context),
            added_cond_kwargs=added if xl else None,
        ).sample
    theirs.unet.float()
    extra = (ops.asarray(pooled), ops.asarray(sizes)) if xl else ()
    arrays = (ops.asarray(a) for a in (x, t, context))
    close(unet(ops, params.unet, config.unet, *arrays, *extra), want, ops, bound)


def test_autoencoder(ours, theirs, ops):
    config, params = ours
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 16))
    vae = theirs.vae.double()
    with torch.no_grad():
        posterior = vae.encode(torch.tensor(image)).latent_dist
        want = vae.decode(posterior.mean).sample
    theirs.vae.float()
    mean, logvar = encode(ops, params.vae, config.vae, ops.asarray(image))
    close(mean, posterior.mean, ops)
    close(logvar, posterior.logvar, ops)
    close(decode(ops, params.vae, config.vae, mean), want, ops)


@pytest.mark.parametrize("skip", [0, 1])
def test_text_encoders(ours, theirs, ops, skip):
    config, params = ours
    ids = np.random.default_rng(0).integers(1, 290, (2, 77))
    ids[0, 5:] = 299
    ids[1, 70:] = 299
    for name, part in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
        network = getattr(theirs, name).double()
        with torch.no_grad():
            out = network(torch.tensor(ids), output_hidden_states=True)
            want = out.hidden_states[-1 - skip - part.skipped_layers]
            if part.final_norm:
                inner = getattr(network, "text_model", network)
                want = inner.final_layer_norm(want)
        network.float()
        tokens = ops.asarray(ids)
        close(text_encoder(ops, params[name], part, tokens, skip), want, ops)
        if part.projection_dim:
            hidden, pooled = text_encoder_pooled(ops, params[name], part, tokens, skip)
            close(hidden, want, ops)
            close(pooled, out.text_embeds, ops)
