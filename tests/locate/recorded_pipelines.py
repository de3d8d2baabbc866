"""Recorded runs of small pipelines, and the models that ldmref reads from their folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_pipelines import pipeline

import ldmref
from ldmref.locate import DiffReport, diff_traces
from ldmref.trace import read_trace
from ldmref.trace.torch_pipeline import record_pipeline


def build(family: str, folder: Path, prepare: Callable[[Any], None] | None = None):
    """Return a seeded random pipeline and ldmref's model of it."""
    torch.manual_seed(0)
    pipe = pipeline(family)
    if prepare is not None:
        prepare(pipe)
    pipe.save_pretrained(folder)
    return pipe, ldmref.load(folder, backend="numpy")


def record(pipe: Any, folder: Path, steps: int = 2, **arguments: Any) -> None:
    """Record one small image of a pipeline."""
    size = {} if "image" in arguments else {"height": 16, "width": 16}
    generator = torch.Generator().manual_seed(1)
    with record_pipeline(pipe, folder):
        pipe(
            "a red cat",
            negative_prompt="dog",
            num_inference_steps=steps,
            generator=generator,
            output_type="np",
            **size,
            **arguments,
        )


def diff(pipe: Any, model: Any, folder: Path, **arguments: Any) -> DiffReport:
    """Record a pipeline and compare it with ldmref's model."""
    record(pipe, folder, **arguments)
    return diff_traces(read_trace(folder), model)


def names_of(report: DiffReport) -> dict[str, set[str]]:
    """Return the causes of all faults by name, without the numbers of calls.

    Layers are `unet/LAYER`, computations of the host `CALL KIND`.
    """
    found: dict[str, set[str]] = {}
    for row in report.faults:
        call = re.sub(r"(~\d+|\.\d+)+$", "", row.call)
        host = row.kind not in ("own", "wiring")
        name = f"{call} {row.kind}" if host else f"{call}/{row.layer}"
        found.setdefault(name, set()).add(row.cause)
    return found
