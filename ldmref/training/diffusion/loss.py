"""The denoiser's losses: L_simple, min-SNR, the variational bound, L_hybrid, and that of a flow.

The loss of flow matching is the squared error of the velocity at random flow times.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtri

from ldmref.backends.torch import TorchBackend
from ldmref.math.bound import bound_term
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
from ldmref.math.forward import q_sample
from ldmref.math.objective import hybrid_loss, min_snr_weight, simple_loss
from ldmref.math.prediction import v_from_x0_eps
from ldmref.math.variational import normal_log_density
from ldmref.models.config import ModelConfig
from ldmref.samplers.config import LEARNED
from ldmref.samplers.denoiser import TO_X0
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.training.diffusion.latents import random_quantiles, random_timesteps
from ldmref.training.recipes.schema import DiffusionObjective

BINS = 20  # intervals of t / T in which losses are recorded
FLOW_WEIGHTS = {"cosmap": cosmap_weight, "sigma_sqrt": sigma_sqrt_weight}


class DiffusionLoss:
    """The loss of each example, from the U-Net's output at its timestep.

    Args:
        config: The model, whose scheduler has the schedule, prediction type and variance type.
        objective: The loss and its weights.
        ops: The backend on which the schedule is kept, in float64.
    """

    def __init__(self, config: ModelConfig, objective: DiffusionObjective, ops: TorchBackend):
        alphas_cumprod = np.array(training_alphas_cumprod(config.scheduler))
        self.alphas_cumprod = ops.asarray(alphas_cumprod, "float64")
        self.config = config
        self.objective = objective
        self.ops = ops

    def timesteps(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return n random timesteps with the objective's density, (n,) int64."""
        total = len(self.alphas_cumprod)
        objective = self.objective
        stratified = objective.timestep_sampling == "stratified"
        return random_timesteps(rng, n, total, objective.timestep_power, stratified)

    def probability(self, t: torch.Tensor) -> torch.Tensor:
        """Return the probability with which `timesteps` samples each timestep, (n,) float64."""
        total = len(self.alphas_cumprod)
        power = self.objective.timestep_power
        return ((t.double() + 1) / total) ** power - (t.double() / total) ** power

    def noised(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return x_t, of x0's shape."""
        return q_sample(x0, self.alphas_cumprod[t], eps)

    def __call__(
        self,
        output: torch.Tensor,
        x0: torch.Tensor,
        eps: torch.Tensor,
        xt: torch.Tensor,
        t: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss of each example, (n,); `output` (n, z or 2 z, h, w), `t` (n,) int64."""
        scheduler = self.config.scheduler
        objective = self.objective
        alpha_bar = self.alphas_cumprod[t]
        kind = scheduler.prediction_type
        z = self.config.vae.latent_channels
        prediction = output[:, :z]
        v = output[:, z:] if scheduler.variance_type == LEARNED else None
        if objective.loss == "bound":
            return self.bound(TO_X0[kind](xt, prediction, alpha_bar), v, x0, t)
        simple = simple_loss(prediction, self.target(x0, eps, t))
        if objective.loss == "simple":
            return simple
        if objective.loss == "min_snr":
            return min_snr_weight(alpha_bar, kind, objective.snr_gamma).to(simple.dtype) * simple
        bound = self.bound(TO_X0[kind](xt, prediction.detach(), alpha_bar), v, x0, t)
        return hybrid_loss(simple, bound, objective.bound_weight)

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return what the network predicts: v, eps or x0, of x0's shape."""
        kind = self.config.scheduler.prediction_type
        if kind == "v":
            return v_from_x0_eps(x0, eps, self.alphas_cumprod[t])
        return eps if kind == "eps" else x0

    def by_timestep(self, losses: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return sums of the losses (n,) and numbers of examples in bins of t / T, (2, bins)."""
        return sum_in_bins(losses, t * BINS // len(self.alphas_cumprod))

    def bound(
        self, x0_pred: torch.Tensor, v: torch.Tensor | None, x0: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Return an unbiased estimate of the bound without L_T, nats per dimension, (n,)."""
        kind = self.config.scheduler.variance_type
        terms = bound_term(x0, x0_pred, t, self.alphas_cumprod, kind, v, normal_log_density)
        return terms.flatten(1).mean(1) / self.probability(t).to(terms.dtype)


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

    def timesteps(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return n random timesteps t = T s, (n,) float64, with the objective's density."""
        objective = self.objective
        u = s = random_quantiles(rng, n, objective.timestep_sampling == "stratified")
        if objective.flow_times == "logit_normal":
            s = logit_normal_time(ndtri(u), objective.logit_mean, objective.logit_std)
        elif objective.flow_times == "mode":
            s = mode_time(u, objective.mode_scale).clip(0.0, 1.0)
        elif objective.flow_times == "cosmap":
            s = cosmap_time(u)
        return np.asarray(self.total * shift_flow_time(s, self.shift))

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
        return losses * FLOW_WEIGHTS[self.objective.flow_weight](s).to(losses.dtype)

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return what the network predicts, the velocity, of x0's shape."""
        return flow_velocity(x0, eps)

    def by_timestep(self, losses: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return sums of the losses (n,) and numbers of examples in bins of t / T, (2, bins)."""
        index = (t * (BINS / self.total)).long().clamp(0, BINS - 1)
        return sum_in_bins(losses, index)


def sum_in_bins(losses: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return sums of the losses (n,) and numbers of examples by the index of a bin, (2, bins)."""
    bins = F.one_hot(index, BINS).double()
    return torch.stack([losses.detach().double() @ bins, bins.sum(0)])
