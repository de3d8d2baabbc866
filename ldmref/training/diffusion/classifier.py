"""Training a classifier of noisy latents, for classifier guidance and for features.

L = E[-log p(y | z_t, t)], the cross-entropy of the class at a random timestep (Dhariwal and Nichol
2021, arXiv:2105.05233, section 4.1).
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from ldmref.backends.torch import TorchBackend
from ldmref.math.forward import q_sample
from ldmref.models.classifier import ClassifierConfig, classifier, classifier_spec
from ldmref.models.params import Params, init
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.training.batches import Part, step_generator
from ldmref.training.diffusion.latents import NoisyLatents, random_timesteps
from ldmref.training.loss import Loss
from ldmref.training.recipes.schema import CLASSIFIER_GROUPS, ClassifierNetwork, ClassifierStage
from ldmref.training.trainer import Trainer


def classifier_config(
    network: ClassifierNetwork, channels: int, names: tuple[str, ...]
) -> ClassifierConfig:
    """Return the configuration of a classifier of latents with `channels` into these classes."""
    widths = tuple(network.width << level for level in range(network.levels))
    return ClassifierConfig(channels, widths, network.layers, CLASSIFIER_GROUPS, names)


def classifier_trainer(
    latents: NoisyLatents,
    labels: np.ndarray,
    config: ClassifierConfig,
    scheduler: SchedulerConfig,
    stage: ClassifierStage,
    seed: int,
    ops: TorchBackend,
) -> Trainer:
    """Return a trainer of the classifier; `labels`: (n,) int64."""
    n = stage.optimizer.batch_size
    power = stage.objective.timestep_power
    alphas_cumprod = ops.asarray(np.array(training_alphas_cumprod(scheduler)), "float64")

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        rng = step_generator(seed, step, "classifier")
        batch = latents.sample_indices(rng, n)
        t = ops.asarray(part.slice(random_timesteps(rng, n, len(alphas_cumprod), power)))
        x0, eps = latents.noise(batch, seed, step, part)
        xt = q_sample(x0, alphas_cumprod[t], eps)
        logits = classifier(ops, params, config, ops.asarray(xt), t.to(x0.dtype)).to(x0.dtype)
        right = ops.asarray(labels[part.slice(batch)])
        metrics = {"right": (logits.argmax(1) == right).float().mean()}
        return Loss(F.cross_entropy(logits, right), metrics, part.slice(batch))

    params = init(classifier_spec(config), seed)
    return Trainer(stage.optimizer, stage.budget.steps, params, loss, ops)
