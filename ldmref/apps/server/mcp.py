"""The Model Context Protocol over HTTP: one JSON message per POST to /mcp.

Source: Model Context Protocol, specification of 2025-06-18, "Streamable HTTP". The server keeps no
session and sends no event streams, both of which the specification leaves to the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ldmref.apps.mcp import Protocol, make_tools
from ldmref.apps.mcp.generation import MODE, check_names, describe_model, image_schema
from ldmref.apps.mcp.protocol import INVALID_REQUEST, PARSE_ERROR, VERSIONS, ToolCall, make_error
from ldmref.apps.mcp.tools import Generated
from ldmref.apps.server.bodies import read_request
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import BadRequest
from ldmref.apps.server.inputs import plan_task, request_schema
from ldmref.apps.server.responses import JSONResponse
from ldmref.apps.server.streams import wait_for_disconnect
from ldmref.errors import Cancelled

CALLS = 16  # tools that run at the same time; further ones wait
POLL_SECONDS = 0.1  # from a look at the client's connection to the next


def routes(engine: Engine) -> list[Route]:
    """Return the routes of the protocol."""
    limiter: list[CapacityLimiter] = []  # made within the event loop, as it must be
    generate = partial(generate_images, engine)
    model = engine.models[engine.find_model(None)]
    schema = image_schema(schema_of_controls(engine))
    tools = make_tools(generate, schema, describe_model(model.config), run_code=False)

    async def answer(request: Request) -> Response:
        if not limiter:
            limiter.append(CapacityLimiter(CALLS))
        version = request.headers.get("mcp-protocol-version", VERSIONS[0])
        if version not in VERSIONS:
            message = f"unknown version {version[:40]!r} of the protocol; known: {VERSIONS}"
            return JSONResponse(make_error(None, INVALID_REQUEST, message), 400)
        try:
            message = await read_request(request)
        except BadRequest as error:
            return JSONResponse(make_error(None, PARSE_ERROR, str(error)), 400)
        protocol = Protocol(tools)
        protocol.accept(message)
        task = to_thread.run_sync(protocol.answer, message, limiter=limiter[0])
        running = asyncio.ensure_future(task)
        leaving = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            await asyncio.wait([running, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                protocol.cancel_all()
            response = await running
        finally:
            leaving.cancel()
        return Response(status_code=202) if response is None else JSONResponse(response)

    return [Route("/mcp", answer, methods=["POST"])]


def schema_of_controls(engine: Engine) -> dict[str, Any]:
    """Return the schema of `control` by its name, if the server has ControlNets."""
    properties = request_schema(MODE, engine.served)["properties"]
    return {name: properties[name] for name in ("control",) if name in properties}


def generate_images(
    engine: Engine, arguments: Mapping[str, Any], call: ToolCall
) -> list[Generated]:
    """Generate the images of a request as a job of the engine.

    Raises:
        UsageError: An argument is not valid.
        QueueFull: All places of the queue are taken.
        Cancelled: The client has left, or somebody cancelled the job.
    """
    values = check_names(arguments, schema_of_controls(engine))
    job = engine.submit(plan_task(engine, MODE, values, previews=False))
    while not job.wait(POLL_SECONDS):
        if call.cancel.is_set():
            job.cancel()
    if job.error is not None:
        raise job.error
    if job.state != "done":
        raise Cancelled("the job was cancelled", code="E-CANCELLED")
    return [Generated(image.png, image.params, job.warnings) for image in job.images]
