"""The interface of an observer of training steps, which changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class ObservedBatch(NamedTuple):
    """A part of a step's batch, with its losses; the first axis is the example.

    Attributes:
        indices: The images.
        prompts: Their prompts; "" where the condition is dropped.
        timesteps: (n,) int64.
        x0: Scaled latents without noise.
        noise: Standard normal noise of the same shape.
        x_t: The noisy latents.
        prediction: The U-Net's output.
        target: What the prediction is compared with; None for the variational bound.
        losses: The loss of each example, (n,).
    """

    indices: np.ndarray
    prompts: list[str]
    timesteps: torch.Tensor
    x0: torch.Tensor
    noise: torch.Tensor
    x_t: torch.Tensor
    prediction: torch.Tensor
    target: torch.Tensor | None
    losses: torch.Tensor


class StepObserver(Protocol):
    """Sees the steps of the denoiser's training."""

    def begin(self, step: int, ops: object) -> Any:
        """Begin a step, counted from 0; return the backend on which its loss is computed."""
        ...

    def batch(self, batch: ObservedBatch) -> None:
        """See a part of the batch after its loss was computed."""
        ...

    def end(
        self, gradients: Mapping[str, torch.Tensor], norm: float, loss: float, rate: float
    ) -> None:
        """See the gradients before clipping, by parameter, and their norm.

        Args:
            gradients: By the parameter's name, "unet.conv_in.weight".
            norm: The norm of all of them.
            loss: The loss of the step.
            rate: The factor on all learning rates.
        """
        ...
