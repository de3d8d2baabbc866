"""Training the denoiser: Algorithm 1 of DDPM on latents, with a condition and its dropout.

z_0 is sampled from the autoencoder's posterior, and z_t from q(z_t|z_0) in closed form (Ho et al.
2020, arXiv:2006.11239, algorithm 1), or on the straight path of flow matching. The condition c is
replaced by the empty prompt or the null class with probability `caption_dropout` (Ho and Salimans
2022, arXiv:2207.12598, algorithm 1). Denoiser and text encoders, or class embedding, are trained
jointly; the family of the model says how the encoders condition the denoiser. The losses are in
`loss.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ldmref.backends.base import Backend
from ldmref.backends.torch import TorchBackend
from ldmref.models.conditioning import (
    Conditioning,
    add_scale,
    convert_conditioning,
)
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.family import family_of
from ldmref.models.networks import model_spec
from ldmref.models.params import Params, Spec, flatten, init, tree_map, unflatten
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, tokenize_for_encoders
from ldmref.prompts.tokens import Tokens
from ldmref.samplers.path import FLOW
from ldmref.training.batches import FULL_BATCH, Part, step_generator
from ldmref.training.compiled import NetworkGraphs
from ldmref.training.diffusion.latents import NoisyLatents
from ldmref.training.diffusion.loss import DiffusionLoss, FlowLoss
from ldmref.training.family_rules import training_rules_of
from ldmref.training.loss import Loss
from ldmref.training.observe import ObservedBatch, StepObserver
from ldmref.training.prefetch import Prefetched
from ldmref.training.recipes.schema import DiffusionStage
from ldmref.training.trainer import Trainer

HELD_OUT_SEED = 2**62  # not the seed of any training, so held-out noise is never seen
MAX_HELD_OUT = 256  # images on which the held-out loss is computed

PromptFunction = Callable[[int, np.random.Generator], str]  # (i, rng): a prompt for image i


class Condition(NamedTuple):
    """The prompts of the images, and the tokenizers of the text encoders."""

    prompt: PromptFunction
    tokenizers: Sequence[PromptTokenizer]


def diffusion_spec(config: ModelConfig) -> Spec:
    """Return the shapes of the trained parameters: of the denoiser and of the text encoders."""
    spec = model_spec(config)
    names = (config.denoiser.network, *TEXT_ENCODERS)
    return {name: spec[name] for name in names if name in spec}


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Return random parameters, but those that are zero or computed, as the family says."""
    flat = flatten(init(diffusion_spec(config), seed))
    rules = training_rules_of(family_of(config))
    last = rules.zeros(config)
    for name in flat:
        if name.startswith(f"{config.denoiser.network}.") and name.endswith(last):
            flat[name] = np.zeros_like(flat[name])
    flat |= {name: np.asarray(value(), np.float32) for name, value in rules.fixed(config).items()}
    return unflatten(flat)


def with_fixed(config: ModelConfig, params: Params) -> Params:
    """Return the parameters of a step, with no gradient for those that are computed."""
    fixed = training_rules_of(family_of(config)).fixed(config)
    if not fixed:
        return params
    flat = flatten(params)
    return unflatten(flat | {name: flat[name].detach() for name in fixed})


def condition_on_tokens(
    ops: Backend,
    config: ModelConfig,
    tokens: Sequence[Tokens],
    prompts: Sequence[str],
    compile_network: Callable[[Callable, str], Callable],
    size: tuple[int, int],
) -> Conditioning:
    """Return the conditioning of the denoiser on prompts, as the family makes it.

    A network that reads the guidance scale is given the model's default, and an empty prompt is
    zero where the model's negative prompts are. `tokens` are those of the prompts for each encoder.
    """
    if not config.text_encoders:
        return Conditioning(None)
    family = family_of(config)
    encoded = family.text.encode(ops, config.text_encoders, tokens, compile_network)
    encoded = replace(encoded, states=ops.asarray(encoded.states))
    zeroed = prompts if config.zero_empty_negative else None
    conditioning = family.text.condition_text(ops, config, encoded, size, zeroed)
    if config.denoiser.reads_guidance:
        conditioning = add_scale(ops, conditioning, config.defaults.cfg_scale)
    return conditioning


