"""The PyTorch backend: CPU and CUDA, one line of `torch.nn.functional` per operation.

Each operation casts its weights to the dtype of the activations: float32 master weights train under
bfloat16 activations without autocast. `fast/torch.py` has the faster variant.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import BackendUnavailable
from ldmref.math.arrays import Array

try:
    import array_api_compat.torch as xp
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ImportError as error:  # pragma: no cover - exercised by a test in a bare process
    raise BackendUnavailable(
        "the torch backend needs PyTorch, which is not installed",
        code="E-BACKEND",
        hint="pip install 'ldmref[torch]'",
    ) from error


SHORT_SEQUENCE = 256  # tokens, up to which the weights of attention are kept for its gradient


class TorchBackend(Backend):
    """PyTorch on a CPU or a CUDA device."""

    name = "torch"
    xp = xp
    _records = False  # gradients, in `inference`

    def set_up(self) -> None:
        try:
            self._device = torch.device(self.device)
            torch.zeros(1, device=self._device).cpu()  # fails for the device meta
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            message = f"torch cannot use device {self.device!r}: {str(error).splitlines()[0]}"
            devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
            hint = f"devices here: {', '.join(devices)}"
            raise BackendUnavailable(message, code="E-DEVICE", hint=hint) from error
        self._dtype = getattr(torch, self.dtype)
        if self._device.type == "cuda" and self.dtype == "float32":
            # Full float32, the default of matrix products; torch has only a process-wide switch.
            torch.backends.cudnn.allow_tf32 = False

    def version(self) -> str:
        return torch.__version__

    def asarray(self, x: Array, dtype: str | None = None) -> Tensor:
        if not isinstance(x, torch.Tensor):
            x = np.asarray(x)
            x = torch.from_numpy(x if x.flags.writeable and x.flags.c_contiguous else x.copy())
        floating = getattr(torch, dtype) if dtype else self._dtype
        return x.to(self._device, floating if x.is_floating_point() else torch.int64)

    def to_numpy(self, x: Tensor) -> np.ndarray:
        x = x.detach()
        return (x.float() if x.dtype is torch.bfloat16 else x).cpu().numpy()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int = 1,
        padding: int = 0,
    ) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, weight.to(x.dtype), bias, stride=stride, padding=padding)

    def group_norm(
        self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        return F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool = False,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        if bias is not None:
            mask = _added_to_scores(bias, q, k.shape[-2] if causal else 0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        trained = q.requires_grad and q.dtype is torch.bfloat16 and q.device.type == "cpu"
        trained = trained and not causal and scale is None
        if not trained or q.shape[-2] * k.shape[-2] > SHORT_SEQUENCE**2:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        # two products, whose gradient is several times as fast as that of torch's own function
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v

    def embedding(self, table: Tensor, ids: Tensor) -> Tensor:
        return F.embedding(ids, table)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    def quick_gelu(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)

    def upsample2x(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def pad_bottom_right(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1, 0, 1))

    def inference(self) -> AbstractContextManager:
        return self.recording() if self._records else torch.inference_mode()

    def recording(self) -> AbstractContextManager:
        within = torch.is_inference_mode_enabled()  # otherwise a caller's torch.no_grad applies
        return torch.inference_mode(False) if within else nullcontext()

    def differentiable(self) -> TorchBackend:
        other = copy.copy(self)
        other._records = True
        other.compiles = False
        return other

    def gradient(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()
            [slope] = torch.autograd.grad(function(x), [x])
        return slope

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _added_to_scores(bias: Tensor, q: Tensor, causal_keys: int = 0) -> Tensor:
    """Return the mask that torch's function adds, in the dtype of the queries.

    Numbers that overflow it become its lowest, because a row of -inf alone would give NaN.

    Args:
        bias: (n or 1, heads or 1, l or 1, m).
        q: The queries, (n, heads, l, d).
        causal_keys: Number of keys of causal attention, which torch's function does not combine
            with a mask. 0: the attention is not causal.
    """
    if bias.dtype is not q.dtype:
        bias = bias.clamp(min=torch.finfo(q.dtype).min).to(q.dtype)
    if not causal_keys:
        return bias
    shape = q.shape[-2], causal_keys
    future = torch.ones(shape, dtype=torch.bool, device=q.device).triu(1)
    return bias.masked_fill(future, -torch.inf)
