"""The training loop: parameters, optimizers, moving average, learning-rate schedule.

All randomness of step i comes from generators keyed by (seed, i), so a resumed training equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ldmref.backends.finite import first_layer
from ldmref.backends.torch import TorchBackend
from ldmref.errors import Cancelled, InputError, NumericError, UsageError
from ldmref.models.params import Params, flatten, tree_map, unflatten
from ldmref.training.distributed import (
    Network,
    any_rank,
    averaging,
    full_tensor,
    local_shard,
    of_all_ranks,
    parallelized,
    rank,
    ranks,
    sharded_like,
)
from ldmref.training.loss import Loss, Part, mean_loss
from ldmref.training.muon import Muon
from ldmref.training.nonfinite import nonfinite_error
from ldmref.training.recipe import OptimizerConfig

OPTIMIZER_STATE = (("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",))  # AdamW, Muon
NOT_FOR_MUON = ("embedding.weight", "conv_in.weight", "conv_out.weight")

LossFunction = Callable[[TorchBackend, Params, int, Part], Loss]  # (ops, params, step, part)


class StepLoss(NamedTuple):
    """The number of steps done; loss, norm of the gradient before clipping, metrics and
    `Loss.by_timestep` of the last one, before its update."""

    step: int
    loss: float
    grad_norm: float
    metrics: dict[str, float]
    by_timestep: np.ndarray | None


class Trainer:
    """Trains one parameter tree and keeps an exponential moving average of it.

    Args:
        config: hyperparameters.
        steps: the budget, and the length of the learning-rate schedule.
        params: initial parameters, trained in float32, or in float64 if the backend computes so;
            those that the loss gives no gradient stay.
        loss: `loss(ops, params, step, part)`, a mean over that part of the batch; `step` keys its
            randomness, which does not depend on the part.
        ops: backend that runs the loss.
        adversary: the network whose gradient is clipped by itself, if there is one.
        unused: whether there are steps in which some parameters have no gradient.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        steps: int,
        params: Params,
        loss: LossFunction,
        ops: TorchBackend,
        adversary: str = "",
        unused: bool = False,
    ):
        self.config = config
        self.steps = steps
        self.loss = loss
        self.ops = ops
        self.step = 0
        self.updating = False  # between the first and the last tensor that a step changes
        self.held_out_loss: Callable[[Params], float] | None = None  # of averaged parameters
        require_shared(config)
        self.shapes = {}
        parameters = {}
        for name, array in flatten(params).items():
            self.shapes[name] = tuple(array.shape)
            tensor = ops.asarray(np.array(array), ops.state_dtype)
            if self._uses_muon(name):
                tensor = tensor.flatten(1)  # kernels as matrices (o, i*k*k)
            parameters[name] = torch.nn.Parameter(tensor)
        network = Network(parameters, self._loss)
        self.unused = unused
        self.module = parallelized(network, config.shard, unused)
        self.parameters = network.named()
        apart = [name for name in self.parameters if adversary and name.startswith(adversary + ".")]
        groups = [[n for n in self.parameters if n not in apart], apart]
        self.clipped = [[self.parameters[name] for name in group] for group in groups if group]
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizers = self._optimizers()

    def _uses_muon(self, name: str) -> bool:
        matrix = len(self.shapes[name]) > 1
        return self.config.muon_rate > 0 and matrix and not name.endswith(NOT_FOR_MUON)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        config = self.config
        decay = self.config.weight_decay
        muon = [p for name, p in self.parameters.items() if self._uses_muon(name)]
        adamw = [p for name, p in self.parameters.items() if not self._uses_muon(name)]
        groups = [
            {"params": [p for p in adamw if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in adamw if p.ndim <= 1], "weight_decay": 0.0},
        ]
        betas = (config.betas[0], config.betas[1])
        first = torch.optim.AdamW(
            groups, config.learning_rate, betas=betas, eps=config.eps, fused=True
        )
        if not muon:
            return [first]
        dtype = getattr(torch, self.ops.dtype)
        return [first, Muon(muon, config.muon_rate, decay, config.muon_momentum, dtype)]

    @property
    def params(self) -> Params:
        """The parameter tree under autograd, every tensor in its own shape."""
        return self._tree(self.parameters)

    def ema_params(self) -> Params:
        """The averaged parameter tree, float32 on the host."""
        return tree_map(lambda p: p.cpu().numpy(), self._tree(self.ema))

    def _tree(self, tensors: Mapping[str, torch.Tensor]) -> Params:
        return unflatten(
            {name: full_tensor(x).view(self.shapes[name]) for name, x in tensors.items()}
        )

    def _loss(
        self, parameters: Mapping[str, torch.Tensor], ops: TorchBackend, step: int, part: Part
    ) -> Loss:
        return self.loss(ops, self._tree(parameters), step, part)

    def lr_factor(self, step: int) -> float:
        """Return the factor on all learning rates in a step."""
        return learning_rate_factor(self.config, self.steps, step)

    def run(self, cancel: Event | None = None, stage: str = "training") -> Iterator[StepLoss]:
        """Train to the end of the budget, step by step; `stage` is its name for messages.

        Raises:
            Cancelled: `cancel` was set; the current step was finished.
            NumericError: the loss or its gradient is not finite; that step changed nothing.
        """
        while self.step < self.steps:
            if any_rank(cancel is not None and cancel.is_set(), self.ops.device):
                message = f"{stage} stopped after step {self.step} of {self.steps}"
                hint = "the checkpoint is saved; repeat the command to resume"
                raise Cancelled(message, code="E-CANCELLED", hint=hint)
            yield self._train_step()

    def _train_step(self) -> StepLoss:
        """One optimization step."""
        factor = self.lr_factor(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor
            optimizer.zero_grad(set_to_none=True)
        losses = []
        parts = self._parts()
        clip = self.config.clip_norm
        for part in parts:
            with averaging(self.module, now=part is parts[-1]):
                loss = self.module(self.ops, self.step, part)
                (loss.total / len(parts)).backward()
            losses.append(loss)
        loss = mean_loss(losses)
        gradients = [[p.grad for p in group if p.grad is not None] for group in self.clipped]
        norms = [full_tensor(get_total_norm(group)) for group in gradients]
        if not all(map(math.isfinite, (loss.total.item(), *map(float, norms)))):
            raise self._not_finite(loss, [norm.item() for norm in norms])
        for group, norm in zip(self.clipped, norms, strict=True):
            clip_grads_with_norm_(group, clip, norm)
        self.updating = True
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            if loss.after is not None:
                self._change(loss.after)
            for name, parameter in self.parameters.items():
                local_shard(self.ema[name]).lerp_(local_shard(parameter), 1 - decay)
        self.updating = False
        metrics = {name: float(value) for name, value in loss.metrics.items()}
        sums = None if loss.by_timestep is None else loss.by_timestep.cpu().numpy()
        grad_norm = math.hypot(*map(float, norms))
        return StepLoss(self.step, loss.total.item(), grad_norm, metrics, sums)

    def _change(self, change: Callable[[Params], None]) -> None:
        """Let a function change parameters in place, sharded ones too."""
        params = self.params
        change(params)
        if not self.config.shard:  # else they were gathered copies
            return
        for name, x in flatten(params).items():
            parameter = self.parameters[name]
            parameter.copy_(sharded_like(x.view(parameter.shape), parameter))

    def _parts(self) -> list[Part]:
        """The parts of a batch that this process computes, one after the other."""
        count = self.config.accumulation
        first = rank() * count
        return [Part(first + i, count * ranks()) for i in range(count)]

    def _not_finite(self, loss: Loss, norms: Sequence[float]) -> NumericError:
        """The error of the current step: its loss is computed again, watched layer by layer. All
        ranks report what the first one finds whose part of the batch shows the cause."""
        params = self.params
        parts = self._parts()
        layer = first_layer(
            self.ops, params, lambda ops: [self.loss(ops, params, self.step, p) for p in parts]
        )
        found = of_all_ranks((layer, loss.batch))
        whole = np.concatenate([batch for _, batch in found])
        layer, batch = next(((name, part) for name, part in found if name), ("", whole))
        spoiled = [n for n, p in self.parameters.items() if not _is_finite(p.grad)]
        where = layer or (f"the gradient of {spoiled[-1]}" if spoiled else "a term of the loss")
        return nonfinite_error(self.step + 1, loss.total.item(), norms, where, batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that changes from step to step, by name, on the host."""
        return {name: full_tensor(x).cpu() for name, x in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        tensors = {f"params.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"ema.{name}": x for name, x in self.ema.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer_of(name).state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from the `state` after that step.

        Raises:
            InputError: the state of another network.
        """
        expected = {k: tuple(v.shape) for k, v in self._state().items()}
        shapes = {k: array.shape for k, array in arrays.items() if k in expected}
        if shapes != expected or any(k.startswith("params.") and k not in expected for k in arrays):
            message = "the checkpoint belongs to another network"
            raise InputError(message, code="E-RESUME", hint="train into an empty folder")
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        self.step = step
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(sharded_like(tensors[f"params.{name}"], parameter))
                self.ema[name].copy_(sharded_like(tensors[f"ema.{name}"], parameter))
                state = self._optimizer_of(name).state[parameter]
                for key in OPTIMIZER_STATE[self._uses_muon(name)]:
                    value = tensors.get(f"optimizer.{key}.{name}")
                    if value is not None:
                        state[key] = sharded_like(value, parameter)

    def _optimizer_of(self, name: str) -> torch.optim.Optimizer:
        return self.optimizers[1 if self._uses_muon(name) else 0]


def learning_rate_factor(config: OptimizerConfig, steps: int, step: int) -> float:
    """Return the factor in `step` of `steps`: linear warm-up, constant 1, half a cosine to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    start = max(config.warmup, round((1 - config.cooldown) * steps))
    progress = (step - start) / max(1, steps - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def require_shared(config: OptimizerConfig) -> None:
    """Refuse a batch that the ranks cannot share.

    Raises:
        UsageError: it is no multiple of their number.
    """
    if config.batch_size % (config.accumulation * ranks()):
        message = f"{ranks()} processes cannot share a batch of {config.batch_size}"
        hint = "make batch_size a multiple of their number, times accumulation"
        raise UsageError(message, code="E-RECIPE", hint=hint)


def step_generator(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random generator of one step and purpose."""
    key = [seed, step, *purpose.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def step_noise(
    shape: tuple[int, ...], seed: int, step: int, ops: TorchBackend, purpose: str = "noise"
) -> torch.Tensor:
    """Standard normal noise of one step, from torch (NumPy's is slower than the network)."""
    key = int(step_generator(seed, step, purpose).integers(2**62))
    generator = torch.Generator(device=ops.device).manual_seed(key)
    return torch.randn(shape, generator=generator, device=ops.device)


def _is_finite(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(gradient).all())
