"""Keras 3: layers and models, on any backend of Keras."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from ldmref.errors import UsageError
from ldmref.trace.frameworks.framework import CODE
from ldmref.trace.frameworks.recorder import CalledFramework

# Attributes of Keras itself in which a layer has its layers once more.
OWN = """
    _layers _operations _operations_by_depth _modules _functional _input_layers _metrics _nodes
    _nodes_by_depth _inbound_nodes _outbound_nodes
""".split()
COUNT = re.compile(r"_[0-9]+$")  # that makes a name unique


class KerasFramework(CalledFramework):
    """Keras 3."""

    name = "keras"
    title = "Keras"
    # Those of the backend, and those that have no values.
    arrays = (*type(keras.ops.zeros(())).__mro__[:-1], keras.Variable, keras.KerasTensor)
    plain = (keras.layers.Layer, keras.DTypePolicy)

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of Keras."""
        return {"keras": keras.version()}

    def accepts(self, module: object) -> bool:
        """Return whether an object is a layer of Keras 3; a model is one."""
        return hasattr(keras, "ops") and isinstance(module, keras.layers.Layer)

    def require(self, name: str, module: keras.layers.Layer) -> None:
        """Refuse a layer that is not built, and so has no weights and not all its layers."""
        if not module.built:
            message = f"{name} is not built: its layers and weights do not exist yet"
            raise UsageError(message, code=CODE, hint="build it, or call it once before recording")

    def list_modules(self, module: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
        """Yield a layer and those in it, with their paths.

        A path has the attributes that hold the layers, `blocks.0.attn.to_q`, or their names where
        no attribute does, as in functional models, or their numbers in a sequence of layers
        without names of their own.
        """
        seen: set[int] = set()
        todo = [("", module)]
        while todo:
            path, layer = todo.pop(0)
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            yield path, layer
            before = f"{path}." if path else ""
            todo += [(before + name, part) for name, part in _parts_of(layer)]

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return a copy of an array's values; bfloat16 as float32."""
        if keras.backend.is_keras_tensor(x):
            raise TypeError("it has no values while a model is built")
        if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
            x = keras.ops.cast(x, "float32")
        try:
            return np.array(keras.ops.convert_to_numpy(x))
        except Exception as error:
            message = "it has no values within `jit` and other transformations"
            raise TypeError(message) from error

    def describe(self, module: keras.layers.Layer) -> dict[str, Any]:
        """Return `dtype`, in which a layer computes, and `backend`."""
        about = {"name": f"keras on {keras.backend.backend()}", "version": keras.version()}
        return {"backend": about, "dtype": module.compute_dtype}

    def signature_of(self, module: keras.layers.Layer) -> Any:
        """Return the method with a layer's arguments."""
        return type(module).call

    def is_activated(self, module: keras.layers.Layer) -> bool:
        """Return whether a layer has a kernel and an activation, as `Dense` may have."""
        activation = getattr(module, "activation", None)
        linear = activation is None or activation is keras.activations.linear
        return not linear and hasattr(module, "kernel")

    def is_ready(self, module: keras.layers.Layer) -> bool:
        """Return whether a layer is built; building may call its layers, without values."""
        return module.built


def _parts_of(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers in a layer by attribute, then those that no attribute holds by name.

    Those of a sequence whose names Keras made are numbered: such a name depends on how many layers
    a program made before.
    """
    if isinstance(layer, keras.Sequential):
        for i, part in enumerate(layer.layers):
            yield str(i) if _is_made(part) else part.name, part
    held = vars(layer)
    attributes = {k: x for k, x in held.items() if k not in OWN}
    # On PyTorch, modules are attributes of another table.
    attributes |= {k: x for k, x in held.get("_modules", {}).items() if k not in OWN}
    for name, value in attributes.items():
        yield from _layers_in(name, value, 0)
    for part in held.get("_layers", ()):
        yield part.name, part


def _is_made(layer: keras.layers.Layer) -> bool:
    """Return whether the name of a layer is one that Keras makes of its class."""
    name = COUNT.sub("", layer.name).replace("_", "")
    return name == type(layer).__name__.replace("_", "").lower()


def _layers_in(name: str, value: object, depth: int) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers in an attribute: itself, or those in lists and mappings."""
    if isinstance(value, keras.layers.Layer):
        yield name, value
    elif isinstance(value, list | tuple) and depth < 4:
        for i, part in enumerate(value):
            yield from _layers_in(f"{name}.{i}", part, depth + 1)
    elif isinstance(value, Mapping) and depth < 4:
        for key, part in value.items():
            yield from _layers_in(f"{name}.{key}", part, depth + 1)


KERAS = KerasFramework()
