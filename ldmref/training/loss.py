"""The loss of a step, averaged over the parts of its batch, and the error if it is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ldmref.errors import NumericError, abbreviated
from ldmref.models.params import Params
from ldmref.training.distributed import average_over_ranks, ranks

MOST_NAMED = 64  # images of a batch in an error message


@dataclass(frozen=True)
class Loss:
    """The scalar training loss of one step, or of a part of its batch.

    Args:
        total: The loss, a scalar with its gradient.
        metrics: Numbers to report in addition, by name.
        batch: Indices of the images that it was computed from, (n,).
        after: `after(params)` changes parameters in place after the optimizers' step, such as the
            moving average of a codebook. None: nothing does.
        by_timestep: Sums of the losses, and numbers of examples, in bins of t / T, (2, bins). None:
            they are not recorded.

    >>> import torch
    >>> from ldmref.training import Loss
    >>> Loss(torch.tensor(0.5), {"mse": torch.tensor(0.5)}).total.item()
    0.5
    """

    total: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    batch: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    after: Callable[[Params], None] | None = None
    by_timestep: torch.Tensor | None = None


def mean_loss(losses: Sequence[Loss]) -> Loss:
    """Average the losses of a batch's equal parts, over all ranks."""

    def mean(values: list[torch.Tensor]) -> torch.Tensor:
        return average_over_ranks(torch.stack([value.detach() for value in values]).mean(0))

    total = mean([loss.total for loss in losses])
    metrics = {k: mean([loss.metrics[k] for loss in losses]) for k in losses[0].metrics}
    sums = [x.by_timestep * len(losses) * ranks() for x in losses if x.by_timestep is not None]
    batch = np.concatenate([loss.batch for loss in losses])
    return Loss(total, metrics, batch, losses[-1].after, mean(sums) if sums else None)


def nonfinite_error(
    step: int, loss: float, norms: Sequence[float], where: str, batch: np.ndarray
) -> NumericError:
    """Return the error that names the step, the operation or parameter, and the images."""
    norm = max(norms, key=lambda norm: (math.isnan(norm), norm))
    images = abbreviated([str(int(i)) for i in batch], MOST_NAMED)
    message = f"step {step}: the loss is {loss}, its gradient's norm {norm}, first in {where}; "
    message += f"the images of this batch: {images}"
    hint = "try a lower learning rate, or float32: with --accept-changes from the last checkpoint "
    hint += "on, which is kept, or anew in another folder (-o)"
    return NumericError(message, code="E-NAN", hint=hint)
