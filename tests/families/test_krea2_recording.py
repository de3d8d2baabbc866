"""Live pipelines of diffusers: none of the numbers is found wrong, and wrong ones are named."""

from __future__ import annotations

import pytest

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from krea2_pipelines import make_pipeline

SHORT = "a red cat"
LONG = "the blue house of a dog on a table, painted by an assistant of a cat"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """Return the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("krea2")
    pipe.save_pretrained(path)
    return path


def record(pipe, path, prompts=SHORT, scale=2.0, steps=2, **more):
    """Record a run of the pipeline."""
    options = {"num_inference_steps": steps, "guidance_scale": scale} | more
    with ldmref.recording(pipe, path) as trace:
        generator = torch.Generator().manual_seed(5)
        pipe(prompts, generator=generator, width=24, height=16, **options)
    return trace.trace


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_a_live_pipeline_has_no_fault(pipe, folder, tmp_path, scale):
    model = ldmref.load(folder, dtype="float32")
    report = diff_traces(record(pipe, tmp_path / "trace", SHORT, scale), model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 250, report
    assert {"transformer.000", "vae.decode"} <= {row.call for row in report.rows}
