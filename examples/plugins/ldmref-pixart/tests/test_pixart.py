"""PixArt-sigma: parity with diffusers, live traces, and every tool by its name alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from ldmref_pixart import PIXART, transformer_spec
from torch.utils.flop_counter import FlopCounterMode

import ldmref
from ldmref import modes
from ldmref.math import timestep_embedding
from ldmref.models import Conditioning, flatten, preset
from ldmref.testing import LivePipeline, assert_family_conforms

PROMPTS = ["A Red cat", "a blue hat on the table and a cat"]
OPTIONS = {"use_resolution_binning": False, "clean_caption": False, "height": 16}


@pytest.mark.parametrize("side", [8, 16, 4])
def test_the_transformer_is_that_of_diffusers(pipe, folder, side):
    """In float64, with diffusers' sines of the time in float64 as well, and a mask."""
    theirs = copy.deepcopy(pipe.transformer).double()
    theirs.adaln_single.emb.time_proj.forward = lambda t: timestep_embedding(t.double(), 256)
    x = torch.randn(2, 4, side, side, dtype=torch.float64)
    context = torch.randn(2, 9, 20, dtype=torch.float64)
    mask = (torch.arange(9)[None, :] < torch.tensor([[9], [4]])).long()
    t = torch.tensor([7, 301])
    with torch.no_grad():
        options = {"encoder_attention_mask": mask, "timestep": t}
        want = theirs(x, encoder_hidden_states=context, **options).sample.numpy()
    model = ldmref.load(folder, dtype="float64")
    text = Conditioning(context.numpy(), more={"mask": mask.numpy()})
    got = model.predict_with_variance(x.numpy(), t.numpy(), text)
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """From the same seeds, for captions of unequal length in one batch."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {
        "guidance_scale": scale,
        "num_inference_steps": 4,
        "output_type": "np",
        "width": 16,
    }
    want = pipe([*PROMPTS], generator=generators, **options, **OPTIONS).images
    model = ldmref.load(folder, backend=backend)
    size = {"width": 16, "height": 16}
    found = modes.txt2img(model, [*PROMPTS], seed=5, rng="torch", steps=4, cfg_scale=scale, **size)
    for image, their in zip(found.images, want, strict=True):
        assert np.abs(np.asarray(image).astype(int) - np.round(their * 255)).max() <= 1


def test_the_family_conforms(pipe, folder):
    """And `ldmref diff` compares all of diffusers' runs, so it ends with exit code 0."""

    def run(pipe):
        options = {"num_inference_steps": 2, "width": 16, "output_type": "np"}
        return pipe("a red cat", generator=torch.Generator().manual_seed(5), **options, **OPTIONS)

    size = {"width": 16, "height": 16}
    request = {"prompt": "a red cat", "seed": 5, "rng": "torch", "steps": 2, "cfg_scale": 4.5}
    live = LivePipeline(pipe, run, request | size, folder=folder)
    assert_family_conforms(PIXART, pipelines=[live], presets=["pixart-tiny"])


def test_published_size():
    """0.6 billion parameters (table 1), those of diffusers' class."""
    with torch.device("meta"):
        options = {"sample_size": 128, "caption_channels": 4096}
        theirs = PixArtTransformer2DModel(**options, use_additional_conditions=False)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert flatten(transformer_spec(preset("pixart-sigma").denoiser)) == {
        name: shape for name, shape in shapes.items() if name != "pos_embed.pos_embed"
    }
    assert sum(np.prod(shape) for shape in shapes.values()) // 10**7 == 61


def test_operations_are_those_that_torch_counts(pipe, folder):
    """Without the attention, which torch does not count on a CPU."""
    config = ldmref.load(folder).config
    length = config.text_encoder.max_position_embeddings
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, length, 20)
        pipe.transformer(x, text, torch.tensor([1]))
    d, tokens = config.denoiser.width, 16
    attention = 4 * config.denoiser.num_layers * tokens * (tokens + length) * d
    assert counter.get_total_flops() == PIXART.work.flops(config, 16, 16) - attention
