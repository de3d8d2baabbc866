"""A server in a thread of the test's process, on a free port of this machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
from threaded_server import serve_in_thread

import ldmref
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.running import raise_file_limit
from ldmref.errors import Cancelled
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.support.server_settings import ServerSettings


@dataclass
class RunningServer:
    """A server, its engine, its address, and a client for it."""

    url: str
    engine: Engine
    client: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for raw connections."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def finish(self, id: str, seconds: float = 30.0) -> dict[str, Any]:
        """Wait for the end of a job, and return its description."""
        assert self.engine.get(id).wait(seconds), f"job {id} did not end"
        return self.client.get(f"/v1/jobs/{id}").json()


class GatedTask:
    """A task of one step that waits for `gate`, then does what `act(report, cancel)` says."""

    kind = "gated"
    previews = True

    def __init__(self, act: Callable[[Any, threading.Event], None] | None = None):
        self.request = {"mode": "gated"}
        self.started = threading.Event()
        self.gate = threading.Event()
        self.act = act

    def run(self, model: LatentDiffusion, report: Any, cancel: threading.Event) -> None:
        self.started.set()
        while not self.gate.wait(0.005):
            if cancel.is_set():
                raise Cancelled("stopped between two steps", code="E-CANCELLED")
        if self.act is not None:
            self.act(report, cancel)


@contextlib.contextmanager
def run_server(
    models: Mapping[str, LatentDiffusion],
    settings: ServerSettings | None = None,
    controlnets: Mapping[str, ControlNet] | None = None,
    **changes: Any,
) -> Iterator[RunningServer]:
    """Serve networks on a free port until the block ends; `changes` are settings."""
    settings = settings or ServerSettings(**{"port": 0, **changes})
    raise_file_limit(2 * settings.max_connections)  # the clients are in this process, too
    with serve_in_thread(models, settings=settings, controlnets=controlnets) as server:
        headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60.0) as client:
            yield RunningServer(server.url, server.engine, client)


@pytest.fixture(scope="session")
def emoji() -> LatentDiffusion:
    """Return the embedded model."""
    return ldmref.load("emoji", backend="numpy")


@pytest.fixture
def gated() -> Iterator[Any]:
    """`gated(act)` makes a task that waits for its gate, which opens when the test ends."""
    tasks: list[GatedTask] = []

    def make(act: Callable[[Any, threading.Event], None] | None = None) -> GatedTask:
        tasks.append(GatedTask(act))
        return tasks[-1]

    yield make
    for task in tasks:
        task.gate.set()


@pytest.fixture
def start_engine() -> Iterator[Any]:
    """`start_engine(models, **settings)` starts an engine, which is closed after the test."""
    with contextlib.ExitStack() as stack:

        def start(models: Mapping[str, LatentDiffusion], **changes: Any) -> Engine:
            engine = Engine(models, ServerSettings(**changes))
            stack.callback(engine.close, 1.0)
            return engine

        yield start


@pytest.fixture
def serve() -> Iterator[Any]:
    """`serve(models, **settings)` starts a server, which ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda models, **changes: stack.enter_context(run_server(models, **changes))


@pytest.fixture(scope="module")
def serve_once() -> Iterator[Any]:
    """`serve`, whose servers end with the file of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda models, **changes: stack.enter_context(run_server(models, **changes))


@pytest.fixture
def server(serve: Any, tiny: LatentDiffusion) -> RunningServer:
    """Return a server of the tiny model."""
    return serve({"tiny": tiny})
