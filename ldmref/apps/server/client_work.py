"""Parts that the interfaces of A1111 and OpenAI share: checked plans, and watched reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.inputs import check_count
from ldmref.apps.server.work import Report
from ldmref.modes.run import Plan


def plan_batches(
    engine: Engine, model: str, mode: str, batches: Sequence[Mapping[str, Any]]
) -> list[Plan]:
    """Return the plan of each batch of a request; images are in memory already.

    The caller holds `engine.planning`, which limits how many requests are read at the same time.

    Raises:
        LdmrefError: A value is wrong; the error says which.
    """
    found = engine.models[model]
    plans = [modes.plan(mode, found, **values) for values in batches]
    check_count(engine, sum(len(plan.job.seeds) for plan in plans))
    return plans


class Relay:
    """A `Report` that passes everything on to another; subclasses watch what passes.

    Args:
        report: The report of the job.
        first: Index of the first image of this part of the job.
        images: The number of images of the job; None for the number that the part reports.
    """

    def __init__(self, report: Report, first: int = 0, images: int | None = None):
        self.report = report
        self.first = first
        self.images = images

    def progress(
        self, step: int, steps: int, image: int = 0, images: int = 1, together: int = 1
    ) -> None:
        """Pass progress on, as progress of the job."""
        self.report.progress(
            step,
            steps,
            self.first + image,
            images if self.images is None else self.images,
            together,
        )

    def preview(self, index: int, image: Image.Image) -> None:
        """Pass a preview on if the job wants one."""
        if self.report.wanted():
            self.report.preview(self.first + index, image)

    def wanted(self) -> bool:
        """Return whether a preview should be made now."""
        return self.report.wanted()

    def image(
        self, index: int, image: Image.Image, params: dict[str, Any], latents: np.ndarray
    ) -> None:
        """Pass a finished image on."""
        self.report.image(self.first + index, image, params, latents)

    def file(self, name: str, media_type: str, content: bytes) -> None:
        """Pass a file on."""
        self.report.file(name, media_type, content)

    def data(self, value: Mapping[str, Any]) -> None:
        """Pass results on."""
        self.report.data(value)

    def warn(self, line: str) -> None:
        """Pass a warning on."""
        self.report.warn(line)
