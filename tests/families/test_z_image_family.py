"""Z-Image: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.families.z_image import Z_IMAGE, transformer_spec
from ldmref.io import save_folder
from ldmref.models import flatten, preset

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from qwen3_networks import write_vocabulary
from torch.utils.flop_counter import FlopCounterMode
from z_image_pipelines import make_pipeline

PROMPTS = ["a red cat", "the blue house of a dog on a table, painted by an assistant of a cat"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """Return the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("z-image")
    pipe.save_pretrained(path)
    return path


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
    for image, their in zip(found.images, want, strict=True):
        difference = np.abs(np.asarray(image).astype(int) - np.round(their * 255))
        assert difference.max() <= 1


def test_published_sizes():
    """6,154,908,736 parameters in 521 tensors, beside 4,022,468,096 of Qwen3-4B."""
    spec = flatten(transformer_spec(preset("z-image").denoiser))
    assert sum(np.prod(shape) for shape in spec.values()) == 6_154_908_736
    assert len(spec) == 521


def run(*arguments):
    """Run a command of ldmref; its output."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


def test_operations_are_those_that_torch_counts(pipe, folder):
    """Without the attention, which torch does not count on a CPU."""
    config = ldmref.load(folder).config
    length = config.text_encoder.max_position_embeddings
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x = [torch.zeros(4, 1, 8, 12)]
        pipe.transformer(x, torch.tensor([0.5]), [torch.zeros(length, 20)])
    layers, d = config.denoiser.n_layers, config.denoiser.dim
    image = 32
    attention = 4 * d * (image**2 + length**2 + layers * (image + length) ** 2)
    assert counter.get_total_flops() == Z_IMAGE.work.flops(config, 24, 16) - attention


def test_every_mode(folder):
    model = ldmref.load(folder)
    size = {"width": 24, "height": 16}
    image = modes.txt2img(model, "a red cat", seed=1, steps=2, **size).images[0]
    assert modes.img2img(model, "a dog", image, steps=4, strength=0.5, seed=1).images[0] != image
    mask = image.convert("L").point(lambda level: 255 * (level > 128))
    modes.inpaint(model, "a dog", image, mask, steps=2, seed=1)
    modes.invert(model, "a dog", image, steps=2)
    modes.interpolate(model, "a dog", "a red cat on a table", 3, steps=2, **size)


def test_folders_of_ldmref(tmp_path, folder):
    one = ldmref.load(folder)
    save_folder(tmp_path / "native", one.config, one.params, [one.tokenizer], np.float32)
    two = ldmref.load(tmp_path / "native")
    options = {"seed": 3, "steps": 2, "width": 16, "height": 16}
    first, second = (modes.txt2img(model, "a red cat", **options).latents for model in (one, two))
    assert np.array_equal(first, second) and one.config.text_encoder == two.config.text_encoder


def test_traces_exports_and_cases(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    trace = tmp_path / "trace"
    options = ("--steps", "2", "--seed", "1", "--width", "16", "--height", "16")
    run("trace", "-m", folder, "a red cat", *options, "-o", trace)
    assert "agree" in run("diff", trace, "-m", folder)
    run("export", "onnx", folder, "-o", tmp_path / "onnx")
    assert (tmp_path / "onnx" / "transformer" / "model.onnx").is_file()
    cases = tmp_path / "cases"
    run("cases", "make", "-o", cases, "--family", "z-image-tiny", "--part", "networks")
    assert "passes" in run("cases", "run", cases, "--runtime", "onnxruntime")


def test_commands_know_the_family(folder):
    assert "z-image-turbo" in run("models")
    shown = run("info", folder)
    assert "family: z-image" in shown and "n_heads 2" in shown


def test_the_server_offers_what_the_model_can(folder):
    from ldmref.apps.server.native import describe_model

    described = describe_model("z-image", ldmref.load(folder))
    assert {"img2img", "inpaint", "interpolate", "invert", "txt2img"} <= {*described["modes"]}
