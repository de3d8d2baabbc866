"""The settings of a port: those of its own are used, and a note says so."""

from __future__ import annotations

import ldmref
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.trace import build_trace

STEP = {"sampler.000//input.sample": 1.0, "sampler.000//output": 1.0}


def notes_of(**config):
    model = ldmref.random_model("tiny", seed=1)
    scheduler = {"class": "DDIMScheduler", "config": {"clip_sample": False, **config}}
    notes: list[str] = []
    port = build_trace(STEP, {"scheduler": scheduler})
    context = PipelineContext(port, model, "float32", notes)
    assert context.config.num_train_timesteps == model.config.scheduler.num_train_timesteps
    return notes


def test_the_ports_own_settings_are_named():
    """A port that clips x0 is judged by that, and the note says so."""
    (note,) = notes_of(clip_sample=True)
    assert "the port's own scheduler settings are used" in note
    assert "clip_sample_range 1.0 instead of 0.0" in note
    assert not any("clip_sample_range" in text for text in notes_of())
