"""Every promise of the family, by the kit: originals, pipelines, backends, tools."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest

import ldmref
from ldmref.families.flux3 import FLUX3, transformer_spec
from ldmref.models import flatten
from ldmref.testing import FAMILY_CHECKS, LivePipeline, Original, assert_family_conforms

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from flux3_pipelines import (
    join_cells,
    make_pipeline,
    run,
    save_pipeline,
    set_scale,
    transformer_in_double,
    with_positions,
)
from live_runs import tensors_under
from qwen3_networks import vl_in_double, write_vocabulary

SIZE = {"width": 24, "height": 16}
read_text = partial(tensors_under, "model.language_model.")


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """Return the pipelines of base and distilled model, each with its folder."""
    vocabulary = write_vocabulary(tmp_path_factory.mktemp("tokenizer"))
    found = []
    for flow_map in (False, True):
        pipe = make_pipeline(vocabulary, flow_map)
        found.append((pipe, save_pipeline(pipe, tmp_path_factory.mktemp("flux3"))))
    return found


def call_transformer(theirs, x):
    """Return diffusers' prediction of each text without what its mask leaves out."""
    rows = []
    with transformer_in_double():
        for i, kept in enumerate(x["mask"]):
            row = {name: array[i : i + 1] for name, array in x.items() if array is not None}
            row["context"] = row["context"][:, : int(kept.sum())]
            row["t"] = row["t"].double()
            found = theirs(**with_positions(row)).sample
            rows.append(join_cells(found, row["x"].shape[2:]))
    return torch.cat(rows)


def call_encoder(theirs, x):
    """Return the hidden states that the pipeline takes."""
    positions = torch.arange(x["ids"].shape[1])[None].masked_fill(x["mask"] == 0, 1)
    with vl_in_double():
        options = {"attention_mask": x["mask"], "output_hidden_states": True}
        states = theirs(x["ids"], position_ids=positions, **options).hidden_states
    return torch.cat([states[1], states[2]], dim=-1)


@pytest.fixture(scope="module")
def originals(pipes):
    """Return the networks of both pipelines in float64."""
    found = []
    for pipe, folder in pipes:
        config = ldmref.load(folder).config
        with transformer_in_double():
            transformer = copy.deepcopy(pipe.transformer).double()
        found.append(Original(transformer, call_transformer, config))
    encoder = copy.deepcopy(pipes[0][0].text_encoder).double()
    return [*found, Original(encoder, call_encoder, config, "text_encoder", read=read_text)]


def live(pipe, folder, scale):
    """Return the pipeline with a guidance scale, and the request for its image."""

    def generate(pipe):
        set_scale(pipe, scale)
        return SimpleNamespace(
            images=run(pipe, "a red cat", 5, num_inference_steps=2, **SIZE)[None]
        )

    request = {"prompt": "a red cat", "seed": 5, "rng": "torch", "steps": 2, "cfg_scale": scale}
    return LivePipeline(pipe, generate, request | SIZE, folder=folder)


def unread(config):
    """Return the parameters that only references read, which no training has."""
    return [name for name in flatten(transformer_spec(config.denoiser)) if "image_cond" in name]


@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_the_family_conforms(pipes, originals, check):
    (base, folder), (distilled, other) = pipes
    lives = [live(base, folder, 1.0), live(base, folder, 2.5), live(distilled, other, 1.0)]
    report = assert_family_conforms(
        FLUX3,
        presets=["flux3-klein", "flux3-klein-base"],
        originals=originals,
        pipelines=lives,
        parameters={"flux3-klein-base": 5_538_458_368, "flux3-klein": 5_548_681_984},
        unread=unread if check == "training" else lambda config: (),
        only=[check],
    )
    assert report[check].verdict == "holds", str(report)
