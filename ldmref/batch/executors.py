"""The executors by name: `serial`, `process` and `ray`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from ldmref.batch.keys import identify_model
from ldmref.batch.process import ProcessExecutor, count_cores
from ldmref.batch.tasks import (
    ModelSource,
    RowExecutor,
    RowOutcome,
    RowTask,
    generate_task,
    limited_threads,
)
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.models.model import LatentDiffusion
from ldmref.modes import validation
from ldmref.modes.generate import CancelFlag


@dataclass(frozen=True)
class SerialExecutor:
    """Generates in this process, with a model that is already loaded."""

    model: LatentDiffusion
    threads: int = 1

    def run(
        self, tasks: Iterator[RowTask], cancel: CancelFlag | None
    ) -> Generator[RowOutcome, None, None]:
        """Yield the outcome of every task, in their order."""
        for task in tasks:
            with limited_threads(self.threads):
                outcome = generate_task(self.model, task, cancel)
            yield outcome


EXECUTORS = ("serial", "process", "ray")
MAX_WORKERS = 10_000

# From the model's source, the loaded model and the number of rows to an executor.
ExecutorFactory = Callable[[ModelSource, LatentDiffusion, int], RowExecutor]


def choose_executor(
    name: str, workers: int | None, threads: int, address: str | None, gpus: float
) -> ExecutorFactory:
    """Check the arguments, and return a function that makes the executor.

    Raises:
        UsageError: There is no such executor, a number is out of range, or an argument belongs to
            another executor.
        BackendUnavailable: Ray is not installed.
    """
    if name not in EXECUTORS:
        hint = did_you_mean(str(name), EXECUTORS)
        raise UsageError(f"unknown executor {short_repr(name)}", code="E-EXECUTOR", hint=hint)
    check_number("workers", workers)
    check_number("threads", threads)
    validation.check_number("gpus", gpus, 0.0, MAX_WORKERS)
    if name == "serial" and workers not in (None, 1):
        raise UsageError(
            "the executor serial has one worker",
            code="E-WORKERS",
            hint=f"--executor process --workers {workers}",
        )
    for argument, value in (("address", address), ("gpus", gpus)):
        if value and name != "ray":
            message = f"{argument} belongs to the executor ray"
            raise UsageError(message, code="E-EXECUTOR", hint="--executor ray")
    if name == "ray":
        from ldmref.batch.ray import require_ray

        require_ray()

    def choose(source: ModelSource, loaded: LatentDiffusion, rows: int) -> RowExecutor:
        if name == "serial":
            return SerialExecutor(loaded, threads)
        identity = identify_model(loaded)
        if name == "process":
            most = workers or max(1, count_cores() // threads)
            return ProcessExecutor(source, identity, min(most, rows), threads)
        from ldmref.batch.ray import RayExecutor

        most = None if workers is None else min(workers, rows)
        return RayExecutor(source, identity, most, threads, address, gpus)

    return choose


def check_number(name: str, value: Any) -> None:
    """Refuse a number of workers, threads or rows that is not from 1 to `MAX_WORKERS`; None passes.

    Raises:
        UsageError: It is something else.
    """
    most = None if name == "limit" else MAX_WORKERS
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value >= 1 and (most is None or value <= most)):
        allowed = "a whole number of at least 1" if most is None else f"from 1 to {most}"
        raise UsageError(
            f"{name} must be {allowed}, not {short_repr(value)}", code=f"E-{name.upper()}"
        )
