"""Where the time of a row's work goes: by operation, by operation and shape, and by layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from ldmref.backends.traced import Record, TracedBackend
from ldmref.bench.rows import Row
from ldmref.bench.run import traced_model
from ldmref.bench.works import PARTS, inputs_of, model_of, ours
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten

OTHER = "other"


@dataclass(frozen=True)
class Line:
    """A kind of operation, one with its `shapes` (else ""), or a layer; `gflops` may be 0."""

    name: str
    shapes: str
    calls: int
    seconds: float
    share: float  # of the whole
    gflops: float


def profile(row: Row) -> dict[str, Any]:
    """Seconds, and lines by kind, shape and layer, largest first; of the second run, JSON-able.

    `other` is what is no operation of the backend: additions, concatenations, changes of shape,
    Python. Each operation waits for the device, so on a GPU the sum is above the untraced time.
    """
    model = model_of(row)
    seen = traced_model(model, layer_names(model, PARTS[row.work]))
    ops, side = seen.backend, ours(row, seen, inputs_of(row, seen))
    assert isinstance(ops, TracedBackend)
    side.call()
    ops.records.clear()
    side.wait()
    start = time.perf_counter()
    side.call()
    side.wait()
    seconds = time.perf_counter() - start
    return {
        "row": row.name,
        "title": row.title,
        "backend": row.backend,
        "seconds": seconds,
        "flops": sum(record.flops for record in ops.records),
        "kinds": [vars(line) for line in lines(ops.records, seconds, lambda r: (r.name, ""))],
        "shapes": [vars(line) for line in lines(ops.records, seconds, _kind_and_shapes)],
        "layers": [vars(line) for line in lines(placed(ops.records), seconds, _layer)],
    }


def layer_names(model: LatentDiffusion, parts: Sequence[str]) -> dict[int, str]:
    """The checkpoint's name of the layer of each parameter, by the array's id.

    `down_blocks.0.resnets.0.conv1`; with the network's name before it if there are several.
    """
    return {
        id(leaf): name.rpartition(".")[0]
        for part in parts
        for name, leaf in flatten(model.params[part], f"{part}." if len(parts) > 1 else "").items()
    }


def placed(records: Sequence[Record]) -> list[Record]:
    """Records in which operations without parameters have a layer too.

    It is the innermost module that holds the layers before and after: attention lies between `to_v`
    and `to_out.0` of `attn1`, and is `attn1`'s.
    """
    found, before = [], [""]
    for record in records:
        before.append(record.layer or before[-1])
    after = ""
    for record, last in zip(reversed(records), reversed(before[:-1]), strict=True):
        found.append(record if record.layer else replace(record, layer=_common(last, after)))
        after = record.layer or after
    return found[::-1]


def _common(a: str, b: str) -> str:
    """The module that holds both layers: the names that both begin with."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return ".".join(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _layer(record: Record) -> tuple[str, str]:
    return record.layer or f"({record.name})", ""


def lines(
    records: Iterable[Record], seconds: float, key: Callable[[Record], tuple[str, str]]
) -> list[Line]:
    """Records in groups of equal key, by falling time; the last is what is left of `seconds`."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    found = [_line(*name, group, seconds) for name, group in groups.items()]
    left = seconds - sum(line.seconds for line in found)
    found.sort(key=lambda line: -line.seconds)
    return [*found, Line(OTHER, "", 0, left, left / seconds, 0.0)]


def _line(name: str, shapes: str, group: list[Record], seconds: float) -> Line:
    taken = sum(record.seconds for record in group)
    gflops = sum(record.flops for record in group) / taken / 1e9 if taken else 0.0
    return Line(name, shapes, len(group), taken, taken / seconds, gflops)


def _kind_and_shapes(record: Record) -> tuple[str, str]:
    return record.name, shapes_of(record)


def shapes_of(record: Record) -> str:
    """Input, weight and output as `2x320x64x64 * 320x320x3x3 -> 2x320x64x64`.

    >>> shapes_of(Record(0, "linear", ((2, 9, 6), (8, 6), (8,)), (2, 9, 8), 0.1, 1728))
    '2x9x6 * 8x6 -> 2x9x8'
    """
    inputs = [shape for shape in record.inputs if len(shape) > 1]
    joined = " * ".join("x".join(map(str, shape)) for shape in inputs)
    return f"{joined} -> {'x'.join(map(str, record.output))}"
