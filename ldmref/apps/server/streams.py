"""Following a job over HTTP: server-sent events, and answers that wait for the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ldmref.apps.server.jobs import Event, ServedJob
from ldmref.errors import Cancelled

HEARTBEAT_SECONDS = 15.0
ALONE_SECONDS = 5.0  # from the last reader of an attended job to its end; clients reconnect earlier
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def await_job(request: Request, job: ServedJob) -> None:
    """Wait for the end of a job, which is cancelled if the client disappears.

    The body of the request must have been read.

    Raises:
        LdmrefError: The job failed or was cancelled.
    """

    async def follow() -> None:
        async for _ in job.subscribe(previews=False):
            pass

    tasks = [asyncio.create_task(follow()), asyncio.create_task(wait_for_disconnect(request))]
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


def event_stream(request: Request, job: ServedJob) -> Response:
    """Return the events of a job as they come, after the one in `Last-Event-ID`.

    With `?previews=0`, the stream has no previews. When the last reader of an attended job has gone
    for `ALONE_SECONDS`, the job is cancelled.
    """
    after = read_event_number(request.headers.get("last-event-id"))
    previews = request.query_params.get("previews", "1") != "0"
    events = write_events(job.subscribe(after, previews))
    if job.attended:
        events = attend(events, job)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def attend(events: AsyncIterator[str], job: ServedJob) -> AsyncIterator[str]:
    """Yield events; once the reader has gone, let the job end if nobody reads it any more."""
    try:
        async for event in events:
            yield event
    finally:
        end_unless_read(job)


def end_unless_read(job: ServedJob) -> None:
    """Cancel a job if nobody reads its events in `ALONE_SECONDS` from now."""

    def end() -> None:
        if not job.has_ended and not job.log.has_readers:
            job.cancel()

    if not job.has_ended:
        asyncio.get_running_loop().call_later(ALONE_SECONDS, end)


async def write_events(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """Yield events in the notation of server-sent events, with comments while nothing happens."""
    async with aclosing(with_pauses(events, HEARTBEAT_SECONDS)) as following:
        async for event in following:
            yield ": alive\n\n" if event is None else format_event(event)


async def with_pauses(
    events: AsyncIterator[Event], seconds: float
) -> AsyncGenerator[Event | None, None]:
    """Yield events, and None whenever none has come for some seconds."""
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([pending], timeout=seconds)
            event = pending.result() if done else None
            if done and event is None:
                return
            if done:
                pending = asyncio.ensure_future(anext(events, None))
            yield event
    finally:
        pending.cancel()


def format_event(event: Event) -> str:
    """Return an event in the notation of server-sent events."""
    return f"id: {event.number}\nevent: {event.name}\ndata: {json.dumps(event.data)}\n\n"


def read_event_number(text: str | None) -> int:
    """Return the number in `Last-Event-ID`; 0 without it, and for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
