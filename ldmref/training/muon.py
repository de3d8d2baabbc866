"""Muon: momentum whose matrices are orthogonalised (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steepest at 0, not convergent
STEPS, EPSILON = 5, 1e-7
RMS = 0.2  # of the updates of AdamW (Liu et al. 2025, arXiv:2502.16982, eq. 4)


class Muon(torch.optim.Muon):
    """PyTorch's Muon, whose updates have the root mean square of AdamW's, in another type.

    PyTorch's computes in bfloat16, which takes longer than the network on processors without it.

    Args:
        params: matrices.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.
        dtype: in which updates are orthogonalised.
    """

    def __init__(
        self, params: Iterable[torch.Tensor], lr: float, weight_decay: float, dtype: torch.dtype
    ):
        super().__init__(params, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            lr, decay, momentum = (group[key] for key in ("lr", "weight_decay", "momentum"))
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                nesterov = p.grad.lerp(average, momentum)
                update = orthogonalized(nesterov.to(self.dtype))
                p.mul_(1 - lr * decay)
                p.add_(update, alpha=-lr * RMS * math.sqrt(max(p.shape)))


def orthogonalized(g: torch.Tensor) -> torch.Tensor:
    """U S' V^T of the matrix g = U S V^T, with singular values S' between 0.68 and 1.14.

    Five Newton-Schulz steps x <- a x + (b x x^T + c (x x^T)^2) x from g / |g|.
    """
    a, b, c = COEFFICIENTS
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / x.norm().clamp(min=EPSILON)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if g.shape[0] > g.shape[1] else x
