"""The HTTP interface of ldmref itself: jobs, their events and results, and what the server can."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ldmref.errors import Cancelled
from ldmref.server.bodies import read_json, require_object
from ldmref.server.capabilities import describe_server
from ldmref.server.engine import Engine
from ldmref.server.errors import UnknownJob
from ldmref.server.events import Event
from ldmref.server.inspecting import inspect_image
from ldmref.server.jobs import ServedJob
from ldmref.server.kinds import make_work

HEARTBEAT_SECONDS = 15.0
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def routes(engine: Engine) -> list[Route]:
    """Return the routes of the native interface."""

    async def submit(request: Request) -> Response:
        job = await submit_body(engine, request)
        return JSONResponse(job.describe(), 202, {"Location": job.url})

    async def list_jobs(request: Request) -> Response:
        return JSONResponse({"jobs": [job.describe() for job in engine.jobs()]})

    async def describe(request: Request) -> Response:
        return JSONResponse(find(request).describe())

    async def cancel(request: Request) -> Response:
        return JSONResponse(engine.cancel(request.path_params["id"]).describe())

    async def events(request: Request) -> Response:
        job = find(request)
        after = read_event_number(request.headers.get("last-event-id"))
        previews = request.query_params.get("previews", "1") != "0"
        return StreamingResponse(
            stream(job.subscribe(after, previews)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def image(request: Request) -> Response:
        job = find(request)
        index = request.path_params["index"]
        if index >= len(job.images):
            raise UnknownJob(f"the job has {len(job.images)} images so far", code="E-IMAGE")
        return send_png(job, index)

    async def file(request: Request) -> Response:
        job = find(request)
        name = request.path_params["name"]
        if name not in job.files:
            raise UnknownJob(f"the job has no file {name!r}", code="E-FILE")
        media_type, content = job.files[name]
        return Response(content, 200, IMMUTABLE | disposition(name), media_type)

    async def generate(request: Request) -> Response:
        job = await submit_body(engine, request)
        await await_job(request, job)
        if not job.images:
            raise UnknownJob("the job has no image", code="E-IMAGE")
        response = send_png(job, 0)
        response.headers["ldmref-seed"] = str(job.images[0].seed)
        for line in job.warnings:
            response.headers.append("ldmref-warning", quote(line, safe=" ,;:'()/="))
        return response

    async def inspect(request: Request) -> Response:
        data = await request.body()
        most = engine.settings.max_pixels
        return JSONResponse(await run_in_threadpool(inspect_image, data, most))

    async def capabilities(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(describe_server, engine))

    def find(request: Request) -> ServedJob:
        return engine.get(request.path_params["id"])

    job = "/v1/jobs/{id}"
    return [
        Route("/v1/jobs", submit, methods=["POST"]),
        Route("/v1/jobs", list_jobs, methods=["GET"]),
        Route(job, describe, methods=["GET"]),
        Route(job, cancel, methods=["DELETE"]),
        Route(job + "/events", events, methods=["GET"]),
        Route(job + "/images/{index:int}.png", image, methods=["GET"]),
        Route(job + "/files/{name}", file, methods=["GET"]),
        Route("/v1/generate", generate, methods=["POST"]),
        Route("/v1/inspect", inspect, methods=["POST"]),
        Route("/v1/capabilities", capabilities, methods=["GET"]),
    ]


async def submit_body(engine: Engine, request: Request) -> ServedJob:
    """Submit the work that the body of a request asks for."""
    body = require_object(read_json(await request.body()))
    model = body.get("model")
    engine.check_room(model)
    work = await run_in_threadpool(make_work, engine, body)
    return engine.submit(work, model)


async def await_job(request: Request, job: ServedJob) -> None:
    """Wait for the end of a job, which is cancelled if the client disappears.

    Raises:
        LdmrefError: The job failed or was cancelled.
    """

    async def follow() -> None:
        async for _ in job.subscribe(previews=False):
            pass

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(follow()), asyncio.ensure_future(listen())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        if not job.has_ended:
            job.cancel()
    if job.error is not None:
        raise job.error
    if job.state != "done":
        raise Cancelled("the job was cancelled", code="E-CANCELLED")


async def stream(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """Yield events as server-sent events, with a comment where nothing happens for a while."""
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([pending], timeout=HEARTBEAT_SECONDS)
            if not done:
                yield ": alive\n\n"
                continue
            event = pending.result()
            if event is None:
                return
            yield format_event(event)
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()


def format_event(event: Event) -> str:
    """Return an event in the notation of server-sent events."""
    data = json.dumps(event.data)
    return f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"


def read_event_number(text: str | None) -> int:
    """Return the number in `Last-Event-ID`; 0 without it, and for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def send_png(job: ServedJob, index: int) -> Response:
    """Return the response with an image, under a good file name."""
    image = job.images[index]
    name = f"{job.request.get('mode', job.kind)}-{image.seed}-{index}.png"
    return Response(image.png, 200, IMMUTABLE | disposition(name), "image/png")


def disposition(name: str) -> dict[str, str]:
    """Return the header that names a file."""
    return {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}"}
