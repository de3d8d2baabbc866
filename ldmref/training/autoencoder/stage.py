"""The trainer of a first stage."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ldmref.backends.torch import TorchBackend
from ldmref.datasets import Dataset
from ldmref.models.autoencoder import autoencoder_spec
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, init, tree_map
from ldmref.training.autoencoder.adversary import adversarial_terms, discriminator_spec
from ldmref.training.autoencoder.codebook import update_codebook, use_spec
from ldmref.training.autoencoder.features import features
from ldmref.training.autoencoder.forward import forward, make_noise
from ldmref.training.autoencoder.objective import AutoencoderObjective
from ldmref.training.autoencoder.terms import metrics, weighted_terms
from ldmref.training.batches import FULL_BATCH, Part, image_batch, step_generator
from ldmref.training.loss import Loss
from ldmref.training.recipes.schema import AutoencoderStage
from ldmref.training.trainer import Trainer

EXACT_LOGVAR = -30.0  # of latents without noise: the encoder's lower bound


def initial_params(config: AutoencoderConfig, objective: AutoencoderObjective, seed: int) -> Params:
    """Return the autoencoder's parameters, with those of its objective: variance, discriminator...

    For exact latents the encoder's variance is fixed at the smallest value.
    """
    params = init(autoencoder_spec(config), seed)
    if config.codebook_size:
        params |= tree_map(np.zeros, use_spec(config))
    elif not objective.sampled:
        z = config.latent_channels
        last = params.quant_conv if config.use_quant_conv else params.encoder.conv_out
        last.weight[z:] = 0.0
        last.bias[z:] = EXACT_LOGVAR
    if objective.learn_variance:
        params["likelihood"] = Params(logvar=np.full(1, math.log(objective.variance)))
    if objective.adversarial_weight:
        params["discriminator"] = init({"discriminator": discriminator_spec()}, seed).discriminator
    return params


def autoencoder_trainer(
    data: Dataset,
    config: AutoencoderConfig,
    stage: AutoencoderStage,
    seed: int,
    ops: TorchBackend,
    feature_params: Params | None = None,
) -> Trainer:
    """Return a trainer of the autoencoder on the images of `data`.

    `feature_params` is the network of the perceptual term, if there is one.
    """
    objective = stage.objective
    batch_size = stage.optimizer.batch_size
    to_device = partial(ops.asarray, dtype="float32")
    frozen = None if feature_params is None else tree_map(to_device, feature_params)

    def loss(ops: TorchBackend, params: Params, step: int, part: Part = FULL_BATCH) -> Loss:
        part = part if objective.separable(config) else FULL_BATCH
        layers = None if frozen is None else partial(features, ops, frozen)
        rng = step_generator(seed, step, "autoencoder")
        batch, x = image_batch(data, rng, batch_size, ops, part)
        f = forward(ops, params, config, objective, x, make_noise(seed, step, ops, part))
        terms = weighted_terms(objective, config, layers)
        total = x.new_zeros(()) + sum(w * term(objective, f) for w, term in terms.values())
        values = metrics(objective, f)
        if objective.adversarial_weight and step >= objective.adversarial_start:
            adversarial = adversarial_terms(ops, params, f, total, objective.adversarial_loss)
            weight = objective.adversarial_weight * adversarial.weight
            total = total + weight * adversarial.generator + adversarial.discriminator
            values |= {"adversarial": weight, "discriminator": adversarial.discriminator.detach()}
        after = None
        if config.codebook_size:
            rng = step_generator(seed, step, "codebook")
            after = partial(update_codebook, f=f, objective=objective, rng=rng)
        return Loss(total, values, part.slice(batch), after)

    waits = objective.adversarial_weight > 0 and objective.adversarial_start > 0
    return Trainer(
        stage.optimizer,
        stage.budget.steps,
        initial_params(config, objective, seed),
        loss,
        ops,
        adversary="discriminator",
        unused=bool(config.codebook_size) or waits,
    )


def autoencoder_params(params: Params, config: AutoencoderConfig) -> Params:
    """Return the networks of the autoencoder, without discriminator and other additions."""
    return Params({name: params[name] for name in autoencoder_spec(config)})
