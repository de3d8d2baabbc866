"""Requests in which two features meet."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.models.conditioning import CachedContext
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params
from ldmref.models.presets import PRESETS, preset
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
from ldmref.samplers import get_sampler, make_schedule

SMALL = {"seed": 5, "steps": 2, "width": 16, "height": 16}


def refused(function, *args, **kwargs):
    with pytest.raises(LdmrefError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_two_tokenizers_that_need_different_numbers_of_chunks(two_encoders):
    """As SDXL's, of which only the second reads every exclamation mark by itself."""
    model = two_encoders
    short = PromptTokenizer(model.tokenizer.tokenizer, model.tokenizer.length)
    pair = LatentDiffusion(
        model.backend, model.config, dict(model.params), _Doubling(short), tokenizer_2=short
    )
    for first, second in ((pair.tokenizer, short), (short, pair.tokenizer)):
        pair.tokenizer = first
        pair.tokenizer_2 = second
        words = " ".join(["red"] * 10)
        text = pair.encode_prompts([words], 0, PromptOptions("chunk"))
        assert text.tokens.counts == [2] and text.states.shape[1] == 2 * short.length
        r = modes.txt2img(
            pair, [words, "red"], long_prompts="chunk", negative_prompt=words, **SMALL
        )
        assert len(r) == 2


class _Doubling(PromptTokenizer):
    """Every word twice."""

    def __init__(self, like):
        super().__init__(like.tokenizer, like.length)

    def _encode(self, text):
        for token in super()._encode(text):
            yield from (token, token)


def test_embeddings_beside_a_prompt_in_chunks_are_refused(tiny):
    states = np.asarray(tiny.encode_text(["red"]))
    plan = ("txt2img", tiny.config)
    assert (
        refused(
            modes.plan,
            *plan,
            prompt="red " * 40,
            negative_prompt_embeds=states,
            long_prompts="chunk",
        )
        == "E-PROMPT-EMBEDS"
    )
    both = {"prompt_embeds": states, "negative_prompt_embeds": states}
    modes.plan(*plan, prompt=None, long_prompts="chunk", **both)


@pytest.mark.parametrize("name", ["sd15", "ldm-text2img-large"])
def test_consistency_models_end_without_noise(name):
    scheduler = PRESETS[name].scheduler
    for sampler, clean in (("lcm", True), ("ddpm", True), ("ddim", False)):
        sigmas = make_schedule(scheduler, get_sampler(sampler), None, 4).sigmas
        assert (sigmas[-1] == 0.0) == clean, sampler


def test_a_final_sigma_belongs_to_the_samplers_that_have_one():
    """lms and dpm_solver_3 divide by the last step, which is none where linspace ends at t = 0."""
    scheduler = dataclasses.replace(
        PRESETS["sd15"].scheduler, final_sigma="sigma_min", spacing="linspace"
    )
    for sampler in ("lms", "lms_euler", "dpm_solver_3", "heun"):
        sigmas = make_schedule(scheduler, get_sampler(sampler), None, 5).sigmas
        assert sigmas[-1] == 0.0 and (np.diff(sigmas) < 0).all(), sampler


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "euler", "lms_euler", "pndm", "ddim"])
def test_numbers_of_steps_that_repeat_a_noise_level_are_refused(sampler, spacing):
    """Before any weight is read; what is planned has as many different levels as steps."""
    config = preset("sd15")
    for steps in (1, 61, 62, 500, 999, 1000):
        request = {"prompt": "a", "steps": steps, "sampler": sampler, "schedule": spacing}
        try:
            modes.plan("txt2img", config, **request)
        except LdmrefError as error:
            assert error.code == "E-STEPS"
            continue
        sigmas = make_schedule(config.scheduler, get_sampler(sampler), spacing, steps).sigmas
        assert len(sigmas) == steps + 1 and (np.diff(sigmas[:-1]) < 0).all()


def test_layers_left_out_are_those_of_both_text_encoders():
    assert refused(modes.plan, "txt2img", preset("sdxl"), prompt="a", clip_skip=11) == "E-CLIP-SKIP"
    modes.plan("txt2img", preset("sdxl"), prompt="a", clip_skip=10)


def test_the_denoiser_of_an_inpainting_model_repaints_everything():
    tiny = preset("tiny")
    unet = dataclasses.replace(tiny.unet, in_channels=9)
    config = dataclasses.replace(tiny, denoiser=unet, concat="inpainting")
    small = ldmref.random_model("tiny", backend="numpy")
    from ldmref.models.model import model_spec
    from ldmref.models.params import init

    model = LatentDiffusion(small.backend, config, init(model_spec(config)), small.tokenizer)
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    assert np.isfinite(ldmref.denoiser(model, "a")(x, 1.0)).all()


def test_layers_of_a_released_network_are_not_kept():
    """A preview under `max_memory` releases the U-Net, which comes back with other layers."""
    context = CachedContext(np.ones((1, 2, 3)))
    layer = Params(weight=np.ones(3))
    calls = []

    def project(states):
        calls.append(1)
        return states, states

    for _ in range(2):
        context.keys_and_values(layer, project)
    assert len(calls) == len(context._cache) == 1
    del layer
    gc.collect()
    assert not context._cache


def test_words_are_learned_for_clip_alone():
    from ldmref.prompts.textual_inversion import Embedding

    config = preset("ldm-text2img-large")
    assert config.text_encoder.model_type != "clip"
    tiny = ldmref.random_model("tiny", backend="numpy")
    tiny.config = dataclasses.replace(tiny.config, text_encoder=config.text_encoder)
    word = Embedding("<a>", np.zeros((1, 32), np.float32))
    assert refused(tiny.with_embeddings, [word]) == "E-EMBEDDING"
