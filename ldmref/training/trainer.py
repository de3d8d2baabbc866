"""Training one parameter tree: optimization steps, parts of a batch, moving average, state.

A step is computed from random numbers that depend on the seed and the step only, so a resumed
training equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import NamedTuple, cast

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ldmref.backends.finite import check_layers, find_origin
from ldmref.backends.torch import TorchBackend
from ldmref.errors import Cancelled, InputError, NumericError
from ldmref.models.params import Params, flatten, tree_map, unflatten
from ldmref.training.batches import Part
from ldmref.training.distributed import (
    TrainedNetwork,
    any_rank,
    averaging,
    full_tensor,
    gather_from_ranks,
    local_shard,
    parallelized,
    rank,
    ranks,
    sharded_like,
)
from ldmref.training.loss import Loss, mean_loss, nonfinite_error
from ldmref.training.observe import StepObserver
from ldmref.training.optimizers import (
    learning_rate_factor,
    make_optimizers,
    require_shared,
    uses_muon,
)
from ldmref.training.recipes.schema import OptimizerConfig

ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
MUON_STATE = ("momentum_buffer",)

LossFunction = Callable[[TorchBackend, Params, int, Part], Loss]  # (ops, params, step, part)


class StepLoss(NamedTuple):
    """The number of steps done, and the last step's loss, norm of the gradient before clipping,
    metrics and `Loss.by_timestep`, all computed before its update."""

    step: int
    loss: float
    grad_norm: float
    metrics: dict[str, float]
    by_timestep: np.ndarray | None


class Trainer:
    """Trains one parameter tree and keeps an exponential moving average of it.

    Args:
        config: Hyperparameters of the optimizers.
        steps: The budget, which is also the length of the learning-rate schedule.
        params: Initial parameters, trained in float32, or in float64 if the backend computes in
            float64. Parameters to which the loss gives no gradient do not change.
        loss: `loss(ops, params, step, part)` returns the mean loss of that part of the batch. Its
            random numbers depend on `step`, not on `part`.
        ops: The backend that computes the loss.
        adversary: The name of a network whose gradient is clipped separately, or "".
        unused: Whether there are steps in which some parameters have no gradient.
        ends: How the names of further parameters end that Muon does not train, as `Family.ends`.

    Raises:
        UsageError: Several processes cannot share the batch equally.

    >>> from ldmref.backends.torch import TorchBackend
    >>> from ldmref.models import init
    >>> from ldmref.training import Loss, OptimizerConfig, Trainer
    >>> params = init({"weight": (1, 1)})
    >>> def loss(ops, params, step, part):  # least at weight = 1
    ...     return Loss(((params.weight - 1.0) ** 2).mean())
    >>> config = OptimizerConfig(1, learning_rate=0.1, warmup=0, ema_decay=0.0)
    >>> trainer = Trainer(config, 200, params, loss, TorchBackend())
    >>> [*trainer.run()][-1].loss < 1e-3
    True
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
        ends: tuple[str, ...] = (),
    ):
        self.config = config
        self.steps = steps
        self.loss = loss
        self.ops = ops
        self.step = 0
        self.updating = False  # between the first and the last tensor that a step changes
        self.held_out_loss: Callable[[Params], float] | None = None  # of averaged parameters
        self.observer: StepObserver | None = None
        self.on_end: Callable[[], None] = lambda: None  # after the last step of a run
        require_shared(config)
        self.shapes = {}
        parameters = {}
        muon: list[str] = []
        for name, array in flatten(params).items():
            self.shapes[name] = tuple(array.shape)
            tensor = ops.asarray(np.array(array), ops.state_dtype)
            if uses_muon(config, name, self.shapes[name], ends):
                tensor = tensor.flatten(1)  # kernels as matrices (o, i*k*k)
                muon.append(name)
            parameters[name] = torch.nn.Parameter(tensor)
        network = TrainedNetwork(parameters, self._loss)
        self.unused = unused
        self.module = parallelized(network, config.shard, unused)
        self.parameters = network.named()
        separate = [n for n in self.parameters if adversary and n.startswith(adversary + ".")]
        groups = [[n for n in self.parameters if n not in separate], separate]
        self.clipped = [[self.parameters[name] for name in group] for group in groups if group]
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.muon = frozenset(muon)
        dtype = getattr(torch, ops.dtype)
        self.optimizers = make_optimizers(config, self.parameters, self.muon, dtype)

    @property
    def params(self) -> Params:
        """The parameter tree under autograd, each tensor in its own shape."""
        return self._tree(self.parameters)

    def ema_params(self) -> Params:
        """Return the averaged parameter tree, float32 on the host."""
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
        """Train to the end of the budget, step by step; yield the loss of each step.

        Args:
            cancel: Ends the training after the current step, once it is set. None: nothing does.
            stage: The name of the training in messages.

        Raises:
            Cancelled: `cancel` was set; the current step was finished.
            NumericError: The loss or its gradient is not finite; that step changed nothing.
        """
        try:
            while self.step < self.steps:
                if any_rank(cancel is not None and cancel.is_set(), self.ops.device):
                    message = f"{stage} stopped after step {self.step} of {self.steps}"
                    hint = "the checkpoint is saved; repeat the command to resume"
                    raise Cancelled(message, code="E-CANCELLED", hint=hint)
                yield self._train_step()
        finally:
            self.on_end()

    def _train_step(self) -> StepLoss:
        """Do one optimization step."""
        factor = self.lr_factor(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor
            optimizer.zero_grad(set_to_none=True)
        losses = []
        ops = self.ops if self.observer is None else self.observer.begin(self.step, self.ops)
        parts = self._parts()
        clip = self.config.clip_norm
        for part in parts:
            with averaging(self.module, now=part is parts[-1]):
                loss = self.module(ops, self.step, part)
                (loss.total / len(parts)).backward()
            losses.append(loss)
        loss = mean_loss(losses)
        gradients = [[p.grad for p in group if p.grad is not None] for group in self.clipped]
        norms = [full_tensor(get_total_norm(group)) for group in gradients]
        if not all(map(math.isfinite, (loss.total.item(), *map(float, norms)))):
            raise self._not_finite(loss, [norm.item() for norm in norms])
        grad_norm = math.hypot(*map(float, norms))
        if self.observer is not None:
            known = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
            self.observer.end(known, grad_norm, loss.total.item(), factor)
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
            average = get_ema_multi_avg_fn(decay)  # all at once: on a GPU, calls take the time
            shards = (
                [*map(local_shard, self.ema.values())],
                [*map(local_shard, self.parameters.values())],
            )
            average(*shards, self.step)
        self.updating = False
        metrics = {name: float(value) for name, value in loss.metrics.items()}
        sums = None if loss.by_timestep is None else loss.by_timestep.cpu().numpy()
        return StepLoss(self.step, loss.total.item(), grad_norm, metrics, sums)

    def _change(self, change: Callable[[Params], None]) -> None:
        """Let a function change parameters in place, including sharded ones."""
        params = self.params
        change(params)
        if not self.config.shard:
            return
        for name, x in flatten(params).items():  # gathered copies
            parameter = self.parameters[name]
            parameter.copy_(sharded_like(x.view(parameter.shape), parameter))

    def _parts(self) -> list[Part]:
        """Return the parts of a batch that this process computes, one after the other."""
        count = self.config.accumulation
        first = rank() * count
        return [Part(first + i, count * ranks()) for i in range(count)]

    def _not_finite(self, loss: Loss, norms: Sequence[float]) -> NumericError:
        """Return the error of the current step, whose loss is computed again layer by layer.

        All ranks report the cause that is found by the first rank whose part shows one.
        """
        params = self.params
        parts = self._parts()
        checked = cast(TorchBackend, check_layers(self.ops, params))
        layer = find_origin(lambda: [self.loss(checked, params, self.step, p) for p in parts])
        found = gather_from_ranks((layer, loss.batch))
        whole = np.concatenate([batch for _, batch in found])
        layer, batch = next(((name, part) for name, part in found if name), ("", whole))
        broken = [n for n, p in self.parameters.items() if not _is_finite(p.grad)]
        where = layer or (f"the gradient of {broken[-1]}" if broken else "a term of the loss")
        return nonfinite_error(self.step + 1, loss.total.item(), norms, where, batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that changes from step to step, by name, on the host."""
        return {name: full_tensor(x).cpu() for name, x in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        tensors = {f"params.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"ema.{name}": x for name, x in self.ema.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._find_optimizer(name).state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from the state after a step.

        Args:
            step: The number of steps that were taken.
            arrays: The `state`, by name, each of the shape that it had.

        Raises:
            InputError: It is the state of another network.
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
                state = self._find_optimizer(name).state[parameter]
                for key in MUON_STATE if name in self.muon else ADAMW_STATE:
                    value = tensors.get(f"optimizer.{key}.{name}")
                    if value is not None:
                        state[key] = sharded_like(value, parameter)

    def _find_optimizer(self, name: str) -> torch.optim.Optimizer:
        return self.optimizers[1 if name in self.muon else 0]


def _is_finite(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(gradient).all())
