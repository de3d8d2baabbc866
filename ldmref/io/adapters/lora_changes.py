"""What a LoRA file changes: for each of our tensors, the tensors of its change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from reprlib import repr as shorten
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.adapters.control_lora import narrow_columns, pad_columns
from ldmref.io.adapters.lora_file import ADAPTER_METADATA, Lora, lora_error
from ldmref.io.adapters.lora_keys import LoraTarget, lora_names, unwrapped
from ldmref.io.identify import refuse_networks
from ldmref.io.key_report import compare
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Shape, flatten

# role -> tensor: `down`, `up` and optionally `alpha`; with `offset` or `whole`, see `LoraTarget`
Change = dict[str, np.ndarray]
MAX_ALPHA = float(np.finfo(np.float32).max)


class NamedTensor(NamedTuple):
    """A tensor of the file by name, and where ours is in its layer."""

    name: str
    entry: KeyEntry | None


Roles = Mapping[str, NamedTensor]


def match_tensors(config: ModelConfig, lora: Lora) -> dict[str, dict[str, NamedTensor]]:
    """Return, for each of our tensors that a LoRA changes, its tensors in the file by role.

    Names and shapes are compared; no numbers are read.

    A LoRA that was made for a model without a control image may leave out the image's columns.

    Raises:
        KeyMismatchError: A tensor of the file is not used, or has another shape.
        CorruptModelError: The file holds no tensors.
    """
    if not lora.tensors:
        raise lora_error(f"the LoRA {lora.name!r} holds no tensors")
    shapes = flatten(model_spec(config))
    named = _assign(lora_names(config), lora.tensors)
    if all(role == "whole" for roles in named.values() for role in roles):
        refuse_networks(lora.name, lora.tensors)
    have = {name: _bare(tensor.shape) for name, tensor in lora.tensors.items()}
    narrow = narrow_columns(config)
    want: dict[str, Shape] = {}
    for tensor, roles in named.items():
        fitting = _wanted(tensor, roles, have, shapes)
        if "down" in roles and have[roles["down"].name][1:] == (narrow.get(_layer(tensor)),):
            fitting[roles["down"].name] = have[roles["down"].name]
        want |= fitting
    hint = "it must be made for the same family; LoHa, LoKr and DoRA are not supported"
    compare(have, want).require(f"the LoRA {lora.name!r} does not fit {config.name!r}", hint)
    return named


def lora_changes(config: ModelConfig, lora: Lora) -> dict[str, Change]:
    """Return the change of each of our tensors; every tensor of the file is used, and fits.

    If a layer of the file holds several of ours, or the halves of one in another order, `down` is
    the same for all, and `up` is cut and arranged as the layer's rows are.

    Raises:
        KeyMismatchError, CorruptModelError: As for `apply_loras`.
    """
    named = match_tensors(config, lora)
    tensors = dict(lora.tensors)
    bad = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        what = f"the LoRA {lora.name!r} holds NaN or infinity: {', '.join(bad[:3])}"
        raise CorruptModelError(what, code="E-NONFINITE")
    changes = {}
    shapes = flatten(model_spec(config))
    narrow = narrow_columns(config)
    for tensor, roles in named.items():
        change = {role: tensors[name] for role, (name, _) in roles.items()}
        if tensor in narrow and "down" in change:  # made for the model without a control image
            change["down"] = pad_columns(change["down"], shapes[tensor][1])
        for role in change.keys() - {"down", "alpha"}:
            entry = roles[role].entry
            if entry is not None:
                rest = change[role].shape[1:2]
                change[role] = replace(entry, shape=(*entry.shape[:1], *rest)).read(change[role])
        if "down" in change and "alpha" not in change:
            name = unwrapped(roles["down"].name)
            alpha = _recorded_alpha(lora.adapter, tensor, name, len(change["down"]))
            if alpha is not None:
                change["alpha"] = np.asarray(alpha)
        changes[tensor] = change
    return changes


def _assign(
    known: Mapping[str, tuple[LoraTarget, ...]], tensors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, NamedTensor]]:
    """Return the tensors of the file by our tensor and role.

    A second name of one target is left out, and so unexpected. The change of a bias needs rank and
    alpha, so `down` and `alpha` of its layer are also its own.
    """
    named: dict[str, dict[str, NamedTensor]] = {}
    for name in tensors:
        targets = known.get(unwrapped(name), ())
        if not any(target.role in named.get(target.tensor, {}) for target in targets):
            for tensor, role, entry in targets:
                named.setdefault(tensor, {})[role] = NamedTensor(name, entry)
    for tensor, roles in named.items():
        if "offset" in roles:
            of_layer = named.get(_layer(tensor), {})
            roles.update((role, of_layer[role]) for role in ("down", "alpha") if role in of_layer)
    return named


def _layer(tensor: str) -> str:
    """Return the matrix of a bias's layer, and the name of any other tensor."""
    return tensor.removesuffix("bias") + "weight" if tensor.endswith(".bias") else tensor


def _wanted(
    tensor: str, roles: Roles, have: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Return names and shapes that the change of a tensor needs; `down` determines the rank."""
    shape = shapes[tensor]
    if "whole" in roles:
        name, entry = roles["whole"]
        return {name: entry.stored_shape if entry else shape}
    needed = ("down", "offset") if "offset" in roles else ("down", "up")
    absent = [role for role in needed if role not in roles]
    if absent:
        first = next(iter(roles.values())).name
        present = {name: have[name] for name, _ in roles.values()}
        return present | {f"{role} for {first}": () for role in absent}
    rank = max((1, *have[roles["down"].name][:1]))
    name, entry = roles[needed[1]]
    rows = (entry.stored_shape if entry else shape)[:1]
    alpha = have[roles["alpha"].name] if "alpha" in roles else ()
    want = {
        "down": _bare((rank, *shapes[_layer(tensor)][1:])),
        "up": (*rows, rank),
        "offset": rows,
        "alpha": alpha if math.prod(alpha) == 1 else (),
    }
    return {name: want[role] for role, (name, _) in roles.items()}


def _bare(shape: Shape) -> Shape:
    """Return the shape of a 1 x 1 convolution as a matrix."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _recorded_alpha(adapter: Mapping[str, Any], tensor: str, name: str, rank: int) -> float | None:
    """Return alpha in PEFT's configuration; None if it has none.

    `tensor` is ours, and `name` that of its `down` in the file.

    With `use_rslora` the factor is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732).
    """
    part, _, layer = tensor.removesuffix(".weight").partition(".")
    paths = layer, name.partition(".lora")[0]
    config = {k.removeprefix(f"{part}."): v for k, v in adapter.items() if k.startswith(f"{part}.")}
    config = config or {k: v for k, v in adapter.items() if "." not in k}
    if config.get("use_dora"):
        raise lora_error("DoRA is not supported")
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise lora_error(f"{ADAPTER_METADATA}: alpha_pattern is {shorten(patterns)}, not an object")
    for pattern, value in patterns.items():
        if any(f".{x}".endswith(f".{pattern}") for x in paths):  # as PEFT matches them
            alpha = value
            break
    if alpha is None:
        return None
    if type(alpha) not in (int, float) or not abs(alpha) <= MAX_ALPHA:
        raise lora_error(f"{ADAPTER_METADATA}: lora_alpha is {shorten(alpha)}, not a number")
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
