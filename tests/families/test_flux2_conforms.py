"""Every promise of the family, by the kit: originals, pipelines, backends, tools."""

from __future__ import annotations

import copy
from functools import partial

import pytest

import ldmref
from ldmref.families.flux2 import FLUX2
from ldmref.testing import FAMILY_CHECKS, Original, assert_family_conforms

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from flux2_pipelines import LAYERS, make_pipeline, transformer_in_double
from live_runs import live_pipeline, tensors_under
from qwen3_networks import encoder_in_double, write_vocabulary

LENGTH = {"max_sequence_length": 48}
read_text = partial(tensors_under, "model.")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


def call_transformer(theirs, x):
    """Return our prediction of diffusers' transformer, which takes the positions of one row."""
    rows = [
        call_row(theirs, {k: part[i : i + 1] for k, part in x.items()}) for i in range(len(x["x"]))
    ]
    return torch.cat(rows)


def call_row(theirs, x):
    _, _, height, width = x["x"].shape
    tokens, length = x["x"].flatten(2).mT, x["context"].shape[1]
    grid = torch.cartesian_prod(*(torch.arange(k).double() for k in (1, height, width, 1)))
    if x.get("reference_tokens") is not None:
        tokens = torch.cat([tokens, x["reference_tokens"]], dim=1)
        grid = torch.cat([grid, x["reference_positions"][0]])
    with transformer_in_double():
        found = theirs(
            hidden_states=tokens,
            encoder_hidden_states=x["context"],
            timestep=x["t"].double() / 1000.0,
            img_ids=grid,
            txt_ids=torch.cartesian_prod(*(torch.arange(k) for k in (1, 1, 1, length))),
        ).sample
    return found[:, : height * width].mT.reshape(x["x"].shape)


def call_encoder(theirs, x):
    """Return the hidden states that the pipeline takes."""
    with encoder_in_double(theirs.config.head_dim):
        options = {"attention_mask": x["mask"], "output_hidden_states": True}
        states = theirs(x["ids"], **options).hidden_states
        return torch.cat([states[number] for number in LAYERS], dim=-1)


@pytest.fixture(scope="module")
def originals(pipe, folder):
    """Return both networks of the pipeline in float64."""
    config = ldmref.load(folder).config
    transformer = copy.deepcopy(pipe.transformer).double()
    encoder = copy.deepcopy(pipe.text_encoder).double()
    return [
        Original(transformer, call_transformer, config),
        Original(encoder, call_encoder, config, "text_encoder", read=read_text),
    ]


def live(pipe, folder, scale):
    """Return the pipeline with a guidance scale, and the request for its image."""
    options = {"guidance_scale": scale, "text_encoder_out_layers": LAYERS, **LENGTH}
    return live_pipeline(pipe, folder, options, {"cfg_scale": scale, **LENGTH})


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_the_family_conforms(pipe, folder, originals, check):
    report = assert_family_conforms(
        FLUX2,
        presets=["flux2-tiny", "flux2-klein-4b"],
        originals=originals,
        pipelines=[live(pipe, folder, scale) for scale in (1.0, 4.0)],
        parameters={"flux2-klein-4b": 3_875_544_576, "flux2-klein-9b": 9_078_581_248},
        only=[check],
    )
    assert report[check].verdict == "holds", str(report)
