"""Krea 2: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.families.krea2 import KREA2
from ldmref.families.krea2.network import transformer

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from family_tools import (
    PROMPTS,
    SIZE,
    assert_within_a_level,
    check_commands,
    check_modes,
    check_native_folder,
    check_server,
    check_traces_exports_and_cases,
)
from krea2_pipelines import call_transformer, make_pipeline
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """From the same seeds, for prompts of unequal length in one batch."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {"guidance_scale": scale, "num_inference_steps": 4, "output_type": "np"}
    want = pipe([*PROMPTS], generator=generators, **options, **SIZE).images
    model = ldmref.load(folder, backend=backend)
    options = {"seed": 5, "rng": "torch", "steps": 4, "cfg_scale": 1.0 + scale}
    found = modes.txt2img(model, [*PROMPTS], **options, **SIZE)
    assert_within_a_level(found.images, want)


def test_rows_of_a_batch_are_those_of_prompts_alone(folder):
    """Also where one prompt is longer, so that the other has more padding."""
    model = ldmref.load(folder, dtype="float64")
    options = {"seed": 5, "steps": 2, **SIZE}
    together = modes.txt2img(model, [*PROMPTS], **options).latents
    for i, prompt in enumerate(PROMPTS):
        alone = modes.txt2img(model, prompt, **options | {"seed": 5 + i}).latents
        assert np.abs(alone - together[i : i + 1]).max() < 1e-10 * np.abs(alone).max()


def test_the_prompt_matters_and_padding_is_cut(folder):
    """Of 512 hidden states, those of a few words and of five tokens behind them are read."""
    model = ldmref.load(folder)
    lengths = []

    def function(ops, p, config, x, t, context, mask=None):
        lengths.append(mask.shape[1])
        return transformer(ops, p, config, x, t, context, mask)

    model.denoiser = replace(model.denoiser, function=function)
    first, second = (
        modes.txt2img(model, prompt, seed=5, steps=2, **SIZE).latents for prompt in PROMPTS
    )
    assert np.abs(first - second).max() > 0.05
    assert lengths[0] == 16 < lengths[-1] == 32


def test_operations_are_those_that_torch_counts(pipe, folder):
    """Without the attention, which torch does not count on a CPU."""
    config = ldmref.load(folder).config
    length = config.text_encoder.max_position_embeddings - 34
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x, t = torch.zeros(1, 4, 8, 12), torch.tensor([500.0])
        context, mask = torch.zeros(1, length, 60), torch.ones(1, length)
        call_transformer(pipe.transformer, x, t, context, mask)
    image = 24
    attention = 2 * 4 * 20 * (length * 3 * 3 + length**2)  # two blocks of each kind
    attention += 2 * 4 * 48 * (image + length) ** 2
    assert counter.get_total_flops() == KREA2.work.flops(config, 24, 16) - attention


def test_every_mode(folder):
    check_modes(folder)


def test_folders_of_ldmref(tmp_path, folder):
    check_native_folder(folder, tmp_path / "native")


def test_traces_exports_and_cases(folder, tmp_path):
    check_traces_exports_and_cases(folder, "krea-2-tiny", tmp_path)


def test_the_attention_to_words_is_shown(folder):
    from ldmref.explore import record_run

    record = record_run(ldmref.load(folder), prompt="a red cat", seed=1, steps=2, **SIZE)
    assert [word.text for word in record.words] == ["a", "red", "cat"]
    assert record.attention.shape[:2] == (2, 3)
    assert 0.0 < record.attention.min() < record.attention.max() < 1.0


def test_commands_know_the_family(folder):
    check_commands(folder, "krea-2-turbo", "krea2", "num_key_value_heads 2")


def test_the_server_offers_what_the_model_can(folder):
    check_server(folder, multiple=4)
