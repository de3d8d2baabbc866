"""The metrics of a trained first stage on its images."""

from __future__ import annotations

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.datasets import Dataset
from ldmref.math.quantize import code_perplexity
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params
from ldmref.training.autoencoder.forward import forward, make_noise
from ldmref.training.autoencoder.objective import AutoencoderObjective
from ldmref.training.autoencoder.terms import metrics
from ldmref.training.batches import evenly_spaced, to_unit

MOST_IMAGES = 1024  # evenly spaced in the data set, on which they are measured


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
