"""The executor with several processes on this machine.

The processes are spawned, not forked: libraries with threads do not survive a fork. A process that
dies is replaced, and its row is tried once more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ldmref.batch.keys import ModelIdentity
from ldmref.batch.tasks import (
    ModelSource,
    RowOutcome,
    RowTask,
    generate_task,
    limited_threads,
    load_same,
    to_row_error,
)
from ldmref.errors import Cancelled, LdmrefError, ResourceError
from ldmref.modes.generate import CancelFlag

ATTEMPTS = 2  # of a row whose process dies
POLL = 0.1  # seconds between looks at `cancel`
READY = "ready"


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def blocked_sigint() -> Iterator[None]:
    """Block SIGINT in this thread, and in the processes that it starts.

    Ctrl-C goes to the whole group. A new process that inherits the blocked signal does not see it
    before it can ignore it; this process sees it as soon as it is unblocked again.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # unblocks SIGINT when it starts the tracker
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def serve_tasks(
    connection: Connection, source: ModelSource, identity: ModelIdentity, threads: int
) -> None:
    """Run in a worker process: load the model, then answer tasks until the batch ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see `blocked_sigint`
    try:
        model = load_same(source, identity)
    except Exception as error:
        connection.send(to_row_error(error))
        return
    with suppress(EOFError, OSError), limited_threads(threads):
        connection.send(READY)
        while True:
            connection.send(generate_task(model, connection.recv()))


@dataclass(eq=False)
class _WorkerProcess:
    """A process, its connection, and the task that it runs."""

    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: RowTask | None = None

    def receive(self) -> Any:
        """Return its message, or None if it died."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.terminate()
        self.process.join(2.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@dataclass
class ProcessExecutor:
    """Generates in several processes, each with its own model.

    Args:
        source: The model, or the function that loads it.
        identity: The identity that every worker's model must have.
        workers: The number of processes.
        threads: The number of threads of each.
    """

    source: ModelSource
    identity: ModelIdentity
    workers: int
    threads: int = 1
    _processes: list[_WorkerProcess] = field(default_factory=list, init=False)
    _waiting: deque[RowTask] = field(default_factory=deque, init=False)
    _deaths: dict[str, int] = field(default_factory=dict, init=False)
    _failed_starts: int = field(default=0, init=False)

    def run(
        self, tasks: Iterator[RowTask], cancel: CancelFlag | None
    ) -> Generator[RowOutcome, None, None]:
        """Yield the outcome of every task, in the order in which they finish.

        Raises:
            Cancelled: `cancel` was set; running rows are given up.
            ResourceError: No process can load the model.
            LdmrefError: The model cannot be loaded.
        """
        try:
            self._processes = [self._start() for _ in range(self.workers)]
            while self._assign(tasks):
                if cancel is not None and cancel.is_set():
                    raise Cancelled("stopped", code="E-CANCELLED")
                yield from self._collect()
        finally:
            for worker in self._processes:
                worker.end()
            self._processes = []

    def _start(self) -> _WorkerProcess:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self.source, self.identity, self.threads)
        process = context.Process(target=serve_tasks, args=arguments, daemon=True)
        with blocked_sigint():
            process.start()
        theirs.close()  # the end of the process then closes the connection
        return _WorkerProcess(process, ours)

    def _assign(self, tasks: Iterator[RowTask]) -> bool:
        """Give tasks to idle workers; return whether anything is left to do."""
        self._fetch(tasks)
        for worker in self._processes:
            if worker.ready and worker.task is None and self._waiting:
                worker.task = self._waiting.popleft()
                with suppress(OSError):  # it died, which `_collect` finds
                    worker.connection.send(worker.task)
                self._fetch(tasks)
        return bool(self._waiting) or any(worker.task for worker in self._processes)

    def _fetch(self, tasks: Iterator[RowTask]) -> None:
        """Keep one task waiting, as long as there are any."""
        if not self._waiting:
            self._waiting.extend(islice(tasks, 1))

    def _collect(self) -> Iterator[RowOutcome]:
        """Yield what has finished, and replace processes that died."""
        connections = [worker.connection for worker in self._processes]
        found = set(wait(connections, POLL))
        for worker in [w for w in self._processes if w.connection in found]:
            message = worker.receive()
            if isinstance(message, LdmrefError):
                raise message
            if message == READY:
                worker.ready = True
                self._failed_starts = 0
            elif message is None:
                yield from self._replace(worker)
            else:
                worker.task = None
                yield message

    def _replace(self, worker: _WorkerProcess) -> Iterator[RowOutcome]:
        """Start another process for one that died; its row waits again, or has failed."""
        worker.end()
        self._processes.remove(worker)
        code = worker.process.exitcode
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS * self.workers:
                raise ResourceError(
                    f"worker processes die while they load the model (exit code {code})",
                    code="E-WORKER",
                    hint="use fewer workers: each holds its own model",
                )
        task = worker.task
        if task is not None:
            self._deaths[task.key] = self._deaths.get(task.key, 0) + 1
            if self._deaths[task.key] < ATTEMPTS:
                self._waiting.append(task)
            else:
                yield worker_died(task.key, f"exit code {code}")
        self._processes.append(self._start())


def worker_died(key: str, how: str) -> RowOutcome:
    """Return the outcome of a row during which the worker died twice."""
    message = f"the worker that generated the row died {ATTEMPTS} times ({how})"
    hint = "it may need more memory: use fewer workers, then --retry-errors"
    return RowOutcome(key, error=("E-WORKER", message, hint))
