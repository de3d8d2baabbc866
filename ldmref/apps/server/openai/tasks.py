"""A task that publishes unfinished images at selected steps, and every finished one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ldmref.apps.server.tasks import Report, report_step
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import GeneratedImage, Progress
from ldmref.modes.observers import PreviewObserver
from ldmref.modes.run import Plan, Run


@dataclass(frozen=True)
class Partial:
    """An unfinished image: the prediction of the clean image after a step."""

    index: int  # of the image
    number: int  # of this partial image, from 0
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """The image of an index is finished."""

    index: int


Publish = Callable[[Partial | Finished], None]


class StreamedTask:
    """The images of a plan.

    Args:
        plan: From `modes.plan`.
        partial_images: How many unfinished images of each image are published before it.
        publish: Called in the worker's thread.
    """

    kind = "generate"
    previews = False

    def __init__(self, plan: Plan, partial_images: int, publish: Publish):
        self.plan = plan
        self.partial_images = partial_images
        self.publish = publish

    @property
    def request(self) -> Mapping[str, Any]:
        """The resolved parameters."""
        return self.plan.params

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Generate the images one by one."""
        run = self.plan.prepare(model)
        for line in run.warnings:
            report.warn(line)
        preview = PreviewObserver()
        for event in run.generate(cancel, preview):
            if isinstance(event, GeneratedImage):
                report.image(event.index, event.image, run.params_of(event.index), event.latents)
                self.publish(Finished(event.index))
            else:
                report_step(report, event, preview, run.job.batch_size)
                self._publish_partial(run, event, preview)

    def _publish_partial(self, run: Run, event: Progress, preview: PreviewObserver) -> None:
        moments = choose_steps(event.steps, self.partial_images)
        if event.step + 1 not in moments:
            return
        finish = run.initial.finish
        for i, image in enumerate(preview.images()):
            whole = image if finish is None else finish(image)
            self.publish(Partial(event.first + i, moments.index(event.step + 1), whole))


def choose_steps(steps: int, partial_images: int) -> list[int]:
    """Return the numbers of steps after which an image is shown unfinished, evenly spaced.

    >>> choose_steps(20, 3), choose_steps(2, 3)
    ([5, 10, 15], [1])
    """
    n = partial_images
    spaced = {round(steps * (i + 1) / (n + 1)) for i in range(n)}
    return sorted(step for step in spaced if 0 < step < steps)
