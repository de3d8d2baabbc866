"""The ASGI application: all interfaces on one engine, behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ldmref.apps.server import (
    dial_tasks,
    explorer_tasks,
    grid_tasks,
    inputs,
    inside_tasks,
    mcp,
    native,
    schedules,
    static_files,
)
from ldmref.apps.server.a1111 import routes as a1111
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import refusal, status_of
from ldmref.apps.server.guard import guard
from ldmref.apps.server.openai import routes as openai
from ldmref.apps.server.openapi import describe_interface
from ldmref.apps.server.responses import JSONResponse
from ldmref.errors import LdmrefError
from ldmref.support.server_settings import ServerSettings

INTERFACES = (native, schedules, a1111, openai, mcp)
# registered when they are imported
TASK_MODULES = (inputs, dial_tasks, explorer_tasks, grid_tasks, inside_tasks)


def create_app(engine: Engine, settings: ServerSettings | None = None) -> Any:
    """Return the ASGI application of an engine.

    Args:
        engine: It is closed when the application shuts down.
        settings: Access and limits; None: those of the engine.
    """
    settings = settings or engine.settings

    async def health(request: Request) -> Response:
        """Say that the server runs."""
        return JSONResponse({"status": "ok"})

    async def openapi(request: Request) -> Response:
        """Describe the interfaces (OpenAPI 3.1)."""
        return JSONResponse(description)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    routes = [
        Route("/healthz", health, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        *(route for interface in INTERFACES for route in interface.routes(engine)),
        *(static_files.routes() if settings.page else ()),
    ]
    description = describe_interface(routes)
    handlers = {LdmrefError: on_error, HTTPException: on_http_error}
    app = Interfaces(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    return guard(app, settings)


class Interfaces(Starlette):
    """The routes and the answers to expected errors; unexpected ones leave it, to the guard."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the router within the handlers of errors, without Starlette's own answer 500."""
        return ExceptionMiddleware(self.router, handlers=self.exception_handlers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error in the form of the interface that owns the path."""
    assert isinstance(error, LdmrefError)
    return refusal(request.url.path, status_of(error), error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method in the form of the interface that owns the path."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        known = LdmrefError(f"there is nothing at {path}", code="E-PATH", hint="see /openapi.json")
    elif error.status_code == 405:
        known = LdmrefError(f"{path} does not take {request.method}", code="E-METHOD")
    else:
        known = LdmrefError(str(error.detail), code="E-HTTP")
    response = refusal(path, error.status_code, known)
    response.headers.update(error.headers or {})
    return response
