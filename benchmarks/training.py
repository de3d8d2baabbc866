"""One training step of the denoiser: ldmref's trainer, and a plain loop over `torch.nn.Module`s.

Both sides sample the same batches with the same functions, and end a step with clipping, AdamW and
a moving average. The peer's networks are diffusers' U-Net and transformers' text encoder, in
bfloat16 under autocast.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.cases import TRAINING_BATCH, BenchmarkCase
from benchmarks.peers import peer_network
from benchmarks.work import PROMPT, SEED, Workload
from ldmref.backends.torch import TorchBackend
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten, tree_map, unflatten
from ldmref.training.batches import FULL_BATCH
from ldmref.training.diffusion.latents import Latents, NoisyLatents
from ldmref.training.diffusion.loss import DiffusionLoss
from ldmref.training.diffusion.stage import (
    Condition,
    DenoiserTraining,
    DiffusionBatches,
    diffusion_trainer,
)
from ldmref.training.recipes.schema import Budget, DiffusionStage, OptimizerConfig

IMAGES = 256
STEPS = 10**6
OPTIMIZER = OptimizerConfig(TRAINING_BATCH, learning_rate=1e-5, warmup=0)
NETWORKS = ("unet", "text_encoder")
STAGE = DiffusionStage(optimizer=OPTIMIZER, budget=Budget(STEPS))
Outcome = tuple[float, Mapping[str, torch.Tensor]]  # the loss, and the U-Net's parameters


def training_workloads(case: BenchmarkCase, model: LatentDiffusion) -> tuple[Workload, Workload]:
    """Return both sides with the weights of `model`; a call is one step."""
    ops = TorchBackend(case.device, case.dtype)
    shape = (2, IMAGES, *model.latent_shape(case.size, case.size))
    moments = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    unscaled = LatentScale(ops, AutoencoderConfig(scaling_factor=1.0), Params())
    latents = NoisyLatents(Latents(*moments), np.ones(IMAGES), unscaled, ops)
    condition = Condition(lambda i, rng: PROMPT, model.tokenizers)
    training = DenoiserTraining(model.config, STAGE, SEED, ops)
    params = Params({k: tree_map(partial(_copy, ops), model.params[k]) for k in NETWORKS})
    trainer = diffusion_trainer(latents, condition, training, params)
    steps = trainer.run()
    unet = unflatten(trainer.parameters)["unet"]
    theirs = module_step(case, model, DiffusionBatches(latents, condition.prompt, training))
    synchronize = torch.cuda.synchronize if case.device == "cuda" else lambda: None
    return (
        Workload(lambda: (next(steps).loss, flatten(unet)), _outcome, synchronize),
        Workload(theirs, _outcome, synchronize),
    )


def _copy(ops: TorchBackend, x: Array) -> np.ndarray:
    return np.array(ops.to_numpy(x))


def module_step(
    case: BenchmarkCase, model: LatentDiffusion, batches: DiffusionBatches
) -> Callable[[], Outcome]:
    """Return the peer's step, as it is usually written."""
    networks = [
        peer_network(name, model).to(case.device).train().requires_grad_(True) for name in NETWORKS
    ]
    unet, text_encoder = networks
    parameters = [p for network in networks for p in network.parameters()]
    averages = [p.detach().clone() for p in parameters]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": OPTIMIZER.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, OPTIMIZER.learning_rate, betas=(0.9, 0.99), fused=True)
    kind = model.config.scheduler.prediction_type
    half = case.dtype == "bfloat16"
    assert isinstance(batches.diffusion_loss, DiffusionLoss)
    alphas_cumprod = batches.diffusion_loss.alphas_cumprod
    count = itertools.count()

    def step() -> Outcome:
        i = next(count)
        optimizer.zero_grad(set_to_none=True)
        b = batches(i, FULL_BATCH)
        token_ids = torch.as_tensor(model.tokenizer.encode(b.prompts)[0], device=case.device)
        with torch.autocast(case.device, torch.bfloat16, enabled=half):
            context = text_encoder(token_ids).last_hidden_state
            labels = context[:, -1] if unet.config.class_embed_type else None
            output = unet(b.xt, b.t, context, class_labels=labels).sample.float()
        alpha_bar = alphas_cumprod[b.t].float()[:, None, None, None]
        v = alpha_bar.sqrt() * b.eps - (1 - alpha_bar).sqrt() * b.x0
        loss = F.mse_loss(output, {"eps": b.eps, "v": v}[kind])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER.clip_norm)
        optimizer.step()
        decay = min(OPTIMIZER.ema_decay, (2 + i) / (11 + i))
        with torch.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, 1 - decay)
        return loss.item(), dict(unet.named_parameters())

    return step


def _outcome(outcome: Outcome) -> np.ndarray:
    """Return the loss, and the U-Net's clipped gradients relative to the largest of them."""
    loss, parameters = outcome
    gradients = [x.grad for _, x in sorted(parameters.items()) if x.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    return np.append((flat / flat.abs().max()).cpu().numpy(), loss)
