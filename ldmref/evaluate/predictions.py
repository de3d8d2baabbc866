"""A loaded model as functions of host arrays, for the likelihoods."""

from __future__ import annotations

import numpy as np

from ldmref.evaluate.likelihood import Predict
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.model_denoiser import model_denoiser
from ldmref.samplers.config import LEARNED
from ldmref.samplers.denoiser import TO_X0
from ldmref.samplers.interfaces import Denoiser
from ldmref.samplers.schedule import sampling_sigmas, training_alphas_cumprod
from ldmref.samplers.spacings import timesteps_at


def predictor(model: LatentDiffusion, conditioning: Conditioning) -> Predict:
    """Return the network as `predict(xt, t) -> (x0, v)`, in float64 on the host."""
    ops = model.backend
    config = model.config
    alphas_cumprod = training_alphas_cumprod(config.scheduler)
    convert = TO_X0[config.scheduler.prediction_type]
    z = config.vae.latent_channels
    learned = config.scheduler.variance_type == LEARNED

    def predict(xt: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        timesteps = ops.asarray(t.astype(np.float64), ops.state_dtype)
        output = model.predict_with_variance(ops.asarray(xt), timesteps, conditioning)
        y = ops.to_numpy(output).astype(np.float64)
        return convert(xt, y[:, :z], alphas_cumprod[t]), y[:, z:] if learned else None

    return predict


def host_denoiser(model: LatentDiffusion, conditioning: Conditioning) -> Denoiser:
    """Return the network as `denoise(x, sigma) -> x0` of host arrays, without guidance."""
    ops = model.backend
    table = sampling_sigmas(model.config.scheduler)
    denoise = model_denoiser(
        model, lambda sigma, _: float(timesteps_at(table, sigma)), {"cond": conditioning}, 1.0
    )

    def on_host(x: Array, sigma: float) -> Array:
        with ops.inference():
            return ops.to_numpy(denoise(ops.asarray(x, ops.state_dtype), sigma)).astype(x.dtype)

    return on_host
