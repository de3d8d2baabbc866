"""Progress of a stage: loss, rate and time left, a report now and then."""

from __future__ import annotations

import time
from dataclasses import dataclass

REPORTS, MOST_STEPS, MOST_SECONDS = 20, 100, 10.0


@dataclass(frozen=True)
class Progress:
    """Progress within a stage; `loss` and `pictures_per_second` are means since the last report."""

    stage: str
    step: int
    steps: int
    loss: float
    pictures_per_second: float
    seconds_left: float


class ProgressMeter:
    """Collects losses, and reports 20 times in a stage, every 100 steps, or every 10 seconds."""

    def __init__(self, stage: str, step: int, steps: int, batch_size: int):
        self.stage, self.step, self.steps, self.batch_size = stage, step, steps, batch_size
        self.losses: list[float] = []
        self.time = time.monotonic()

    def update(self, step: int, loss: float) -> Progress | None:
        """Record the loss of a step; returns a report if one is due."""
        self.losses.append(loss)
        now = time.monotonic()
        every = max(1, min(MOST_STEPS, self.steps // REPORTS))
        if step % every and step != self.steps and now - self.time < MOST_SECONDS:
            return None
        rate = (step - self.step) / max(1e-9, now - self.time)  # steps per second
        mean = sum(self.losses) / len(self.losses)
        self.step, self.time, self.losses = step, now, []
        left = (self.steps - step) / rate
        return Progress(self.stage, step, self.steps, mean, rate * self.batch_size, left)
