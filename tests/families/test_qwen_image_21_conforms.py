"""Every promise of the family, by the kit: originals, pipelines, backends, tools."""

from __future__ import annotations

import copy
from functools import partial

import pytest

import ldmref
from ldmref.families.qwen_image_21 import QWEN_IMAGE_21
from ldmref.testing import FAMILY_CHECKS, Original, assert_family_conforms

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from live_runs import live_pipeline, tensors_under
from qwen3_networks import vl_in_double
from qwen_image_21_pipelines import (
    TURBO_TIMES,
    make_pipeline,
    renew_positions,
    transformer_in_double,
)

NEGATIVE = "the blue house"
SIZE = {"width": 96, "height": 64}
read_text = partial(tensors_under, "model.language_model.")


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def call_transformer(theirs, x):
    """Return our prediction of diffusers' transformer, which the makers run on one prompt."""
    n, _, height, width = x["x"].shape
    found = []
    for i in range(n):
        text = x["context"][i : i + 1, : int(x["mask"][i].sum())]
        slots = torch.zeros(1, text.shape[1] + height * width // 4, dtype=torch.bool)
        slots[:, text.shape[1] :] = True
        tokens = x["x"][i : i + 1].flatten(2).transpose(1, 2)
        t = (x["t"].double() / 1000.0).expand(n)[i : i + 1]
        with transformer_in_double():
            row = theirs(tokens, text, t, [[(1, height, width)]], slots).sample
        found.append(row[:, -height * width :].transpose(1, 2).reshape(1, -1, height, width))
    return torch.cat(found)


def call_encoder(theirs, x):
    """Return the hidden states that the pipeline takes: the last, before the norm."""
    norm = theirs.model.language_model.norm
    handle = norm.register_forward_hook(lambda module, args, output: args[0])
    options = {"attention_mask": x["mask"], "output_hidden_states": True}
    try:
        with vl_in_double():
            return theirs(x["ids"], **options).hidden_states[-1]
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def originals(pipe, folder):
    """Return both networks of the pipeline in float64."""
    config = ldmref.load(folder).config
    transformer = copy.deepcopy(pipe.transformer).double()
    renew_positions(transformer)
    encoder = copy.deepcopy(pipe.text_encoder).double()
    return [
        Original(transformer, call_transformer, config),
        Original(encoder, call_encoder, config, "text_encoder", read=read_text),
    ]


def live(pipe, folder, scale, steps=2, cache=True):
    """Return the pipeline with a guidance scale, and the request for its image."""
    options = {"num_inference_steps": steps, "use_kv_cache": cache} | SIZE
    request = {"steps": steps, "cfg_scale": scale} | SIZE
    if scale > 1:
        options |= {"true_cfg_scale": scale, "negative_prompt": NEGATIVE}
        request |= {"negative_prompt": NEGATIVE}
    return live_pipeline(pipe, folder, options, request)


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_the_family_conforms(pipe, folder, originals, check):
    # with a cache, layers of later steps are those of the image alone, and not compared
    caches = (False,) if check == "wrong layer" else (False, True)
    report = assert_family_conforms(
        QWEN_IMAGE_21,
        presets=["qwen-image-2.1-tiny", "qwen-image-2.1"],
        originals=originals,
        pipelines=[live(pipe, folder, s, cache=cache) for s in (1.0, 3.0) for cache in caches],
        parameters={"qwen-image-2.1": 7_115_124_736},
        only=[check],
    )
    assert report[check].verdict == "holds", str(report)


def test_turbo_conforms(tmp_path):
    turbo = make_pipeline(TURBO_TIMES)
    turbo.save_pretrained(tmp_path / "turbo")
    checks = ["live pipeline", "pipeline images", "pipeline folder"]
    report = assert_family_conforms(
        QWEN_IMAGE_21,
        presets=["qwen-image-2.1-turbo"],
        pipelines=[live(turbo, tmp_path / "turbo", 1.0, steps=8)],
        only=checks,
    )
    assert all(report[check].verdict == "holds" for check in checks), str(report)
