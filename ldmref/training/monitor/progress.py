"""Progress of a stage: means of loss and metrics, rate, and time left."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ldmref.errors import duration

UNITS = {"psnr": "dB", "corrupted": "dB", "kl": "nats", "elbo": "nats"}
WARNING = "warning: "  # the beginning of a log line that is a warning
REPORTS = 20  # in a stage
# between two reports, at most
MOST_STEPS = 100
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class TrainingProgress:
    """Progress within a stage, as `on_progress` receives it.

    Loss, rate and metrics are means since the last report; `print` shows one line.

    Args:
        stage: Name of the stage.
        step: Number of steps that are done.
        steps: Number of steps of the stage.
        loss: The stage's loss.
        images_per_second: Images that are trained on per second.
        seconds_left: Estimated time to the end of the stage.
        metrics: Numbers that the stage reports in addition to its loss, such as PSNR in dB.

    >>> from ldmref.training import TrainingProgress
    >>> print(TrainingProgress("diffusion", 20, 400, 0.4312, 17.5, 87.0))
    diffusion 20/400  loss 0.4312  17.5 images/s  1 min 27 s left
    """

    stage: str
    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds_left: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return one line: `diffusion 20/400  loss 0.4312  17.5 images/s  1 min 27 s left`."""
        metrics = f"  {with_units(self.metrics)}" if self.metrics else ""
        return (
            f"{self.stage} {self.step}/{self.steps}  loss {self.loss:.4f}{metrics}  "
            f"{self.images_per_second:.1f} images/s  {duration(self.seconds_left)} left"
        )


def warn_only(line: str) -> None:
    """Issue a log line as a Python warning if it is one; otherwise drop it."""
    if line.startswith(WARNING):
        warnings.warn(line.removeprefix(WARNING), stacklevel=2)


class ProgressMeter:
    """Collects losses and metrics, and returns their means now and then.

    By default it reports 20 times in a stage, but at least every 100 steps and every 10 seconds.
    """

    def __init__(
        self,
        stage: str,
        step: int,
        steps: int,
        batch_size: int,
        most_steps: int = MOST_STEPS,
        most_seconds: float = MOST_SECONDS,
    ):
        self.stage = stage
        self.step = step
        self.steps = steps
        self.batch_size = batch_size
        self.most_steps = most_steps
        self.most_seconds = most_seconds
        self.values: defaultdict[str, list[float]] = defaultdict(list)
        self.time = time.monotonic()

    @property
    def every(self) -> int:
        """Number of steps between two reports, if time does not matter."""
        return max(1, min(self.most_steps, self.steps // REPORTS))

    def update(
        self, step: int, loss: float, metrics: Mapping[str, float]
    ) -> TrainingProgress | None:
        """Record loss and metrics of a step; return a report if one is due."""
        for name, value in {"loss": loss, **metrics}.items():
            self.values[name].append(value)
        now = time.monotonic()
        if step % self.every and step != self.steps and now - self.time < self.most_seconds:
            return None
        rate = (step - self.step) / max(1e-9, now - self.time)  # steps per second
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.step = step
        self.time = now
        self.values = defaultdict(list)
        left = (self.steps - step) / rate
        loss = means.pop("loss")
        return TrainingProgress(
            self.stage, step, self.steps, loss, rate * self.batch_size, left, means
        )


def with_units(metrics: Mapping[str, float]) -> str:
    """Format metrics: `psnr 23.1 dB, kl 97.4 nats`."""
    return ", ".join(f"{k} {v:.4g} {UNITS.get(k, '')}".strip() for k, v in metrics.items())
