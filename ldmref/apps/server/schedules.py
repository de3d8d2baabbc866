"""The atlas of flow schedules over HTTP, as the tool `flow_schedule` reads it."""

from __future__ import annotations

from dataclasses import asdict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ldmref.apps.mcp.schedules import ScheduleRequest, answer_schedule
from ldmref.apps.mcp.tools import read_arguments
from ldmref.apps.server.bodies import read_object
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.responses import JSONResponse
from ldmref.atlas import read_flow_schedules

PATH = "/v1/schedules"


def routes(engine: Engine) -> list[Route]:
    """Return the routes of the atlas, which needs no model."""

    async def list_schedules(request: Request) -> Response:
        """List the flow schedules of programs: families, programs and their rules."""
        rows = read_flow_schedules()
        described = [asdict(row) | {"rule": row.rule, "spacing": row.spacing} for row in rows]
        return JSONResponse({"schedules": described})

    async def make(request: Request) -> Response:
        """Make the flow times of a family as programs do, or name a list of flow times."""
        wanted = read_arguments(ScheduleRequest, await read_object(request))
        return JSONResponse({"answer": await run_in_threadpool(answer_schedule, wanted)})

    return [
        Route(PATH, list_schedules, methods=["GET"]),
        Route(PATH, make, methods=["POST"]),
    ]
