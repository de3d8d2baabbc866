"""The ASGI application: all interfaces on one engine, behind one guard."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ldmref.errors import LdmrefError
from ldmref.server import native, static_files
from ldmref.server.engine import Engine
from ldmref.server.errors import as_ldmref_error, refusal, status_of
from ldmref.server.openapi import describe_interface
from ldmref.server.parts import find_part
from ldmref.server.settings import ServerSettings

log = logging.getLogger("ldmref.server")

# Each of these modules has `routes(engine)`; those of the second tuple register kinds of works.
INTERFACES = ("server.a1111.routes", "server.openai.routes", "server.mcp")
KINDS_OF_WORKS = ("server.inputs", "server.exploring", "server.gridding")


def create_app(engine: Engine, settings: ServerSettings | None = None) -> Any:
    """Return the ASGI application of an engine.

    Args:
        engine: It is closed when the application shuts down.
        settings: Access and limits; None: those of the engine.
    """
    settings = settings or engine.settings
    for name in KINDS_OF_WORKS:
        find_part(name)

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
        *native.routes(engine),
        *(static_files.routes() if settings.page else ()),
    ]
    for name in INTERFACES:
        part = find_part(name)
        routes += part.routes(engine) if part else ()
    description = describe_interface(routes)
    app = Starlette(
        routes=routes,
        exception_handlers={LdmrefError: on_error, HTTPException: on_http_error},
        middleware=[Middleware(AnswerErrors)],
        lifespan=lifespan,
    )
    guard = find_part("server.guard")
    return guard.guard(app, settings) if guard else app


class AnswerErrors:
    """ASGI middleware that answers unexpected errors; their cause goes to the log only."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except ClientDisconnect:
            return
        except Exception as error:
            log.error("%s failed", scope.get("path"), exc_info=error)
            if not begun:
                known = as_ldmref_error(error)
                await refusal(scope["path"], status_of(known), known)(scope, receive, send)


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
