"""Every promise of the family, by the kit: originals, pipelines, backends, tools."""

from __future__ import annotations

import copy
from functools import partial

import pytest

import ldmref
from ldmref.families.z_image import Z_IMAGE
from ldmref.testing import FAMILY_CHECKS, Original, assert_family_conforms

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from live_runs import live_pipeline, tensors_under
from qwen3_networks import encoder_in_double, write_vocabulary
from z_image_pipelines import make_pipeline, transformer_in_double

read_text = partial(tensors_under, "model.")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


def call_transformer(theirs, x):
    """Return our prediction of diffusers' transformer."""
    images = [image[:, None] for image in x["x"]]
    pairs = zip(x["context"], x["mask"], strict=True)
    captions = [row[: int(kept.sum())] for row, kept in pairs]
    with transformer_in_double():
        found = theirs(images, (1000.0 - x["t"].double()) / 1000.0, captions).sample
    return -torch.stack([image[:, 0] for image in found])


def call_encoder(theirs, x):
    """Return the hidden states that the pipeline takes."""
    with encoder_in_double(theirs.config.head_dim):
        options = {"attention_mask": x["mask"], "output_hidden_states": True}
        return theirs(x["ids"], **options).hidden_states[-2]


@pytest.fixture(scope="module")
def originals(pipe, folder):
    """Return both networks of the pipeline in float64."""
    config = ldmref.load(folder).config
    transformer = copy.deepcopy(pipe.transformer).double()
    transformer.rope_embedder.freqs_cis = None  # that it keeps in float32
    encoder = copy.deepcopy(pipe.text_encoder).double()
    return [
        Original(transformer, call_transformer, config),
        Original(encoder, call_encoder, config, "text_encoder", read=read_text),
    ]


def live(pipe, folder, scale):
    """Return the pipeline with a guidance scale, and the request for its image."""
    return live_pipeline(pipe, folder, {"guidance_scale": scale}, {"cfg_scale": 1.0 + scale})


# test_live.py makes layers wrong: the whole transformer, a list of images, cannot be multiplied
CHECKS = [check for check in FAMILY_CHECKS if check != "wrong layer"]


@pytest.mark.parametrize("check", CHECKS)
def test_the_family_conforms(pipe, folder, originals, check):
    report = assert_family_conforms(
        Z_IMAGE,
        presets=["z-image-tiny", "z-image"],
        originals=originals,
        pipelines=[live(pipe, folder, scale) for scale in (0.0, 2.0)],
        parameters={"z-image": 6_154_908_736},
        only=[check],
    )
    assert report[check].verdict == "holds", str(report)
