"""The PyTorch backend: CPU and CUDA, one line of `torch.nn.functional` per operation.

`fast/torch.py` has the same at full speed.

Weights are cast to the type of the activations where they meet, so float32 master weights train
under bfloat16 activations without autocast.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import BackendUnavailable

try:
    import array_api_compat.torch as xp
    import torch
    import torch.nn.functional as F
except ImportError as error:  # pragma: no cover - exercised by a test in a bare process
    raise BackendUnavailable(
        "the torch backend needs PyTorch, which is not installed",
        code="E-BACKEND",
        hint="pip install 'ldmref[torch]'",
    ) from error


class TorchBackend(Backend):
    """PyTorch on a CPU or a CUDA device."""

    name = "torch"
    xp = xp

    def __init__(
        self, device: str | None = None, dtype: str | None = None, speed: str | None = None
    ):
        super().__init__(device, dtype, speed)
        try:
            self._device = torch.device(self.device)
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise BackendUnavailable(
                f"torch cannot use device {self.device!r}: {str(error).splitlines()[0]}",
                code="E-DEVICE",
                hint="devices here: "
                + ", ".join(["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]),
            ) from error
        self._dtype = getattr(torch, self.dtype)
        if self._device.type == "cuda" and self.dtype == "float32":
            # Convolutions in full float32, as matrix products are; process-wide, as torch has it.
            torch.backends.cudnn.allow_tf32 = False

    def version(self) -> str:
        return torch.__version__

    def asarray(self, x, dtype=None):
        if not isinstance(x, torch.Tensor):
            x = np.asarray(x)
            x = torch.from_numpy(x if x.flags.writeable and x.flags.c_contiguous else x.copy())
        floating = getattr(torch, dtype) if dtype else self._dtype
        return x.to(self._device, floating if x.is_floating_point() else torch.int64)

    def to_numpy(self, x):
        x = x.detach()
        return (x.float() if x.dtype is torch.bfloat16 else x).cpu().numpy()

    def linear(self, x, weight, bias=None):
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, weight.to(x.dtype), bias, stride=stride, padding=padding)

    def group_norm(self, x, weight, bias, groups, eps):
        return F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)

    def layer_norm(self, x, weight, bias, eps):
        return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)

    def attention(self, q, k, v, causal=False):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def embedding(self, table, ids):
        return F.embedding(ids, table)

    def silu(self, x):
        return F.silu(x)

    def gelu(self, x):
        return F.gelu(x)

    def quick_gelu(self, x):
        return x * torch.sigmoid(1.702 * x)

    def upsample2x(self, x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def pad_bottom_right(self, x):
        return F.pad(x, (0, 1, 0, 1))

    def inference(self) -> AbstractContextManager:
        return torch.inference_mode()

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
