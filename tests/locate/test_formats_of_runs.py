"""Layers of right runs in every number format and memory order, and of wrong ones in bfloat16."""

from __future__ import annotations

import copy
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from bfloat16_faults import FAULTS, break_pipeline, called  # noqa: E402
from small_pipelines import pipeline  # noqa: E402

import ldmref  # noqa: E402
from ldmref.locate import diff_traces  # noqa: E402

MAKERS = {
    "sd1": lambda: pipeline("sd1"),
    "sdxl": lambda: pipeline("sdxl"),
    "sd3": lambda: sd3_networks.make_pipeline("3 medium"),
    "sd35": lambda: sd3_networks.make_pipeline("3.5 medium"),
    "dev": lambda: flux_networks.make_pipeline(True),
    "schnell": lambda: flux_networks.make_pipeline(False),
}
SMALL_T5 = {name: {"max_sequence_length": 16} for name in ("sd3", "sd35", "dev", "schnell")}
FORMATS = ("bfloat16", "float16", "float32", "float64")
RUNS = [(family, dtype) for dtype in FORMATS for family in MAKERS]
SINGLE = [(family, (fault,)) for fault in FAULTS for family in fault.families[-1:]]
DOUBLE = [
    (family, pair)
    for family in ("sd1", "sdxl", "sd35", "dev")
    for pair in [*pairwise(fault for fault in FAULTS if family in fault.families)][::3]
    if pair[0].layer != pair[1].layer
]


@cache
def made(family):
    """Return a pipeline, and ldmref's model of it."""
    torch.manual_seed(0)
    pipe = MAKERS[family]()
    pipe.set_progress_bar_config(disable=True)
    folder = Path(mkdtemp()) / family
    pipe.save_pretrained(folder)
    return pipe, ldmref.load(folder, backend="numpy", dtype="float32")


def copied(family, dtype):
    """Return a copy of a pipeline in a number format."""
    pipe, model = made(family)
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    more = {} if family not in ("sd1",) else {"requires_safety_checker": False}
    again = type(pipe)(**parts, **more).to(getattr(torch, dtype))
    again.set_progress_bar_config(disable=True)
    return again, model


def judge(pipe, model, family):
    """Return the faults of the layers of one step, by NETWORK/LAYER."""
    with ldmref.recording(pipe) as run:
        pipe(
            "a red cat",
            num_inference_steps=1,
            height=16,
            width=16,
            generator=torch.Generator().manual_seed(1),
            output_type="np",
            **SMALL_T5.get(family, {}),
        )
    report = diff_traces(run.trace, model)
    rows = [row for row in report.faults if row.kind in ("own", "wiring")]
    assert report.counts()["equal"] > 100
    return {re.sub(r"(~\d+|\.\d{3})+$", "", row.call) + f"/{row.layer}": row for row in rows}


@pytest.mark.parametrize(("family", "dtype"), RUNS)
def test_no_layer_of_a_right_run_alarms(family, dtype):
    pipe, model = copied(family, dtype)
    if dtype in ("bfloat16", "float32"):
        for part in (pipe.components.get("unet"), pipe.vae):
            if part is not None:
                part.to(memory_format=torch.channels_last)
    found = judge(pipe, model, family)
    assert not found, [(name, row.cause, row.note) for name, row in found.items()][:3]


@pytest.mark.parametrize(
    ("family", "faults"),
    SINGLE + DOUBLE,
    ids=lambda x: (
        x if isinstance(x, str) else "+".join(f"{called(f)}-{f.make.__name__}" for f in x)
    ),
)
def test_faults_of_a_run_in_bfloat16_are_located(family, faults):
    pipe, model = copied(family, "bfloat16")
    for fault in faults:
        break_pipeline(pipe, fault)
    assert set(judge(pipe, model, family)) == {called(fault) for fault in faults}


def test_the_faults_cover_every_family():
    assert len(SINGLE) >= 15 and len(DOUBLE) >= 5
