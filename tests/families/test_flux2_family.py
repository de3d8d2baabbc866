"""FLUX.2 klein: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.families.flux2 import FLUX2, transformer_spec
from ldmref.families.flux2.presets import DEV
from ldmref.families.flux2.references import crop_to_tokens
from ldmref.models import flatten, preset

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
import torch
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from family_tools import (
    PROMPTS,
    assert_within_a_level,
    check_commands,
    check_modes,
    check_native_folder,
    check_server,
    check_traces_exports_and_cases,
)
from flux2_pipelines import LAYERS, make_pipeline
from qwen3_networks import write_vocabulary
from torch.utils.flop_counter import FlopCounterMode

SEEDS = [5, 6]
LENGTH = {"max_sequence_length": 64}
THEIRS = {"text_encoder_out_layers": LAYERS, "output_type": "np", **LENGTH}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


def make_picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def seeded(count=2):
    return [torch.Generator().manual_seed(seed) for seed in SEEDS[:count]]


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """From the same seeds, for prompts of unequal length in one batch; not square."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    size = {"height": 16, "width": 24}
    options = {"guidance_scale": scale, "num_inference_steps": 4, **size}
    want = pipe(prompt=[*PROMPTS], generator=seeded(), **options, **THEIRS).images
    model = ldmref.load(folder, backend=backend)
    options = {"seed": 5, "rng": "torch", "steps": 4, "cfg_scale": scale, **size, **LENGTH}
    assert_within_a_level(modes.txt2img(model, [*PROMPTS], **options).images, want)


# of the references; the last is cut to whole tokens, 16 pixels of a side
@pytest.mark.parametrize("sizes", [((80, 64),), ((64, 80), (98, 67))])
@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_references_are_those_of_diffusers(pipe, folder, sizes, backend, scale):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    pictures = [make_picture(*size, seed) for seed, size in enumerate(sizes)]
    size = {"height": 24, "width": 16}
    options = {"guidance_scale": scale, "num_inference_steps": 2, **size}
    want = pipe(prompt=[*PROMPTS], image=pictures, generator=seeded(), **options, **THEIRS).images
    model = ldmref.load(folder, backend=backend)
    options = {"seed": 5, "rng": "torch", "steps": 2, "cfg_scale": scale, **size, **LENGTH}
    found = modes.txt2img(model, [*PROMPTS], references=pictures, **options).images
    assert_within_a_level(found, want)
    without = modes.txt2img(model, [*PROMPTS], **options).images
    assert np.abs(np.asarray(without[0]).astype(int) - np.asarray(found[0])).max() > 2


