"""Answers of A1111's interface that no request is needed for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ldmref.apps.server.a1111.answers import describe_progress


def progress_of(count=4, **now: Any):
    job: Any = SimpleNamespace(progress=now, request={"mode": "txt2img"}, created=0.0)
    task: Any = SimpleNamespace(count=count, was_skipped=False, was_interrupted=False, preview=None)
    return describe_progress(job, task, with_image=False)


@pytest.mark.parametrize(
    ("image", "step", "steps", "share"),
    [(0, 0, 10, 0.0), (0, 5, 10, 0.125), (2, 0, 10, 0.5), (2, 5, 10, 0.625), (3, 10, 10, 1.0)],
)
def test_progress_counts_finished_images(image, step, steps, share):
    answer = progress_of(image=image, step=step, steps=steps, seconds_left=3.0)
    assert answer["progress"] == pytest.approx(min(1.0, 0.01 + share))
    state = answer["state"]
    assert (state["job_no"], state["sampling_step"], state["job_count"]) == (image, step, 4)
    assert answer["eta_relative"] == 3.0


def test_progress_of_a_job_that_waits_is_0():
    answer = progress_of()
    assert (answer["progress"], answer["eta_relative"]) == (0.0, 0.0)
    assert describe_progress(None, None, with_image=True)["state"]["job_count"] == 0


def test_progress_without_steps_or_images_is_no_division_by_0():
    answer = progress_of(count=0, image=0, step=0, steps=0, seconds_left=None)
    assert (answer["progress"], answer["eta_relative"]) == (0.01, 0.0)
