"""MLX: modules of `mlx.nn`, whose classes have a method `__call__` each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from ldmref.trace.frameworks.recorder import CalledFramework


class MlxFramework(CalledFramework):
    """MLX."""

    name = "mlx"
    title = "MLX"
    arrays = (mx.array,)
    plain = (nn.Module, mx.Dtype)

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of MLX."""
        return {"mlx": version("mlx")}

    def accepts(self, module: object) -> bool:
        """Return whether an object is an `mlx.nn.Module`."""
        return isinstance(module, nn.Module)

    def list_modules(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield a module and its submodules, with their paths: `layers.0.attn.to_q`."""
        named = sorted(module.named_modules(), key=lambda pair: pair[0].count("."))
        yield from ((path, part) for path, part in named if callable(part))

    def to_numpy(self, x: mx.array) -> np.ndarray:
        """Return a copy of an array's values, which are computed now; bfloat16 as float32."""
        wide = x.astype(mx.float32) if x.dtype == mx.bfloat16 else x
        try:
            return np.array(wide)
        except ValueError as error:
            raise TypeError(
                "it has no values within mx.compile and other transformations"
            ) from error

    def describe(self, module: nn.Module) -> dict[str, Any]:
        """Return `dtype` and `backend` of a module's parameters."""
        found = next((x for _, x in tree_flatten(module.parameters())), None)
        about = {"name": "mlx", "version": version("mlx"), "device": str(mx.default_device())}
        if not isinstance(found, mx.array):
            return {"backend": about}
        return {"backend": about, "dtype": str(found.dtype).rpartition(".")[2]}


MLX = MlxFramework()
