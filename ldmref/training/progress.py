"""Progress of a stage: loss, rate and time left, a report now and then."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

UNITS = {"psnr": "dB", "corrupted": "dB", "kl": "nats", "elbo": "nats"}
WARNING = "warning: "  # the beginning of the lines for the user that are warnings
REPORTS = 20
MOST_STEPS = 100
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """Progress within a stage; loss, rate and metrics are means since the last report.

    `metrics`: what the stage reports beside its loss, such as a codebook's perplexity.
    """

    stage: str
    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds_left: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line, such as `diffusion 20/400  loss 0.4312  17.5 images/s  1 min 27 s left`."""
        metrics = f"  {with_units(self.metrics)}" if self.metrics else ""
        return (
            f"{self.stage} {self.step}/{self.steps}  loss {self.loss:.4f}{metrics}  "
            f"{self.images_per_second:.1f} images/s  {duration(self.seconds_left)} left"
        )


def warn_only(line: str) -> None:
    """Issue a line for the user as a Python warning if it is one; drop it otherwise."""
    if line.startswith(WARNING):
        warnings.warn(line.removeprefix(WARNING), stacklevel=2)


class ProgressMeter:
    """Collects losses, and reports 20 times in a stage, every 100 steps, or every 10 seconds."""

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
        """Steps from report to report, however long they take."""
        return max(1, min(self.most_steps, self.steps // REPORTS))

    def update(self, step: int, loss: float, metrics: Mapping[str, float]) -> Progress | None:
        """Record loss and metrics of a step; returns a report if one is due."""
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
        return Progress(self.stage, step, self.steps, loss, rate * self.batch_size, left, means)


def with_units(metrics: Mapping[str, float]) -> str:
    """`psnr 23.1 dB, kl 97.4 nats`."""
    return ", ".join(f"{k} {v:.4g} {UNITS.get(k, '')}".strip() for k, v in metrics.items())


def duration(seconds: float) -> str:
    """Seconds for people: 1.3 s, 2 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
