"""The training loop: parameters, optimizers, moving average, learning-rate schedule, checkpoints.

All randomness of step i comes from generators keyed by (seed, i), so a resumed training equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ldmref.backends.torch import TorchBackend
from ldmref.errors import Cancelled, InputError
from ldmref.models.params import Params, flatten, unflatten

Loss = Callable[[Params, int], torch.Tensor]  # loss(params, step)
OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
NOT_FOR_MUON = ("embedding.weight", "conv_in.weight", "conv_out.weight")


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of one training stage.

    `muon_rate` above 0 trains the matrices and kernels between the first and the last layer with
    Muon (orthogonalised momentum; Jordan et al. 2024, scaled as in Liu et al. 2025,
    arXiv:2502.16982) at that learning rate, and all other parameters with AdamW at `learning_rate`;
    at 0, AdamW trains everything.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    muon_rate: float = 0.0
    seed: int = 0

    def lr_schedule(self, step: int) -> float:
        """The factor on all learning rates: linear warm-up to 1, then half a cosine to 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class TrainingProgress:
    """Progress within a stage; `loss` is the mean since the last report."""

    step: int
    steps: int
    loss: float


class Trainer:
    """Trains one parameter tree and keeps an exponential moving average of it.

    Args:
        config: hyperparameters.
        params: initial parameters; trained in float32.
        loss: `loss(params, step)`, the scalar training loss; `step` keys its randomness.
        ops: backend that runs the loss.
    """

    def __init__(self, config: TrainingConfig, params: Params, loss: Loss, ops: TorchBackend):
        self.config, self.loss, self.step = config, loss, 0
        self.shapes, self.parameters = {}, {}
        for name, array in flatten(params).items():
            self.shapes[name] = tuple(array.shape)
            tensor = torch.as_tensor(np.array(array), dtype=torch.float32).to(ops.device)
            if self._uses_muon(name):
                tensor = tensor.flatten(1)  # kernels as matrices (o, i*k*k)
            self.parameters[name] = torch.nn.Parameter(tensor)
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizers = self._optimizers()

    def _uses_muon(self, name: str) -> bool:
        matrix = len(self.shapes[name]) > 1
        return self.config.muon_rate > 0 and matrix and not name.endswith(NOT_FOR_MUON)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        config, decay = self.config, self.config.weight_decay
        muon = [p for name, p in self.parameters.items() if self._uses_muon(name)]
        adamw = [p for name, p in self.parameters.items() if not self._uses_muon(name)]
        groups = [
            {"params": [p for p in adamw if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in adamw if p.ndim <= 1], "weight_decay": 0.0},
        ]
        first = torch.optim.AdamW(groups, config.learning_rate, betas=(0.9, 0.99), fused=True)
        if not muon:
            return [first]
        rate, scaling = config.muon_rate, "match_rms_adamw"
        return [first, torch.optim.Muon(muon, rate, decay, adjust_lr_fn=scaling)]

    @property
    def params(self) -> Params:
        """The parameter tree under autograd, every tensor in its own shape."""
        return unflatten({name: p.view(self.shapes[name]) for name, p in self.parameters.items()})

    def ema_params(self) -> Params:
        """The averaged parameter tree, float32 on the host."""
        host = {name: p.view(self.shapes[name]).cpu().numpy() for name, p in self.ema.items()}
        return unflatten(host)

    def run(
        self, report_every: int = 100, cancel: Event | None = None
    ) -> Iterator[TrainingProgress]:
        """Train up to `config.steps`, yielding every `report_every` steps and at the end.

        Raises:
            Cancelled: `cancel` was set; the current step was finished.
        """
        total_loss, since_report, steps = 0.0, 0, self.config.steps
        while self.step < steps:
            if cancel is not None and cancel.is_set():
                message = f"stopped after step {self.step} of {steps}"
                hint = "the checkpoint is saved; repeat the command to resume"
                raise Cancelled(message, code="E-CANCELLED", hint=hint)
            total_loss, since_report = total_loss + self._train_step(), since_report + 1
            if self.step % report_every == 0 or self.step == steps:
                yield TrainingProgress(self.step, steps, float(total_loss) / since_report)
                total_loss, since_report = 0.0, 0

    def _train_step(self) -> torch.Tensor:
        """One optimization step; returns the loss before it."""
        factor = self.config.lr_schedule(self.step)
        loss = self.loss(self.params, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.ema[name].lerp_(parameter, 1 - decay)
        return loss.detach()

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        tensors = {f"params.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"ema.{name}": p for name, p in self.ema.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer_of(name).state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        temporary = path.with_name(path.name + ".part")
        save_file(tensors, str(temporary), {"step": json.dumps(self.step)})
        os.replace(temporary, path)

    def _optimizer_of(self, name: str) -> torch.optim.Optimizer:
        return self.optimizers[1 if self._uses_muon(name) else 0]

    def resume(self, path: Path) -> None:
        """Load the checkpoint at `path`.

        Raises:
            InputError: the file is damaged or belongs to another network.
        """
        try:
            tensors = load_file(str(path))
            with safe_open(str(path), "pt") as file:
                self.step = int(json.loads((file.metadata() or {})["step"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            message = f"the checkpoint {path.name} is damaged: {error}"
            hint = "delete it to restart this stage"
            raise InputError(message, code="E-RESUME", hint=hint) from error
        expected = {f"params.{name}": tuple(p.shape) for name, p in self.parameters.items()}
        shapes = {k: tuple(v.shape) for k, v in tensors.items() if k.startswith("params.")}
        if shapes != expected:
            message = f"{path.name} belongs to another network"
            raise InputError(message, code="E-RESUME", hint="train into an empty folder")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"params.{name}"])
                self.ema[name].copy_(tensors[f"ema.{name}"])
                state = self._optimizer_of(name).state[parameter]
                for key in OPTIMIZER_STATE:
                    value = tensors.get(f"optimizer.{key}.{name}")
                    if value is not None:
                        state[key] = value.clone().to(parameter.device)


def step_generator(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random generator of one step and purpose."""
    key = [seed, step, *purpose.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def step_noise(shape: tuple[int, ...], seed: int, step: int, ops: TorchBackend) -> torch.Tensor:
    """Standard normal noise of one step, from torch (NumPy's is slower than the network)."""
    key = int(step_generator(seed, step, "noise").integers(2**62))
    generator = torch.Generator(device=ops.device).manual_seed(key)
    return torch.randn(shape, generator=generator, device=ops.device)
