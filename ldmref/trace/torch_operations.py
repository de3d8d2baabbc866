"""Functions of torch that are operations of ldmref, and the arguments of modules by role."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from ldmref.trace import torch_names as known
from ldmref.trace.torch_calls import find_tensors

Found = tuple[str, dict[str, torch.Tensor], dict[str, Any]]  # operation, inputs, attributes

SUMS = (torch.Tensor.add, torch.Tensor.__add__, torch.add)
NOISE = (torch.randn, torch.randn_like, torch.Tensor.normal_)


def identify_operation(
    func: object, args: tuple, kwargs: Mapping[str, Any], result: object
) -> Found | None:
    """Return the operation of ldmref that a call of a function of torch is, or None."""
    find = _OPERATIONS.get(func)
    return None if find is None else find(args, kwargs, result)


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
    names = _argument_names(type(module))
    named = dict(zip(names, args, strict=False)) | dict(kwargs)
    arguments = {name: named[name] for name in names if name in named} | named
    extra = {f"input.{i}": x for i, x in enumerate(args[len(names) :], len(names))}
    changed = change(arguments | extra)
    found = [pair for name, x in changed.items() for pair in find_tensors(x, name)]
    if not kind:
        first = names[0] if names else "input.0"
        only = len(found) == 1 and found[0][0] == first
        return {"input": found[0][1]} if only else dict(found)
    inputs = {"input": found[0][1]} if found else {}
    inputs |= {known.ROLES[name]: x for name, x in found[1:] if name in known.ROLES}
    if kind == "attention":  # self-attention attends to its own input
        inputs.setdefault("context", inputs["input"])
    return inputs


@cache
def _argument_names(kind: type[torch.nn.Module]) -> list[str]:
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional]
