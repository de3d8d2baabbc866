"""Changes of a codebook outside the gradient: its moving average, and the revival of dead codes.

A code is dead if its moving-average use is below `revive_below` of the mean. It is replaced by an
encoder output of the batch, sampled in proportion to the squared distance from its code, as in
k-means++ (Arthur and Vassilvitskii 2007). Before the first step no code has been used, so the
codebook starts from encoder outputs.
"""

from __future__ import annotations

import numpy as np
import torch

from ldmref.math.quantize import codebook_moving_average, commitment_loss
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, Spec
from ldmref.training.autoencoder.forward import Forward
from ldmref.training.autoencoder.objective import AutoencoderObjective

USE_DECAY = 0.99  # of the use of codes if the codebook itself is trained by its gradient


def use_spec(config: AutoencoderConfig) -> Spec:
    """Return the shapes of the moving averages: number and sum of vectors assigned to each code."""
    k = config.codebook_size
    return {"use": {"counts": (k,), "sums": (k, config.latent_channels)}}


def update_codebook(
    params: Params, f: Forward, objective: AutoencoderObjective, rng: np.random.Generator
) -> None:
    """Change codebook and use in place, after an optimization step."""
    assert f.rows is not None and f.quantized is not None and f.indices is not None
    codes = params.quantize.embedding.weight
    use = params.use
    z = f.rows.detach().flatten(0, -2)
    quantized = f.quantized.detach().flatten(0, -2)
    decay = objective.codebook_decay or USE_DECAY
    counts, sums, average = codebook_moving_average(
        use.counts, use.sums, z, f.indices.flatten(), decay
    )
    if objective.codebook_decay:
        used = counts > 0  # the average of no vectors is not a code
        codes[used] = average[used]
    mean_use = len(z) / len(codes)
    dead = counts < objective.revive_below * mean_use
    number = int(dead.sum())
    if number:
        distance = commitment_loss(z, quantized).double().cpu().numpy() + 1e-12
        sampled = rng.choice(len(z), number, p=distance / distance.sum())
        outputs = z[torch.as_tensor(sampled, device=z.device)]
        codes[dead] = outputs
        counts[dead] = mean_use
        sums[dead] = mean_use * outputs
    use.counts.copy_(counts)
    use.sums.copy_(sums)
