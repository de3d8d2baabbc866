"""Tasks, which workers run: checked when they are made, they report progress and results."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ldmref.apps.server.images import PREVIEW_SIDE
from ldmref.explore.preview import has_preview, preview_images
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import GeneratedImage, Progress
from ldmref.modes.inversion import Inversion, InversionRun
from ldmref.modes.observers import PreviewObserver
from ldmref.modes.run import Plan


class Report(Protocol):
    """The reports of a task to its job, made by the worker's thread only."""

    def progress(
        self, step: int, steps: int, image: int = 0, images: int = 1, together: int = 1
    ) -> None:
        """Report that `step` of `steps` are taken, for `together` images from `image` on."""
        ...

    def preview(self, index: int, image: Image.Image) -> None:
        """Show the predicted image after the step that was reported last."""
        ...

    def wanted(self) -> bool:
        """Return whether a preview should be made now: somebody reads, and some time has passed."""
        ...

    def image(
        self, index: int, image: Image.Image, params: dict[str, Any], latents: np.ndarray
    ) -> None:
        """Keep a finished image."""
        ...

    def file(self, name: str, media_type: str, content: bytes) -> None:
        """Keep a file: a run record, a sheet, ..."""
        ...

    def data(self, value: Mapping[str, Any]) -> None:
        """Keep results that are not a file, as JSON."""
        ...

    def warn(self, line: str) -> None:
        """Keep a warning, once."""
        ...


class ServedTask(Protocol):
    """A checked request; `request` says as JSON what was asked, with all defaults.

    A task with `previews = False` never shows previews.
    """

    @property
    def kind(self) -> str: ...
    @property
    def request(self) -> Mapping[str, Any]: ...

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Do everything; stop with `Cancelled` once `cancel` is set."""
        ...


@dataclass(frozen=True)
class GenerateTask:
    """The images of a plan; of an inversion, the noise and the settings that go with it."""

    plan: Plan = field(repr=False)
    previews: bool = True
    kind: str = "generate"

    @property
    def request(self) -> Mapping[str, Any]:
        """The resolved parameters."""
        return self.plan.params

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Generate the images, and report each of them."""
        run = self.plan.prepare(model)
        job = run.job
        count = len(job.seeds)
        report.progress(0, max(1, self.plan.steps), 0, count, job.batch_size)
        for line in run.warnings:
            report.warn(line)
        preview = PreviewObserver()
        for event in run.generate(cancel, preview):
            if not isinstance(event, GeneratedImage):
                report_step(report, event, preview, job.batch_size, run.initial.show)
            elif isinstance(run, InversionRun):
                report_inversion(report, run.result([event]))
            else:
                params = run.params_of(event.index)
                report.image(event.index, event.image, params, event.latents)


def report_step(
    report: Report,
    event: Progress,
    preview: PreviewObserver,
    batch_size: int = 1,
    show: Callable[[Image.Image], Image.Image] | None = None,
) -> None:
    """Report a step, with a preview of each image of the batch if somebody wants one.

    Args:
        report: The report.
        event: The step.
        preview: The observer of the run.
        batch_size: The number of images that are generated together, at most.
        show: Completes a preview: pastes the region that inpainting generates into its photo.
    """
    step = event.step + 1
    together = min(batch_size, event.count - event.first)
    report.progress(step, event.steps, event.first, event.count, together)
    if step < event.steps and report.wanted():
        for i, image in enumerate(make_previews(preview)):
            report.preview(event.first + i, show(image) if show else image)


def make_previews(preview: PreviewObserver) -> list[Image.Image]:
    """Return the predicted images of the last step: by the linear preview if the model has one.

    The linear preview has a pixel per latent cell and is enlarged; otherwise x0 is decoded.
    """
    model = preview.model
    if not has_preview(model):
        return preview.images()
    cells = preview_images(model, preview.x0)
    factor = min(model.config.vae.factor, PREVIEW_SIDE / max(cells[0].size))
    size = round(cells[0].width * factor), round(cells[0].height * factor)
    return [image.resize(size, Image.Resampling.BICUBIC) for image in cells]


def report_inversion(report: Report, inversion: Inversion) -> None:
    """Report the noise that an inversion found, and the settings that generate from it."""
    buffer = io.BytesIO()
    np.save(buffer, inversion.latents, allow_pickle=False)
    report.file("noise.npy", "application/octet-stream", buffer.getvalue())
    report.data({"prompt": inversion.prompt, "settings": inversion.settings})
