"""The optimizers of a trainer, AdamW and Muon, and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ldmref.errors import UsageError
from ldmref.training.distributed import ranks
from ldmref.training.muon import Muon
from ldmref.training.recipes.schema import OptimizerConfig

NOT_FOR_MUON = ("embedding.weight", "conv_in.weight", "conv_out.weight", "shared.weight",
                "relative_attention_bias.weight")  # fmt: skip


def uses_muon(
    config: OptimizerConfig, name: str, shape: tuple[int, ...], ends: tuple[str, ...] = ()
) -> bool:
    """Return whether a parameter is trained with Muon; otherwise it is trained with AdamW.

    `ends` are further ends of names of first and last layers and of tables.
    """
    inner = len(shape) > 1 and not name.endswith((*NOT_FOR_MUON, *ends))
    return config.muon_rate > 0 and inner


def make_optimizers(
    config: OptimizerConfig,
    parameters: Mapping[str, torch.Tensor],
    muon: frozenset[str],
    dtype: torch.dtype,
) -> list[torch.optim.Optimizer]:
    """Return AdamW and, if there are parameters for it, Muon.

    Args:
        config: Learning rates and the other hyperparameters.
        parameters: All trained parameters by name.
        muon: The names of the parameters that Muon trains, as matrices.
        dtype: Floating-point type of Muon's matrices while they are orthogonalised.
    """
    adamw = [p for name, p in parameters.items() if name not in muon]
    groups = [
        {"params": [p for p in adamw if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in adamw if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    first = torch.optim.AdamW(groups, config.learning_rate, betas=betas, eps=config.eps, fused=True)
    matrices = [p for name, p in parameters.items() if name in muon]
    if not matrices:
        return [first]
    rest = config.weight_decay, config.muon_momentum, dtype
    return [first, Muon(matrices, config.muon_rate, *rest)]


def learning_rate_factor(config: OptimizerConfig, steps: int, step: int) -> float:
    """Return the factor in `step` of `steps`: linear warm-up, constant 1, half a cosine to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    start = max(config.warmup, round((1 - config.cooldown) * steps))
    progress = (step - start) / max(1, steps - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def require_shared(config: OptimizerConfig) -> None:
    """Check that the ranks can share a batch.

    Raises:
        UsageError: The batch size is not a multiple of their number.
    """
    if config.batch_size % (config.accumulation * ranks()):
        message = f"{ranks()} processes cannot share a batch of {config.batch_size}"
        hint = "make batch_size a multiple of their number, times accumulation"
        raise UsageError(message, code="E-RECIPE", hint=hint)
