"""One batch through the autoencoder: encoder, latents (exact, sampled or quantized), decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ldmref.backends.torch import TorchBackend
from ldmref.math.autoencoding import gaussian_corruption, masking_corruption
from ldmref.math.divergence import reparameterize
from ldmref.math.quantize import nearest_code, straight_through
from ldmref.models.autoencoder import decode, encode
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params
from ldmref.training.autoencoder.objective import AutoencoderObjective
from ldmref.training.batches import FULL_BATCH, Part, step_noise

NoiseSource = Callable[[tuple[int, ...], str], torch.Tensor]  # (shape, purpose)


@dataclass(frozen=True)
class Forward:
    """Images (n, 3, H, W) in [-1, 1], their reconstructions and latents, in float32 or float64.

    `mean` and `logvar` of q(z|x): (n, z, h, w). With a codebook, `rows` are the same latents as
    (n, h, w, z), `quantized` their codes, and `indices` (n, h, w) the numbers of the codes.
    """

    x: torch.Tensor
    corrupted: torch.Tensor
    y: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor
    params: Params
    rows: torch.Tensor | None = None
    quantized: torch.Tensor | None = None
    indices: torch.Tensor | None = None


def forward(
    ops: TorchBackend,
    params: Params,
    config: AutoencoderConfig,
    objective: AutoencoderObjective,
    x: torch.Tensor,
    noise: NoiseSource,
) -> Forward:
    """Reconstruct `x` as in training: corrupted, encoded, sampled or quantized, decoded."""
    corrupted = corrupt(objective, x, noise)
    moments = encode(ops, params, config, ops.asarray(corrupted))
    mean, logvar = (z.to(x.dtype) for z in moments)
    z = mean
    rows = None
    quantized = None
    indices = None
    if config.codebook_size:
        rows = mean.movedim(1, -1)
        indices, quantized = nearest_code(rows, params.quantize.embedding.weight)
        z = straight_through(rows, quantized).movedim(-1, 1)
    elif objective.sampled:
        z = reparameterize(mean, logvar, noise(tuple(mean.shape), "noise"))
    decoder = replace(config, codebook_size=0)  # z is quantized
    y = decode(ops, params, decoder, ops.asarray(z)).to(x.dtype)
    return Forward(x, corrupted, y, mean, logvar, params, rows, quantized, indices)


def make_noise(seed: int, step: int, ops: TorchBackend, part: Part = FULL_BATCH) -> NoiseSource:
    """Return a function that samples the noise of a part of one step's batch."""

    def noise(shape: tuple[int, ...], purpose: str) -> torch.Tensor:
        n, *sizes = shape
        return part.slice(step_noise((n * part.count, *sizes), seed, step, ops, purpose))

    return noise


def corrupt(objective: AutoencoderObjective, x: torch.Tensor, noise: NoiseSource) -> torch.Tensor:
    """Return the encoder's input for the images `x`."""
    if objective.corruption == "none":
        return x
    kinds = {"gaussian": gaussian_corruption, "masking": masking_corruption}
    eps = noise(tuple(x.shape), "corruption")
    return kinds[objective.corruption](x, eps, objective.corruption_amount)