class HostBatch(NamedTuple):
    """What a step needs on the host: images, prompts, their tokens and the timesteps."""

    indices: np.ndarray
    prompts: list[str]
    tokens: list[Tokens]
    t: np.ndarray


class DiffusionBatch(NamedTuple):
    """The inputs of a step; tensors are on the device."""

    indices: np.ndarray  # the images
    prompts: list[str]  # "" if the condition is dropped or the model is unconditional
    t: torch.Tensor  # (n,) int64, of a flow float64
    x0: torch.Tensor
    eps: torch.Tensor
    xt: torch.Tensor
    tokens: list[Tokens]  # of the prompts, for each encoder; none without tokenizers


@dataclass(frozen=True)
class DenoiserTraining:
    """What a training of a denoiser is made of, besides its images and their prompts.

    Args:
        config: The model.
        stage: Objective, optimizer and budget.
        seed: Seed of initial parameters and of every step.
        ops: The backend that trains.
        processes: The number of processes that prefetch batches.
        compiled: Whether the networks are compiled; steps that are observed are not.
    """

    config: ModelConfig
    stage: DiffusionStage
    seed: int
    ops: TorchBackend
    processes: int = 0
    compiled: bool = False


class DiffusionBatches:
    """Samples the batch of each step, `batches(step, part)`, from the generators of that step, and
    computes its loss."""

    def __init__(
        self,
        latents: NoisyLatents,
        prompt: PromptFunction,
        training: DenoiserTraining,
        tokenizers: Sequence[PromptTokenizer] = (),
    ):
        config, stage, ops = training.config, training.stage, training.ops
        self.latents = latents
        self.prompt = prompt
        self.tokenizers = tokenizers
        self.stage = stage
        self.seed = training.seed
        self.ops = ops
        self.conditional = bool(config.text_encoders)
        self.diffusion_loss: DiffusionLoss | FlowLoss
        if config.scheduler.path is FLOW:
            pixels = config.vae.factor // config.vae.patch
            height, width = (side * pixels for side in latents.mean.shape[-2:])
            tokens = config.count_tokens(width, height)
            self.diffusion_loss = FlowLoss(config, stage.objective, ops, tokens)
        else:
            self.diffusion_loss = DiffusionLoss(config, stage.objective, ops)
        self.observer: StepObserver | None = None
        self.prefetched = Prefetched(self.sample, stage.budget.steps, training.processes)

    def sample(self, step: int) -> HostBatch:
        """Return what a step needs on the host, from the generator of that step."""
        n = self.stage.optimizer.batch_size
        dropout = self.stage.objective.caption_dropout
        rng = step_generator(self.seed, step, "diffusion")
        indices = self.latents.sample_indices(rng, n)
        prompts = [""] * n
        if self.conditional:
            prompts = ["" if rng.random() < dropout else self.prompt(int(i), rng) for i in indices]
        return self._host_batch(indices, prompts, rng)

    def _host_batch(
        self, indices: np.ndarray, prompts: list[str], rng: np.random.Generator
    ) -> HostBatch:
        tokens = []
        if self.tokenizers:
            tokens = tokenize_for_encoders(self.tokenizers, prompts, PromptOptions())
        t = self.diffusion_loss.timesteps(rng, len(indices))
        return HostBatch(indices, prompts, tokens, t)

    def __call__(self, step: int, part: Part) -> DiffusionBatch:
        return self._noised(self.prefetched(step), self.seed, step, part)

    def held_out(self, indices: np.ndarray) -> DiffusionBatch:
        """Return a batch of these images that is always the same: prompts, timesteps and noise."""
        rng = step_generator(HELD_OUT_SEED, 0, "held out")
        prompts = [""] * len(indices)
        if self.conditional:
            prompts = [self.prompt(int(i), rng) for i in indices]
        return self._noised(self._host_batch(indices, prompts, rng), HELD_OUT_SEED, 0, FULL_BATCH)

    def _noised(self, host: HostBatch, seed: int, step: int, part: Part) -> DiffusionBatch:
        """Return a part of a batch on the host, with the noise of a step."""
        t = self.ops.asarray(part.slice(host.t))
        x0, eps = self.latents.noise(host.indices, seed, step, part)
        xt = self.diffusion_loss.noised(x0, eps, t)
        prompts = part.slice(host.prompts)
        tokens = host.tokens
        if part.count > 1 and tokens:
            tokens = tokenize_for_encoders(self.tokenizers, prompts, PromptOptions())
        return DiffusionBatch(part.slice(host.indices), prompts, t, x0, eps, xt, tokens)

    def loss(self, batch: DiffusionBatch, output: torch.Tensor) -> Loss:
        """Return the loss of the denoiser's `output` (n, z or 2 z, h, w) for a batch."""
        output = output.to(batch.x0.dtype)
        losses = self.diffusion_loss(output, batch.x0, batch.eps, batch.xt, batch.t)
        by_timestep = self.diffusion_loss.by_timestep(losses, batch.t)
        if self.observer is not None:
            self.observer.batch(self._observed(batch, output, losses))
        return Loss(losses.mean(), batch=batch.indices, by_timestep=by_timestep)

    def _observed(
        self, batch: DiffusionBatch, output: torch.Tensor, losses: torch.Tensor
    ) -> ObservedBatch:
        """Return what an observer sees of a batch."""
        indices, prompts, t, x0, eps, xt, _ = batch
        bound = self.stage.objective.loss == "bound"
        target = None if bound else self.diffusion_loss.target(x0, eps, t)
        return ObservedBatch(indices, prompts, t, x0, eps, xt, output, target, losses)


