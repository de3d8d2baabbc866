"""PyTorch at full speed, for inference; where gradients are recorded, it is the plain backend.

Pictures keep their shape (n, c, h, w), but their channels lie together in memory (channels_last).
`fast` on a CPU in float32 takes the kernels that are fastest on its processor (`kernels_here`), all
of which agree with the plain ones within rounding. `fastest` compiles each network whole, at its
first call and for each new shape: minutes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.weak import WeakIdKeyDictionary

from ldmref.backends.base import Backend
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.fast.threads import SingleThreaded, blas_kernels, count, parallel
from ldmref.backends.torch import TorchBackend
from ldmref.processor import is_intel

AVX512_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")
FEW, LARGE = 192, 2**18  # rows, and numbers of a weight, for which packing is most of a product
MET = 1  # times that a weight was met before packing it is worth the time and the memory
SMALL = 2**22  # multiplications below which a layer is not worth the way to other kernels
THROUGH_NUMPY = {
    "numpy": frozenset(
        "linear geglu conv2d attention group_norm group_norm_silu layer_norm silu gelu quick_gelu "
        "upsample2x".split()
    ),
    "both": frozenset({"conv2d", "geglu"}),
}
# With "both", also these through NumPy where x has so many numbers: torch takes several arrays of
# that size for a norm, in memory that the system has to zero in small pages.
OF_LARGE_MAPS, LARGE_MAP = frozenset({"group_norm", "group_norm_silu", "upsample2x"}), 2**22


def kernels_here() -> str:
    """Whose kernels are fastest on this processor in float32.

    | kernels | where | what |
    |---|---|---|
    | both | Intel | NumPy's Winograd and GEGLU; else MKL and oneDNN, at home here |
    | numpy | others that NumPy's BLAS knows | NumPy's (`fast/numpy.py`), on the same memory |
    | onednn | others | linear layers as oneDNN's convolutions: it uses AVX-512 on every processor |
    | torch | others, without oneDNN | torch's own |
    """
    if is_intel():
        return "both"
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if blas_kernels() in AVX512_KERNELS or (not wide and blas_kernels() == "Haswell"):
        return "numpy"
    return "onednn" if torch.backends.mkldnn.is_available() else "torch"


class FastTorchBackend(TorchBackend):
    """PyTorch on a CPU or a CUDA device, channels_last; float32, float16 or bfloat16."""

    dtypes = ("float32", "float16", "bfloat16")
    speeds = ("fast", "fastest")

    def __init__(
        self, device: str | None = None, dtype: str | None = None, speed: str | None = None
    ):
        super().__init__(device, dtype, speed)
        here = self._device.type == "cpu" and self.dtype == "float32" and self.speed == "fast"
        self._kernels = kernels_here() if here else "torch"
        self._through = THROUGH_NUMPY.get(self._kernels, frozenset())
        self._numpy = FastNumpyBackend() if self._through else None
        self._arrays, self._packed = WeakIdKeyDictionary(), WeakIdKeyDictionary()
        self._met = WeakIdKeyDictionary()
        self._packs = here and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        self.compiles = self.speed == "fastest"

    def weight(self, x: Any) -> torch.Tensor:
        """Kernels channels_last; for NumPy's kernels, as those want it."""
        if self._numpy is None:
            x = self.asarray(x)
            return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        if not isinstance(x, np.ndarray):
            return self.asarray(x)
        array = self._numpy.weight(x)
        with warnings.catch_warnings():  # nobody writes to weights, which may lie in a file
            warnings.filterwarnings("ignore", "The given NumPy array is not writ")
            tensor = torch.from_numpy(array)
        self._arrays[tensor] = array
        return tensor

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        return (self._numpy or super()).weight_bytes(shape, pixels)

    @contextmanager
    def inference(self):
        """No gradients; where NumPy's kernels share out the cores, nothing else does."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._numpy is not None:
                stack.enter_context(self._numpy.inference())
            if self._kernels == "numpy":
                stack.enter_context(_single_threaded_torch())
            yield

    def compile(self, network: Callable, params: Any) -> Callable:
        if self.speed != "fastest":
            return super().compile(network, params)
        from torch._inductor import config

        cuda = self._device.type == "cuda"
        mode = "reduce-overhead" if cuda else None  # the former replays CUDA graphs
        compiled = torch.compile(_Network(network, self, params), dynamic=False, mode=mode)

        def run(*args: Any, **kwargs: Any) -> torch.Tensor:
            # "freezing" packs the weights for oneDNN; as an option of torch.compile it does nothing
            with warnings.catch_warnings(), config.patch(freezing=not cuda):
                # of caches that array-api-compat keeps
                warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
                y = compiled(*args, **kwargs)
            return y.clone() if cuda else y  # a graph's next replay writes over its output

        return run

    # -- operations -------------------------------------------------------------------------------

    def _through_numpy(
        self, operation: str, x: torch.Tensor, *args: Any, **options: Any
    ) -> torch.Tensor:
        """An operation of the NumPy backend on the same memory."""
        given = [self._array(a) if isinstance(a, torch.Tensor) else a for a in args]
        return torch.from_numpy(getattr(self._numpy, operation)(x.numpy(), *given, **options))

    def _array(self, x: torch.Tensor) -> np.ndarray:
        """A parameter as a NumPy array, the same one at every call: what is made of it is kept."""
        if x not in self._arrays:
            self._arrays[x] = x.numpy()
        return self._arrays[x]

    def _elsewhere(self, operation: str, x: torch.Tensor) -> bool:
        """Whether NumPy's kernels are faster, and allowed: they know no gradients."""
        known = operation in self._through or (
            self._kernels == "both" and operation in OF_LARGE_MAPS and x.numel() >= LARGE_MAP
        )
        return known and self._free(x)

    def _free(self, x: torch.Tensor) -> bool:
        return not torch.is_grad_enabled() and x.dtype == torch.float32

    def linear(self, x, weight, bias=None):
        rows = x.numel() // x.shape[-1]
        if self._packs and 1 < rows <= FEW and weight.numel() >= LARGE and self._free(x):
            met = self._met.get(weight) or 0
            if met >= MET:
                return self._few_rows(x, weight, bias)
            self._met[weight] = met + 1
        if self._elsewhere("linear", x):
            return self._through_numpy("linear", x, weight, bias)
        if self._kernels == "onednn" and self._free(x) and rows * weight.numel() >= SMALL:
            picture = x.reshape(1, rows, 1, x.shape[-1]).permute(0, 3, 1, 2)
            y = F.conv2d(picture, weight[:, :, None, None], bias)
            return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])
        return super().linear(x, weight, bias)

    def _few_rows(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        """A product that would spend its time on packing the weight: oneDNN, packed once."""
        rows, out = x.numel() // x.shape[-1], weight.shape[0]
        parts = count() if self._kernels == "numpy" else 1  # which leaves torch one thread
        step = -(-out // parts)
        if weight not in self._packed:
            pack = torch.ops.mkldnn._reorder_linear_weight
            self._packed[weight] = [pack(part, rows) for part in weight.split(step)]
        packed = self._packed[weight]
        product = torch.ops.mkldnn._linear_pointwise
        if parts == 1:
            return product(x, packed[0], bias, "none", [], "")
        y = x.new_empty((*x.shape[:-1], out))

        def block(i: int) -> None:
            here = slice(i * step, (i + 1) * step)
            with torch.inference_mode():  # which belongs to a thread
                some = None if bias is None else bias[here]
                y[..., here] = product(x, packed[i], some, "none", [], "")

        parallel(block, len(packed))
        return y

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        if self._elsewhere("conv2d", x):
            if self._kernels == "both" and weight.shape[2:] == (1, 1) and stride == 1:
                y = super().linear(_pixels(x), weight[:, :, 0, 0], bias)
                return y.permute(0, 3, 1, 2)
            return self._through_numpy("conv2d", x, weight, bias, stride, padding)
        return super().conv2d(_channels_last(x), weight, bias, stride, padding)

    def attention(self, q, k, v, causal=False):
        if self._numpy is not None and self._elsewhere("attention", q):
            y = self._numpy.attention(q.numpy(), k.numpy(), v.numpy(), causal)
            return torch.from_numpy(y)
        return super().attention(q, k, v, causal)

    def group_norm_silu(self, x, weight, bias, groups, eps):
        if self._elsewhere("group_norm_silu", x):
            return self._through_numpy("group_norm_silu", x, weight, bias, groups, eps)
        y = self.group_norm(x, weight, bias, groups, eps)
        return F.silu(y, inplace=not torch.is_grad_enabled())

    def group_norm(self, x, weight, bias, groups, eps):
        if self._elsewhere("group_norm", x):
            return self._through_numpy("group_norm", x, weight, bias, groups, eps)
        if x.dtype == torch.float32 and x.device.type == "cpu":
            return _group_norm(x, weight, bias, groups, eps)
        return super().group_norm(_channels_last(x), weight, bias, groups, eps)


def _delegated(operation: str) -> Callable:
    """An operation that is NumPy's where that is faster, and else the plain one."""
    plain = getattr(TorchBackend, operation)

    def run(self: FastTorchBackend, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if self._elsewhere(operation, x):
            return self._through_numpy(operation, x, *args, **options)
        return plain(self, x, *args, **options)

    run.__name__, run.__doc__ = operation, plain.__doc__
    return run


for _name in ("layer_norm", "silu", "gelu", "quick_gelu", "upsample2x", "geglu"):
    setattr(FastTorchBackend, _name, _delegated(_name))

_single_threaded_torch = SingleThreaded(torch.get_num_threads, torch.set_num_threads)


class _Network(torch.nn.Module):
    """A network with its parameters, as `torch.compile` wants them to be: fixed."""

    def __init__(self, network: Callable, ops: Backend, params: Mapping[str, Any]):
        super().__init__()
        self._network, self._ops, self._params = network, ops, _Tree(params)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._network(self._ops, self._params, *args, **kwargs)


class _Tree(torch.nn.Module):
    """A tree of parameters that reads as `Params` does, and whose leaves torch knows as buffers."""

    def __init__(self, params: Mapping[str, Any]):
        super().__init__()
        for name, child in params.items():
            if isinstance(child, Mapping):
                self.add_module(name, _Tree(child))
            else:
                self.register_buffer(name, child)

    def __contains__(self, name: str) -> bool:
        return name in self._modules or name in self._buffers

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __len__(self) -> int:
        return len(self._modules)

    def get(self, name: str) -> Any:
        return getattr(self, name) if name in self else None

    def items_in_order(self) -> list[Any]:
        return [self[str(i)] for i in range(len(self))]


def _group_norm(x, weight, bias, groups, eps):
    """Two passes; torch's own, in channels_last on a CPU, subtracts squares and loses digits."""
    n, c = x.shape[:2]
    rows = x.permute(0, 2, 3, 1).reshape(n, -1, c)
    means = rows.mean(1)
    squares = torch.square(rows - means[:, None]).mean(1)
    means, squares = (y.double().reshape(n, groups, -1) for y in (means, squares))
    mean = means.mean(-1, keepdim=True)
    variance = (squares + torch.square(means - mean)).mean(-1, keepdim=True)
    scale = weight.reshape(groups, -1) * torch.rsqrt(variance + eps)
    shift = bias.reshape(groups, -1) - mean * scale
    scale, shift = (y.to(x.dtype).reshape(n, c, 1, 1) for y in (scale, shift))
    return torch.addcmul(shift, _channels_last(x), scale)


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n, h, w, c), contiguous; no copy in channels_last."""
    return _channels_last(x).permute(0, 2, 3, 1)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
