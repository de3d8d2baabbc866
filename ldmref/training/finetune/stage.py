"""Fine-tuning: the denoiser's loss of a model, through what is learned of it or beside it.

The model is the one that draws, on a backend that records gradients; so what is trained is exactly
what is drawn with.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ldmref.backends.torch import TorchBackend
from ldmref.models.config import ModelConfig
from ldmref.models.model import TEXT_ENCODERS
from ldmref.models.params import Params
from ldmref.modes.text import encode_conditioning
from ldmref.training.diffusion import DiffusionBatches, has_unused_layers
from ldmref.training.finetune.adapters import Adapter
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.latents import NoisyLatents
from ldmref.training.loss import Loss, Part
from ldmref.training.trainer import Trainer


class RecordingBackend(TorchBackend):
    """PyTorch with gradients wherever a parameter wants one."""

    def inference(self) -> AbstractContextManager:
        return nullcontext()


def fine_tune_trainer(
    recipe: FineTuneRecipe,
    config: ModelConfig,
    adapter: Adapter,
    latents: NoisyLatents,
    ops: RecordingBackend,
) -> Trainer:
    """A trainer of the adapter on encoded images."""
    stage = recipe.diffusion
    size = (recipe.data.size, recipe.data.size)
    batches = DiffusionBatches(latents, adapter.caption, config, stage, recipe.seed, ops)

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        adapted = adapter.adapted(ops, params)
        batch = batches(step, part)
        condition = encode_conditioning(adapted, batch.prompts, size)
        inputs = ops.asarray(batch.xt), batch.t.to(batch.x0.dtype), condition
        return batches.loss(batch, adapted.unet_output(*inputs))

    learned = any(name in TEXT_ENCODERS for name in adapter.initial)
    return Trainer(
        stage.optimizer,
        stage.budget.steps,
        adapter.initial,
        loss,
        ops,
        unused=learned and has_unused_layers(config),
    )
