"""A server in a thread of the test's process, on a free port, to stop and to start again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ldmref.apps.server.engine import Engine
from ldmref.apps.server.running import address_of, make_server, open_socket
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.support.server_settings import ServerSettings

SECONDS = 20.0


@dataclass
class ThreadedServer:
    """A server on a port of this machine; `stop` and `start` keep the port."""

    models: Mapping[str, LatentDiffusion]
    sources: Mapping[str, str]
    settings: ServerSettings
    controlnets: Mapping[str, ControlNet] | None = None
    url: str = ""

    def start(self) -> None:
        """Listen, and wait until the server answers."""
        listening = open_socket(self.settings)
        self.url = address_of(listening)
        self.settings = replace(self.settings, port=listening.getsockname()[1])
        self.engine = Engine(self.models, self.settings, self.sources, controlnets=self.controlnets)
        self.server = make_server(self.engine, self.settings)
        run = {"target": self.server.run, "kwargs": {"sockets": [listening]}, "daemon": True}
        self.thread = threading.Thread(**run)
        self.thread.start()
        end = time.monotonic() + SECONDS
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.01)
        assert self.server.started, "the server did not start"
        self.listening = listening

    def stop(self) -> None:
        """Cancel everything, and close the port."""
        for job in self.engine.jobs():
            job.cancel()
        self.server.should_exit = True
        self.thread.join(SECONDS)
        self.engine.close(0.0)
        self.listening.close()


@contextlib.contextmanager
def serve_in_thread(
    models: Mapping[str, LatentDiffusion],
    sources: Mapping[str, str] | None = None,
    settings: ServerSettings | None = None,
    controlnets: Mapping[str, ControlNet] | None = None,
    **changes: Any,
) -> Iterator[ThreadedServer]:
    """Serve models until the block ends.

    Args:
        models: The models by name.
        sources: The names or files that they were loaded from.
        settings: The settings; None: those of `changes`, on a free port.
        controlnets: The ControlNets by name.
        **changes: Settings.
    """
    settings = settings or ServerSettings(**{"port": 0, **changes})
    server = ThreadedServer(models, sources or {}, settings, controlnets)
    server.start()
    try:
        yield server
    finally:
        server.stop()
