"""A backend that sees every layer of a network by name, and may replace what it computes.

The names are the module paths of diffusers and transformers, which are the paths of parameters in
ldmref: `down_blocks.0.resnets.0.conv1`. Operations without parameters are named after the layer
around them and the operation: `down_blocks.0.resnets.0.silu`. A name that occurs again in one call
of a network gets a number: `down_blocks.0.resnets.0.silu~1`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array

OPERATIONS = (
    "linear",
    "conv2d",
    "group_norm",
    "layer_norm",
    "attention",
    "embedding",
    "silu",
    "gelu",
    "quick_gelu",
    "upsample2x",
    "pad_bottom_right",
    "group_norm_silu",
    "geglu",
)
NAMED_OPERATIONS = (*OPERATIONS, "add")
PARAMETER_ARGUMENTS = ("weight", "bias", "table")
AGAIN = "~"  # between a name and the number of its earlier occurrences in a call


@dataclass(frozen=True)
class LayerCall:
    """One layer, about to be computed.

    Attributes:
        name: Its name, unique in one call of a network.
        kind: The operation ("conv2d") or the function of `ldmref.models` ("resnet_block").
        inputs: The arrays that it takes, except for parameters. The first is called "input", the
            others by their argument ("k", "v", "emb", "context").
        parameters: Its parameters by name ("weight", "bias"); {} for layers of several operations.
        attributes: All other arguments, JSON-able or not ("eps", "stride", "num_heads").
        compute: A function that computes the layer from such inputs.
        composite: Whether it consists of layers that are themselves visited by `compute`.
        layer: The module's path without number; of an operation without parameters, the path of
            the layer around it.
        several: Whether it returns a tuple of arrays.
    """

    name: str
    kind: str
    inputs: Mapping[str, Array]
    parameters: Mapping[str, Array] = field(repr=False)
    attributes: Mapping[str, Any]
    compute: Callable[[Mapping[str, Array]], Any] = field(repr=False)
    composite: bool = False
    layer: str = ""
    several: bool = False


class NamedBackend(Backend):
    """A backend that passes every layer to `visit`; the base class of recorders and comparisons.

    Subclasses override `visit`, and `begin` and `end` if they need the boundaries of a network.

    Args:
        inner: Backend that computes.
        decompose: Whether fused operations (`group_norm_silu`, `geglu`) are computed and seen as
            their parts.

    Raises:
        TypeError: The inner backend is itself one of these. It would not see the layers, because
            only the outermost backend is given the parameters' names.
    """

    def __init__(self, inner: Backend, decompose: bool = True):
        if isinstance(inner, NamedBackend):
            names = f"{type(self).__name__} cannot observe {type(inner).__name__}"
            raise TypeError(f"{names}, which observes layers itself; pass the backend inside of it")
        self.inner = inner
        self.decompose = decompose
        own = {n for cls in type(self).__mro__ if issubclass(cls, NamedBackend) for n in vars(cls)}
        for attribute in dir(inner):  # delegate everything that is not observed
            if not (attribute.startswith("_") or attribute in own | _DERIVED):
                setattr(self, attribute, getattr(inner, attribute))
        self.compiles = False
        self._names: dict[int, str] = {}  # by the id of a parameter or of a part of the tree
        self._trees: list[Mapping[str, Any]] = []  # keeps these ids alive
        self._scope: list[str] = []
        self._seen: Counter[str] = Counter()
        self._visited = 0  # layers so far

    observes_layers = True

    def visit(self, call: LayerCall) -> Any:
        """Compute a layer; `call.compute(call.inputs)` does it as the inner backend would."""
        return call.compute(call.inputs)

    def compute_layer(self, call: LayerCall) -> tuple[Any, bool]:
        """Compute a layer; also return whether layers within it were visited.

        A layer that computes with arrays alone, as a norm may, has none, like an operation.
        """
        before = self._visited
        y = call.compute(call.inputs)
        return y, self._visited > before

    def begin(self, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin one run of a network, with its arguments by name; return those to use."""
        return arrays

    def end(self, network: str, output: object) -> Any:
        """End one run of a network; return the output to use."""
        return output

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return the network as a function of the remaining arguments, observed layer by layer."""
        self.name_parameters(params)
        signature = inspect.signature(network)

        def run(*args: object, **kwargs: object) -> Any:
            arguments = signature.bind(self, params, *args, **kwargs).arguments
            rest = dict(list(arguments.items())[2:])
            with self.observed(network.__name__):
                rest = self.begin(network.__name__, rest)
                return self.end(network.__name__, network(self, params, **rest))

        return run

    def name_parameters(self, params: Mapping[str, Any], prefix: str = "") -> None:
        """Give the parts of a network's tree of parameters their names."""
        self._trees.append(params)
        collect_names(params, prefix, self._names)

    @contextmanager
    def observed(self, network: str):
        """Observe one call of a network: numbers of repeated names start anew."""
        outside = self._scope, self._seen
        self._scope, self._seen = [], Counter()
        try:
            yield
        finally:
            self._scope, self._seen = outside

    def call_layer(
        self, function: Callable, p: Mapping[str, Any], args: tuple, kwargs: Mapping[str, Any]
    ) -> Any:
        """Visit a layer that consists of several operations."""
        path = self._names.get(id(p))
        if path is None:
            return function(self, p, *args, **kwargs)
        definition = getattr(function, "__wrapped__", function)
        names = _parameter_names(definition)[2:]
        arguments = dict(zip(names, args, strict=False)) | dict(kwargs)
        inputs, attributes = _split(arguments)
        first = next(iter(inputs), "")
        name = self._unique(path)

        def compute(arrays: Mapping[str, Array]) -> Any:
            named = {first if key == "input" else key: x for key, x in arrays.items()}
            self._scope.append(name)
            try:
                return function(self, p, **{**arguments, **named})
            finally:
                self._scope.pop()

        by_role = {"input" if key == first else key: value for key, value in inputs.items()}
        several = _returns_several(definition)
        return self.visit(
            LayerCall(
                name, function.__name__, by_role, {}, attributes, compute, True, path, several
            )
        )

    def call_function(
        self, name: str, function: Callable, *args: object, axis: int | None = None
    ) -> Any:
        """Visit a part of a network without operations; parameters give it their name."""
        arguments = dict(zip(_parameter_names(function), args, strict=False))

        def call(**arguments: object) -> Any:
            return self.inner.call_function(name, function, *arguments.values(), axis=axis)

        return self._visit_function(call, function.__name__, arguments, self._within(name))

    def group_norm_silu(
        self, x: Array, weight: Array, bias: Array, groups: int, eps: float
    ) -> Array:
        """Compute silu(group_norm(x))."""
        if self.decompose:
            return self.silu(self.group_norm(x, weight, bias, groups, eps))
        return self._operate("group_norm_silu", (x, weight, bias, groups, eps), {})

    def geglu(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """Compute a * gelu(gate), [a, gate] = linear(x)."""
        if self.decompose:
            return Backend.geglu(self, x, weight, bias)
        return self._operate("geglu", (x, weight, bias), {})

    def _operate(self, operation: str, args: tuple, kwargs: Mapping[str, Any]) -> Array:
        names = _parameter_names(getattr(Backend, operation))[1:]
        arguments = dict(zip(names, args, strict=False)) | dict(kwargs)

        def call(**arguments: object) -> Any:
            return getattr(self.inner, operation)(**arguments)

        return self._visit_function(call, operation, arguments)

    def _visit_function(
        self, function: Callable, kind: str, arguments: Mapping[str, Any], own_name: str = ""
    ) -> Any:
        """Visit `function(**arguments)`; `own_name` is its name if it has no parameters."""
        all_arrays, attributes = _split(arguments)
        owned = parameter_arguments(kind)
        if own_name:  # a function of a network may compute its own bias
            owned = tuple(k for k in owned if id(all_arrays.get(k)) in self._names)
        parameters = {k: v for k, v in all_arrays.items() if k in owned}
        inputs = {k: v for k, v in all_arrays.items() if k not in owned}
        first = next(iter(inputs))
        path = next((self._names[id(v)] for v in parameters.values() if id(v) in self._names), None)
        around = self._scope[-1].partition(AGAIN)[0] if self._scope else ""

        def compute(arrays: Mapping[str, Array]) -> Array:
            named = {first if key == "input" else key: x for key, x in arrays.items()}
            return function(**{**arguments, **named})

        by_role = {"input" if key == first else key: value for key, value in inputs.items()}
        name = self._unique(path or own_name or self._within(kind))
        layer = path or own_name or around
        return self.visit(
            LayerCall(name, kind, by_role, parameters, attributes, compute, layer=layer)
        )

    def _within(self, name: str) -> str:
        """Return the name of a part of the layer that is being computed."""
        return ".".join([*self._scope[-1:], name])

    def _unique(self, name: str) -> str:
        count = self._seen[name]
        self._seen[name] += 1
        self._visited += 1
        return f"{name}{AGAIN}{count}" if count else name


def _observed(operation: str) -> Callable:
    def run(self: NamedBackend, *args: object, **kwargs: object) -> Array:
        return self._operate(operation, args, kwargs)

    run.__name__ = operation
    run.__doc__ = getattr(Backend, operation).__doc__
    return run


for _operation in NAMED_OPERATIONS:
    if _operation not in ("group_norm_silu", "geglu"):
        setattr(NamedBackend, _operation, _observed(_operation))
_DERIVED = {name for name in dir(Backend) if isinstance(getattr(Backend, name), property)}


def parameter_arguments(kind: str) -> tuple[str, ...]:
    """Return the arguments of an operation or function that are parameters of the network.

    The bias of attention is computed, as its queries are.
    """
    return () if kind == "attention" else PARAMETER_ARGUMENTS


@cache
def _parameter_names(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)


@cache
def _returns_several(function: Callable) -> bool:
    return str(inspect.signature(function).return_annotation).startswith("tuple[")


def _split(arguments: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays among the arguments, and the others that are neither None nor ()."""
    arrays = {k: v for k, v in arguments.items() if hasattr(v, "shape")}
    others = {k: v for k, v in arguments.items() if k not in arrays and v not in (None, ())}
    return arrays, others


def collect_names(tree: Mapping[str, Any], name: str, names: dict[int, str]) -> None:
    """Add the path of each part of a tree of parameters, by its id; a leaf has its part's path."""
    names[id(tree)] = name
    for key, child in tree.items():
        if isinstance(child, Mapping):
            collect_names(child, f"{name}.{key}" if name else key, names)
        else:
            names[id(child)] = name
