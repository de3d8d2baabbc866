"""Training the denoiser: Algorithm 1 of DDPM on latents, with a condition and its dropout.

z_t is sampled from q(z_t|z_0) in closed form (Ho et al. 2020, arXiv:2006.11239, algorithm 1), z_0
from the autoencoder's posterior, and the condition c is replaced by the empty prompt or the null
class with probability `caption_dropout` (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1).
U-Net and text transformer, or class embedding, are trained jointly. The loss: `diffusion_loss.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.math.forward import q_sample
from ldmref.models.config import ModelConfig
from ldmref.models.params import Params, Spec, flatten, init, unflatten
from ldmref.models.text import text_encoder, text_spec
from ldmref.models.unet import unet, unet_spec
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.training.diffusion_loss import DiffusionLoss
from ldmref.training.latents import NoisyLatents
from ldmref.training.recipe import DiffusionStage
from ldmref.training.trainer import Loss, Part, Trainer, step_generator

LAST_LAYERS = ("conv2.weight", "proj_out.weight", "conv_out.weight")  # of residual branches
LAST_OF_ATTENTION = "to_out.0.weight"  # likewise, without cross-attention


class Condition(NamedTuple):
    """What the pictures are described by: `prompt(i, rng)` for picture i, and its tokenizer."""

    prompt: Callable[[int, np.random.Generator], str]
    tokenizer: PromptTokenizer


def diffusion_spec(config: ModelConfig) -> Spec:
    """The shapes of the trained parameters: `unet` and, if there are prompts, `text_encoder`."""
    spec: Spec = {"unet": unet_spec(config.unet)}
    if config.text_encoders:
        spec["text_encoder"] = text_spec(config.text_encoder)
    return spec


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Random parameters; the last layer of every residual branch starts at zero."""
    flat = flatten(init(diffusion_spec(config), seed))
    last = LAST_LAYERS if config.text_encoders else (*LAST_LAYERS, LAST_OF_ATTENTION)
    for name in flat:
        if name.startswith("unet.") and name.endswith(last):
            flat[name] = np.zeros_like(flat[name])
    return unflatten(flat)


def diffusion_trainer(
    latents: NoisyLatents, condition: Condition, config: ModelConfig,
    stage: DiffusionStage, seed: int, ops: TorchBackend,
) -> Trainer:  # fmt: skip
    """A trainer of the U-Net and of what encodes its condition."""
    n, objective = stage.optimizer.batch_size, stage.objective
    loss_of = DiffusionLoss(config, objective, ops)

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        rng = step_generator(seed, step, "diffusion")
        batch = latents.draw(rng, n)
        context = None
        if config.text_encoders:
            prompts = [
                "" if rng.random() < objective.caption_dropout else condition.prompt(int(i), rng)
                for i in batch
            ]
            ids = ops.asarray(condition.tokenizer.encode(part.of(prompts))[0])
            states = text_encoder(ops, params.text_encoder, config.text_encoder, ids)
            context = ops.asarray(states)
        t = part.of(loss_of.timesteps(rng, n))
        x0, eps = latents.noise(batch, seed, step, part)
        xt = q_sample(x0, loss_of.alphas_cumprod[t], eps)
        inputs = ops.asarray(xt), t.to(x0.dtype), context
        output = unet(ops, params.unet, config.unet, *inputs).to(x0.dtype)
        losses = loss_of(output, x0, eps, xt, t)
        by_timestep = loss_of.by_timestep(losses, t)
        return Loss(losses.mean(), batch=part.of(batch), by_timestep=by_timestep)

    params = initial_params(config, seed)
    return Trainer(stage.optimizer, stage.budget.steps, params, loss, ops)
