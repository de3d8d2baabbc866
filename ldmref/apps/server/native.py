"""The HTTP interface of ldmref itself: jobs, their events and results, and the capabilities."""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ldmref.apps.server.bodies import read_object
from ldmref.apps.server.capabilities import describe_server
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import UnknownJob
from ldmref.apps.server.inspect_image import inspect_image
from ldmref.apps.server.jobs import ServedJob
from ldmref.apps.server.responses import JSONResponse, add_warnings
from ldmref.apps.server.streams import await_job, event_stream, read_event_number
from ldmref.apps.server.task_kinds import make_task
from ldmref.errors import short_repr
from ldmref.prompts.completion import complete_word, list_words

IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
SHORT = ("request", "images", "files", "data", "warnings")  # left out of a list of jobs
PNG = "image/png"


def routes(engine: Engine) -> list[Route]:
    """Return the routes of the native interface."""

    async def submit(request: Request) -> Response:
        """Submit a job."""
        job = await submit_body(engine, request)
        return JSONResponse(job.describe(), 202, {"Location": job.url})

    async def list_jobs(request: Request) -> Response:
        """List the jobs, the newest first."""
        return JSONResponse({"jobs": [summarise(job) for job in engine.jobs()]})

    async def describe(request: Request) -> Response:
        """Describe a job: its state, progress and results."""
        return JSONResponse(find(request).describe())

    async def cancel(request: Request) -> Response:
        """Cancel a job; one that has ended stays as it is."""
        return JSONResponse(engine.cancel(request.path_params["id"]).describe())

    async def events(request: Request) -> Response:
        """Follow a job: server-sent events up to its end."""
        return event_stream(request, find(request))

    async def image(request: Request) -> Response:
        """Get an image of a job as PNG, with its parameters in the file."""
        return send_png(find(request), read_index(request.path_params["index"]))

    async def file(request: Request) -> Response:
        """Get a file of a job."""
        return send_file(find(request), request.path_params["name"])

    async def generate(request: Request) -> Response:
        """Generate, wait, and get the first image, or with `?image=N` another one, from 0."""
        job = await submit_body(engine, request)
        await await_job(request, job)
        return send_result(job, read_event_number(request.query_params.get("image")))

    async def inspect(request: Request) -> Response:
        """Read from an image how it was made; `?model=NAME` replays one of A1111 by that model."""
        asked = engine.find_model(request.query_params.get("model"))
        data = await request.body()
        most = engine.settings.max_pixels
        found = await run_in_threadpool(inspect_image, data, most, engine.served, asked)
        return JSONResponse(found)

    async def capabilities(request: Request) -> Response:
        """List models, modes with their parameters, samplers, schedules, guidances and limits."""
        return JSONResponse(await run_in_threadpool(describe_server, engine))

    @cache
    def words_of(model: str) -> list[str]:
        return list_words(engine.models[model].tokenizer)

    async def words(request: Request) -> Response:
        """Complete a word of a prompt by those of a vocabulary: `?start=re&model=NAME`."""
        model = engine.find_model(request.query_params.get("model"))
        start = request.query_params.get("start", "")
        known = await run_in_threadpool(words_of, model)
        return JSONResponse({"words": complete_word(known, start) if start else []})

    def find(request: Request) -> ServedJob:
        return engine.get(request.path_params["id"])

    job = "/v1/jobs/{id}"
    return [
        Route("/v1/jobs", submit, methods=["POST"]),
        Route("/v1/jobs", list_jobs, methods=["GET"]),
        Route(job, describe, methods=["GET"]),
        Route(job, cancel, methods=["DELETE"]),
        Route(job + "/events", events, methods=["GET"]),
        Route(job + "/images/{index}.png", image, methods=["GET"]),
        Route(job + "/files/{name}", file, methods=["GET"]),
        Route("/v1/generate", generate, methods=["POST"]),
        Route("/v1/inspect", inspect, methods=["POST"]),
        Route("/v1/capabilities", capabilities, methods=["GET"]),
        Route("/v1/words", words, methods=["GET"]),
    ]


async def submit_body(engine: Engine, request: Request) -> ServedJob:
    """Submit the task that the body of a request asks for.

    Raises:
        LdmrefError: The body is wrong, or the queue is full.
    """
    body = await read_object(request)
    model = body.get("model")
    engine.check_room(model)
    task = await run_in_threadpool(make_task, engine, body)
    return engine.submit(task, model)


def summarise(job: ServedJob) -> dict[str, Any]:
    """Return a job as a list of jobs shows it, with the mode and the prompt of its request."""
    described = job.describe()
    short = {key: value for key, value in described.items() if key not in SHORT}
    short |= {key: described["request"].get(key) for key in ("mode", "prompt")}
    return short | {"images": [image["url"] for image in described["images"]]}


def send_result(job: ServedJob, index: int = 0) -> Response:
    """Return an image of a job, with its seed and the warnings as headers.

    Raises:
        UnknownJob: The job has neither an image nor a file that is one.
    """
    sheets = [name for name, (media_type, _) in job.files.items() if media_type == PNG]
    if not job.images and not sheets:
        hint = f"GET {job.url} has its results"
        raise UnknownJob("the job gave no image", code="E-IMAGE", hint=hint)
    response = send_png(job, index) if job.images else send_file(job, sheets[0])
    response.headers["Cache-Control"] = "no-store"
    response.headers["ldmref-job"] = job.id
    if job.images and job.images[index].seed is not None:
        response.headers["ldmref-seed"] = str(job.images[index].seed)
    return add_warnings(response, job.warnings)


def read_index(text: str) -> int:
    """Return the index of an image from a path.

    Raises:
        UnknownJob: It is not a number, or has more digits than any index.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UnknownJob(f"{short_repr(text)} is not the number of an image", code="E-IMAGE")
    return int(text)


def send_png(job: ServedJob, index: int) -> Response:
    """Return the response with an image, under a good file name.

    Raises:
        UnknownJob: The job does not have it, or not yet.
    """
    if index >= len(job.images):
        raise UnknownJob(f"the job has {len(job.images)} images so far", code="E-IMAGE")
    image = job.images[index]
    name = f"{job.request.get('mode', job.kind)}-{image.seed}-{index}.png"
    return Response(image.png, 200, IMMUTABLE | disposition(name), PNG)


def send_file(job: ServedJob, name: str) -> Response:
    """Return the response with a file of a job.

    Raises:
        UnknownJob: The job does not have it, or not yet.
    """
    if name not in job.files:
        hint = "known: " + ", ".join(job.files) if job.files else ""
        raise UnknownJob("the job does not have this file", code="E-FILE", hint=hint)
    media_type, content = job.files[name]
    return Response(content, 200, IMMUTABLE | disposition(name), media_type)


def disposition(name: str) -> dict[str, str]:
    """Return the header that names a file."""
    return {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}"}
