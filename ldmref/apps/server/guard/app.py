"""The guard: every request passes it before the application, and every answer on its way back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from ldmref.apps.server.errors import as_ldmref_error, status_of
from ldmref.apps.server.guard.hosts import Hosts
from ldmref.apps.server.guard.limits import Limits
from ldmref.apps.server.guard.origins import Origins, is_preflight, preflight_headers
from ldmref.apps.server.guard.refused import Refused, answer, has_body
from ldmref.apps.server.guard.requests import Bodies, ClientLeft, check_head
from ldmref.apps.server.guard.tokens import TokenCheck
from ldmref.errors import one_line

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ldmref.support.server_settings import ServerSettings

PART = 65_536  # bytes of an answer that are sent at a time: as much as asyncio keeps unsent


class Guard:
    """An ASGI application around another one.

    The order of the checks is that of their price. All but the last need only the head of a
    request; a body is read for clients that passed them.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, limits: Limits):
        self.app = app
        self.limits = limits
        self.max_streams = settings.max_streams
        self.hosts = Hosts(settings)
        self.origins = Origins(settings)
        self.tokens = TokenCheck(settings)
        self.bodies = Bodies(settings, limits)
        self.streams: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Start and end of the server are passed on; there are no WebSockets."""
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)


class Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send):
        self.guard = guard
        self.scope = scope
        self.receive = receive
        self.send_on = send
        self.origin: str | None = None
        self.unread = has_body(scope)
        self.started = False
        self.stream_of = ""
        self.entry = Entry(scope)

    async def run(self) -> None:
        """Check, answer and log; no exception leaves this function.

        The server cancels what has not ended a second after it was asked to stop.
        """
        try:
            await self.respond()
        except Refused as refused:
            await self.refuse(refused)
        except (ClientLeft, ClientDisconnect):
            pass
        except asyncio.CancelledError:
            self.unread = False  # nobody waits for the rest of the body
            headers = {"Connection": "close"}
            await self.refuse(
                Refused(503, "the server is stopping", code="E-STOPPING", headers=headers)
            )
        except Exception as error:
            known = as_ldmref_error(error)
            await self.refuse(
                Refused(status_of(known), str(known), code=known.code, hint=known.hint)
            )
        finally:
            if self.stream_of:
                self.guard.streams[self.stream_of] -= 1
                self.guard.streams += Counter()  # drops addresses without a stream
            self.entry.write()

    async def respond(self) -> None:
        """Run the checks, then the application."""
        guard = self.guard
        guard.hosts.check(self.scope)
        self.origin = guard.origins.check(self.scope)
        check_head(self.scope, guard.limits.head_size)
        if self.origin is not None and is_preflight(self.scope):
            await self.send_preflight()
            return
        guard.tokens.check(self.scope)
        guard.bodies.check_length(self.scope)
        body = await guard.bodies.read(self.receive)
        self.unread = False
        try:
            await guard.app(self.scope, body.replay, self.send)
        finally:
            body.release()

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on; its first one gets the headers of every answer."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            self.enter_stream(headers)
            headers = secured(headers, self.scope["path"])
            headers += self.guard.origins.answer_headers(self.origin)
            message = {**message, "headers": headers}
            self.started = True
            self.entry.status = message["status"]
        else:
            self.entry.size += len(message.get("body", b""))
        for part in parts_of(message):
            await self.deliver(part)

    async def deliver(self, message: Message) -> None:
        """Pass a message on as soon as the client has taken what was sent before.

        Raises:
            ClientLeft: It did not take it in time; uvicorn then ends the connection.
        """
        try:
            async with asyncio.timeout(self.guard.limits.write):
                await self.send_on(message)
        except TimeoutError as error:
            raise ClientLeft from error

    def enter_stream(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Count an event stream; refuse it if its address has too many."""
        kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        if not kind.startswith(b"text/event-stream"):
            return
        client = (self.scope.get("client") or ("?", 0))[0]
        if self.guard.streams[client] >= self.guard.max_streams:
            raise Refused(
                429,
                f"this address has {self.guard.max_streams} open event streams",
                code="E-STREAMS",
                hint="close some of them, or ask for the state of the job instead",
                headers={"Retry-After": "5"},
            )
        self.guard.streams[client] += 1
        self.stream_of = client

    async def refuse(self, refused: Refused) -> None:
        """Send the answer to a refused request, unless another answer has begun."""
        if self.started:
            return
        linger = self.guard.limits.linger
        await answer(
            refused, self.scope, self.receive, self.send, unread=self.unread, linger=linger
        )

    async def send_preflight(self) -> None:
        """Answer the preflight request of an allowed page."""
        headers = preflight_headers(self.scope)
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})


def parts_of(message: Message) -> Iterator[Message]:
    """Cut a message of the answer into parts, each of which a client must take in time."""
    body = message.get("body", b"")
    if len(body) <= PART:
        yield message
        return
    for start in range(0, len(body), PART):
        more = start + PART < len(body) or message.get("more_body", False)
        yield {**message, "body": body[start : start + PART], "more_body": more}


# -- headers of every answer -----------------------------------------------------------------------


# The page loads its own scripts, styles and images, and talks to its own server. `blob:` and
# `data:` hold the images that it received. No inline script or style, no frame around the page.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
NAMES = {name for name, _ in HEADERS}


def secured(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those of every answer.

    Headers of the application that would weaken these are dropped. An answer without Cache-Control
    is not stored; the files of the page are checked for changes before they are used again.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in NAMES]
    if not any(name.lower() == b"cache-control" for name, _ in kept):
        static = path == "/" or path.startswith("/page/")
        kept.append((b"cache-control", b"no-cache" if static else b"no-store"))
    return kept + HEADERS


# -- the log ---------------------------------------------------------------------------------------


log = logging.getLogger("ldmref.server")
LONGEST_PATH = 200
CLIENT_LEFT = 499  # as in the logs of other servers


class Entry:
    """The line of a request."""

    def __init__(self, scope: Scope):
        self.scope = scope
        self.started = time.monotonic()
        self.status = CLIENT_LEFT
        self.size = 0

    def write(self) -> None:
        """Log the request. Control characters of the path are escaped."""
        client = (self.scope.get("client") or ("?", 0))[0]
        path = one_line(self.scope["path"][:LONGEST_PATH])
        seconds = time.monotonic() - self.started
        log.info(
            "%s %s %s %s %s B %.3f s",
            client,
            one_line(self.scope["method"][:20]),
            path,
            self.status,
            self.size,
            seconds,
        )
