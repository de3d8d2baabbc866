"""The executor on a Ray cluster, or on Ray on this machine.

Ray Data distributes the rows over a pool of actors, each with its own model. Workers return the
files, and this process writes them, so the machines need no common folder. A row whose actor dies
is tried once more.

Ray on this machine listens on localhost only, with a token, and sends no usage statistics.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from ldmref.batch.keys import ModelIdentity
from ldmref.batch.process import ATTEMPTS, count_cores, worker_died
from ldmref.batch.tasks import (
    ModelSource,
    RowOutcome,
    RowTask,
    generate_task,
    limited_threads,
    load_same,
    to_row_error,
)
from ldmref.errors import BackendUnavailable, Cancelled, InputError, LdmrefError
from ldmref.modes.generate import CancelFlag

WAVE = 5_000  # rows that are in Ray's memory at a time
CONNECT = 10.0  # seconds to wait for the address of a cluster
STORE = 200_000_000  # bytes of the object store of Ray on this machine


def require_ray() -> None:
    """Check that Ray is installed, without importing it.

    Raises:
        BackendUnavailable: It is not.
    """
    if find_spec("ray") is None:
        raise BackendUnavailable(
            "the executor ray needs the package ray",
            code="E-RAY",
            hint="pip install 'ldmref[ray]'",
        )


class RowAttempts:
    """An actor that counts how often each row has been begun, also by workers that died since."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        """Count one more attempt of a row, and return their number."""
        self._begun[key] += 1
        return self._begun[key]


class RayWorker:
    """An actor of Ray Data: loads the model once, then generates row after row.

    An error of the row is part of its outcome, so Ray never sees it: Ray would drop the block, or
    stop the batch. If the actor dies, Ray starts another and repeats the row without end, so the
    attempts are counted here.
    """

    def __init__(self, source: ModelSource, identity: ModelIdentity, threads: int, attempts: Any):
        self._threads = threads
        self._attempts = attempts
        self._problem: LdmrefError | None = None
        try:
            self._model = load_same(source, identity)
        except Exception as error:
            self._problem = to_row_error(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Generate a batch of one pickled task."""
        answer = self._problem or self._generate(pickle.loads(batch["task"][0]))
        return {"outcome": np.array([pickle.dumps(answer)], dtype=object)}

    def _generate(self, task: RowTask) -> RowOutcome:
        import ray

        attempt: Any = ray.get(self._attempts.begin.remote(task.key))
        if attempt > ATTEMPTS:
            return worker_died(task.key, "on Ray")
        with limited_threads(self._threads):
            return generate_task(self._model, task)


@dataclass(frozen=True)
class RayExecutor:
    """Generates on a Ray cluster.

    Args:
        source: The model, or the function that loads it on a worker.
        identity: The identity that every worker's model must have.
        workers: The number of actors; None: as many as the cluster has room for.
        threads: The number of threads, and CPUs, of each.
        address: The address of the cluster; None starts Ray on this machine.
        gpus: The number of GPUs of each actor.
    """

    source: ModelSource
    identity: ModelIdentity
    workers: int | None = None
    threads: int = 1
    address: str | None = None
    gpus: float = 0.0

    def run(
        self, tasks: Iterator[RowTask], cancel: CancelFlag | None
    ) -> Generator[RowOutcome, None, None]:
        """Yield the outcome of every task, in the order in which they finish.

        Raises:
            Cancelled: `cancel` was set; running rows are given up.
            InputError: The cluster cannot be reached.
            LdmrefError: A worker cannot load the model.
        """
        with connected(self.address, (self.workers or 1) * self.threads):
            while wave := list(islice(tasks, WAVE)):
                for outcome in self._map(wave):
                    if cancel is not None and cancel.is_set():
                        raise Cancelled("stopped", code="E-CANCELLED")
                    yield outcome

    def _map(self, tasks: list[RowTask]) -> Iterator[RowOutcome]:
        """Yield the outcomes of tasks."""
        import ray
        import ray.data

        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(RowAttempts)
        items = [{"task": pickle.dumps(task)} for task in tasks]
        data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            RayWorker,
            batch_size=1,
            fn_constructor_args=(self.source, self.identity, self.threads, attempts.remote()),
            compute=ray.data.ActorPoolStrategy(**self._pool(len(tasks))),
            num_cpus=self.threads,
            num_gpus=self.gpus or None,
        )
        for row in data.iter_rows():
            answer = pickle.loads(row["outcome"])
            if isinstance(answer, LdmrefError):
                raise answer
            yield answer

    def _pool(self, rows: int) -> dict[str, Any]:
        """Return the size of the pool of actors, which never exceeds the number of rows."""
        import ray

        if self.workers is not None:
            return {"size": min(self.workers, rows)}
        room = int(ray.cluster_resources().get("CPU", 1)) // self.threads
        if self.gpus:
            room = min(room, int(ray.cluster_resources().get("GPU", 0) / self.gpus))
        return {"min_size": 1, "max_size": max(1, min(room, rows))}


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine; a connection of the caller is kept.

    Args:
        address: The address of the cluster; None: this machine.
        cpus: The number of CPUs that Ray on this machine has at least.

    Raises:
        InputError: The cluster cannot be reached.
    """
    prepare_environment(local=address is None)
    import ray
    import ray.data

    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "num_cpus": max(cpus, count_cores()),
            "include_dashboard": False,
            "object_store_memory": STORE,
            "_node_ip_address": "127.0.0.1",
        }
    own = not ray.is_initialized()
    if own:
        require_reachable(address)
        try:
            with kept_signals(), silenced_start():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as error:
            what = "start Ray" if address is None else f"reach Ray at {address!r}"
            raise InputError(f"cannot {what}: {error}", code="E-RAY") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def require_reachable(address: str | None) -> None:
    """Check that something listens at HOST:PORT, for which Ray would wait for minutes.

    Raises:
        InputError: Nothing does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT):
            pass
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot reach Ray at {address!r}: {error}",
            code="E-RAY",
            hint="ray start --head, on the machine of that address, prints the port",
        ) from error


def prepare_environment(local: bool) -> None:
    """Set the variables that Ray reads when it is imported, unless the user has.

    Args:
        local: Whether Ray is started on this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it prints on standard output
    if local and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if local:  # makes Ray listen on 127.0.0.1 instead of all addresses
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def silenced_start() -> Iterator[None]:
    """Drop what libraries write to standard error: Ray announces there that it will be quiet."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextmanager
def kept_signals() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM, which Ray replaces when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
