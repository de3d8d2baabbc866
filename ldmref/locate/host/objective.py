"""The loss of a recorded training: its kind, and the weight of each example."""

from __future__ import annotations

import numpy as np

from ldmref.locate.host.context import HostContext
from ldmref.math.objective import min_snr_weight
from ldmref.samplers.schedule import training_alphas_cumprod

GAMMA = 5.0  # the usual bound of min-SNR
LEAST = 1e-5  # relative error of alphas_cumprod from a float32 table, in the noised latents


def read_objective(context: HostContext) -> tuple[str, float]:
    """Return the loss and the gamma of min-SNR of a recorded recipe of ldmref."""
    objective = context.diffusion_stage.get("objective", {})
    return objective.get("loss", "simple"), float(objective.get("snr_gamma", GAMMA))


def loss_weights(
    context: HostContext, timesteps: np.ndarray, gamma: float
) -> dict[str, np.ndarray]:
    """Return the factors of the examples' squared errors, (n,), for each loss that has such."""
    alpha_bar = training_alphas_cumprod(context.config)[timesteps]
    return {
        "simple": np.ones(len(timesteps)),
        "min_snr": min_snr_weight(alpha_bar, context.config.prediction_type, gamma),
    }
