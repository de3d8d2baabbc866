"""PyTorch at full speed for inference; while gradients are recorded, the plain operations.

Images keep their shape (n, c, h, w) and are channels_last in memory. In float32 on a CPU, the
weights of convolutions and linear layers are packed once for oneDNN. `fastest` compiles each
network as one graph, which takes minutes at the first call and for each new shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ldmref.backends.arguments import map_arrays
from ldmref.backends.base import Backend
from ldmref.backends.torch import TorchBackend
from ldmref.support.memmap import release_pages

onednn = torch.ops.mkldnn
NO_FUSION = ("none", [], "")  # no activation after the product
PART = 2**20  # elements of a part of a function, on a CPU: enough for all threads
SHARED = (np.float16, np.float32)  # dtypes of weights that are read in place


class FastTorchBackend(TorchBackend):
    """PyTorch on a CPU or a CUDA device, channels_last; float32, float16 or bfloat16."""

    dtypes = ("float32", "float16", "bfloat16")
    speeds = ("fast", "fastest")

    def set_up(self) -> None:
        super().set_up()
        self.compiles = self.speed == "fastest"
        self._cpu_float32 = self._device.type == "cpu" and self.dtype == "float32"
        packable = self._cpu_float32 and torch.backends.mkldnn.is_available()
        self._packs = packable and not self.compiles
        self._host = WeakIdKeyDictionary()  # weight -> the host array whose memory it shares
        self._packed = WeakIdKeyDictionary()  # weight -> its copy in oneDNN's layout

    def weight(self, x: Any) -> Tensor:
        """Convert a parameter; weights that will be packed stay in their file and in its type."""
        if self._packs and isinstance(x, np.ndarray) and x.ndim in (2, 4) and x.dtype in SHARED:
            array = np.ascontiguousarray(x)
            with warnings.catch_warnings():  # mapped files are read-only
                warnings.filterwarnings("ignore", "The given NumPy array is not writ")
                tensor = torch.from_numpy(array)
            self._host[tensor] = array
            return tensor
        return _channels_last(self.asarray(x))

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        if self.compiles:
            return compile_network(network, self, params, self._device)
        return super().compile(network, params)

    def _is_packable(self, weight: Tensor) -> bool:
        """Return whether a weight is packed: only results of `weight`, which do not change."""
        return weight in self._host and not torch.is_grad_enabled()

    def _pack(self, weight: Tensor, reorder: Callable, *args: object) -> Tensor:
        if weight not in self._packed:
            self._packed[weight] = reorder(weight.to(self._dtype), *args)
            release_pages(self._host[weight])
        return self._packed[weight]

    def call_function(
        self, name: str, function: Callable, *args: Any, axis: int | None = None
    ) -> Tensor:
        """Compute large results on a CPU a few items at a time, without large arrays in between."""
        x = args[0]
        if axis is None or self.compiles or torch.is_grad_enabled():
            return function(*args)
        if x.device.type != "cpu" or x.numel() <= PART:
            return function(*args)
        y = torch.empty_like(x)
        length = max(1, PART * x.shape[axis] // x.numel())
        for part, result in zip(x.split(length, axis), y.split(length, axis), strict=True):
            result.copy_(function(part, *args[1:]))
        return y

    # -- operations -------------------------------------------------------------------------------

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not self._is_packable(weight):
            return super().linear(x, weight, bias)
        rows = x.numel() // x.shape[-1]
        packed = self._pack(weight, onednn._reorder_linear_weight, rows)
        return onednn._linear_pointwise(x, packed, bias, *NO_FUSION)

    def conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int = 1,
        padding: int = 0,
    ) -> Tensor:
        x = _channels_last(x)
        if not self._is_packable(weight):
            return super().conv2d(x, weight, bias, stride, padding)
        shape = (padding, padding), (stride, stride), (1, 1), 1  # dilation 1, one group
        packed = self._pack(weight, onednn._reorder_convolution_weight, *shape, x.shape)
        return onednn._convolution_pointwise(x, packed, bias, *shape, *NO_FUSION)

    def group_norm(
        self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        """Compute in two passes: on a CPU, torch's channels_last kernel uses E[x^2] - E[x]^2."""
        x = _channels_last(x)
        if not self._cpu_float32:
            return super().group_norm(x, weight, bias, groups, eps)
        n, c = x.shape[:2]

        def group_mean(y: Tensor) -> Tensor:  # (n, c, h, w) -> (n, groups, 1)
            return y.mean((2, 3)).reshape(n, groups, -1).mean(-1, keepdim=True)

        mean = group_mean(x).expand(n, groups, c // groups)
        centred = x - mean.reshape(n, c, 1, 1)
        scale = weight.reshape(groups, -1) * torch.rsqrt(group_mean(centred.square()) + eps)
        return torch.addcmul(bias.reshape(c, 1, 1), centred, scale.reshape(n, c, 1, 1))

    def group_norm_silu(
        self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        y = self.group_norm(x, weight, bias, groups, eps)
        return F.silu(y, inplace=not torch.is_grad_enabled())

    def embedding(self, table: Tensor, ids: Tensor) -> Tensor:
        return super().embedding(table, ids).to(self._dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def compile_network(
    network: Callable, ops: Backend, params: Mapping[str, Any], device: torch.device
) -> Callable:
    """Return `network(ops, params, ...)` as a compiled function of the remaining arguments.

    It compiles at the first call and again for each new shape. On CUDA it replays CUDA graphs.
    """
    from torch._inductor import config

    cuda = device.type == "cuda"
    mode = "reduce-overhead" if cuda else None
    compiled = torch.compile(_Network(network, ops, params), dynamic=False, mode=mode)

    def run(*args: object, **kwargs: object) -> Any:
        # Freezing packs the weights for oneDNN; torch.compile ignores it among its own options.
        with warnings.catch_warnings(), config.patch(freezing=not cuda):
            # caches in array-api-compat
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
            y = compiled(*args, **kwargs)
        return map_arrays(torch.clone, y) if cuda else y  # the next replay overwrites the outputs

    return run


class _Network(torch.nn.Module):
    """A network and its parameters, which freezing needs as buffers of a module."""

    def __init__(self, network: Callable, ops: Backend, params: Mapping[str, Any]):
        super().__init__()
        self._network = network
        self._ops = ops
        self._params = _ParamsModule(params)

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self._network(self._ops, self._params, *args, **kwargs)


class _ParamsModule(torch.nn.Module):
    """A parameter tree with the interface of `ldmref.models.params.Params`."""

    def __init__(self, params: Mapping[str, Any], path: str = ""):
        super().__init__()
        self.path = path
        for name, child in params.items():
            if isinstance(child, Mapping):
                self.add_module(name, _ParamsModule(child, f"{path}.{name}" if path else name))
            else:
                self.register_buffer(name, child)

    def __contains__(self, name: str) -> bool:
        return name in self._modules or name in self._buffers

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._modules, *self._buffers])

    def get(self, name: str) -> Any:
        return getattr(self, name) if name in self else None

    def items_in_order(self) -> list[Any]:
        return [self[str(i)] for i in range(len(self))]
