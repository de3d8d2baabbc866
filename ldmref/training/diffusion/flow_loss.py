"""The denoiser's loss in flow matching: the squared error of the velocity at random flow times."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtri

from ldmref.backends.torch import TorchBackend
from ldmref.math.flow import (
    cosmap_time,
    cosmap_weight,
    flow_sample,
    flow_velocity,
    logit_normal_time,
    mode_time,
    shift_flow_time,
    sigma_sqrt_weight,
)
from ldmref.math.objective import simple_loss
from ldmref.models.config import ModelConfig
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.training.diffusion.latents import random_quantiles
from ldmref.training.diffusion.loss import BINS, sum_in_bins
from ldmref.training.recipes.schema import DiffusionObjective

WEIGHTS = {"cosmap": cosmap_weight, "sigma_sqrt": sigma_sqrt_weight}


class FlowLoss:
    """The loss of each example, from the network's velocity at its flow time.

    The network gets the timestep t = T s, with s the shifted flow time. A density of s other than
    the uniform one weights the squared errors, and so does `flow_weight`, which changes how fast
    times are learned and not what is learned.

    Args:
        config: The model, whose scheduler has T and the shift.
        objective: The density of the flow times.
        ops: The backend of the times, which are float64.
        tokens: The number of image tokens, on which the shift of some models depends. Where it also
            depends on the number of steps, that is the model's default.

    Source: Lipman et al. 2022, arXiv:2210.02747, eq. 14 and 23; Esser et al. 2024,
    arXiv:2403.03206, section 3.1 (densities) and eq. 23 (shift).
    """

    def __init__(
        self,
        config: ModelConfig,
        objective: DiffusionObjective,
        ops: TorchBackend,
        tokens: int = 0,
    ):
        self.total = config.scheduler.num_train_timesteps
        self.shift = shift_factor(config.scheduler, tokens, config.defaults.steps)
        self.objective = objective
        self.ops = ops

    def timesteps(self, rng: np.random.Generator, n: int) -> torch.Tensor:
        """Return n random timesteps t = T s, (n,) float64, with the objective's density."""
        objective = self.objective
        u = s = random_quantiles(rng, n, objective.timestep_sampling == "stratified")
        if objective.flow_times == "logit_normal":
            s = logit_normal_time(ndtri(u), objective.logit_mean, objective.logit_std)
        elif objective.flow_times == "mode":
            s = mode_time(u, objective.mode_scale).clip(0.0, 1.0)
        elif objective.flow_times == "cosmap":
            s = cosmap_time(u)
        return self.ops.asarray(self.total * shift_flow_time(s, self.shift))

    def noised(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return x_s, of x0's shape."""
        return flow_sample(x0, eps, (t / self.total).to(x0.dtype))

    def __call__(
        self,
        output: torch.Tensor,
        x0: torch.Tensor,
        eps: torch.Tensor,
        xt: torch.Tensor,
        t: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss of each example, (n,), for `output` (n, z, h, w) and `t` (n,)."""
        losses = simple_loss(output, self.target(x0, eps, t))
        if self.objective.flow_weight == "none":
            return losses
        s = (t / self.total).clamp(min=1 / self.total)
        return losses * WEIGHTS[self.objective.flow_weight](s).to(losses.dtype)

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return what the network predicts, the velocity, of x0's shape."""
        return flow_velocity(x0, eps)

    def by_timestep(self, losses: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return sums of the losses (n,) and numbers of examples in bins of t / T, (2, bins)."""
        index = (t * (BINS / self.total)).long().clamp(0, BINS - 1)
        return sum_in_bins(losses, index)
