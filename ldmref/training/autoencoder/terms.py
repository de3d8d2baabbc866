"""The terms of a first stage's loss, and its metrics.

The loss is the sum over names of `objective.NAME_weight` * TERMS[NAME](f). An image has d values,
a latent k channels at m positions.

absolute    mean |y - x|
edge        the same for differences between neighbouring pixels, across and down
square      |y - x|^2 / d (Hinton and Salakhutdinov 2006; with corruption, Vincent et al. 2008)
elbo        beta KL(q || N(0, 1)) - log p(x|z), in nats (Kingma and Welling 2013, eq. 10;
            the variance learned as one number: Rybkin et al. 2021, arXiv:2006.13202)
kl          KL(q || N(0, 1)) / (k m) (Rombach et al. 2022, arXiv:2112.10752, eq. 25)
l1          |z| / (k m), with z divided by its root mean square, so its scale does not matter
sparsity    KL(rho || mean activation) of each channel, averaged (Ng 2011)
codebook    codebook and commitment loss, divided by k (van den Oord et al. 2017, eq. 3)
perceptual  distance of features, summed over layers (Zhang et al. 2018)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.datasets import Dataset
from ldmref.math.adversarial import feature_distance
from ldmref.math.autoencoding import kl_sparsity, l1_sparsity, psnr, squared_error
from ldmref.math.divergence import kl_standard_normal
from ldmref.math.quantize import code_perplexity, commitment_loss, vq_loss
from ldmref.math.variational import elbo, gaussian_log_likelihood, normal_log_density
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params
from ldmref.training.autoencoder.forward import Forward, forward, make_noise
from ldmref.training.autoencoder.objective import AutoencoderObjective
from ldmref.training.batches import evenly_spaced, to_unit

Term = Callable[[AutoencoderObjective, Forward], torch.Tensor]
Features = Callable[[torch.Tensor], list[torch.Tensor]]  # images -> activations by layer
ACTIVE = 0.1  # a latent of at least this size counts as active
MOST_IMAGES = 1024  # evenly spaced in the data set, on which the metrics are measured


def absolute(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the mean absolute error."""
    return (f.y - f.x).abs().mean()


def edge(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the mean absolute error of differences between neighbouring pixels."""
    across, down = (f.y.diff(dim=i) - f.x.diff(dim=i) for i in (3, 2))
    return across.abs().mean() + down.abs().mean()


def square(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the mean squared error."""
    return squared_error(f.x, f.y).mean() / f.x[0].numel()


def negative_elbo(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the negative evidence lower bound, nats per image."""
    if objective.learn_variance:
        density = normal_log_density(f.x, f.y, f.params.likelihood.logvar)
        log_likelihood = density.flatten(1).sum(1)
    else:
        log_likelihood = gaussian_log_likelihood(f.x, f.y, objective.variance)
    return -elbo(log_likelihood, f.mean, f.logvar, objective.beta).mean()


def kl(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the mean divergence from N(0, 1) per latent."""
    return kl_standard_normal(f.mean, f.logvar).mean()


def l1(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the mean absolute value of normalized latents."""
    return l1_sparsity(_normalized(f.mean)).mean() / f.mean[0].numel()


def sparsity(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return the mean divergence of activations from `activation`."""
    units = f.mean.movedim(1, -1).flatten(0, -2)
    return kl_sparsity(units, objective.activation) / units.shape[1]


def codebook(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
    """Return codebook and commitment loss, or the latter alone with a moving average."""
    assert f.rows is not None and f.quantized is not None
    if objective.codebook_decay:
        loss = commitment_loss(f.rows, f.quantized) * objective.commitment
    else:
        loss = vq_loss(f.rows, f.quantized, objective.commitment)
    return loss.mean() / f.rows.shape[-1]


def perceptual(features: Features) -> Term:
    """Return the perceptual term with the features of a network."""

    def distance(objective: AutoencoderObjective, f: Forward) -> torch.Tensor:
        layers = zip(features(f.x), features(f.y), strict=True)
        return torch.stack([feature_distance(x, y).mean() for x, y in layers]).sum()

    return distance


TERMS: dict[str, Term] = {
    "absolute": absolute,
    "edge": edge,
    "square": square,
    "elbo": negative_elbo,
    "kl": kl,
    "l1": l1,
    "sparsity": sparsity,
    "codebook": codebook,
}


def weighted_terms(
    objective: AutoencoderObjective, config: AutoencoderConfig, features: Features | None
) -> dict[str, tuple[float, Term]]:
    """Return the terms of a loss with their weights, by name."""
    terms = TERMS if features is None else TERMS | {"perceptual": perceptual(features)}
    weights = {name: getattr(objective, f"{name}_weight") for name in terms}
    absent = () if config.codebook_size else ("codebook",)
    return {n: (w, terms[n]) for n, w in weights.items() if w > 0 and n not in absent}


def metrics(objective: AutoencoderObjective, f: Forward) -> dict[str, torch.Tensor]:
    """Return PSNR in dB and statistics of the latents: nats per image, perplexity, active share."""
    values = {"psnr": psnr(f.x, f.y).mean()}
    if objective.corruption != "none":
        values["corrupted"] = psnr(f.x, f.corrupted).mean()
    if objective.sampled:
        values["kl"] = kl_standard_normal(f.mean, f.logvar).flatten(1).sum(1).mean()
    if objective.elbo_weight:
        values["elbo"] = -negative_elbo(replace(objective, beta=1.0), f)
    if objective.learn_variance:
        values["variance"] = f.params.likelihood.logvar.exp().mean()
    if f.indices is not None:
        values["perplexity"] = code_perplexity(f.indices)
    if objective.l1_weight or objective.sparsity_weight:
        size = f.mean if objective.sparsity_weight else _normalized(f.mean)
        values["active"] = (size.abs() > ACTIVE).float().mean()
    return {name: value.detach() for name, value in values.items()}


def _normalized(z: torch.Tensor) -> torch.Tensor:
    return z / z.square().mean().sqrt()


def measure(
    data: Dataset,
    params: Params,
    config: AutoencoderConfig,
    objective: AutoencoderObjective,
    seed: int,
    ops: TorchBackend,
    batch: int = 64,
) -> dict[str, float]:
    """Return the means of the training's `metrics`; with a codebook, also the `codes` in use."""
    numbers = evenly_spaced(len(data.images), MOST_IMAGES)
    sums: dict[str, float] = {}
    indices = []
    with ops.inference():
        for step, start in enumerate(range(0, len(numbers), batch)):
            x = to_unit(data.images[numbers[start : start + batch]], ops)
            f = forward(ops, params, config, objective, x, make_noise(seed, step, ops))
            for name, value in metrics(objective, f).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(x) / len(numbers)
            if f.indices is not None:
                indices.append(ops.to_numpy(f.indices).ravel())
    if indices:
        codes = np.concatenate(indices)
        sums |= {"perplexity": float(code_perplexity(codes)), "codes": len(np.unique(codes))}
    return sums
