"""The events of a job: a log that keeps the latest of each kind, and readers that follow it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple

ENDS = ("done", "failed", "cancelled")  # the last event of a job is one of these


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
