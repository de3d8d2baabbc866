"""Training the denoiser: Algorithm 1 of DDPM on latents, with text and caption dropout.

L = E |v - v_theta(z_t, t, c)|^2 (or eps, or x0, by the scheduler's prediction type), with z_t from
q(z_t|z_0) in closed form (Ho et al. 2020, arXiv:2006.11239, algorithm 1), z_0 sampled from the
autoencoder's posterior, and c replaced by the empty prompt with probability `caption_dropout` (Ho
and Salimans 2022, arXiv:2207.12598, algorithm 1). U-Net and text transformer are trained jointly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.math.divergence import reparameterize
from ldmref.math.forward import q_sample
from ldmref.math.prediction import v_from_x0_eps
from ldmref.models.config import ModelConfig
from ldmref.models.params import Params, Spec, flatten, init, unflatten
from ldmref.models.text import text_encoder, text_spec
from ldmref.models.unet import unet, unet_spec
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.training.data import Dataset
from ldmref.training.recipe import DiffusionStage
from ldmref.training.trainer import Loss, Trainer, step_generator, step_noise

LAST_LAYERS = ("conv2.weight", "proj_out.weight", "conv_out.weight")  # of residual branches


@dataclass(frozen=True)
class Latents:
    """The encoded data set: posterior mean and log-variance, unscaled, (n, z, h, w) float32."""

    mean: np.ndarray
    logvar: np.ndarray

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation of the latents, so that scaled latents have unit variance."""
        mean = self.mean.astype(np.float64)
        second_moment = mean**2 + np.exp(self.logvar.astype(np.float64))
        return float(1.0 / math.sqrt(second_moment.mean() - mean.mean() ** 2))


def diffusion_spec(config: ModelConfig) -> Spec:
    """The shapes of the trained parameters: `unet` and `text_encoder`."""
    return {"unet": unet_spec(config.unet), "text_encoder": text_spec(config.text_encoder)}


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Random parameters; the last layer of every residual branch starts at zero."""
    flat = flatten(init(diffusion_spec(config), seed))
    for name in flat:
        if name.startswith("unet.") and name.endswith(LAST_LAYERS):
            flat[name] = np.zeros_like(flat[name])
    return unflatten(flat)


def diffusion_trainer(
    data: Dataset, latents: Latents, tokenizer: PromptTokenizer, config: ModelConfig,
    stage: DiffusionStage, seed: int, ops: TorchBackend,
) -> Trainer:  # fmt: skip
    """A trainer of U-Net and text transformer; `config.vae.scaling_factor` must fit `latents`."""
    means, logvars = torch.as_tensor(latents.mean), torch.as_tensor(latents.logvar)
    probabilities = data.weights / data.weights.sum()
    alphas_cumprod = torch.as_tensor(np.array(training_alphas_cumprod(config.scheduler)))
    objective = stage.objective
    scale, total = config.vae.scaling_factor, len(alphas_cumprod)

    def loss(ops: TorchBackend, params: Params, step: int) -> Loss:
        rng, n = step_generator(seed, step, "diffusion"), stage.optimizer.batch_size
        batch = rng.choice(len(means), n, p=probabilities)
        captions = [
            "" if rng.random() < objective.caption_dropout else data.caption(int(i), rng)
            for i in batch
        ]
        u = (np.arange(n) + rng.random(n)) / n  # stratified
        t = np.minimum((total * u ** (1.0 / objective.timestep_power)).astype(np.int64), total - 1)

        index, t = torch.as_tensor(batch), torch.as_tensor(t)
        noise = step_noise((2, n, *means.shape[1:]), seed, step, ops)
        mean, logvar = means[index].to(ops.device), logvars[index].to(ops.device)
        x0 = scale * reparameterize(mean, logvar, noise[0])
        eps, alpha_bar = noise[1], alphas_cumprod[t].to(ops.device, torch.float32)
        xt = q_sample(x0, alpha_bar, eps)
        target = {"v": v_from_x0_eps(x0, eps, alpha_bar), "eps": eps, "x0": x0}

        ids = ops.asarray(tokenizer.encode(captions)[0])
        context = ops.asarray(text_encoder(ops, params.text_encoder, config.text_encoder, ids))
        timesteps = t.to(ops.device, torch.float32)
        prediction = unet(ops, params.unet, config.unet, ops.asarray(xt), timesteps, context)
        error = prediction.float() - target[config.scheduler.prediction_type]
        return Loss(error.square().mean(), batch=batch)

    params = initial_params(config, seed)
    return Trainer(stage.optimizer, stage.budget.steps, params, loss, ops)
