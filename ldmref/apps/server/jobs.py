"""A job of the server: its state, its events and its results.

The events are a log that keeps the latest of each kind, and readers follow it.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ldmref.apps.server.bodies import as_json
from ldmref.apps.server.errors import to_json
from ldmref.apps.server.images import FinishedImage, finish_image, preview_url
from ldmref.apps.server.tasks import ServedTask
from ldmref.errors import Cancelled, LdmrefError

PREVIEW_SECONDS = 0.5  # from one preview to the next at least

ENDS = ("done", "failed", "cancelled")  # the last event of a job is one of these


class ServedJob:
    """A task that was submitted to an engine, and everything that came of it.

    Every method may be called from any thread.

    Args:
        task: What to run.
        model: The name of its model.
        leave: Removes a job that is cancelled from the queue.
    """

    def __init__(self, task: ServedTask, model: str, leave: Callable[[ServedJob], None]):
        self.id = secrets.token_urlsafe(16)
        self.kind = task.kind
        self.model = model
        self.request = dict(task.request)
        self.previews = getattr(task, "previews", True)
        self.attended = False  # whether it ends when nobody reads its events any more
        self.task: ServedTask | None = task  # until it ends: it holds the input images
        self.state = "queued"
        self.position: int | None = None  # in the queue, from 0
        self.created = time.time()
        self.started: float | None = None
        self.finished: float | None = None
        self.images: list[FinishedImage] = []
        self.files: dict[str, tuple[str, bytes]] = {}
        self.data: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.error: LdmrefError | None = None
        self.size = 0  # bytes of everything that came of it, once it has ended
        self.cancelled = threading.Event()
        self._leave = leave
        self.log = EventLog()
        self.progress: dict[str, Any] = {}

    # -- its life, which the engine directs -------------------------------------------------------

    def queue_at(self, position: int) -> None:
        """Take a place in the queue."""
        if position != self.position:
            self.position = position
            self.log.append("queued", "queued", {"position": position})

    def start(self) -> None:
        """Begin to run."""
        self.state = "running"
        self.position = None
        self.started = time.time()
        self.log.append("started", "started", {})

    def end(self, error: LdmrefError | None = None) -> bool:
        """End as done, or as cancelled or failed by an error; return False if it had ended."""
        with self.log.changed:
            if self.state in ENDS:
                return False
            self.position = None
            self.task = None
            self.finished = time.time()
            stopped = isinstance(error, Cancelled)
            self.error = None if stopped or error is None else without_frames(error)
            self.state = "cancelled" if stopped else "failed" if error else "done"
        for i in range(self.progress.get("images", 0)):
            self.log.remove(f"preview {i}")
        described = self.describe()
        contents = [
            *(image.png for image in self.images),
            *(file[1] for file in self.files.values()),
        ]
        self.size = len(json.dumps(described, default=str)) + sum(map(len, contents))
        self.log.append("end", self.state, described)
        return True

    def cancel(self) -> None:
        """Leave the queue, or ask the task to stop at its next step."""
        self.cancelled.set()
        self._leave(self)

    @property
    def has_ended(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in ENDS

    # -- what others read -------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; return whether the job has ended."""
        with self.log.changed:
            return self.log.changed.wait_for(lambda: self.log.ended, timeout)

    def subscribe(self, after: int = 0, previews: bool = True) -> AsyncIterator[Event]:
        """Iterate over the events: past ones, then new ones, up to the end of the job.

        Args:
            after: The number of the last event that is known already.
            previews: Whether previews are wanted; they are only made if somebody wants them.
        """
        return self.log.follow(after, previews)

    def describe(self) -> dict[str, Any]:
        """Return everything about the job as JSON, with URLs instead of images and files."""
        url = self.url
        files = [
            {
                "name": name,
                "url": f"{url}/files/{name}",
                "size": len(content),
                "media_type": media_type,
            }
            for name, (media_type, content) in list(self.files.items())
        ]
        return {
            "id": self.id,
            "kind": self.kind,
            "model": self.model,
            "state": self.state,
            "url": url,
            "events": f"{url}/events",
            "request": self.request,
            "position": self.position,
            "progress": self.progress or None,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "images": [self.describe_image(i) for i in range(len(self.images))],
            "files": files,
            "data": self.data,
            "warnings": list(self.warnings),
            "error": to_json(self.error) if self.error else None,
        }

    @property
    def url(self) -> str:
        """The path of the job in the native interface."""
        return f"/v1/jobs/{self.id}"

    def describe_image(self, index: int, short: bool = False) -> dict[str, Any]:
        """Return an image as JSON, with its URL; a short description has no parameters."""
        image = self.images[index]
        described = {
            "index": index,
            "url": f"{self.url}/images/{index}.png",
            "seed": image.seed,
            "width": image.width,
            "height": image.height,
        }
        return described if short else described | {"params": image.params}


def without_frames(error: LdmrefError) -> LdmrefError:
    """Return an error that no longer holds the frames it came through, with all their arrays."""
    error.__cause__ = None
    error.__context__ = None
    return error.with_traceback(None)


