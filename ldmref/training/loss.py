"""The loss of one step, which may be computed in equal parts of its batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ldmref.models.params import Params
from ldmref.training.distributed import mean_of_ranks, ranks


@dataclass(frozen=True)
class Part:
    """The part of a step's batch that is computed at once: one of `count` equal ones."""

    index: int = 0
    count: int = 1

    def of(self, batch: Any) -> Any:
        """This part of something with an element per image."""
        size = len(batch) // self.count
        return batch[self.index * size : (self.index + 1) * size]


FULL_BATCH = Part()


@dataclass(frozen=True)
class Loss:
    """The scalar training loss of one step, or of a part of its batch.

    `metrics`: numbers to report beside it. `batch`: the images that it was computed from.
    `after`: changes parameters in place after the optimizers' step, as a codebook's moving average.
    `by_timestep`: sums of the losses, and numbers of examples, in bins of t / T, (2, bins).
    """

    total: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    batch: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    after: Callable[[Params], None] | None = None
    by_timestep: torch.Tensor | None = None


def mean_loss(losses: Sequence[Loss]) -> Loss:
    """The loss of a batch, of those of its equal parts."""

    def mean(values: list[torch.Tensor]) -> torch.Tensor:
        return mean_of_ranks(torch.stack([value.detach() for value in values]).mean(0))

    total = mean([loss.total for loss in losses])
    metrics = {k: mean([loss.metrics[k] for loss in losses]) for k in losses[0].metrics}
    sums = [x.by_timestep * len(losses) * ranks() for x in losses if x.by_timestep is not None]
    batch = np.concatenate([loss.batch for loss in losses])
    return Loss(total, metrics, batch, losses[-1].after, mean(sums) if sums else None)
