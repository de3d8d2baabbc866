"""Functions of torch that are operations of ldmref, and the arguments of modules by role."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ldmref.trace import torch_names as known
from ldmref.trace.torch_values import find_tensors

Found = tuple[str, dict[str, torch.Tensor], dict[str, Any]]  # operation, inputs, attributes

SUMS = (torch.Tensor.add, torch.Tensor.__add__, torch.add, torch.Tensor.add_)  # `+=` is add_
NOISE = (torch.randn, torch.randn_like, torch.Tensor.normal_)


def written_by(
    func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]
) -> torch.Tensor | None:
    """Return the tensor into which a call of a function of torch writes its result, or None."""
    name = getattr(func, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    asked = kwargs.get("inplace") or (func is F.silu and True in args[1:2])
    x = kwargs.get("out")
    if named or asked:
        x = args[0] if args else kwargs.get("input")
    return x if isinstance(x, torch.Tensor) else None


def before_writing(
    func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]
) -> tuple[tuple, Mapping[str, Any]]:
    """Return the arguments of a call that stay as they are: a copy of what it writes into."""
    written = written_by(func, args, kwargs)
    if written is None:
        return args, kwargs
    copy = written.detach().clone()
    kept = tuple(copy if x is written else x for x in args)
    return kept, {name: copy if x is written else x for name, x in kwargs.items()}


def identify_operation(
    func: object, args: tuple, kwargs: Mapping[str, Any], result: object
) -> Found | None:
    """Return the operation of ldmref that a call of a function of torch is, or None."""
    find = _OPERATIONS.get(func)
    return None if find is None else find(args, kwargs, result)


def is_operation(func: object) -> bool:
    """Return whether calls of a function of torch may be operations of ldmref."""
    return func in _OPERATIONS or func in SUMS


def _activation(name: str) -> Callable[[tuple, Mapping[str, Any], Any], Found | None]:
    def find(args: tuple, kwargs: Mapping[str, Any], result: object) -> Found | None:
        x = args[0] if args else kwargs["input"]
        approximate = kwargs.get("approximate", "none")
        return name, {"input": x}, {} if approximate == "none" else {"approximate": approximate}

    return find


def _attention(args: tuple, kwargs: Mapping[str, Any], result: object) -> Found | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    named = dict(zip(names, args, strict=False)) | dict(kwargs)
    masked = named.get("attn_mask") is not None
    attributes = {"causal": True} if named.get("is_causal") else {}
    attributes |= {"masked": True} if masked else {}
    q, k, v = (named[name] for name in names[:3])
    if named.get("enable_gqa"):  # a head of keys and values for several of queries
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))
    return "attention", {"input": q, "k": k, "v": v}, attributes


def _upsampling(args: tuple, kwargs: Mapping[str, Any], result: Any) -> Found | None:
    x = args[0] if args else kwargs["input"]
    doubled = tuple(result.shape[2:]) == tuple(2 * size for size in x.shape[2:])
    nearest = kwargs.get("mode", "nearest") in (
        "nearest",
        "nearest-exact",
    )  # the same, twice as large
    return ("upsample2x", {"input": x}, {}) if doubled and nearest and x.ndim == 4 else None


def _padding(args: tuple, kwargs: Mapping[str, Any], result: object) -> Found | None:
    named = dict(zip(("input", "pad"), args, strict=False)) | dict(kwargs)
    right_and_bottom = list(named["pad"]) == [0, 1, 0, 1] and not named.get("value")
    return ("pad_bottom_right", {"input": named["input"]}, {}) if right_and_bottom else None


_OPERATIONS: dict[Any, Callable[[tuple, Mapping[str, Any], Any], Found | None]] = {
    F.silu: _activation("silu"),
    F.gelu: _activation("gelu"),
    F.scaled_dot_product_attention: _attention,
    F.interpolate: _upsampling,
    F.pad: _padding,
}


def named_inputs(
    module: torch.nn.Module,
    kind: str,
    args: tuple,
    kwargs: Mapping[str, Any],
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda arguments: arguments,
) -> dict[str, torch.Tensor]:
    """Return a module call's tensor arguments, keyed by role.

    Layers of a known kind have the roles of ldmref: "input" for the first tensor, "emb" and
    "context". Others keep the names of their arguments. `change` returns the arguments by name as
    they are to be recorded.
    """
    changed = change(name_arguments(module, args, kwargs))
    changed = {
        k: torch.as_tensor(x) if isinstance(x, np.ndarray) else x for k, x in changed.items()
    }
    found = dict(find_tensors(changed, ""))
    inputs = {role: found[argument] for argument, role in roles_of(module, kind, found).items()}
    if kind == "attention":  # self-attention attends to its own input
        inputs.setdefault("context", inputs["input"])
    return inputs


def name_arguments(
    module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a module's call by name; `input.N` for others by position."""
    names = _argument_names(type(module))
    named = dict(zip(names, args, strict=False)) | dict(kwargs)
    arguments = {name: named[name] for name in names if name in named} | named
    return arguments | {f"input.{i}": x for i, x in enumerate(args[len(names) :], len(names))}


def roles_of(module: torch.nn.Module, kind: str, found: Iterable[str]) -> dict[str, str]:
    """Return the role in a trace of each tensor among a module's arguments that has one.

    Args:
        module: The module.
        kind: Its kind; "" if it is not known.
        found: The tensors by argument, such as "x" or "x.0", in order.
    """
    tensors = list(found)
    if not kind:
        names = _argument_names(type(module))
        first = names[0] if names else "input.0"
        return {first: "input"} if tensors == [first] else {name: name for name in tensors}
    roles = {tensors[0]: "input"} if tensors else {}
    return roles | {name: known.ROLES[name] for name in tensors[1:] if name in known.ROLES}


def named_outputs(output: object, kind: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of a module's result, keyed by role.

    Args:
        output: The result.
        kind: The module's kind; "" if it is not known.
    """
    found = dict(find_tensors(output, "output"))
    return {role: found[name] for name, role in roles_of_outputs(kind, found).items()}


def roles_of_outputs(kind: str, found: Iterable[str]) -> dict[str, str]:
    """Return the role in a trace of each tensor in a module's result that has one.

    Args:
        kind: The module's kind; "" if it is not known.
        found: The tensors by their place, such as "output.0", in order.
    """
    tensors = list(found)
    alone = kind or len(tensors) == 1  # layers of a known kind return one array
    return {tensors[0]: "output"} if tensors and alone else {name: name for name in tensors}


@cache
def _argument_names(kind: type[torch.nn.Module]) -> list[str]:
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional]
