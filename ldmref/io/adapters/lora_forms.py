"""The forms in which an adapter file describes the change of a layer: LoRA, LoHa, LoKr, ...

A form has roles, the tensors of one layer in the file. Sources: KohakuBlueleaf/LyCORIS
(lycoris/modules/locon.py, loha.py, lokr.py), huggingface/peft (tuners/loha, tuners/lokr).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ldmref.io.adapters.formulas import hadamard_change, kronecker_change, tucker_kernel
from ldmref.models.params import Shape

# Form -> its roles, without `alpha` and the magnitudes of DoRA. The first form that has a role of
# the layer counts.
FORMS = {
    "whole": ("whole",),
    "offset": ("offset",),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "LoRA": ("down", "up", "mid"),
    "difference": ("diff",),
}
MAGNITUDES = ("magnitude", "row_magnitude")  # LyCORIS' of either direction, and PEFT's of rows
FACTORED = ("LoRA", "LoHa", "LoKr")  # forms that have alpha, and may have a magnitude


def find_form(roles: Collection[str]) -> str:
    """Return the form of a layer with these roles; LoRA if only alpha or a magnitude is there.

    >>> find_form({"alpha", "lokr_w2_a"}), find_form({"alpha"})
    ('LoKr', 'LoRA')
    """
    return next((form for form, own in FORMS.items() if {*own} & {*roles}), "LoRA")


def expected_shapes(form: str, have: Mapping[str, Shape], layer: Shape) -> dict[str, Shape]:
    """Return the shape of each role that a layer of this form needs, by role.

    A role that `have` lacks is needed and missing; one that the result lacks does not belong.

    Args:
        form: A key of `FORMS`, except `offset`.
        have: The shapes of the layer's roles in the file, without 1 x 1 axes.
        layer: The shape of the layer in the file's notation, without 1 x 1 axes.
    """
    if form in ("whole", "difference"):
        return {FORMS[form][0]: layer}
    shapes = {"LoRA": _of_lora, "LoHa": _of_loha, "LoKr": _of_lokr}[form](have, layer)
    if "alpha" in have:
        alpha = have["alpha"]
        shapes["alpha"] = alpha if math.prod(alpha) == 1 else ()
    rows, columns = layer[:2]
    for role in MAGNITUDES:
        if role in have:
            fitting = [(rows, 1), (rows,), (1, columns)]
            fitting = [(rows,), (1, rows)] if role == "row_magnitude" else fitting
            shapes[role] = have[role] if have[role] in fitting else fitting[0]
            break  # a layer has one
    return shapes


def _rank(shape: Shape | None, axis: int = 0) -> int:
    """Return the length of an axis, at least 1; 1 if there is none."""
    return max((1, *(shape or ())[axis : axis + 1]))


def _of_lora(have: Mapping[str, Shape], layer: Shape) -> dict[str, Shape]:
    rows, columns, *size = layer
    rank = _rank(have.get("down"))
    if "mid" in have:
        return {"down": (rank, columns), "up": (rows, rank), "mid": bare((rank, rank, *size))}
    return {"down": bare((rank, columns, *size)), "up": (rows, rank)}


def _of_loha(have: Mapping[str, Shape], layer: Shape) -> dict[str, Shape]:
    rows, columns, *size = layer
    tucker = "hada_t1" in have or "hada_t2" in have
    shapes: dict[str, Shape] = {}
    for half in ("hada_w1", "hada_w2"):
        rank = _rank(have.get(f"{half}_b"))
        shapes[f"{half}_a"] = (rank, rows) if tucker else (rows, rank)
        shapes[f"{half}_b"] = (rank, columns if tucker else columns * math.prod(size))
        if tucker:
            shapes[half.replace("w", "t")] = bare((rank, rank, *size))
    return shapes


def _of_lokr(have: Mapping[str, Shape], layer: Shape) -> dict[str, Shape]:
    rows, columns, *size = layer
    a, c = _outer(have, "lokr_w1", False)
    b, d = max(rows // a, 1), max(columns // c, 1)
    fits = a * b == rows and c * d == columns
    shapes: dict[str, Shape] = {}
    if "lokr_w1" in have or not {"lokr_w1_a", "lokr_w1_b"} & have.keys():
        shapes["lokr_w1"] = (a, c) if fits else (rows, columns)
    else:
        rank = _rank(have.get("lokr_w1_b"))
        shapes["lokr_w1_a"] = (a, rank) if fits else (rows, rank)
        shapes["lokr_w1_b"] = (rank, c) if fits else (rank, columns)
    rank = _rank(have.get("lokr_w2_b"))
    if "lokr_w2" in have or not {"lokr_w2_a", "lokr_w2_b", "lokr_t2"} & have.keys():
        shapes["lokr_w2"] = bare((b, d, *size))
    elif "lokr_t2" in have:
        core = bare((rank, rank, *size))
        shapes |= {"lokr_w2_a": (rank, b), "lokr_w2_b": (rank, d), "lokr_t2": core}
    else:
        flat, whole = (rank, d * math.prod(size)), bare((rank, d, *size))
        shapes["lokr_w2_a"] = (b, rank)
        shapes["lokr_w2_b"] = whole if have.get("lokr_w2_b") == whole else flat
    return shapes


def _outer(have: Mapping[str, Shape], name: str, tucker: bool) -> tuple[int, int]:
    """Return rows and columns of a factor of LoKr, which may be a product itself."""
    if name in have:
        return _rank(have[name]), _rank(have[name], 1)
    return _rank(have.get(f"{name}_a"), int(tucker)), _rank(have.get(f"{name}_b"), 1)


def bare(shape: Shape) -> Shape:
    """Return the shape of a 1 x 1 convolution as a matrix."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def rank_of(form: str, parts: Mapping[str, Any]) -> int | None:
    """Return the rank by which alpha is divided; None for a LoKr without products, scaled by 1.

    Args:
        form: One of `FACTORED`.
        parts: Arrays, or anything with a shape, by role.
    """
    names = {"LoRA": ("down",), "LoHa": ("hada_w1_b",), "LoKr": ("lokr_w2_b", "lokr_w1_b")}[form]
    return next((parts[name].shape[0] for name in names if name in parts), None)


