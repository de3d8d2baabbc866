"""The trainer of a first stage."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.datasets import Dataset
from ldmref.math.adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    log_discriminator_loss,
    log_generator_loss,
)
from ldmref.math.quantize import codebook_moving_average, commitment_loss, stop_gradient
from ldmref.models import layers as nn
from ldmref.models import specs
from ldmref.models.autoencoder import autoencoder_spec
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import Params, Spec, init, numbered, tree_map
from ldmref.training.autoencoder.features import features
from ldmref.training.autoencoder.forward import Forward, forward, make_noise
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


# -- the adversary ---------------------------------------------------------------------------------


WIDTHS = (3, 32, 64, 128)  # each convolution halves the image
GROUPS = 8
EPS = 1e-6
LOSSES = {
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "log": (log_discriminator_loss, log_generator_loss),
}


class AdversarialTerms(NamedTuple):
    """The losses of decoder and discriminator."""

    generator: torch.Tensor
    discriminator: torch.Tensor
    weight: torch.Tensor  # the adaptive weight of the generator's term


def discriminator_spec() -> Spec:
    """Return the shapes of 4x4 convolutions with stride 2 and norms, and of a 3x3 one to logits."""
    convolutions = [specs.conv_spec(*width, kernel=4) for width in pairwise(WIDTHS)]
    norms = [specs.norm_spec(c) for c in WIDTHS[1:]]
    return {
        "convs": numbered(convolutions),
        "norms": numbered(norms),
        "conv_out": specs.conv_spec(WIDTHS[-1], 1),
    }


def discriminator(ops: TorchBackend, p: Params, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of patches, (n, 1, H/8, W/8), of images (n, 3, H, W)."""
    for conv, norm in zip(p.convs.items_in_order(), p.norms.items_in_order(), strict=True):
        x = ops.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        x = nn.norm_silu(ops, norm, x, GROUPS, EPS)
    return nn.conv2d(ops, p.conv_out, x)


def adversarial_terms(
    ops: TorchBackend, params: Params, f: Forward, loss: torch.Tensor, kind: str
) -> AdversarialTerms:
    """Return the terms of both networks; `loss` is the sum of the autoencoder's other terms."""
    discriminator_loss, generator_loss = LOSSES[kind]
    constant = tree_map(stop_gradient, params.discriminator)

    def logits(p: Params, x: torch.Tensor) -> torch.Tensor:
        return discriminator(ops, p, ops.asarray(x)).to(x.dtype)

    generator = generator_loss(logits(constant, f.y)).mean()
    real, fake = (logits(params.discriminator, x) for x in (f.x, stop_gradient(f.y)))
    last = params.decoder.conv_out.weight
    gradients = (torch.autograd.grad(t, last, retain_graph=True)[0] for t in (loss, generator))
    weight = adaptive_weight(*gradients)
    return AdversarialTerms(generator, discriminator_loss(real, fake).mean(), weight)


# -- the codebook ----------------------------------------------------------------------------------


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
