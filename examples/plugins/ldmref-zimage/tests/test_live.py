"""Live pipelines of diffusers: none of the numbers is found wrong, and wrong ones are named."""

from __future__ import annotations

import pytest
import torch

import ldmref
from ldmref.locate import diff_traces

SHORT = "a red cat"
LONG = "the blue house of a dog on a table, painted by an assistant of a cat, and a " * 2


def record(pipe, path, prompts, scale=2.0, steps=2):
    """Record a run of the pipeline."""
    options = {"num_inference_steps": steps, "guidance_scale": scale, "max_sequence_length": 128}
    with ldmref.recording(pipe, path) as trace:
        generator = torch.Generator().manual_seed(5)
        pipe(prompts, generator=generator, width=24, height=16, **options)
    return trace.trace


@pytest.mark.parametrize("prompts", [SHORT, [SHORT, LONG]])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_a_live_pipeline_has_no_fault(pipe, folder, tmp_path, prompts, scale):
    model = ldmref.load(folder, dtype="float32")
    report = diff_traces(record(pipe, tmp_path / "trace", prompts, scale), model)
    for row in report.rows:
        if row.verdict != "equal":
            print("  ", row.call, row.layer, row.kind, row.verdict, row.note, row.error)
    print(report.counts(), report.notes if hasattr(report, "notes") else "")
    counts = report.counts()
    assert counts["differs"] == 0 and counts["not judged"] == 0 and counts["equal"] > 250