def compute_change(form: str, parts: Mapping[str, np.ndarray], layer: Shape) -> np.ndarray:
    """Return the change of a layer in float64, without alpha.

    Args:
        form: `LoRA`, `LoHa` or `LoKr`.
        parts: The tensors by role. Their rows may be those of a part of the layer, except for LoKr.
        layer: The shape of the result.
    """
    x = {role: np.asarray(part, np.float64) for role, part in parts.items()}
    x = {role: part.reshape(bare(part.shape)) for role, part in x.items()}
    if form == "LoHa":
        change = _compute_loha(x)
    elif form == "LoKr":
        change = kronecker_change(_factor(x, "lokr_w1"), _second_factor(x, layer))
    elif "mid" in x:
        change = tucker_kernel(x["mid"], x["up"], x["down"])
    else:
        change = x["up"] @ x["down"].reshape(len(x["down"]), -1)
    return change.reshape(layer)


def _compute_loha(x: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the change of a LoHa, whose `hada_w1_a` and `hada_w2_a` have the rows first."""
    if "hada_t1" not in x:
        return hadamard_change((x["hada_w1_a"], x["hada_w1_b"]), (x["hada_w2_a"], x["hada_w2_b"]))
    first, second = (
        tucker_kernel(x[f"hada_t{n}"], x[f"hada_w{n}_a"], x[f"hada_w{n}_b"]) for n in (1, 2)
    )
    return first * second


def _factor(x: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return a factor of LoKr, whole or the product of two."""
    return x[name] if name in x else x[f"{name}_a"] @ x[f"{name}_b"]


def _second_factor(x: Mapping[str, np.ndarray], layer: Shape) -> np.ndarray:
    """Return the larger factor of LoKr with the spatial axes of the layer."""
    if "lokr_t2" in x:
        return tucker_kernel(x["lokr_t2"], x["lokr_w2_a"].T, x["lokr_w2_b"])
    if "lokr_w2_a" in x:
        rank = len(x["lokr_w2_b"])
        product = x["lokr_w2_a"] @ x["lokr_w2_b"].reshape(rank, -1)
    else:
        product = x["lokr_w2"]
    size = bare(layer)[2:]
    return product.reshape(len(product), -1, *size)
