"""Z-Image: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.families.z_image import Z_IMAGE, transformer_spec
from ldmref.models import flatten, preset

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from family_tools import (
    PROMPTS,
    assert_within_a_level,
    check_commands,
    check_modes,
    check_native_folder,
    check_server,
    check_traces_exports_and_cases,
)
from qwen3_networks import write_vocabulary
from torch.utils.flop_counter import FlopCounterMode
from z_image_pipelines import make_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """From the same seeds, for captions of unequal length in one batch."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {"guidance_scale": scale, "num_inference_steps": 4, "output_type": "np"}
    options |= {"height": 16, "width": 24, "max_sequence_length": 64}
    want = pipe([*PROMPTS], generator=generators, **options).images
    model = ldmref.load(folder, backend=backend)
    size = {"width": 24, "height": 16, "max_sequence_length": 64}
    found = modes.txt2img(
        model, [*PROMPTS], seed=5, rng="torch", steps=4, cfg_scale=1.0 + scale, **size
    )
    assert_within_a_level(found.images, want)


def test_published_sizes():
    """6,154,908,736 parameters in 521 tensors, beside 4,022,468,096 of Qwen3-4B."""
    spec = flatten(transformer_spec(preset("z-image").denoiser))
    assert sum(np.prod(shape) for shape in spec.values()) == 6_154_908_736
    assert len(spec) == 521


def test_operations_are_those_that_torch_counts(pipe, folder):
    """Without the attention, which torch does not count on a CPU."""
    config = ldmref.load(folder).config
    length = config.text_encoder.max_position_embeddings
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x = [torch.zeros(4, 1, 8, 12)]
        pipe.transformer(x, torch.tensor([0.5]), [torch.zeros(length, 20)])
    layers, d = config.denoiser.n_layers, config.denoiser.dim
    image = 32
    refined = config.denoiser.n_refiner_layers * (image**2 + length**2)
    attention = 4 * d * (refined + layers * (image + length) ** 2)
    assert counter.get_total_flops() == Z_IMAGE.work.flops(config, 24, 16) - attention


def test_every_mode(folder):
    check_modes(folder)


def test_folders_of_ldmref(tmp_path, folder):
    check_native_folder(folder, tmp_path / "native")


def test_traces_exports_and_cases(folder, tmp_path):
    check_traces_exports_and_cases(folder, "z-image-tiny", tmp_path)


def test_commands_know_the_family(folder):
    check_commands(folder, "z-image-turbo", "z-image", "n_heads 2")


def test_the_server_offers_what_the_model_can(folder):
    check_server(folder, multiple=4)
