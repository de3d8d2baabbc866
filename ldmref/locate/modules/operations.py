"""Calls of functions of torch, and of simple modules, as operations of the table of known faults.

Each operation has the name that the table knows (`ldmref.locate.faults.table`): `linear`,
`attention`, `split`, `power`. What is not listed here has no known faults and is computed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from ldmref.trace import torch_names as known

Tensor = torch.Tensor
OperationValues = Mapping[str, Any]  # tensors and other arguments by role
MASKED = float("-inf")  # the bias of a key that a mask of truth values hides
ATTENTION_AXES = 4  # of arrays (n, heads, l, d), of which the table has faults


@dataclass(frozen=True)
class Operation:
    """One operation, about to be computed.

    Attributes:
        kind: Its name in the table of known faults.
        inputs: The tensors that it takes, of which the first is called "input".
        compute: Computes it from tensors, parameters and attributes by role.
        parameters: Parameters by name.
        attributes: Other arguments.
    """

    kind: str
    inputs: dict[str, Tensor]
    compute: Callable[[OperationValues], Any]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


Describe = Callable[[Any, tuple, Mapping[str, Any]], Operation | None]


def describe_function(
    func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]
) -> Operation | None:
    """Return the operation that a call of a function of torch is; None if it is not listed."""
    describe = _FUNCTIONS.get(func)
    return None if describe is None else describe(func, args, kwargs)


def describe_module(module: Any, kind: str, x: Tensor) -> Operation | None:
    """Return the operation that a module of one operation computes; None for other modules.

    Args:
        module: The module.
        kind: Its kind (`ldmref.trace.torch_names`), or the operation of an activation.
        x: Its input.
    """
    forward = getattr(type(module), "forward", None)
    describe = _MODULES.get(forward)
    if describe is not None:
        return describe(module, kind, x)
    if kind == "timestep_embedding" and _is_usual_embedding(module):
        raw = module.forward
        dim = {"dim": module.num_channels}
        return Operation(kind, {"input": x}, lambda v: raw(v["input"]), {}, dim)
    if kind in known.ACTIVATIONS.values():
        raw = module.forward
        return Operation(kind, {"input": x}, lambda v: raw(v["input"]))
    return None


# -- modules --------------------------------------------------------------------------------------


def _of_module(module: Any, kind: str, x: Tensor) -> Operation | None:
    attributes = known.attributes_of(module, kind)
    named = {name: getattr(module, name, None) for name in ("weight", "bias")}
    parameters = {name: p for name, p in named.items() if p is not None}
    match kind:
        case "linear":
            return Operation(kind, {"input": x}, _linear, parameters)
        case "conv2d" if _is_plain(module):
            return Operation(kind, {"input": x}, _conv2d, parameters, attributes)
        case "group_norm":
            parameters = _affine(parameters, (module.num_channels,), x)
            return Operation(kind, {"input": x}, _group_norm, parameters, attributes)
        case "layer_norm" if len(module.normalized_shape) == 1:
            parameters = _affine(parameters, module.normalized_shape, x)
            return Operation(kind, {"input": x}, _layer_norm, parameters, attributes)
        case "embedding" if module.max_norm is None:
            return Operation(kind, {"input": x}, _embedding, {"table": module.weight})
    return None


def _is_usual_embedding(module: object) -> bool:
    """Return whether an embedding of timesteps is that of the table: cosines first, no shift."""
    cosine_first = getattr(module, "flip_sin_to_cos", False) is True
    scale = getattr(module, "scale", 1)
    return cosine_first and getattr(module, "downscale_freq_shift", None) == 0 and scale == 1


def _is_plain(module: torch.nn.Conv2d) -> bool:
    """Return whether a convolution has one group, one stride, zeros around it, and no dilation."""
    sizes = (module.stride, module.padding, module.dilation)
    square = all(isinstance(size, tuple) and len(set(size)) == 1 for size in sizes)
    plain = module.groups == 1 and module.padding_mode == "zeros"
    return square and plain and module.dilation == (1, 1)


def _affine(parameters: dict[str, Tensor], shape: tuple[int, ...], x: Tensor) -> dict[str, Tensor]:
    """Return weight and bias of a norm, which are 1 and 0 if it has none."""
    return {"weight": x.new_ones(shape), "bias": x.new_zeros(shape)} | parameters


def _linear(v: OperationValues) -> Tensor:
    return F.linear(v["input"], v["weight"], v.get("bias"))


def _conv2d(v: OperationValues) -> Tensor:
    return F.conv2d(v["input"], v["weight"], v.get("bias"), v["stride"], v["padding"])


def _group_norm(v: OperationValues) -> Tensor:
    return F.group_norm(v["input"], v["groups"], v["weight"], v["bias"], v["eps"])


def _layer_norm(v: OperationValues) -> Tensor:
    return F.layer_norm(v["input"], v["input"].shape[-1:], v["weight"], v["bias"], v["eps"])


def _embedding(v: OperationValues) -> Tensor:
    return F.embedding(v["input"], v["table"])


_MODULES: dict[Any, Callable[[Any, str, Tensor], Operation | None]] = {
    kind.forward: _of_module
    for kind in (
        torch.nn.Linear,
        torch.nn.Conv2d,
        torch.nn.GroupNorm,
        torch.nn.LayerNorm,
        torch.nn.Embedding,
    )
}

# -- functions ------------------------------------------------------------------------------------


def _named(names: tuple[str, ...], args: tuple, kwargs: OperationValues) -> dict[str, Any]:
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _linear_function(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation:
    named = _named(("input", "weight", "bias"), args, kwargs)
    parameters = {n: named[n] for n in ("weight", "bias") if named.get(n) is not None}
    return Operation("linear", {"input": named["input"]}, _linear, parameters)


def _layer_norm_function(
    func: Callable[..., Any], args: tuple, kwargs: OperationValues
) -> Operation | None:
    named = _named(("input", "normalized_shape", "weight", "bias", "eps"), args, kwargs)
    shape = tuple(named["normalized_shape"])
    if len(shape) != 1:
        return None
    parameters = {n: named[n] for n in ("weight", "bias") if named.get(n) is not None}
    parameters = _affine(parameters, shape, named["input"])
    eps = {"eps": named.get("eps", 1e-5)}
    return Operation("layer_norm", {"input": named["input"]}, _layer_norm, parameters, eps)


def _root_norm_function(
    func: Callable[..., Any], args: tuple, kwargs: OperationValues
) -> Operation | None:
    named = _named(("input", "normalized_shape", "weight", "eps"), args, kwargs)
    if len(named["normalized_shape"]) != 1 or named.get("eps") is None:
        return None
    x = named["input"]
    weight = named.get("weight")
    weight = x.new_ones(x.shape[-1:]) if weight is None else weight

    def compute(v: OperationValues) -> Tensor:
        return F.rms_norm(v["input"], x.shape[-1:], v["weight"], v["eps"])

    return Operation(
        "divide_by_rms", {"input": x}, compute, {"weight": weight}, {"eps": named["eps"]}
    )


def _attention(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    named = _named(names, args, kwargs)
    q, k, v = (named[name] for name in names[:3])
    if named.get("enable_gqa"):  # a head of keys and values for several of queries
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))
    inputs = {"input": q, "k": k, "v": v}
    mask = named.get("attn_mask")
    if mask is not None:
        hidden = q.new_zeros(mask.shape).masked_fill(~mask, MASKED) if _is_truth(mask) else mask
        inputs["bias"] = hidden.reshape((1,) * (q.ndim - mask.ndim) + tuple(mask.shape))
    attributes = {"causal": True} if named.get("is_causal") else {}
    attributes |= {} if named.get("scale") is None else {"scale": named["scale"]}
    kind = "attention" if q.ndim == ATTENTION_AXES else "attention of one head"
    return Operation(kind, inputs, _attend, {}, attributes)


def _attend(v: OperationValues) -> Tensor:
    bias, causal = v.get("bias"), bool(v.get("causal"))
    q, k = v["input"], v["k"]
    if bias is not None and causal:  # torch takes one of both
        future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        bias, causal = bias.masked_fill(future, MASKED), False
    return F.scaled_dot_product_attention(q, k, v["v"], bias, 0.0, causal, scale=v.get("scale"))


def _is_truth(x: Tensor) -> bool:
    return x.dtype == torch.bool


def _activation(kind: str) -> Describe:
    def describe(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation:
        named = _named(("input",), args, kwargs)
        tanh = named.get("approximate") == "tanh"
        rest = {name: x for name, x in named.items() if name not in ("input", "inplace")}
        x = {"input": named["input"]}
        return Operation("tanh_gelu" if tanh else kind, x, lambda v: func(v["input"], **rest))

    return describe


def _convolution(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation:
    """Return a convolution in groups, or of another number of axes than 2."""
    named = _named(("input", "weight", "bias"), args, kwargs)
    parameters = {n: named[n] for n in ("weight", "bias") if named.get(n) is not None}
    rest = args[3:]
    more = {n: x for n, x in kwargs.items() if n not in ("input", "weight", "bias")}

    def compute(v: OperationValues) -> Tensor:
        return func(v["input"], v["weight"], v.get("bias"), *rest, **more)

    kind = "grouped_conv2d" if func is F.conv2d else "convolution"
    return Operation(kind, {"input": named["input"]}, compute, parameters)


def _embedding_function(
    func: Callable[..., Any], args: tuple, kwargs: OperationValues
) -> Operation:
    named = _named(("input", "weight"), args, kwargs)
    return Operation("embedding", {"input": named["input"]}, _embedding, {"table": named["weight"]})


def _resampling(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    named = _named(("input", "size", "scale_factor", "mode"), args, kwargs)
    if not str(named.get("mode", "nearest")).startswith("nearest") or named["input"].ndim != 4:
        return None
    rest = {name: x for name, x in named.items() if name != "input"}
    return Operation("upsample2x", {"input": named["input"]}, lambda v: func(v["input"], **rest))


def _padding(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    named = _named(("input", "pad", "mode", "value"), args, kwargs)
    if list(named["pad"]) != [0, 1, 0, 1] or named.get("value") or named["input"].ndim != 4:
        return None
    rest = {name: x for name, x in named.items() if name != "input"}
    kind = "pad_bottom_right"
    return Operation(kind, {"input": named["input"]}, lambda v: func(v["input"], **rest))


def _arithmetic(kind: str, apply: Callable[[Any, Any], Any], turned: bool = False) -> Describe:
    """Return a description of a sum, difference, product or quotient of two terms.

    Args:
        kind: The operation of two tensors; with a number it is `KIND_number`.
        apply: Computes it.
        turned: Whether the function takes its terms in the other order.
    """

    def describe(
        func: Callable[..., Any], args: tuple, kwargs: OperationValues
    ) -> Operation | None:
        if len(args) != 2 or kwargs.get("alpha", 1) != 1 or kwargs.get("rounding_mode"):
            return None
        a, b = reversed(args) if turned else args
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            inputs = {"input": a, "b": b}
            attributes = {"complex": True} if a.is_complex() and b.is_complex() else {}
            return Operation(kind, inputs, lambda v: apply(v["input"], v["b"]), {}, attributes)
        if isinstance(a, Tensor) and _is_number(b):
            number = {"number": float(b)}
            x = {"input": a}
            return Operation(
                f"{kind}_number", x, lambda v: apply(v["input"], v["number"]), {}, number
            )
        if isinstance(b, Tensor) and _is_number(a) and kind in ("add", "multiply"):
            number = {"number": float(a)}
            x = {"input": b}
            return Operation(
                f"{kind}_number", x, lambda v: apply(v["number"], v["input"]), {}, number
            )
        return None

    return describe


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _power(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    """Return a power of a number: the frequencies of rotations and of timesteps."""
    if len(args) != 2:
        return None
    base, exponent = (args[1], args[0]) if func is Tensor.__rpow__ else args
    if isinstance(base, Tensor) and base.numel() == 1 and not base.requires_grad:
        base = float(base)
    if not _is_number(base) or not isinstance(exponent, Tensor):
        return None
    attributes = {"base": float(base)}
    return Operation(
        "power", {"input": exponent}, lambda v: v["base"] ** v["input"], {}, attributes
    )


def _parts(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    unbound = func in _UNBIND
    named = _named(("input", "dim") if unbound else ("input", "size", "dim"), args, kwargs)
    x = named["input"]
    rest = args[1:]
    attributes = {"axis": named.get("dim", 0) % x.ndim, "unbound": unbound}
    return Operation(
        "split", {"input": x}, lambda v: func(v["input"], *rest, **kwargs), {}, attributes
    )


def _joined(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    named = _named(("tensors", "dim"), args, kwargs)
    parts = list(named["tensors"])
    axis = named.get("dim", 0)
    if not parts or not all(isinstance(x, Tensor) for x in parts):
        return None
    names = ["input", *(f"part {i}" for i in range(1, len(parts)))]
    inputs = dict(zip(names, parts, strict=True))
    attributes = {"axis": axis, "stacked": func is torch.stack}
    return Operation("join", inputs, lambda v: func([v[n] for n in names], axis), {}, attributes)


def _one(kind: str) -> Describe:
    """Return a description of a function of one tensor."""

    def describe(
        func: Callable[..., Any], args: tuple, kwargs: OperationValues
    ) -> Operation | None:
        if func is torch.einsum and len(args) == 2 and isinstance(args[1], Tensor):
            return Operation(kind, {"input": args[1]}, lambda v: func(args[0], v["input"]))
        if not args or not isinstance(args[0], Tensor):
            return None
        rest = args[1:]
        return Operation(kind, {"input": args[0]}, lambda v: func(v["input"], *rest, **kwargs))

    return describe


def _polar(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    named = _named(("abs", "angle"), args, kwargs)
    length, angle = named["abs"], named["angle"]
    return Operation("polar", {"input": angle}, lambda v: torch.polar(length, v["input"]))


def _softmax(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    named = _named(("input", "dim"), args, kwargs)
    if named.get("dim") is None:
        return None
    axis = {"axis": named["dim"]}
    x = {"input": named["input"]}
    return Operation("softmax", x, lambda v: torch.softmax(v["input"], v["axis"]), {}, axis)


def _masked(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    if len(args) != 3 or not isinstance(args[1], Tensor) or not _is_truth(args[1]):
        return None
    value = args[2]
    inputs = {"input": args[0], "mask": args[1]}
    return Operation("masked", inputs, lambda v: v["input"].masked_fill(v["mask"].bool(), value))


def _repeated(func: Callable[..., Any], args: tuple, kwargs: OperationValues) -> Operation | None:
    named = _named(("input", "repeats", "dim"), args, kwargs)
    count, axis = named.get("repeats"), named.get("dim")
    if not isinstance(count, int) or axis is None:
        return None
    attributes = {"count": count, "axis": axis % named["input"].ndim}
    x = {"input": named["input"]}
    return Operation("repeat_each", x, lambda v: func(v["input"], count, axis), {}, attributes)


_UNBIND = (Tensor.unbind, torch.unbind)
_FUNCTIONS: dict[Any, Describe] = {
    F.linear: _linear_function,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.layer_norm: _layer_norm_function,
    F.rms_norm: _root_norm_function,
    torch.rms_norm: _root_norm_function,
    F.scaled_dot_product_attention: _attention,
    F.embedding: _embedding_function,
    F.interpolate: _resampling,
    F.pad: _padding,
    F.silu: _activation("silu"),
    F.gelu: _activation("gelu"),
    F.relu: _activation("relu"),
    torch.relu: _activation("relu"),
    torch.polar: _polar,
    torch.view_as_complex: _one("pair"),
    torch.view_as_real: _one("unpair"),
    torch.stack: _joined,
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh), _activation("tanh")),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid), _activation("sigmoid")),
    **dict.fromkeys((torch.cat, torch.concat), _joined),
    **dict.fromkeys((torch.chunk, Tensor.chunk, torch.split, Tensor.split, *_UNBIND), _parts),
    **dict.fromkeys((torch.cos, Tensor.cos), _one("cosine")),
    **dict.fromkeys((torch.sin, Tensor.sin), _one("sine")),
    **dict.fromkeys((torch.softmax, Tensor.softmax, F.softmax), _softmax),
    **dict.fromkeys((torch.masked_fill, Tensor.masked_fill), _masked),
    **dict.fromkeys((torch.repeat_interleave, Tensor.repeat_interleave), _repeated),
    **dict.fromkeys((torch.permute, Tensor.permute, torch.einsum), _one("axes")),
    **dict.fromkeys((torch.pow, Tensor.pow, Tensor.__pow__, Tensor.__rpow__), _power),
    **dict.fromkeys((torch.neg, Tensor.neg, Tensor.__neg__), _one("negate")),
    **dict.fromkeys(
        (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_),
        _arithmetic("add", lambda a, b: a + b),
    ),
    **dict.fromkeys(
        (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_),
        _arithmetic("multiply", lambda a, b: a * b),
    ),
    **dict.fromkeys(
        (torch.sub, Tensor.sub, Tensor.__sub__, Tensor.sub_),
        _arithmetic("subtract", lambda a, b: a - b),
    ),
    Tensor.__rsub__: _arithmetic("subtract", lambda a, b: a - b, turned=True),
    **dict.fromkeys(
        (torch.div, Tensor.div, Tensor.__truediv__, Tensor.div_),
        _arithmetic("divide", lambda a, b: a / b),
    ),
}
