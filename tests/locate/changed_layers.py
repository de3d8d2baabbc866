"""Recorded calls of networks in which the array of one layer is changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from changed_arrays import NUMBER, OFTEN, ONCE, Change, is_alike
from numpy_ports import make_model, run_port

from ldmref.locate import Row
from ldmref.locate.diff import ModelOriginal
from ldmref.locate.recorded.precision import round_to
from ldmref.trace import build_trace

LAYOUTS: dict[str, Change] = {
    "channels last": lambda x: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x,
    "tokens": lambda x: x.reshape(*x.shape[:2], -1).swapaxes(1, 2) if x.ndim == 4 else x,
    "one axis": lambda x: x.reshape(-1),
    "no batch": lambda x: x[0] if x.ndim > 1 else x,
    "one example": lambda x: x[:1],
    "rounded": lambda x: round_to(x, "bfloat16"),
    "a part": lambda x: np.where(np.arange(x.shape[-1]) < x.shape[-1] // 2, x, 0 * x),
    "an infinity": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 1, np.inf, x),
}
CHANGES = {k: x for k, x in {**OFTEN, **ONCE, **LAYOUTS}.items() if k != "missing"}


class Layers(NamedTuple):
    """A call: its model, its network, the kinds of layers that are not recorded, and of which
    layers arrays are changed, every how many."""

    model: str
    network: str
    every: int
    hidden: tuple[str, ...] = ()


LEAVES = ("conv", "linear", "silu", "gelu", "add", "attention", "layer_norm", "group_norm")
RUNS = {
    "layers-of-unet": Layers("tiny", "unet", 61),
    "blocks-of-unet": Layers("tiny", "unet", 17, LEAVES),
    "layers-of-text": Layers("tiny", "text_encoder", 31),
    "layers-of-decoder": Layers("tiny", "vae.decode", 43),
    "layers-of-sd3": Layers("sd3-tiny", "transformer", 67),
    "layers-of-flux": Layers("flux-tiny", "transformer", 67),
}


def changes_of(tensors: dict[str, np.ndarray], every: int) -> Iterator[tuple[str, dict]]:
    """Yield the changes of every n-th array of a layer, one after the other."""
    names = [name for name in tensors if not name.partition("/")[2].startswith("/")]
    titles = list(CHANGES)
    for number, name in enumerate(names[::every]):
        x = np.asarray(tensors[name])
        for title in titles[number % 2 :: 2]:
            with np.errstate(all="ignore"):
                other = np.asarray(CHANGES[title](x)).astype(x.dtype)
            if not is_alike(other, x):
                yield f"{name} {title}", {**tensors, name: other}


def words_of(row: Row) -> str:
    """Return a row in a few words without numbers; the letters are those of `changed_arrays`."""
    verdict = "" if row.verdict == "differs" else f"{row.verdict}: "
    kinds = {"n": row.note, "s": row.segment, "e": row.explained is not None}
    letters = "".join(letter for letter, value in kinds.items() if value)
    cause = f" ({NUMBER.sub('#', row.cause)})" if row.cause else ""
    return f"{verdict}{row.layer} {row.kind} {letters}".rstrip() + cause


CLEAR = 20.0  # how many times what is allowed an error of a stored row is, or more
PROCESSORS = 4.0  # by which factor kernels of other processors may change that
Changes = list[tuple[str, dict[str, float]]]


def clearness(row: Row) -> float:
    """Return how many times what is allowed the error of a row is."""
    return math.inf if row.verdict == "not judged" else row.excess


def judge_changes(name: str) -> Changes:
    """Return the changes of a call: each with its rows, and how clear each of these is."""
    run = RUNS[name]
    model = make_model(run.model)
    tensors = run_port(model, network=run.network, hidden=run.hidden)
    changes: Changes = []
    for title, changed in [("unchanged", tensors), *changes_of(tensors, run.every)]:
        port = build_trace(changed)
        with np.errstate(all="ignore"):
            rows = ModelOriginal(model).judge_call(port, port.calls[0], "float32", [])
        found = {words_of(row): clearness(row) for row in rows if row.verdict != "equal"}
        changes.append((title, found))
    return changes


def lines_of(changes: Changes, least: float) -> list[str]:
    """Return a line for each change, with the rows that are as clear as that."""
    lines = []
    for title, found in changes:
        rows = [words for words, clear in found.items() if clear >= least]
        lines.append(f"{title}: {'; '.join(rows) or 'equal'}")
    return lines


def describe(name: str) -> list[str]:
    """Return a line for each change of a call, as they are stored."""
    return lines_of(judge_changes(name), CLEAR)


def rows_of(line: str) -> tuple[str, set[str]]:
    """Return the change that a line is about, and its rows."""
    title, _, rows = line.partition(": ")
    return title, {*rows.split("; ")} - {"equal"}