class JobReport:
    """The `Report` of a task, which publishes on its job."""

    def __init__(self, job: ServedJob):
        self.job = job
        self._pace = Pace()
        self._last_preview = -math.inf

    def progress(
        self, step: int, steps: int, image: int = 0, images: int = 1, together: int = 1
    ) -> None:
        """Publish that `step` of `steps` are taken, for `together` images from `image` on."""
        batches = math.ceil((images - image) / max(1, together))
        left = self._pace.seconds_left(step, steps, batches)
        progress = {"step": step, "steps": steps, "image": image, "images": images}
        self.job.progress = progress | {"seconds_left": left}
        self.job.log.append("progress", "progress", self.job.progress)

    def wanted(self) -> bool:
        """Return whether a preview is due: somebody reads previews, and some time has passed."""
        due = time.monotonic() - self._last_preview >= PREVIEW_SECONDS
        return self.job.previews and due and self.job.log.has_preview_readers

    def preview(self, index: int, image: Image.Image) -> None:
        """Publish a small version of the predicted image."""
        self._last_preview = time.monotonic()
        data = {"index": index, "step": self.job.progress.get("step", 0)}
        self.job.log.append(f"preview {index}", "preview", data | {"image": preview_url(image)})

    def image(
        self, index: int, image: Image.Image, params: dict[str, Any], latents: np.ndarray
    ) -> None:
        """Keep a finished image as the next one, and publish its URL."""
        self.job.images.append(finish_image(image, params))
        self.job.log.remove(f"preview {index}")
        self.job.log.append(f"image {index}", "image", self.job.describe_image(index, short=True))

    def file(self, name: str, media_type: str, content: bytes) -> None:
        """Keep a file under a name."""
        self.job.files[name] = (media_type, content)

    def data(self, value: Mapping[str, Any]) -> None:
        """Keep results that are JSON; NaN and infinity become null."""
        self.job.data = self.job.data | as_json(value)

    def warn(self, line: str) -> None:
        """Keep a warning, once."""
        if line not in self.job.warnings:
            self.job.warnings.append(line)


class Pace:
    """The time that a step takes, measured from one report to the next."""

    def __init__(self) -> None:
        self._taken: list[float] = []
        self._last = (0, 0.0)  # step and time of the last report

    def seconds_left(self, step: int, steps: int, batches: int) -> float | None:
        """Return the seconds that remain, or None before the first step.

        Args:
            step, steps: Steps taken, and steps of the batch.
            batches: Batches that remain, the present one included.
        """
        now = time.monotonic()
        before, then = self._last
        if step > before and then:
            self._taken = [*self._taken[-9:], (now - then) / (step - before)]
        self._last = (step, now)
        if not self._taken:
            return None
        remaining = steps - step + steps * (batches - 1)
        return round(sorted(self._taken)[len(self._taken) // 2] * remaining, 3)


class Event(NamedTuple):
    """A numbered event; `data` can be written as JSON."""

    number: int
    name: str
    data: dict[str, Any]


class EventReader:
    """A reader of a log in an event loop, which is woken after every new event."""

    def __init__(self, previews: bool):
        self.previews = previews
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Wake the reader; called from any thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._news.set)

    async def sleep(self) -> None:
        """Wait for the next call of `wake`."""
        await self._news.wait()
        self._news.clear()


class EventLog:
    """The events of one job, written by any thread and read by any number of readers.

    An event replaces the earlier one of the same key, such as a preview of the same image. A reader
    gets what is new since its last event, so a slow reader skips what was replaced, and the log
    stays small however long the job runs.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.ended = False
        self._events: dict[str, Event] = {}
        self._readers: set[EventReader] = set()
        self._number = 0

    def append(self, key: str, name: str, data: dict[str, Any]) -> None:
        """Add an event, and remove the earlier one of the same key."""
        with self.changed:
            if self.ended:
                return
            self._number += 1
            self._events.pop(key, None)
            self._events[key] = Event(self._number, name, data)
            self.ended = name in ENDS
            self.changed.notify_all()
            readers = list(self._readers)
        for reader in readers:
            reader.wake()

    def remove(self, key: str) -> None:
        """Remove the event of a key, such as the preview of a finished image."""
        with self.changed:
            self._events.pop(key, None)

    @property
    def has_preview_readers(self) -> bool:
        """Whether somebody who wants previews reads the log now."""
        with self.changed:
            return any(reader.previews for reader in self._readers)

    @property
    def has_readers(self) -> bool:
        """Whether somebody reads the log now."""
        with self.changed:
            return bool(self._readers)

    def after(self, number: int) -> tuple[list[Event], bool]:
        """Return the events after a number, oldest first, and whether the last one is there."""
        with self.changed:
            events = list(self._events.values())
            return [event for event in events if event.number > number], self.ended

    async def follow(self, after: int = 0, previews: bool = True) -> AsyncIterator[Event]:
        """Yield past events, then new ones as they come, and stop after the last one.

        Args:
            after: The number of the last event that is known already.
            previews: Whether this reader wants previews.
        """
        reader = EventReader(previews)
        with self.changed:
            self._readers.add(reader)
        try:
            while True:
                events, ended = self.after(after)
                for event in events:
                    after = event.number
                    if previews or event.name != "preview":
                        yield event
                if ended:
                    return
                await reader.sleep()
        finally:
            with self.changed:
                self._readers.discard(reader)
