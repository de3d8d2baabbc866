"""The stream of a request: partial and finished images as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ldmref.apps.server.errors import error_body, status_of
from ldmref.apps.server.jobs import ServedJob
from ldmref.apps.server.openai.answers import (
    Usage,
    describe_completed,
    describe_partial,
    format_sse,
)
from ldmref.apps.server.openai.fields import ImageOutput
from ldmref.apps.server.openai.tasks import Finished, Partial
from ldmref.apps.server.streams import HEADERS, HEARTBEAT_SECONDS
from ldmref.errors import Cancelled, LdmrefError

PATH = "/v1/images"  # whose errors have OpenAI's form


class Publisher:
    """Takes images from a worker's thread to the event loop in which it was made.

    Args:
        kind: image_generation or image_edit.
        output: How the images are wanted.
    """

    def __init__(self, kind: str, output: ImageOutput):
        self.kind = kind
        self.output = output
        self.items: asyncio.Queue[Partial | Finished | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def publish(self, item: Partial | Finished | None) -> None:
        """Queue an image, or None at the end; called from any thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody reads any more
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)


class EventStream(StreamingResponse):
    """The response with the events of a job, which is cancelled if the client disappears."""

    def __init__(
        self, job: ServedJob, publisher: Publisher, usage: Usage, headers: Mapping[str, str]
    ):
        events = stream_events(job, publisher, usage)
        super().__init__(events, media_type="text/event-stream", headers={**HEADERS, **headers})
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.job.has_ended:
                self.job.cancel()


async def stream_events(job: ServedJob, publisher: Publisher, usage: Usage) -> AsyncIterator[str]:
    """Yield the events of a job, with a comment where nothing happens for a while."""
    ending = asyncio.create_task(publish_end(job, publisher))
    try:
        while True:
            try:
                item = await asyncio.wait_for(publisher.items.get(), HEARTBEAT_SECONDS)
            except TimeoutError:
                yield ": alive\n\n"
                continue
            if item is None:
                break
            yield format_sse(await run_in_threadpool(describe, job, item, publisher, usage))
    finally:
        ending.cancel()
    error = job.error
    if error is None and job.state != "done":
        error = Cancelled("the job was cancelled", code="E-CANCELLED")
    if error is not None:
        yield format_error(error)


async def publish_end(job: ServedJob, publisher: Publisher) -> None:
    """Publish the end of a job after its images."""
    async for _ in job.subscribe(previews=False):
        pass
    publisher.publish(None)


def describe(
    job: ServedJob, item: Partial | Finished, publisher: Publisher, usage: Usage
) -> dict[str, Any]:
    """Return the event of an image."""
    if isinstance(item, Partial):
        return describe_partial(publisher.kind, item.image, item.number, publisher.output)
    return describe_completed(publisher.kind, job.images[item.index], publisher.output, usage)


def format_error(error: LdmrefError) -> str:
    """Return the event of an error, which the openai package raises as APIError."""
    return format_sse({"type": "error"} | error_body(PATH, status_of(error), error))
