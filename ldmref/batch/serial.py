"""The executor that generates one row after another in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from ldmref.batch.tasks import RowOutcome, RowTask, generate_task, limited_threads
from ldmref.models.model import LatentDiffusion
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
