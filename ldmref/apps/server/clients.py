"""What the interfaces of A1111 and OpenAI share: plans, sizes, reports and refusals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from ldmref import modes
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import refusal
from ldmref.apps.server.inputs import check_count
from ldmref.apps.server.tasks import Report
from ldmref.errors import LdmrefError
from ldmref.models.config import ModelConfig
from ldmref.modes.run import Plan
from ldmref.modes.sizing import OWN_AREA, round_size
from ldmref.modes.validation import MAX_SIDE, check_integer


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


class Size(NamedTuple):
    """Width and height to generate, and what to tell the client if it asked for others."""

    width: int
    height: int
    note: str = ""


def choose_size(
    config: ModelConfig,
    asked: tuple[int | None, int | None] = (None, None),
    source: Image.Image | None = None,
) -> Size:
    """Return the size to generate.

    A model of one size generates at that size, whatever is asked for, because its images of other
    sizes are incoherent. Other models generate the size that is asked for, each side rounded down
    to one that the networks can take; without one, the given image's size or the model's.

    Args:
        config: The model's configuration.
        asked: Width and height as the client asked, None for a default.
        source: The image that is changed, if there is one.

    Raises:
        UsageError: A side is not a whole number of pixels, or too large.
    """
    for name, side in zip(("width", "height"), asked, strict=True):
        if side is not None:
            check_integer(name, side, 1, MAX_SIDE)
    own = (config.defaults.width, config.defaults.height)
    first = own if source is None else source.size
    wanted = (asked[0] or first[0], asked[1] or first[1])
    if config.defaults.one_size:
        return Size(*own, _explain(config, own, wanted, "its only size"))
    m = config.size_multiple
    kept = source if asked == (None, None) else None
    if kept is not None and round_size(config, kept, OWN_AREA) is None:
        return Size(
            *own, _explain(config, own, wanted, "the given image is too small or too large")
        )
    rounded = (max(m, wanted[0] // m * m), max(m, wanted[1] // m * m))
    return Size(*rounded, _explain(config, rounded, wanted, f"both sides are multiples of {m}"))


def _explain(
    config: ModelConfig, size: tuple[int, int], wanted: tuple[int, int], reason: str
) -> str:
    if size == wanted:
        return ""
    return (
        f"{config.name!r} generates {size[0]}x{size[1]} instead of {wanted[0]}x{wanted[1]}: "
        f"{reason}"
    )


Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def refuse_with(status: Callable[[LdmrefError], int], endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose errors have the status that `status(error)` returns."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except LdmrefError as error:
            return refusal(request.url.path, status(error), error)

    return answer
