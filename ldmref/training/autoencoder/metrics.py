"""What a trained first stage reaches on its images."""

from __future__ import annotations

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.math.quantize import code_perplexity
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params
from ldmref.training.autoencoder.forward import forward, noise_of
from ldmref.training.autoencoder.terms import metrics
from ldmref.training.data import Dataset
from ldmref.training.images import evenly_spaced, to_unit
from ldmref.training.recipe import AutoencoderObjective

MOST_IMAGES = 1024  # evenly spaced in the data set


def measure(
    data: Dataset,
    params: Params,
    config: AutoencoderConfig,
    objective: AutoencoderObjective,
    seed: int,
    ops: TorchBackend,
    batch: int = 64,
) -> dict[str, float]:
    """The means of the `metrics` of training; of codes, over all images, and `codes` in use."""
    numbers = evenly_spaced(len(data.images), MOST_IMAGES)
    sums: dict[str, float] = {}
    indices = []
    with ops.inference():
        for step, start in enumerate(range(0, len(numbers), batch)):
            x = to_unit(data.images[numbers[start : start + batch]], ops)
            f = forward(ops, params, config, objective, x, noise_of(seed, step, ops))
            for name, value in metrics(objective, f).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(x) / len(numbers)
            if f.indices is not None:
                indices.append(ops.to_numpy(f.indices).ravel())
    if indices:
        codes = np.concatenate(indices)
        sums |= {"perplexity": float(code_perplexity(codes)), "codes": len(np.unique(codes))}
    return sums
