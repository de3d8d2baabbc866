"""The previews of a task: the predictions of the run that it observes, made for readers only."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.apps.server.explorer_tasks import RecordTask, RunSource
from ldmref.apps.server.tasks import GenerateTask
from ldmref.explore.preview import preview_images
from ldmref.modes.observers import PreviewObserver

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))
ASKED = {"prompt": "a cat", "seed": 1, "steps": 3}
RUNS = {
    "a batch": ("txt2img", {"count": 3, "batch_size": 2}),
    "two passes": ("txt2img", {"upscale": 2.0}),
    "jumps": ("inpaint", {"image": PHOTO, "mask": HALF, "resample": (1, 2), "sampler": "ddpm"}),
    "two evaluations a step": ("img2img", {"image": PHOTO, "strength": 0.7, "sampler": "heun"}),
}


class Report:
    """Keeps the previews, each with the index of its image and the step that was reported last."""

    def __init__(self, wanted=True):
        self.shown = []
        self.steps = 0
        self.is_wanted = wanted

    def progress(self, step, *others):
        self.steps = step

    def wanted(self):
        return self.is_wanted

    def preview(self, index, image):
        self.shown.append((self.steps, index, image))

    def image(self, *arguments):
        pass

    file = data = warn = image


def run(task, model, wanted=True):
    report = Report(wanted)
    task.run(model, report, threading.Event())
    return report.shown


def predictions(events, show=None):
    """(step, index, image) of each step but the last of its batch, decoded from its `Progress`."""
    for event in events:
        if isinstance(event, modes.Progress) and event.step + 1 < event.steps:
            for i, image in enumerate(event.preview()):
                yield event.step + 1, event.first + i, show(image) if show else image


def same(shown, wanted):
    assert [row[:2] for row in shown] == [row[:2] for row in wanted] and shown
    for (*_, image), (*_, want) in zip(shown, wanted, strict=True):
        assert image.tobytes() == want.tobytes() and image.size == want.size


@pytest.mark.parametrize("kind", RUNS)
def test_previews_are_the_predictions_of_the_run(tiny, kind):
    mode, more = RUNS[kind]
    plan = modes.plan(mode, tiny, **ASKED | more)
    prepared = plan.prepare(tiny)
    same(run(GenerateTask(plan), tiny), [*predictions(prepared.generate(), prepared.initial.show)])


def test_an_inversion_has_previews(tiny):
    plan = modes.plan("invert", tiny, prompt="a cat", image=PHOTO, steps=3)
    same(run(GenerateTask(plan), tiny), [*predictions(plan.prepare(tiny).generate())])


def test_a_recorded_run_and_a_branch_have_previews(tiny):
    recipe = {"mode": "txt2img", **ASKED}
    branch = {"trunk": recipe, "step": 1, "changes": {"prompt": "a dog"}}
    for source, make in (
        (recipe, lambda seen: explore.record_run(tiny, callback=seen.append, **ASKED)),
        (
            branch,
            lambda seen: explore.branch_run(tiny, recipe, 1, callback=seen.append, prompt="a dog"),
        ),
    ):
        seen = []
        make(seen)
        task = RecordTask(RunSource(source, {}), "record")
        same(run(task, tiny), [*predictions(seen)])


def test_linear_previews_are_enlarged_cells():
    """At most the size of the image, 128 pixels, and no network decodes them."""
    model = ldmref.load(backend="numpy")
    plan = modes.plan("txt2img", model, **ASKED)
    seen = [e for e in plan.prepare(model).generate() if isinstance(e, modes.Progress)]
    shown = run(GenerateTask(plan), model)
    for (*_, image), event in zip(shown, seen[:-1], strict=True):
        [cells] = preview_images(model, event.x0)
        assert image.tobytes() == cells.resize((128, 128), Image.Resampling.BICUBIC).tobytes()


def test_nothing_is_copied_or_decoded_when_nobody_looks(tiny, monkeypatch):
    monkeypatch.setattr(PreviewObserver, "x0", None)
    monkeypatch.setattr(PreviewObserver, "images", None)
    plan = modes.plan("txt2img", tiny, **ASKED)
    assert run(GenerateTask(plan), tiny, wanted=False) == []
