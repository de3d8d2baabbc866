"""Training the KL autoencoder: reconstruction plus a small Kullback-Leibler term.

L = |x' - x| + |grad x' - grad x| + s (x' - x)^2 + w KL(q(z|x) || N(0, 1)), each a mean over its
elements; z is sampled from q by reparameterisation (Kingma and Welling 2013, arXiv:1312.6114,
eq. 10; Rombach et al. 2022, arXiv:2112.10752, eq. 25 without the adversarial term). The absolute
terms sharpen edges; the squared term keeps small areas from taking the most frequent colour.
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
from ldmref.training.recipe import AutoencoderStage
from ldmref.training.trainer import Part, Trainer, step_generator, step_noise


def autoencoder_trainer(
    data: Dataset, config: AutoencoderConfig, stage: AutoencoderStage, seed: int, ops: TorchBackend
) -> Trainer:
    """A trainer of the autoencoder on the pictures of `data`, randomly mirrored."""
    images = torch.as_tensor(data.images)
    probabilities = data.weights / data.weights.sum()
    objective, batch_size = stage.objective, stage.optimizer.batch_size

    def loss(params: Params, step: int, part: Part) -> torch.Tensor:
        rng = step_generator(seed, step, "autoencoder")
        batch = rng.choice(len(images), batch_size, p=probabilities)
        x = images[torch.as_tensor(part.of(batch))].to(ops.device, torch.float32) / 127.5 - 1.0
        if rng.random() < 0.5:
            x = x.flip(3)
        mean, logvar = (z.float() for z in encode(ops, params, config, ops.asarray(x)))
        noise = step_noise((batch_size, *mean.shape[1:]), seed, step, ops)
        z = reparameterize(mean, logvar, part.of(noise))
        y = decode(ops, params, config, ops.asarray(z)).float()
        kl = kl_standard_normal(mean, logvar).mean()
        edges = _l1(y.diff(dim=3), x.diff(dim=3)) + _l1(y.diff(dim=2), x.diff(dim=2))
        square = (y - x).square().mean()
        return _l1(y, x) + edges + objective.square_weight * square + objective.kl_weight * kl

    params = init(autoencoder_spec(config), seed)
    return Trainer(stage.optimizer, stage.budget.steps, params, loss, ops)


def encode_dataset(
    data: Dataset, params: Params, config: AutoencoderConfig, ops: TorchBackend, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and log-variance of every picture, unscaled, (n, z, h, w) float32."""
    batches = []
    with ops.inference():
        for start in range(0, len(data.images), batch):
            x = data.images[start : start + batch].astype(np.float32) / 127.5 - 1.0
            posterior = encode(ops, params, config, ops.asarray(x))
            batches.append([ops.to_numpy(z).astype(np.float32) for z in posterior])
    mean, logvar = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return mean, logvar


def _l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs().mean()
