"""The encoded data set, and batches of clean latents with noise drawn from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.math.divergence import reparameterize
from ldmref.training.loss import Part
from ldmref.training.trainer import step_noise

CHUNK = 1024  # images whose moments are read at a time


@dataclass(frozen=True)
class Latents:
    """The encoded data set: posterior mean and log-variance, unscaled, (n, z, h, w) floats."""

    mean: np.ndarray
    logvar: np.ndarray

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation of the latents, so that scaled latents have unit variance."""
        first = second = 0.0
        for start in range(0, len(self.mean), CHUNK):
            mean, logvar = (
                moment[start : start + CHUNK].astype(np.float64)
                for moment in (self.mean, self.logvar)
            )
            first += mean.sum()
            second += (mean**2 + np.exp(logvar)).sum()
        first = first / self.mean.size
        second = second / self.mean.size
        return float(1.0 / math.sqrt(second - first**2))


class NoisyLatents:
    """Batches of an encoded data set for training.

    Args:
        latents: unscaled.
        weights: relative sampling frequencies, (n,).
        scale: the scaling factor, which must fit `latents`.
        ops: where batches are made; in float32, or in float64 if it computes so.
    """

    def __init__(self, latents: Latents, weights: np.ndarray, scale: float, ops: TorchBackend):
        self.mean = torch.as_tensor(latents.mean)
        self.logvar = torch.as_tensor(latents.logvar)
        self.probabilities = weights / weights.sum()
        self.scale = scale
        self.ops = ops

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The indices of n images."""
        return rng.choice(len(self.mean), n, p=self.probabilities)

    def noise(
        self, batch: np.ndarray, seed: int, step: int, part: Part
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled latents sampled from the posterior, and noise, for a part of the batch."""
        ops = self.ops
        index = torch.as_tensor(part.of(batch))
        mean, logvar = (
            ops.asarray(moment[index], ops.state_dtype) for moment in (self.mean, self.logvar)
        )
        shape = (2, len(batch), *self.mean.shape[1:])
        of_posterior, eps = (part.of(z).to(mean.dtype) for z in step_noise(shape, seed, step, ops))
        return self.scale * reparameterize(mean, logvar, of_posterior), eps


def random_timesteps(
    rng: np.random.Generator, n: int, total: int, power: float, stratified: bool = True
) -> np.ndarray:
    """Return n timesteps below `total` with the density power * u^(power - 1) of u = t / total.

    `stratified`: one from each n-th of the density, in order; otherwise independent ones.
    """
    u = rng.random(n)
    if stratified:
        u = (np.arange(n) + u) / n
    return np.minimum((total * u ** (1.0 / power)).astype(np.int64), total - 1)
