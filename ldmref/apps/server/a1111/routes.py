"""The subset of A1111's HTTP interface that clients use, under /sdapi/v1."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ldmref.apps.server.a1111 import names
from ldmref.apps.server.a1111.answers import (
    STUBS,
    describe_file,
    describe_options,
    describe_progress,
    describe_result,
)
from ldmref.apps.server.a1111.controlnet import SCRIPT, Units, describe_extension
from ldmref.apps.server.a1111.tasks import BatchedTask
from ldmref.apps.server.a1111.translate import Translated, translate
from ldmref.apps.server.arrays import decode_base64
from ldmref.apps.server.bodies import read_object
from ldmref.apps.server.clients import Endpoint, plan_batches, refuse_with
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import status_of
from ldmref.apps.server.inputs import open_bytes, read_base64_image
from ldmref.apps.server.jobs import ServedJob
from ldmref.apps.server.responses import JSONResponse
from ldmref.apps.server.streams import await_job
from ldmref.errors import Cancelled, LdmrefError, UsageError
from ldmref.io.images.metadata import read_parameters
from ldmref.io.images.pil import open_image

PREFIX = "/sdapi/v1"


class Session:
    """What A1111's interface remembers: the selected model, and the jobs that wait or run.

    A1111 has one job at a time, which progress, interrupt and skip mean. Here they mean the oldest
    job that came by this interface.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.selected = engine.find_model(None)
        self._active: list[tuple[ServedJob, BatchedTask]] = []

    @cached_property
    def models(self) -> dict[str, str | None]:
        """The SHA-256 of each model; the first use reads the files, which may take a while."""
        return {name: model.sha256 for name, model in self.engine.models.items()}

    def select(self, label: object) -> None:
        """Select a served model by title, name or hash."""
        self.selected = names.find_model(label, self.models)

    def describe_options(self) -> dict[str, Any]:
        """Return the answer to GET options."""
        return describe_options(self.selected, self.models[self.selected])

    def list_models(self) -> list[dict[str, Any]]:
        """Return the answer to GET sd-models."""
        return names.list_models(self.models)

    def find_model(self, body: Mapping[str, Any]) -> str:
        """Return the model of a request: that of `override_settings`, or the selected one."""
        settings = body.get("override_settings")
        label = settings.get("sd_model_checkpoint") if isinstance(settings, Mapping) else None
        return self.selected if label is None else names.find_model(label, self.models)

    def prepare(
        self, model: str, body: Mapping[str, Any], with_images: bool
    ) -> tuple[Translated, BatchedTask]:
        """Return a request in our terms, and its task, checked completely."""
        reader = self.read_image if with_images else None
        with self.engine.planning:
            nets = self.engine.served.controlnets
            units = Units(nets, self.read_image) if nets else None
            translated = translate(body, self.engine.models[model].config, reader, units)
            plans = plan_batches(self.engine, model, translated.mode, translated.batches)
        return translated, BatchedTask(plans)

    def read_image(self, name: str, encoded: object) -> Image.Image:
        """Return an image from base64; paths and URLs are never opened."""
        return read_base64_image(name, encoded, self.engine.settings.max_pixels)

    @contextmanager
    def follow(self, job: ServedJob, task: BatchedTask) -> Iterator[None]:
        """Remember a job while a client waits for it."""
        self._active.append((job, task))
        try:
            yield
        finally:
            self._active.remove((job, task))

    @property
    def current(self) -> tuple[ServedJob, BatchedTask] | tuple[None, None]:
        """The oldest job that runs, otherwise the oldest that waits, with its task."""
        unfinished = [pair for pair in self._active if not pair[0].has_ended]
        unfinished.sort(key=lambda pair: pair[0].state != "running")
        return unfinished[0] if unfinished else (None, None)


