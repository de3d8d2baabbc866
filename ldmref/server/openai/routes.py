"""The subset of OpenAI's HTTP interface about images: generations, edits and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ldmref.errors import LdmrefError
from ldmref.models.config import ModelConfig
from ldmref.modes.run import Plan
from ldmref.server.bodies import read_json, require_object
from ldmref.server.client_errors import refuse_with
from ldmref.server.client_work import plan_batches
from ldmref.server.engine import Engine
from ldmref.server.errors import BadRequest, status_of
from ldmref.server.inputs import open_bytes
from ldmref.server.openai.answers import (
    count_usage,
    describe_images,
    describe_model,
    describe_models,
)
from ldmref.server.openai.fields import make_field_error, read_form
from ldmref.server.openai.stream import EventStream, Publisher
from ldmref.server.openai.translate import (
    Asked,
    find_model,
    naming,
    naming_fields,
    translate_edit,
    translate_generation,
    unknown_model,
)
from ldmref.server.openai.work import StreamedWork
from ldmref.server.streams import await_job
from ldmref.server.warning_headers import add_warnings
from ldmref.server.work import GenerateWork

MAX_FIELDS = 100
Translate = Callable[[ModelConfig], Asked]


def routes(engine: Engine) -> list[Route]:
    """Return the routes of OpenAI's interface."""
    served = list(engine.models)

    async def generations(request: Request) -> Response:
        """Generate images from a prompt."""
        body = require_object(read_json(await request.body()))

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
        work = StreamedWork(plan, output.partial_images, publisher.publish)
        job = engine.submit(work, name)
        return add_warnings(EventStream(job, publisher, usage, headers), [*lines, *plan.warnings])
    job = engine.submit(GenerateWork(plan, previews=False), name)
    await await_job(request, job)
    address = str(request.base_url).rstrip("/")
    answer = await run_in_threadpool(describe_images, job, output, usage, address)
    return add_warnings(JSONResponse(answer, headers=headers), [*lines, *job.warnings])


async def read_upload(request: Request, most: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the fields of a form as JSON values, and its files: `image`, and perhaps `mask`.

    Raises:
        BadRequest: The body is not a form.
        FieldError: A field is repeated, or an image is missing or is not a file.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("image edits take multipart/form-data", code="E-FORM")
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    async with request.form(max_files=16, max_fields=MAX_FIELDS, max_part_size=most) as form:
        for key, value in form.multi_items():
            name = "image" if key in ("image", "image[]") else key
            if name in ("image", "mask") and not isinstance(value, UploadFile):
                raise make_field_error(key, f"{key} must be an uploaded file; URLs are not opened")
            if name in files or name in texts:
                message = "one image can be edited at a time" if name == "image" else "repeated"
                raise make_field_error(key, f"{key}: {message}")
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                texts[name] = value
    for name in files.keys() - {"image", "mask"}:
        raise make_field_error(name, f"Unknown parameter: {name!r}.", code="unknown_parameter")
    if "image" not in files:
        message = "Missing required parameter: 'image'."
        raise make_field_error("image", message, code="missing_parameter")
    return read_form(texts), files


def openai_status(error: LdmrefError) -> int:
    """Return the status of an error: OpenAI answers wrong values with 400 instead of 422."""
    status = 404 if error.code == "model_not_found" else status_of(error)
    return 400 if status == 422 else status
