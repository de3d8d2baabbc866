"""Muon: momentum whose matrices are orthogonalised (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steepest at 0, not convergent
STEPS, EPSILON = 5, 1e-7
MOMENTUM = 0.95
RMS = 0.2  # of the updates of AdamW (Liu et al. 2025, arXiv:2502.16982, eq. 4)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, whose updates have the root mean square of AdamW's.

    In bfloat16 it is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which knows no other
    dtype; processors that emulate bfloat16 take longer over that than over the network.

    Args:
        params: matrices.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.
        dtype: of the matrices while they are orthogonalised.
    """

    def __init__(
        self, params: Iterable[torch.Tensor], lr: float, weight_decay: float, dtype: torch.dtype
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - MOMENTUM)
                nesterov = p.grad.lerp(average, MOMENTUM)
                update = orthogonalized(nesterov.to(self.dtype))
                p.mul_(1 - lr * decay)
                p.add_(update, alpha=-lr * RMS * math.sqrt(max(p.shape)))


def orthogonalized(g: torch.Tensor) -> torch.Tensor:
    """U S' V^T of the matrix g = U S V^T, with singular values S' between 0.68 and 1.14.

    Five Newton-Schulz steps x <- q x with q = a + b x x^T + c (x x^T)^2, from x = g / |g|. Wide
    matrices, as those of convolutions, take these steps on x x^T <- q (x x^T) q alone and are
    multiplied by the product of all q at the end, unless bfloat16 is too coarse for that.
    """
    a, b, c = COEFFICIENTS
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / x.norm().clamp(min=EPSILON)
    if x.shape[1] >= 2 * x.shape[0] and x.dtype is not torch.bfloat16:
        identity = torch.eye(x.shape[0], dtype=x.dtype, device=x.device)
        gram, product = x @ x.T, identity
        for _ in range(STEPS):
            q = a * identity + torch.addmm(gram, gram, gram, beta=b, alpha=c)
            gram, product = q @ gram @ q, q @ product
        x = product @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if g.shape[0] > g.shape[1] else x
