"""The subset of OpenAI's HTTP interface about images: generations, edits and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ldmref.apps.server.bodies import read_object
from ldmref.apps.server.clients import plan_batches, refuse_with
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import status_of
from ldmref.apps.server.inputs import open_bytes
from ldmref.apps.server.openai.answers import (
    count_usage,
    describe_images,
    describe_model,
    describe_models,
)
from ldmref.apps.server.openai.stream import EventStream, Publisher
from ldmref.apps.server.openai.tasks import StreamedTask
from ldmref.apps.server.openai.translate import (
    Asked,
    find_model,
    naming,
    naming_fields,
    translate_edit,
    translate_generation,
    unknown_model,
)
from ldmref.apps.server.openai.upload import read_upload
from ldmref.apps.server.responses import JSONResponse, add_warnings
from ldmref.apps.server.streams import await_job
from ldmref.apps.server.tasks import GenerateTask
from ldmref.errors import LdmrefError
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
