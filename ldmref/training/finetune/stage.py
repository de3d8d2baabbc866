"""Fine-tuning: the denoiser's loss of a frozen model, through what is learned beside it.

The model is the one that draws, on a backend that records gradients; so what is trained is exactly
what is drawn with.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params
from ldmref.modes.text import conditioning_of
from ldmref.training.data import Dataset
from ldmref.training.diffusion import DiffusionBatches
from ldmref.training.finetune.adapters import Adapter
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.latents import Latents, NoisyLatents
from ldmref.training.loss import Loss, Part
from ldmref.training.pictures import to_unit
from ldmref.training.trainer import Trainer


class RecordingBackend(TorchBackend):
    """PyTorch with gradients wherever a parameter wants one."""

    def inference(self) -> AbstractContextManager:
        return nullcontext()


def fine_tune_trainer(
    recipe: FineTuneRecipe, model: LatentDiffusion, adapter: Adapter, data: Dataset,
    ops: RecordingBackend,
) -> Trainer:  # fmt: skip
    """A trainer of the adapter on the pictures of `data`; the model is on `ops`."""
    stage = recipe.diffusion
    latents = NoisyLatents(encode_pictures(model, data, ops), data.weights, 1.0, ops)
    batches = DiffusionBatches(latents, adapter.caption, model.config, stage, recipe.seed, ops)
    size = recipe.data.size, recipe.data.size

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        adapted = adapter.adapted(ops, params)
        batch = batches(step, part)
        condition = conditioning_of(adapted, batch.prompts, size)
        inputs = ops.asarray(batch.xt), batch.t.to(batch.x0.dtype), condition
        return batches.loss(batch, adapted.unet(*inputs))

    return Trainer(stage.optimizer, stage.budget.steps, adapter.initial, loss, ops)


def encode_pictures(
    model: LatentDiffusion, data: Dataset, ops: TorchBackend, batch: int = 4
) -> Latents:
    """Posterior mean and log-variance of every picture, scaled, (n, z, h, w) float32."""
    moments = []
    with torch.inference_mode():
        for start in range(0, len(data.images), batch):
            x = to_unit(data.images[start : start + batch], ops)
            mean, std = model.encode_posterior(ops.asarray(x))
            logvar = 2.0 * torch.log(std.float())
            moments.append([ops.to_numpy(z).astype(np.float32) for z in (mean, logvar)])
    return Latents(*(np.concatenate(z) for z in zip(*moments, strict=True)))