@pytest.mark.parametrize("size", [(32, 16), (16, 48)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("others", [0, 1])
def test_inpainting_is_that_of_diffusers(pipe, folder, size, scale, strength, others):
    """In the white part; the image itself is the first reference, as in their pipeline."""
    picture, more = make_picture(*size), [make_picture(64, 80, 7)][:others]
    mask = np.zeros(size[::-1], np.uint8)
    mask[: size[1] // 2, size[0] // 4 :] = 255
    kind = diffusers.Flux2KleinInpaintPipeline(**pipe.components)
    kind.set_progress_bar_config(disable=True)
    want = kind(
        prompt=PROMPTS[0], image=picture, mask_image=Image.fromarray(mask), strength=strength,
        image_reference=more or None, generator=seeded(1), guidance_scale=scale,
        num_inference_steps=5, **THEIRS,
    ).images[0]  # fmt: skip
    found = modes.inpaint(
        ldmref.load(folder), PROMPTS[0], picture, Image.fromarray(mask), strength=strength,
        references=[picture, *more], seed=5, steps=5, cfg_scale=scale, rng="torch", **LENGTH,
    )  # fmt: skip
    white = mask > 0
    image = np.asarray(found.images[0]).astype(int)
    assert np.abs(image - np.round(want * 255))[white].max() <= 1
    assert np.array_equal(image[~white], np.asarray(picture)[~white])


@pytest.mark.parametrize("size", [(2048, 1024), (1500, 900), (800, 500), (1024, 1024)])
def test_a_reference_is_scaled_as_in_diffusers(size):
    """To 1024^2 pixels at most, of which the middle is cut out in whole tokens."""
    processor = Flux2ImageProcessor
    picture = make_picture(*size)
    want = processor._resize_if_exceeds_area(picture)
    width, height = (side // 16 * 16 for side in want.size)
    want = processor()._resize_and_crop(want, width, height)
    found = crop_to_tokens(picture)
    assert found.size == want.size and np.array_equal(found, want)
    if size == (2048, 1024):
        assert width * height // 256 == 4050 and size[0] * size[1] // 256 == 8192


def test_rows_of_a_batch_are_those_alone(folder):
    """Whatever the prompts beside them, with references and without, also in img2img."""
    model = ldmref.load(folder)
    picture = make_picture(24, 16)
    for references in ([], [make_picture(64, 64, 3)]):
        options = {"steps": 3, "cfg_scale": 3.0, "references": references, **LENGTH}
        for mode, more in ((modes.txt2img, ()), (modes.img2img, (picture,))):
            size = {} if more else {"width": 24, "height": 16}
            together = mode(model, [*PROMPTS], *more, seed=5, **options, **size)
            for i, prompt in enumerate(PROMPTS):
                alone = mode(model, prompt, *more, seed=5 + i, **options, **size)
                assert_within_a_level([together.images[i]], [np.asarray(alone.images[0]) / 255])


def test_published_sizes():
    """The parameters and tensors of diffusers' classes; [dev] is a transformer alone."""
    wanted = {"flux2-klein-4b": (3_875_544_576, 169), "flux2-klein-9b": (9_078_581_248, 233)}
    for name, want in wanted.items():
        for config in (preset(name), preset(name.replace("klein", "klein-base"))):
            shapes = flatten(transformer_spec(config.denoiser)).values()
            assert (sum(int(np.prod(shape)) for shape in shapes), len(shapes)) == want
    shapes = flatten(transformer_spec(DEV)).values()
    assert (sum(int(np.prod(shape)) for shape in shapes), len(shapes)) == (32_223_281_152, 331)


def test_distilled_folders_are_not_guided(tmp_path, folder):
    pipe = make_pipeline(folder / "tokenizer", is_distilled=True)
    pipe.save_pretrained(tmp_path)
    defaults = ldmref.load(tmp_path).config.defaults
    assert (defaults.steps, defaults.cfg_scale) == (4, 1.0)
    defaults = ldmref.load(folder).config.defaults
    assert (defaults.steps, defaults.cfg_scale) == (50, 4.0)


def test_operations_are_those_that_torch_counts(pipe, folder):
    """Without the attention, which torch does not count on a CPU."""
    config = ldmref.load(folder).config
    length = config.text_encoder.max_position_embeddings
    ids = torch.zeros(4 * 6, 4), torch.zeros(length, 4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.transformer(
            hidden_states=torch.zeros(1, 24, 16),
            encoder_hidden_states=torch.zeros(1, length, 60),
            timestep=torch.tensor([0.5]),
            img_ids=ids[0],
            txt_ids=ids[1],
        )
    denoiser = config.denoiser
    blocks = denoiser.num_layers + denoiser.num_single_layers
    attention = 4 * blocks * (24 + length) ** 2 * denoiser.width
    assert counter.get_total_flops() == FLUX2.work.flops(config, 24, 16) - attention


def test_every_mode(folder):
    check_modes(folder)


def test_folders_of_ldmref(tmp_path, folder):
    check_native_folder(folder, tmp_path / "native")


def test_traces_exports_and_cases(folder, tmp_path):
    check_traces_exports_and_cases(folder, "flux2-tiny", tmp_path)


def test_the_image_looks_at_the_words(folder):
    """In every block, where the text, the template's included, comes before the image."""
    model = ldmref.load(folder)
    options = {"steps": 2, "width": 16, "height": 16, "seed": 1, **LENGTH}
    record = explore.record_run(model, prompt="a red cat", **options)
    assert len(record.meta["attention"]["layers"]) == 4
    assert [word.text for word in record.words] == ["a", "red", "cat"]
    assert record.attention.shape == (2, 3, 4, 4) and 0 < record.attention.max() < 1
    other = explore.record_run(model, prompt="a blue cat", **options)
    assert np.abs(other.attention[0, 1] - record.attention[0, 1]).max() > 1e-4


def test_commands_know_the_family(folder):
    check_commands(folder, "flux2-klein-4b", "flux2", "num_single_layers 2")


def test_the_server_offers_what_the_model_can(folder):
    check_server(folder, multiple=4)
