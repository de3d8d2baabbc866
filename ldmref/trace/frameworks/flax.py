"""Flax: modules of `flax.nnx`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from ldmref.errors import UsageError
from ldmref.trace.frameworks.framework import CODE
from ldmref.trace.frameworks.recorder import CalledFramework


class FlaxFramework(CalledFramework):
    """Flax nnx."""

    name = "flax"
    title = "Flax"
    arrays = (jax.Array, nnx.Variable)
    plain = (nnx.Module, nnx.Rngs, np.dtype)

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of Flax and JAX."""
        return {"flax": version("flax"), "jax": jax.__version__}

    def accepts(self, module: object) -> bool:
        """Return whether an object is a module of Flax; those of `linen` are refused later."""
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}
        return isinstance(module, nnx.Module) or "flax.linen.module.Module" in kinds

    def require(self, name: str, module: Any) -> None:
        """Refuse modules of `flax.linen`, which hold no parameters."""
        if not isinstance(module, nnx.Module):
            hint = "convert it with flax.nnx.bridge.ToNNX, or record flax.nnx modules"
            raise UsageError(f"{name} is a module of flax.linen", code=CODE, hint=hint)

    def list_modules(self, module: nnx.Module) -> Iterator[tuple[str, Any]]:
        """Yield a module and its submodules that can be called, with their paths."""
        found = sorted(nnx.iter_modules(module), key=lambda pair: len(pair[0]))
        for path, part in found:
            if callable(part):
                yield ".".join(map(str, path)), part

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return a copy of an array's values."""
        values = x.get_value() if isinstance(x, nnx.Variable) else x
        if isinstance(values, Tracer):
            raise TypeError("it has no values within jax.jit and other transformations")
        return np.array(values)

    def describe(self, module: nnx.Module) -> dict[str, Any]:
        """Return `dtype` and `backend` of a module's parameters."""
        device = jax.default_backend()
        about = {"name": "jax", "version": jax.__version__, "device": device}
        leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
        return {"backend": about} | ({"dtype": str(leaves[0].dtype)} if leaves else {})


FLAX = FlaxFramework()
