"""PixArt-sigma: parity with diffusers, live traces, and every tool by its name alone."""

from __future__ import annotations

import copy
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from ldmref_pixart import PIXART, transformer_spec
from torch.utils.flop_counter import FlopCounterMode

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.locate import diff_traces
from ldmref.math import timestep_embedding
from ldmref.models import Conditioning, flatten, preset

PROMPTS = ["A Red cat", "a blue hat on the table and a cat"]
OPTIONS = {"use_resolution_binning": False, "clean_caption": False, "height": 16}


def run(*arguments):
    """Run a command of ldmref; its output."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


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


def record(pipe, path):
    """Record a run of two steps."""
    with ldmref.recording(pipe, path) as trace:
        options = {"num_inference_steps": 2, "width": 16}
        pipe(
            "a red cat",
            generator=torch.Generator().manual_seed(5),
            **options,
            **OPTIONS,
        )
    return trace.trace


def test_a_live_pipeline_has_no_fault(pipe, folder, tmp_path):
    """And all of it is compared, so `ldmref diff` ends with exit code 0."""
    report = diff_traces(record(pipe, tmp_path / "trace"), ldmref.load(folder, dtype="float32"))
    assert report.equal and report.counts()["equal"] > 100, report.gaps


FAULTS = {
    "transformer_blocks.1.ff": lambda x: x * 1.01,
    "transformer_blocks.0.attn2": lambda x: -x,
    "caption_projection": lambda x: x + 0.1,
    "proj_out": lambda x: x.flip(-1),
}


@pytest.mark.parametrize("layer", [*FAULTS])
def test_a_wrong_layer_of_a_pipeline_is_named(pipe, folder, tmp_path, layer):
    module = pipe.transformer.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: FAULTS[layer](output))
    try:
        trace = record(pipe, tmp_path / "trace")
    finally:
        hook.remove()
    report = diff_traces(trace, ldmref.load(folder, dtype="float32"))
    assert {row.layer for row in report.rows if row.verdict == "differs"} == {layer}


def test_traces_exports_and_cases(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    trace = tmp_path / "trace"
    run("trace", "-m", folder, "a red cat", "--steps", "2", "--seed", "1", "-o", trace)
    assert "agree" in run("diff", trace, "-m", folder)
    run("export", "onnx", folder, "-o", tmp_path / "onnx")
    assert (tmp_path / "onnx" / "transformer" / "model.onnx").is_file()
    cases = tmp_path / "cases"
    run("cases", "make", "-o", cases, "--family", "pixart-tiny", "--part", "networks")
    assert "passes" in run("cases", "run", cases, "--runtime", "onnxruntime")


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
