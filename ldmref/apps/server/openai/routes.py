"""The subset of OpenAI's HTTP interface about images: generations, edits and models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ldmref.apps.server.bodies import read_object
from ldmref.apps.server.clients import plan_batches, refuse_with
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import error_body, status_of
from ldmref.apps.server.inputs import open_bytes
from ldmref.apps.server.jobs import ServedJob
from ldmref.apps.server.openai.answers import (
    Usage,
    count_usage,
    describe_completed,
    describe_images,
    describe_model,
    describe_models,
    describe_partial,
    format_sse,
)
from ldmref.apps.server.openai.fields import ImageOutput, read_upload
from ldmref.apps.server.openai.tasks import Finished, Partial, StreamedTask
from ldmref.apps.server.openai.translate import (
    Asked,
    find_model,
    naming,
    naming_fields,
    translate_edit,
    translate_generation,
    unknown_model,
)
from ldmref.apps.server.responses import JSONResponse, add_warnings
from ldmref.apps.server.streams import HEADERS, HEARTBEAT_SECONDS, await_job
from ldmref.apps.server.tasks import GenerateTask
from ldmref.errors import Cancelled, LdmrefError
from ldmref.models.config import ModelConfig
from ldmref.modes.run import Plan

Translate = Callable[[ModelConfig], Asked]


def routes(engine: Engine) -> list[Route]:
    """Return the routes of OpenAI's interface."""
    served = list(engine.models)

    async def generations(request: Request) -> Response:
        """Generate images from a prompt."""
        body = await read_object(request)

        def translate(config: ModelConfig) -> Asked:
            return translate_generation(body, config)

        return await answer_images(engine, request, body, translate, "image_generation")

    async def edits(request: Request) -> Response:
        """Change an image, or repaint the transparent part of a mask."""
        body, files = await read_upload(request, engine.settings.max_body)
        most = engine.settings.max_pixels

        def translate(config: ModelConfig) -> Asked:
            images = {}
            for name, data in files.items():
                with naming(name):
                    images[name] = open_bytes(name, data, most)
            return translate_edit(body, config, images["image"], images.get("mask"))

        return await answer_images(engine, request, body, translate, "image_edit")

    async def models(request: Request) -> Response:
        """List the models."""
        return JSONResponse(describe_models(served))

    async def model(request: Request) -> Response:
        """Describe a model."""
        name = request.path_params["name"]
        if name not in served:
            raise unknown_model(name, served)
        return JSONResponse(describe_model(name))

    return [
        Route("/v1/images/generations", refuse_with(openai_status, generations), methods=["POST"]),
        Route("/v1/images/edits", refuse_with(openai_status, edits), methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", refuse_with(openai_status, model), methods=["GET"]),
    ]


async def answer_images(
    engine: Engine, request: Request, body: dict[str, Any], translate: Translate, kind: str
) -> Response:
    """Answer with the images of a request, or with the stream of its events."""
    served = list(engine.models)
    name, notes = find_model(body.get("model"), served)
    engine.check_room(name)
    model = engine.models[name]

    def prepare() -> tuple[Asked, Plan, dict[str, Any]]:
        with engine.planning, naming_fields(body):
            asked = translate(model.config)
            (plan,) = plan_batches(engine, name, asked.mode, [asked.values])
        return asked, plan, count_usage(model, plan)

    asked, plan, usage = await run_in_threadpool(prepare)
    output = asked.output
    headers = {"ldmref-seed": ",".join(str(seed) for seed in plan.job.seeds)}
    lines = [*notes, *asked.notes]
    if output.stream:
        publisher = Publisher(kind, output)
        task = StreamedTask(plan, output.partial_images, publisher.publish)
        job = engine.submit(task, name)
        return add_warnings(EventStream(job, publisher, usage, headers), [*lines, *plan.warnings])
    job = engine.submit(GenerateTask(plan, previews=False), name)
    await await_job(request, job)
    address = str(request.base_url).rstrip("/")
    answer = await run_in_threadpool(describe_images, job, output, usage, address)
    return add_warnings(JSONResponse(answer, headers=headers), [*lines, *job.warnings])


def openai_status(error: LdmrefError) -> int:
    """Return the status of an error: OpenAI answers wrong values with 400 instead of 422."""
    status = 404 if error.code == "model_not_found" else status_of(error)
    return 400 if status == 422 else status


# -- streams --------------------------------------------------------------------------------------


PATH = "/v1/images"  # whose errors have OpenAI's form


class Publisher:
    """Takes images from a worker's thread to the event loop in which it was made.

    Args:
        kind: image_generation or image_edit.
        output: How the images are wanted.
    """

    def __init__(self, kind: str, output: ImageOutput):
        self.kind = kind
        self.output = output
        self.items: asyncio.Queue[Partial | Finished | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def publish(self, item: Partial | Finished | None) -> None:
        """Queue an image, or None at the end; called from any thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody reads any more
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)


class EventStream(StreamingResponse):
    """The response with the events of a job, which is cancelled if the client disappears."""

    def __init__(
        self, job: ServedJob, publisher: Publisher, usage: Usage, headers: Mapping[str, str]
    ):
        events = stream_events(job, publisher, usage)
        super().__init__(events, media_type="text/event-stream", headers={**HEADERS, **headers})
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.job.has_ended:
                self.job.cancel()


async def stream_events(job: ServedJob, publisher: Publisher, usage: Usage) -> AsyncIterator[str]:
    """Yield the events of a job, with a comment where nothing happens for a while."""
    ending = asyncio.create_task(publish_end(job, publisher))
    try:
        while True:
            try:
                item = await asyncio.wait_for(publisher.items.get(), HEARTBEAT_SECONDS)
            except TimeoutError:
                yield ": alive\n\n"
                continue
            if item is None:
                break
            yield format_sse(await run_in_threadpool(describe, job, item, publisher, usage))
    finally:
        ending.cancel()
    error = job.error
    if error is None and job.state != "done":
        error = Cancelled("the job was cancelled", code="E-CANCELLED")
    if error is not None:
        yield format_error(error)


async def publish_end(job: ServedJob, publisher: Publisher) -> None:
    """Publish the end of a job after its images."""
    async for _ in job.subscribe(previews=False):
        pass
    publisher.publish(None)


def describe(
    job: ServedJob, item: Partial | Finished, publisher: Publisher, usage: Usage
) -> dict[str, Any]:
    """Return the event of an image."""
    if isinstance(item, Partial):
        return describe_partial(publisher.kind, item.image, item.number, publisher.output)
    return describe_completed(publisher.kind, job.images[item.index], publisher.output, usage)


def format_error(error: LdmrefError) -> str:
    """Return the event of an error, which the openai package raises as APIError."""
    return format_sse({"type": "error"} | error_body(PATH, status_of(error), error))
