"""A framework of a plug-in: modules of NumPy, without hooks."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from ldmref.trace.frameworks.recorder import CalledFramework


class Module:
    """A module, with those in it as attributes or in lists."""

    def parts(self):
        for name, value in vars(self).items():
            listed = value if isinstance(value, list) else None
            for key, part in enumerate(listed) if listed else [(None, value)]:
                if isinstance(part, Module):
                    yield name if key is None else f"{name}.{key}", part


class Linear(Module):
    def __init__(self, weight, bias=None):
        self.weight = np.asarray(weight, np.float32)
        self.bias = bias

    def __call__(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class InPlace(Module):
    """Adds 1 to its input where that is."""

    def __call__(self, x):
        x += 1.0
        return x


class Returns(Module):
    """Returns something, whatever it is given."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return self.value


class Chain(Module):
    def __init__(self, *layers):
        self.layers = [*layers]

    def __call__(self, x):
        for layer in self.layers:
            y = layer(x)
            x = y if getattr(y, "dtype", None) == np.float32 else x
        return x


class ToyFramework(CalledFramework):
    name = "toy_framework"
    title = "Toy"
    arrays = (np.ndarray,)
    plain = (Module,)
    versions = MappingProxyType({"toy": "1.0"})

    def accepts(self, module):
        return isinstance(module, Module)

    def list_modules(self, module):
        yield "", module
        for name, part in module.parts():
            yield from (
                (f"{name}.{path}".rstrip("."), found) for path, found in self.list_modules(part)
            )

    def to_numpy(self, x):
        return np.array(x)

    def describe(self, module):
        return {"dtype": "float32"}


TOY = ToyFramework()
