"""Pipelines whose latents are tokens, and that ldmref does not know, are not judged."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of

from ldmref.locate import pipeline
from ldmref.locate.findings import UNKNOWN

X = np.zeros((1, 4, 8, 8))
ONE = {"output": np.zeros(1)}


def judged(calls, model="tiny", **manifest):
    context = context_of(calls, model, **manifest)
    return pipeline.judge_host(context.port, context.model, "float32", [])


@pytest.mark.parametrize(
    ("model", "kind", "call", "known"),
    [
        ("flux-tiny", "FluxPipeline", "sampler.003", True),
        ("flux-tiny", "OtherPipeline", "sampler.003", False),
        ("flux-tiny", "OtherPipeline", "samplers", False),
        ("flux-tiny", "OtherPipeline", "unet.000", True),
        ("flux-tiny", None, "sampler.003", True),
        ("flux-tiny", 3, "sampler.003", True),
        ("tiny", "OtherPipeline", "sampler.003", True),
    ],
)
def test_pipelines_of_tokens_that_are_not_known_are_not_judged(model, kind, call, known):
    rows = judged({"tokens.000": ONE, call: ONE, "sampler.009": {}}, model, pipeline=kind)
    found = [(row.call, row.layer, row.verdict) for row in rows if row.kind == "pipeline"]
    assert found == ([] if known else [(call, "", UNKNOWN)])


def test_a_pipeline_that_is_not_known_has_no_other_rows():
    calls = {"sampler.000": {"input.x": X}, "guidance.000": ONE}
    rows = judged(calls, "flux-tiny", pipeline="OtherPipeline")
    assert [row.kind for row in rows] == ["pipeline"]
    assert "OtherPipeline" in rows[0].note
    known = context_of(calls, "flux-tiny")
    assert entry_of(known, "sampler.000").call in {row.call for row in judged(calls, "flux-tiny")}
