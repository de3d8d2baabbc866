"""The trainer of a fine-tuning, with the denoiser's loss as a function of the adapter's parameters.

The forward pass is the one that generates images, on a backend that records gradients. A network
that reads the guidance scale is given the model's default.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ldmref.backends.torch import TorchBackend
from ldmref.models.conditioning import add_scale
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import TEXT_ENCODERS
from ldmref.models.params import Params
from ldmref.modes.text import encode_conditioning
from ldmref.training.batches import Part
from ldmref.training.diffusion.latents import NoisyLatents
from ldmref.training.diffusion.stage import DenoiserTraining, DiffusionBatches, has_unused_layers
from ldmref.training.family_rules import training_rules_of
from ldmref.training.finetune.adapters import Adapter
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.loss import Loss
from ldmref.training.observe import StepObserver
from ldmref.training.trainer import Trainer


class RecordingBackend(TorchBackend):
    """PyTorch that also records gradients in the model's methods, which run without elsewhere."""

    def inference(self) -> AbstractContextManager:
        """Return a context in which gradients are recorded."""
        return nullcontext()


def fine_tune_trainer(
    recipe: FineTuneRecipe,
    config: ModelConfig,
    adapter: Adapter,
    latents: NoisyLatents,
    ops: RecordingBackend,
    observer: StepObserver | None = None,
) -> Trainer:
    """Return a trainer of the adapter on encoded images; `observer` sees every step."""
    stage = recipe.diffusion
    size = (recipe.data.size, recipe.data.size)
    training = DenoiserTraining(config, stage, recipe.seed, ops, recipe.data.processes)
    batches = DiffusionBatches(latents, adapter.caption, training)
    batches.observer = observer

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        adapted = adapter.adapted(ops, params)
        batch = batches(step, part)
        condition = encode_conditioning(adapted, batch.prompts, size)
        if config.denoiser.reads_guidance:
            condition = add_scale(ops, condition, config.defaults.cfg_scale)
        inputs = ops.asarray(batch.xt), batch.t.to(batch.x0.dtype), condition
        return batches.loss(batch, adapted.predict_with_variance(*inputs))

    rules = training_rules_of(family_of(config))
    learned = any(name in TEXT_ENCODERS for name in adapter.initial)
    trainer = Trainer(
        stage.optimizer,
        stage.budget.steps,
        adapter.initial,
        loss,
        ops,
        unused=learned and has_unused_layers(config),
        ends=(*rules.ends, *rules.fixed(config)),
    )
    trainer.observer = observer
    trainer.on_end = batches.prefetched.close
    return trainer