class A1111Interface:
    """The answers to the requests of A1111's clients."""

    def __init__(self, session: Session):
        self.session = session

    async def txt2img(self, request: Request) -> Response:
        """Generate images from a prompt."""
        return await generate(self.session, request, with_images=False)

    async def img2img(self, request: Request) -> Response:
        """Change an image, or repaint the white part of a mask."""
        return await generate(self.session, request, with_images=True)

    async def progress(self, request: Request) -> Response:
        """Say how far the oldest job is, with a preview."""
        job, task = self.session.current
        skip_image = request.query_params.get("skip_current_image", "").lower() in ("true", "1")
        if task is not None and not skip_image:
            task.watch()
        return JSONResponse(describe_progress(job, task, not skip_image))

    async def interrupt(self, request: Request) -> Response:
        """Stop the oldest job."""
        job, task = self.session.current
        if job is not None and task is not None:
            task.was_interrupted = True
            job.cancel()
        return JSONResponse({})

    async def skip(self, request: Request) -> Response:
        """Stop the batch that runs, and go on with the next."""
        _, task = self.session.current
        if task is not None:
            task.skip()
        return JSONResponse({})

    async def get_options(self, request: Request) -> Response:
        """Say which model is selected."""
        return JSONResponse(await run_in_threadpool(self.session.describe_options))

    async def set_options(self, request: Request) -> Response:
        """Select a served model; other options have no effect."""
        body = await read_object(request)
        label = body.get("sd_model_checkpoint")
        if label is not None:
            await run_in_threadpool(self.session.select, label)
        return JSONResponse(None)

    async def png_info(self, request: Request) -> Response:
        """Read from an image how it was made."""
        body = await read_object(request)
        most = self.session.engine.settings.max_pixels
        answer = await run_in_threadpool(inspect, body.get("image"), most)
        return JSONResponse(answer)

    async def models(self, request: Request) -> Response:
        """List the models."""
        return JSONResponse(await run_in_threadpool(self.session.list_models))

    async def samplers(self, request: Request) -> Response:
        """List samplers."""
        return JSONResponse(names.list_samplers())

    async def schedulers(self, request: Request) -> Response:
        """List schedules."""
        return JSONResponse(names.list_schedulers())

    async def refresh(self, request: Request) -> Response:
        """Do nothing: the models are fixed."""
        return JSONResponse(None)


def answer_with(content: object, summary: str) -> Endpoint:
    """Return the endpoint of an answer that never changes; the summary describes it."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(content)

    endpoint.__doc__ = summary
    return endpoint


def routes(engine: Engine) -> list[Route]:
    """Return the routes of A1111's interface."""
    served = A1111Interface(Session(engine))
    nets = engine.served.controlnets
    stubs = dict(STUBS)
    if nets:
        stubs["scripts"] = {"txt2img": [SCRIPT], "img2img": [SCRIPT]}
    got: dict[str, Endpoint] = {
        "progress": served.progress,
        "options": served.get_options,
        "sd-models": served.models,
        "samplers": served.samplers,
        "schedulers": served.schedulers,
    }
    for path, content in stubs.items():
        got[path] = answer_with(content, "Answer that there is none.")
    posted: dict[str, Endpoint] = {
        "txt2img": served.txt2img,
        "img2img": served.img2img,
        "interrupt": served.interrupt,
        "skip": served.skip,
        "options": served.set_options,
        "png-info": served.png_info,
        "refresh-checkpoints": served.refresh,
        "refresh-vae": served.refresh,
    }
    extension = describe_extension(nets) if nets else {}
    about = "Answer as A1111's extension for ControlNets."

    def route(path: str, endpoint: Endpoint, method: str) -> Route:
        return Route(f"{PREFIX}/{path}", refuse_with(a1111_status, endpoint), methods=[method])

    return [
        *(route(path, endpoint, "GET") for path, endpoint in got.items()),
        *(Route(f"/{SCRIPT}/{path}", answer_with(x, about)) for path, x in extension.items()),
        *(route(path, endpoint, "POST") for path, endpoint in posted.items()),
    ]


async def generate(session: Session, request: Request, with_images: bool) -> Response:
    """Answer txt2img and img2img: wait for the images, all of them or until an interruption."""
    engine = session.engine
    body = await read_object(request)
    model = await run_in_threadpool(session.find_model, body)
    engine.check_room(model)
    translated, task = await run_in_threadpool(session.prepare, model, body, with_images)
    job = engine.submit(task, model)
    with session.follow(job, task):
        try:
            await await_job(request, job)
        except Cancelled:
            if not task.was_interrupted:
                raise
    if task.was_interrupted or task.was_skipped:
        what = "interrupted" if task.was_interrupted else "skipped"
        translated.notes.append(f"{what}: {len(job.images)} of {task.count} images were finished")
    return JSONResponse(await run_in_threadpool(describe_result, job, translated))


def inspect(encoded: object, max_pixels: int) -> dict[str, Any]:
    """Return what an image file records, for png-info."""
    data = decode_base64("image", encoded)
    image = open_image(open_bytes("image", data, max_pixels))
    texts = {str(name): text for name, text in image.info.items() if isinstance(text, str)}
    text = read_parameters(io.BytesIO(data)).get("parameters", "")
    texts.pop("parameters", None)
    return describe_file(text, texts)


def a1111_status(error: LdmrefError) -> int:
    """Return the status of an error: A1111 answers an unknown name with 404."""
    unknown = isinstance(error, UsageError) and error.code == names.UNKNOWN
    return 404 if unknown else status_of(error)
