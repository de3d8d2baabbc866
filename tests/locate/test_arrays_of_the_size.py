"""Arrays that a family's own `condition` makes of the size of the image are judged by it."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.families.sd3 import SD3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.network import transformer
from ldmref.families.sd3.text import condition_on_text
from ldmref.locate import diff_traces
from ldmref.models import family
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.steering import Steerable
from ldmref.trace.backend import LayerRecordingBackend

WIDTH, HEIGHT = 24, 16
BATCH = CallSize("batch")
OF_SIZE = (
    NetworkInput("resolution", "resolution", (BATCH, 2), also=("added.resolution",)),
    NetworkInput("aspect_ratio", "aspect_ratio", (BATCH, 1)),
)


@dataclass(frozen=True)
class SizedConfig(MMDiTConfig):
    """SD3's, whose network takes the height, the width and their ratio."""

    family: ClassVar[str] = "sized"


def network(ops, p, config, x, t, context, pooled, resolution, aspect_ratio):
    scale = 1.0 + 0.01 * resolution[:, :1] + 0.1 * resolution[:, 1:] * aspect_ratio
    return transformer(ops, p, config, x, t, context, pooled * scale)


def condition(ops, config, states, pooled, size):
    width, height = size
    n = states.shape[0]
    rows = {"resolution": [[height, width]], "aspect_ratio": [[height / max(width, 1)]]}
    more = {k: ops.asarray(np.repeat(np.array(x, float), n, 0), "float32") for k, x in rows.items()}
    return condition_on_text(ops, config, states, pooled, size)._replace(more=more)


def networks(config):
    own = MMDiTConfig(**vars(config.denoiser))
    for declared in SD3.networks(replace(config, denoiser=own)):
        if declared.name == "transformer":
            settings = {"config": config.denoiser}
            inputs = (*declared.inputs, *OF_SIZE)
            declared = replace(
                declared, function=network, settings=settings, inputs=inputs, steerable=Steerable()
            )
        yield declared


@pytest.fixture
def sized(monkeypatch):
    """Return a model of a family that conditions on the size."""
    changes = {
        "name": "sized",
        "denoiser": SizedConfig,
        "networks": lambda config: [*networks(config)],
        "text": replace(SD3.text, condition=condition),
        "control": None,
        "broken_rules": lambda config: (),
    }
    module = types.ModuleType("sized_family")
    module.SIZED = replace(SD3, **changes)
    monkeypatch.setitem(sys.modules, "sized_family", module)
    monkeypatch.setitem(family.BUILT_IN, "sized", "sized_family:SIZED")
    family.find_family.cache_clear()
    small = ldmref.random_model("sd3-tiny")
    config = replace(small.config, denoiser=SizedConfig(**vars(small.config.denoiser)))
    params = init(model_spec(config), 0)
    yield LatentDiffusion(small.backend, config, params, small.tokenizer)
    family.find_family.cache_clear()


def record(monkeypatch, model, changes):
    """Return a run whose denoiser is given changed arrays."""
    begin = LayerRecordingBackend.begin

    def other(self: Any, name: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        changed = {k: f(np.asarray(arrays[k])) for k, f in changes.items() if k in arrays}
        return begin(self, name, {**arrays, **changed})

    with monkeypatch.context() as patch:
        patch.setattr(LayerRecordingBackend, "begin", other)
        with ldmref.recording(model) as run:
            modes.txt2img(model, "a cat", seed=1, steps=2, width=WIDTH, height=HEIGHT)
    return run.trace


def test_right_arrays_are_equal(monkeypatch, sized):
    report = diff_traces(record(monkeypatch, sized, {}), sized)
    assert report.equal, (report.gaps, [row for row in report.rows if row.verdict != "equal"])
    assert {x.role.replace("_", " ") for x in OF_SIZE} <= {row.kind for row in report.rows}


@pytest.mark.parametrize(
    ("argument", "change", "cause"),
    [
        ("resolution", lambda x: x[:, ::-1], "width and height are exchanged"),
        ("aspect_ratio", lambda x: 1.0 / x, "width and height are exchanged"),
        ("resolution", lambda x: 0.0 * x, "the resolution is zero"),
        ("aspect_ratio", lambda x: 0.0 * x, "all zeros"),
        ("resolution", lambda x: x / 4, "the size is that of the latents"),
    ],
)
def test_a_wrong_array_has_its_cause(monkeypatch, sized, argument, change, cause):
    factor = sized.config.vae.factor
    if "latents" in cause:
        change = lambda x: x / factor  # noqa: E731
    changed = {argument: lambda x: np.ascontiguousarray(change(x)).astype(np.float32)}
    report = diff_traces(record(monkeypatch, sized, changed), sized)
    assert {(row.kind, row.cause) for row in report.faults} == {(argument.replace("_", " "), cause)}


@pytest.mark.parametrize("x", OF_SIZE, ids=lambda x: x.role)
def test_an_array_that_was_not_recorded_is_named(monkeypatch, sized, x):
    trace = record(monkeypatch, sized, {})
    entries = tuple(
        replace(e, inputs={k: v for k, v in e.inputs.items() if k != x.role}) for e in trace.entries
    )
    report = diff_traces(replace(trace, entries=entries), sized)
    assert report.verdict == "incomplete" and not report.faults
    assert any(f"{x.role} was not recorded" in row.note for row in report.rows)
