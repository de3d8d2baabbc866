"""What every training shares: parameters under gradient, optimizers, EMA, rate, checkpoints.

All randomness of step i comes from streams keyed by (seed, i), so a resumed training goes on
exactly as the uninterrupted one would have.
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


@dataclass(frozen=True)
class Plan:
    """How long and how fast a network is trained.

    `muon_rate` above 0 gives the matrices and kernels between the first and the last layer to Muon
    (momentum, orthogonalised; Jordan et al. 2024, scaled as in Liu et al. 2025, arXiv:2502.16982)
    at that rate; everything else, and without it everything, is AdamW's at `learning_rate`.
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

    def pace(self, step: int) -> float:
        """The factor on every rate: linear warm-up to 1, then half a cosine to 0 at `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Progress:
    """What a training reports: `loss` is the mean since the last report."""

    step: int
    steps: int
    loss: float


class Trainer:
    """Optimizers and an exponential moving average over one parameter tree.

    `loss(params, step)` is the scalar training loss; `step` keys its randomness.
    """

    def __init__(self, plan: Plan, params: Params, loss: Callable, ops: TorchBackend):
        self.plan, self.loss, self.step = plan, loss, 0
        host = flatten(params)
        self.shapes = {name: tuple(leaf.shape) for name, leaf in host.items()}
        flat = {
            name: torch.as_tensor(np.array(leaf), dtype=torch.float32).to(ops.device)
            for name, leaf in host.items()
        }
        for name in flat:
            if self._is_for_muon(name):
                flat[name] = flat[name].flatten(1)  # kernels as matrices (o, i*k*k)
        self.flat = {name: torch.nn.Parameter(leaf) for name, leaf in flat.items()}
        self.ema = {name: leaf.detach().clone() for name, leaf in self.flat.items()}
        self.optimizers = self._optimizers()

    def _is_for_muon(self, name: str) -> bool:
        ends = ("embedding.weight", "conv_in.weight", "conv_out.weight")
        return self.plan.muon_rate > 0 and len(self.shapes[name]) > 1 and not name.endswith(ends)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        plan = self.plan
        muon = [p for name, p in self.flat.items() if self._is_for_muon(name)]
        rest = {name: p for name, p in self.flat.items() if not self._is_for_muon(name)}
        decayed = [p for p in rest.values() if p.ndim > 1]
        others = [p for p in rest.values() if p.ndim <= 1]
        made: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [{"params": decayed, "weight_decay": plan.weight_decay},
                 {"params": others, "weight_decay": 0.0}],
                lr=plan.learning_rate, betas=(0.9, 0.99), fused=True,
            )
        ]  # fmt: skip
        if muon:
            made.append(
                torch.optim.Muon(
                    muon,
                    lr=plan.muon_rate,
                    weight_decay=plan.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        return made

    @property
    def params(self) -> Params:
        """The tree under gradient, every leaf in its own shape."""
        return unflatten({name: p.view(self.shapes[name]) for name, p in self.flat.items()})

    def ema_params(self) -> Params:
        """The averaged tree, float32 on the host."""
        return unflatten(
            {name: leaf.view(self.shapes[name]).cpu().numpy() for name, leaf in self.ema.items()}
        )

    def run(self, report_every: int = 100, cancel: Event | None = None) -> Iterator[Progress]:
        """Train to the end of the plan, yielding now and then.

        Raises:
            Cancelled: `cancel` was set; the step under way was finished.
        """
        total, since = 0.0, 0
        while self.step < self.plan.steps:
            if cancel is not None and cancel.is_set():
                raise Cancelled(
                    f"stopped after step {self.step} of {self.plan.steps}",
                    code="E-CANCELLED",
                    hint="the checkpoint is saved; the same command goes on from there",
                )
            pace = self.plan.pace(self.step)
            loss = self.loss(self.params, self.step)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = optimizer.defaults["lr"] * pace
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.flat.values(), self.plan.clip_norm)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            decay = min(self.plan.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, leaf in self.flat.items():
                    self.ema[name].lerp_(leaf, 1 - decay)
            total, since = total + loss.detach(), since + 1
            if self.step % report_every == 0 or self.step == self.plan.steps:
                yield Progress(self.step, self.plan.steps, float(total) / since)
                total, since = 0.0, 0

    def save(self, path: Path) -> None:
        """Write a checkpoint beside `path`, then move it there in one step."""
        tensors = {f"params.{name}": leaf.detach() for name, leaf in self.flat.items()}
        tensors |= {f"ema.{name}": leaf for name, leaf in self.ema.items()}
        for optimizer, name in self._owners():
            for key, value in optimizer.state[self.flat[name]].items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        aside = path.with_name(path.name + ".part")
        save_file(
            {name: leaf.contiguous() for name, leaf in tensors.items()},
            str(aside),
            {"step": json.dumps(self.step)},
        )
        os.replace(aside, path)

    def _owners(self) -> Iterator[tuple[torch.optim.Optimizer, str]]:
        """Every parameter's name with the optimizer that moves it."""
        for name in self.flat:
            yield self.optimizers[1 if self._is_for_muon(name) else 0], name

    def resume(self, path: Path) -> None:
        """Go on where the checkpoint at `path` stopped.

        Raises:
            InputError: the file is damaged or belongs to another network.
        """
        try:
            tensors = load_file(str(path))
            with safe_open(str(path), "pt") as file:
                self.step = int(json.loads((file.metadata() or {})["step"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"the checkpoint {path.name} is damaged: {error}",
                code="E-RESUME",
                hint="delete it to start this stage anew",
            ) from error
        want = {f"params.{name}": tuple(leaf.shape) for name, leaf in self.flat.items()}
        have = {k: tuple(v.shape) for k, v in tensors.items() if k.startswith("params.")}
        if want != have:
            raise InputError(
                f"{path.name} belongs to another network",
                code="E-RESUME",
                hint="train into an empty folder",
            )
        with torch.no_grad():
            for optimizer, name in self._owners():
                leaf = self.flat[name]
                leaf.copy_(tensors[f"params.{name}"])
                self.ema[name].copy_(tensors[f"ema.{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                    value = tensors.get(f"optimizer.{key}.{name}")
                    if value is not None:
                        optimizer.state[leaf][key] = value.clone().to(leaf.device)


def stream(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random stream of one step."""
    words = [seed, step, *purpose.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def normal(shape: tuple[int, ...], seed: int, step: int, ops: TorchBackend) -> torch.Tensor:
    """Standard normal noise of one step, drawn by torch (numpy's is slower than the network)."""
    key = int(stream(seed, step, "noise").integers(2**62))
    generator = torch.Generator(device=ops.device).manual_seed(key)
    return torch.randn(shape, generator=generator, device=ops.device)
