"""The task of a request of A1111: batches one after the other, of which one can be skipped."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldmref.apps.server.clients import Relay
from ldmref.apps.server.tasks import GenerateTask, Report
from ldmref.errors import Cancelled
from ldmref.models.model import LatentDiffusion
from ldmref.modes.run import Plan

WATCHED_SECONDS = 5.0  # for which a request for the progress counts as a reader of previews
PREVIEW_SECONDS = 0.5  # from one preview to the next at least


class BatchedTask:
    """The `n_iter` batches of a request; after `skip`, the batch that runs gives way to the next.

    Args:
        plans: The plan of each batch.
        count: The number of images of all batches.
    """

    kind = "generate"

    def __init__(self, plans: Sequence[Plan]):
        self.plans = plans
        self.count = sum(len(plan.job.seeds) for plan in plans)
        self.preview: Image.Image | None = None
        self.skipping = threading.Event()
        self.was_skipped = False
        self.was_interrupted = False
        self._watched = 0.0

    @property
    def request(self) -> Mapping[str, Any]:
        """The resolved parameters of the first batch, with all seeds."""
        seeds = [seed for plan in self.plans for seed in plan.job.seeds]
        return {**self.plans[0].params, "seed": seeds, "count": self.count}

    def watch(self) -> None:
        """Note that a client asks for previews."""
        self._watched = time.monotonic()

    @property
    def is_watched(self) -> bool:
        """Whether a client asked for a preview a short time ago."""
        return time.monotonic() - self._watched < WATCHED_SECONDS

    def skip(self) -> None:
        """Stop the batch that runs."""
        self.was_skipped = True
        self.skipping.set()

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Generate all batches."""
        finished = 0
        for plan in self.plans:
            self.skipping.clear()
            relay = PreviewKeeper(self, report, finished)
            try:
                GenerateTask(plan).run(model, relay, EitherFlag(cancel, self.skipping))  # type: ignore[arg-type]
            except Cancelled:
                if cancel.is_set():
                    raise
            finished += relay.finished


class EitherFlag:
    """A flag that is set while one of two flags is."""

    def __init__(self, *flags: threading.Event):
        self._flags = flags

    def is_set(self) -> bool:
        """Return whether one of the flags is set."""
        return any(flag.is_set() for flag in self._flags)


class PreviewKeeper(Relay):
    """The report of one batch, which keeps the last preview for `GET progress`."""

    def __init__(self, task: BatchedTask, report: Report, first: int):
        super().__init__(report, first, task.count)
        self.task = task
        self.finished = 0
        self._made = 0.0

    def wanted(self) -> bool:
        """Return whether the job or a client of A1111's progress wants a preview."""
        due = time.monotonic() - self._made >= PREVIEW_SECONDS
        return super().wanted() or (self.task.is_watched and due)

    def preview(self, index: int, image: Image.Image) -> None:
        """Keep a preview."""
        self._made = time.monotonic()
        self.task.preview = image
        super().preview(index, image)

    def image(
        self, index: int, image: Image.Image, params: dict[str, Any], latents: np.ndarray
    ) -> None:
        """Count a finished image, and keep it as the last preview."""
        self.finished += 1
        self.task.preview = image
        super().image(index, image, params, latents)
