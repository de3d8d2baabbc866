"""Copies of a PyTorch module in float64 and in a port's number format.

The copy in float64 has the parameters of the port: rounded to its format first. What the module's
code casts to a narrower format, and what it makes in torch's default format, is float64 as well
(`widen_call`), so that its result is the exact one of its code. Tables that are plain attributes of
modules are widened with the parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
ROOT_NORMS = (torch.rms_norm, torch.nn.functional.rms_norm)
DEEPEST = 4  # containers within each other in which tables of a module are found


def copy_in_format(module: torch.nn.Module, dtype: str, wide: bool) -> torch.nn.Module:
    """Return a copy of a module for evaluation, with the parameters of a port.

    A module that has parameters of the port's format already is one as the port loaded it, some
    parts of which may be wider: its parameters stay. Those of any other are rounded to the format.

    Args:
        module: The module, of any format.
        dtype: The port's number format.
        wide: Whether the copy computes in float64; otherwise in the port's format.
    """
    made = copy.deepcopy(module).eval().requires_grad_(False)
    if any(x.device.type == "mps" for x in made.parameters()):  # which has no float64
        made = made.to("cpu")
    form = getattr(torch, dtype)
    tensors = [*made.parameters(), *made.buffers()]
    loaded = any(x.dtype == form for x in made.parameters())
    for x in tensors:
        if x.is_floating_point() and not loaded:
            x.data = x.data.to(form)
        if wide:
            x.data = widen(x.data)
    if wide:
        for part in made.modules():
            _widen_tables(part)
    return made


def widen(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64, or complex128; whole numbers as they are."""
    return x.to(WIDE[x.dtype]) if x.dtype in WIDE else x


def narrow(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor in a narrower format; complex numbers of two parts of at least float32."""
    if x.is_complex():
        return x if dtype == torch.float64 else x.to(torch.complex64)
    return x.to(dtype) if x.is_floating_point() else x


def _widen_tables(part: torch.nn.Module) -> None:
    """Widen the tensors among a module's plain attributes, in lists and mappings too."""
    for name, value in list(vars(part).items()):
        if name not in ("_parameters", "_buffers", "_modules"):
            wide = _widen_in(value, DEEPEST)
            if wide is not value:
                vars(part)[name] = wide


def _widen_in(value: Any, depth: int) -> Any:
    if isinstance(value, torch.Tensor):
        return widen(value)
    if not depth:
        return value
    if type(value) in (list, tuple):
        listed = [_widen_in(x, depth - 1) for x in value]
        same = all(new is old for new, old in zip(listed, value, strict=True))
        return value if same else type(value)(listed)
    if type(value) is dict:
        changed = {key: _widen_in(x, depth - 1) for key, x in value.items()}
        same = all(changed[key] is x for key, x in value.items())
        return value if same else changed
    return value


def widen_call(
    func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], dtype: str
) -> tuple[Any, tuple, dict[str, Any]]:
    """Return a call of a function of torch, with casts to float64 instead of narrower ones.

    Args:
        func, args, kwargs: The call.
        dtype: The port's number format, whose unit of rounding is the eps of norms that name none.
    """
    if func in CASTS:
        return torch.Tensor.double, args[:1], {}
    if func is torch.Tensor.type_as:
        return torch.Tensor.to, (args[0], _wide_type(args[1].dtype)), {}
    args = tuple(_wide_type(x) for x in args)
    kwargs = {name: _wide_type(x) for name, x in kwargs.items()}
    if func in ROOT_NORMS:
        named = dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False))
        named |= kwargs
        if named.get("eps") is None:
            named["eps"] = torch.finfo(getattr(torch, dtype)).eps
        return func, (), named
    return func, args, kwargs


def _wide_type(value: object) -> Any:
    return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def default_format(dtype: torch.dtype) -> Iterator[None]:
    """Let torch make tensors of a format where code names none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
