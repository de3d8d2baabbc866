"""Recorded pipelines of diffusers, and the layers of ldmref on the same inputs."""

from __future__ import annotations

import numpy as np

import ldmref
from ldmref.backends.named import NamedBackend
from ldmref.models.autoencoder import decode, encode
from ldmref.models.text import text_encoder, text_encoder_pooled
from ldmref.models.unet import unet
from ldmref.trace import read_trace


class Layers(NamedBackend):
    """Collects inputs and outputs of every layer."""

    def __init__(self, inner):
        super().__init__(inner)
        self.found = {}

    def visit(self, call):
        inputs = {role: self.to_numpy(x) for role, x in call.inputs.items() if _is_array(x)}
        y = super().visit(call)
        self.found[call.name] = (call.kind, inputs, self.to_numpy(y))
        return y


def _is_array(x):
    return hasattr(x, "dtype")


def record(pipe, folder, seed=0, **request):
    """Record a small image; returns the images without and with recording, and the trace."""
    import torch

    from ldmref.trace import record_pipeline

    options = dict(num_inference_steps=2, height=16, width=16, output_type="np") | request

    def generate():
        return np.asarray(pipe(generator=torch.Generator().manual_seed(seed), **options).images)

    before = generate()
    with record_pipeline(pipe, folder):
        recorded = generate()
    assert np.array_equal(before, recorded)
    assert np.array_equal(before, generate())
    return recorded, read_trace(folder)


def own_layers(pipe, folder, trace):
    """ldmref's layers on the inputs of a trace, by call: (kind, inputs, output) by layer."""
    pipe.save_pretrained(folder)
    model = ldmref.load(folder)
    config = model.config
    found = {}

    def run(call, network, function, *args):
        entry = trace.find(call)
        assert entry is not None, call
        backend = Layers(model.backend)
        inputs = trace.read_inputs(entry)
        given = (inputs.get(arg, arg) if isinstance(arg, str) else arg for arg in args)
        backend.compile(function, model.params[network])(*given)
        found[call] = backend.found

    texts = [text_encoder, text_encoder_pooled]
    for name, text in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
        run(name, name, texts[bool(text.projection_dim)], text, "input_ids")
    sdxl = ("text_embeds", "time_ids") if config.unet.addition_embed_type else ()
    run("unet.000", "unet", unet, config.unet, "sample", "timestep", "encoder_hidden_states", *sdxl)
    run("vae.decode", "vae", decode, config.vae, "latents")
    if trace.find("vae.encode"):
        run("vae.encode", "vae", encode, config.vae, "image")
    return found