def diffusion_trainer(
    latents: NoisyLatents,
    condition: Condition,
    training: DenoiserTraining,
    params: Params | None = None,
    held_out: np.ndarray | None = None,
    observer: StepObserver | None = None,
) -> Trainer:
    """Return a trainer of the denoiser and its text encoders or class embedding.

    Args:
        latents: The encoded images.
        condition: Their prompts and the tokenizers.
        training: The model, what is learned, and the backend that trains.
        params: Initial parameters; random by default.
        held_out: Indices of the images for the loss that is reported but never minimised.
        observer: Sees every step.
    """
    config, stage, ops = training.config, training.stage, training.ops
    tokenizers = condition.tokenizers if config.text_encoders else ()
    batches = DiffusionBatches(latents, condition.prompt, training, tokenizers)
    batches.observer = observer
    family = family_of(config)
    rules = training_rules_of(family)
    denoiser = family.declared(config, config.denoiser.network)
    size = config.defaults.width, config.defaults.height

    graphs = NetworkGraphs(ops) if training.compiled else None

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        return batch_loss(ops, params, batches(step, part))

    def batch_loss(ops: TorchBackend, params: Params, batch: DiffusionBatch) -> Loss:
        used = graphs if graphs is not None and ops is graphs.ops else None
        if used is not None:
            used.begin_step()

        def compile_network(function: Callable, name: str) -> Callable:
            if used is not None:
                return used.bind(name, function, params[name])
            return ops.compile(function, params[name])

        params = with_fixed(config, params)
        texts = batch.tokens, batch.prompts
        conditioning = condition_on_tokens(ops, config, *texts, compile_network, size)
        inputs = ops.asarray(batch.xt), batch.t.to(batch.x0.dtype)
        network = compile_network(denoiser.function, denoiser.params)
        arguments = denoiser.arrange(convert_conditioning(ops, conditioning))
        return batches.loss(batch, network(config.denoiser, *inputs, *arguments))

    if params is None:
        params = initial_params(config, training.seed)
    trainer = Trainer(
        stage.optimizer,
        stage.budget.steps,
        params,
        loss,
        ops,
        unused=has_unused_layers(config),
        ends=(*rules.ends, *rules.fixed(config)),
    )
    trainer.observer = observer
    trainer.on_end = batches.prefetched.close
    if held_out is not None and len(held_out):
        fixed = batches.held_out(held_out[:MAX_HELD_OUT])

        def held_out_loss(params: Params) -> float:
            batches.observer = None
            try:
                with torch.no_grad():
                    return float(batch_loss(ops, tree_map(ops.asarray, params), fixed).total)
            finally:
                batches.observer = observer

        trainer.held_out_loss = held_out_loss
    return trainer


def has_unused_layers(config: ModelConfig) -> bool:
    """Return whether some parameters have no gradient.

    These are computed ones, and layers of text encoders on which the denoiser may not depend.
    """
    return bool(training_rules_of(family_of(config)).fixed(config)) or any(
        encoder.skipped_layers > 0 or encoder.projection_dim > 0 or not encoder.final_norm
        for encoder in config.text_encoders
    )
