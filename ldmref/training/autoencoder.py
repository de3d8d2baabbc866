"""Training the KL autoencoder: reconstruction plus a small Kullback-Leibler term.

L = |x' - x| + |grad x' - grad x| + s (x' - x)^2 + w KL(q(z|x) || N(0, 1)), each a mean over its
elements; z is drawn from q by reparameterisation (Kingma and Welling 2013, arXiv:1312.6114, eq. 10;
Rombach et al. 2022, arXiv:2112.10752, eq. 25 without the adversarial term). The absolute terms make
edges sharp, the squared term keeps small areas from taking the colour of most pictures.
"""

from __future__ import annotations

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.math.divergence import kl_standard_normal, reparameterize
from ldmref.models.autoencoder import autoencoder_spec, decode, encode
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, init
from ldmref.training.data import Dataset
from ldmref.training.trainer import Plan, Trainer, normal, stream

KL_WEIGHT = 3e-4
SQUARE_WEIGHT = 4.0


def autoencoder_trainer(
    data: Dataset, config: AutoencoderConfig, plan: Plan, ops: TorchBackend
) -> Trainer:
    """A trainer of the autoencoder on the pictures of `data`, mirrored at random."""
    images = torch.as_tensor(data.images)
    chances = data.weights / data.weights.sum()

    def loss(params: Params, step: int) -> torch.Tensor:
        draw = stream(plan.seed, step, "autoencoder")
        picked = draw.choice(len(images), plan.batch_size, p=chances)
        x = images[torch.as_tensor(picked)].to(ops.device, torch.float32) / 127.5 - 1.0
        if draw.random() < 0.5:
            x = x.flip(3)
        mean, logvar = encode(ops, params, config, ops.asarray(x))
        mean, logvar = mean.float(), logvar.float()
        z = reparameterize(mean, logvar, normal(mean.shape, plan.seed, step, ops))
        y = decode(ops, params, config, ops.asarray(z)).float()
        kl = kl_standard_normal(mean, logvar).mean()
        edges = _l1(_dx(y), _dx(x)) + _l1(_dy(y), _dy(x))
        return _l1(y, x) + edges + SQUARE_WEIGHT * (y - x).square().mean() + KL_WEIGHT * kl

    return Trainer(plan, init(autoencoder_spec(config), plan.seed), loss, ops)


def encode_dataset(
    data: Dataset, params: Params, config: AutoencoderConfig, ops: TorchBackend, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and log-variance of every picture, unscaled, (n, z, h, w) float32."""
    means, logvars = [], []
    with ops.inference():
        for start in range(0, len(data.images), batch):
            x = data.images[start : start + batch].astype(np.float32) / 127.5 - 1.0
            mean, logvar = encode(ops, params, config, ops.asarray(x))
            means.append(ops.to_numpy(mean).astype(np.float32))
            logvars.append(ops.to_numpy(logvar).astype(np.float32))
    return np.concatenate(means), np.concatenate(logvars)


def _l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs().mean()


def _dx(x: torch.Tensor) -> torch.Tensor:
    return x[..., 1:] - x[..., :-1]


def _dy(x: torch.Tensor) -> torch.Tensor:
    return x[..., 1:, :] - x[..., :-1, :]
