"""Recorded pipelines of diffusers, and the layers of ldmref on the same inputs."""

from __future__ import annotations

import numpy as np

import ldmref
from ldmref.backends.named import NamedBackend
from ldmref.models.conditioning import Conditioning
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


def own_layers(pipe, folder, trace, dtype="float32"):
    """Layers of ldmref on the inputs of a trace, by call: (kind, inputs, output) by layer."""
    pipe.save_pretrained(folder)
    model = ldmref.load(folder, dtype=dtype)
    found = {}

    def run(call, compute):
        backend = Layers(model.backend)
        compute(model.with_backend(backend))
        found[call] = backend.found

    def whole(call):
        return trace.read_inputs(trace.find(call))

    x = whole("unet.000")
    conditioning = Conditioning(x["encoder_hidden_states"], x.get("text_embeds"), x.get("time_ids"))
    run("unet.000", lambda m: m.unet(x["sample"], x["timestep"], conditioning))
    run(
        "vae.decode",
        lambda m: m.decode(whole("vae.decode")["latents"] * m.config.vae.scaling_factor),
    )
    return found
