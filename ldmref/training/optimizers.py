"""The optimizers of a trainer, AdamW and Muon, and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from ldmref.errors import UsageError
from ldmref.training.distributed import full_tensor, ranks, sharded_like
from ldmref.training.recipes.schema import OptimizerConfig

NOT_FOR_MUON = """
    embedding.weight conv_in.weight conv_out.weight shared.weight relative_attention_bias.weight
""".split()


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


# -- Muon ------------------------------------------------------------------------------------------


COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest at 0, not convergent
STEPS = 5
EPSILON = 1e-7
RMS = 0.2  # root mean square of AdamW's updates (Liu et al. 2025, arXiv:2502.16982, eq. 4)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, whose updates have the root mean square of AdamW's.

    In bfloat16 it equals `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` up to rounding.
    That class has no other dtype, and a processor that emulates bfloat16 needs more time for it
    than for the network. Matrices of one shape are orthogonalised together, because most are small.
    If parameters are sharded, every rank orthogonalises whole matrices.

    Args:
        params: The trained matrices.
        lr: Learning rate.
        weight_decay: Decoupled weight decay, as in AdamW.
        momentum: Decay of the moving average of the gradients.
        dtype: Floating-point type of the matrices while they are orthogonalised.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.momentum = momentum
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            lr = group["lr"]
            decay = group["weight_decay"]
            for shape, params in _by_shape(group["params"]).items():
                momentum = [full_tensor(self._nesterov(p)) for p in params]
                updates = orthogonalized(torch.stack(momentum).to(self.dtype))
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - lr * decay)
                    p.add_(sharded_like(update, p), alpha=-lr * RMS * math.sqrt(max(shape)))

    def _nesterov(self, p: torch.Tensor) -> torch.Tensor:
        """Return the gradient of p, moved towards its moving average."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - self.momentum)
        return p.grad.lerp(average, self.momentum)


def _by_shape(params: Iterable[torch.Tensor]) -> dict[torch.Size, list[torch.Tensor]]:
    """Group the parameters that have gradients by shape."""
    shapes: dict[torch.Size, list[torch.Tensor]] = {}
    for p in params:
        if p.grad is not None:
            shapes.setdefault(p.shape, []).append(p)
    return shapes


def orthogonalized(g: torch.Tensor) -> torch.Tensor:
    """Return U S' V^T for each matrix g = U S V^T, (k, m, n), with S' near 1.

    S' is a function of s = S / |g| alone: from 0.68 to 1.14 if s is from 0.0052 to 1, and from 0.68
    to 1.21 (at s = 0.0041) if s is 0.0016 or more. Below that it is at most 3.4445^5 s = 485 s.

    It is computed by five Newton-Schulz steps x <- q x with q = a + b x x^T + c (x x^T)^2, from
    x = g / |g|. For wide matrices, such as those of convolutions, only x x^T <- q (x x^T) q is
    iterated, and x is multiplied by the product of all q at the end. In bfloat16, which is too
    coarse for that, x itself is iterated.
    """
    a, b, c = COEFFICIENTS
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPSILON)
    if x.shape[-1] >= 2 * x.shape[-2] and x.dtype is not torch.bfloat16:
        identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        gram = x @ x.mT
        product = identity
        for _ in range(STEPS):
            q = a * identity + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            gram = q @ gram @ q
            product = q @ product
        x = product @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
