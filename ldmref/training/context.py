"""What all stages of one training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Generic, TypeVar

from ldmref.backends.torch import TorchBackend
from ldmref.datasets.base import Dataset
from ldmref.datasets.config import DataSummary
from ldmref.training.monitor.progress import TrainingProgress
from ldmref.training.observe import StepObserver
from ldmref.training.recipes.file import AnyRecipe

R = TypeVar("R", bound=AnyRecipe)


@dataclass
class TrainingContext(Generic[R]):
    """The recipe, images, backend and callbacks that all stages of one training share.

    `on_progress` is called with the progress now and then, `log` with a line for the user.
    `rewrite`: settings were changed, and complete stages record that in their checkpoints.
    `observer`: sees the steps of the denoiser.
    """

    recipe: R
    folder: Path
    data: Dataset
    summary: DataSummary
    ops: TorchBackend
    on_progress: Callable[[TrainingProgress], None]
    log: Callable[[str], None]
    cancel: Event | None
    rewrite: bool
    observer: StepObserver | None = None
    logged_once: set[str] = field(default_factory=set)

    def log_once(self, line: str) -> None:
        """Log a line unless it was logged before."""
        if line not in self.logged_once:
            self.logged_once.add(line)
            self.log(line)
