"""Every promise of the family, by the kit: originals, pipelines, backends, tools."""

from __future__ import annotations

import copy
from functools import partial

import pytest

import ldmref
from ldmref.families.krea2 import KREA2
from ldmref.testing import FAMILY_CHECKS, Original, assert_family_conforms

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from krea2_pipelines import LAYERS, call_transformer, make_pipeline, networks_in_double
from live_runs import live_pipeline, tensors_under

read_text = partial(tensors_under, "language_model.")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("tokenizer"))


def predict(theirs, x):
    """Return our prediction of diffusers' transformer."""
    with networks_in_double():
        return call_transformer(theirs, x["x"], x["t"], x["context"], x["mask"])


def encode(theirs, x):
    """Return the hidden states that the pipeline takes."""
    positions = (x["mask"].cumsum(dim=-1) - 1).clamp(min=0).expand(3, -1, -1)
    options = {"position_ids": positions, "output_hidden_states": True}
    with networks_in_double():
        found = theirs(input_ids=x["ids"], attention_mask=x["mask"], **options).hidden_states
    return torch.cat([found[number] for number in LAYERS], dim=-1)


def decode(theirs, x):
    """Return the image of one frame."""
    with networks_in_double():
        return theirs.decode(x["z"][:, :, None]).sample[:, :, 0]


def encode_image(theirs, x):
    """Return mean and log-variance of one frame."""
    with networks_in_double():
        found = theirs.encode(x["image"][:, :, None]).latent_dist
    return found.mean[:, :, 0], found.logvar[:, :, 0]


@pytest.fixture(scope="module")
def originals(pipe, folder):
    """Return the networks of the pipeline in float64."""
    config = ldmref.load(folder).config
    double = [copy.deepcopy(x).double() for x in (pipe.transformer, pipe.text_encoder)]
    return [
        Original(double[0], predict, config),
        Original(double[1], encode, config, "text_encoder", read=read_text),
    ]


def live(pipe, folder, scale):
    """Return the pipeline with a guidance scale, and the request for its image."""
    return live_pipeline(pipe, folder, {"guidance_scale": scale}, {"cfg_scale": 1.0 + scale})


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_the_family_conforms(pipe, folder, originals, check):
    report = assert_family_conforms(
        KREA2,
        presets=["krea-2-tiny", "krea-2", "krea-2-turbo"],
        originals=originals,
        pipelines=[live(pipe, folder, scale) for scale in (0.0, 2.0)],
        parameters={"krea-2": 12_820_073_036, "krea-2-turbo": 12_820_073_036},
        only=[check],
    )
    assert report[check].verdict == "holds", str(report)
