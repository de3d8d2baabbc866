"""Cost of ldmref alone: by operation, shape and layer, and as a function of a case's size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ldmref.backends.traced import Record, TracedBackend, layer_names
from ldmref.bench.cases import (
    TRAINING_BATCH,
    BenchmarkCase,
    CaseInputs,
    ldmref_workload,
)
from ldmref.bench.workload import Workload
from ldmref.errors import UsageError
from ldmref.models.model import LatentDiffusion

OTHER = "other"
SCALING_VALUES = {"resolution": (128, 256, 384, 512), "batch": (1, 2, 4, 8), "steps": (1, 2, 4, 8)}
SMALL_SCALING_VALUES = {"resolution": (16, 32, 64), "batch": (1, 2, 4), "steps": (1, 2, 4)}


@dataclass(frozen=True)
class ProfileLine:
    """The time of operations of one kind, of one kind and `shapes`, or of one layer."""

    name: str
    shapes: str
    calls: int
    seconds: float
    share: float  # of the total time
    gflops: float  # GFLOP/s; 0 for operations that are not counted


def profile_case(case: BenchmarkCase) -> dict[str, Any]:
    """Profile ldmref's side of a case; the second run is measured.

    Returns:
        JSON-able: total `seconds` and `flops`, and `ProfileLine`s by `kinds`, `shapes` and
        `layers`, in order of decreasing time. The last line, `other`, is the time outside the
        backend's operations: additions, concatenations, reshapes, Python. The device is
        synchronized after each operation, so a GPU takes longer than without a profile.
    """
    model = case.make_model()
    traced, records = trace(model, name_layers(model, case.networks))
    workload = ldmref_workload(case, traced, case.make_inputs(traced))
    workload.run()
    records.clear()
    seconds = workload.seconds_per_call()
    tables = {
        "kinds": group_records(records, seconds, lambda r: (r.name, "")),
        "shapes": group_records(records, seconds, lambda r: (r.name, format_shapes(r))),
        "layers": group_records(records, seconds, lambda r: (r.layer or f"({r.name})", "")),
    }
    return {
        "row": case.name,
        "title": case.title,
        "backend": case.backend,
        "seconds": seconds,
        "flops": sum(record.flops for record in records),
    } | {name: [vars(line) for line in lines] for name, lines in tables.items()}


def trace(
    model: LatentDiffusion, layer_of: Mapping[int, str] | None = None
) -> tuple[LatentDiffusion, list[Record]]:
    """Return the model on a recording backend, and the list to which its operations are added."""
    backend = TracedBackend(model.backend, layer_of=layer_of)
    return model.with_backend(backend), backend.records


def count_flops(case: BenchmarkCase, model: LatentDiffusion, inputs: CaseInputs) -> int:
    """Count the operations of convolutions (in direct form), linear layers and attention.

    For a training step these are the U-Net's; the backward pass has twice those of the forward one.
    """
    if case.work == "train":
        inputs = case.make_inputs(model, TRAINING_BATCH)
        return 3 * count_flops(replace(case, work="unet"), model, inputs)
    traced, records = trace(model)
    ldmref_workload(case, traced, inputs).run()
    return sum(record.flops for record in records)


def name_layers(model: LatentDiffusion, networks: Sequence[str]) -> dict[int, str]:
    """Return layer names of the checkpoint (`down_blocks.0.resnets.0.conv1`) by a parameter's `id`.

    The network's name is prepended if there are several networks.
    """
    names: dict[int, str] = {}
    for network in networks:
        names |= layer_names(model.params[network], network if networks[1:] else "")
    return names


def group_records(
    records: Iterable[Record], total: float, key: Callable[[Record], tuple[str, str]]
) -> list[ProfileLine]:
    """Return a line per (name, shapes), in order of decreasing time, and `other` up to `total`."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    lines = []
    for (name, shapes), group in groups.items():
        seconds = sum(record.seconds for record in group)
        gflops = sum(record.flops for record in group) / seconds / 1e9 if seconds else 0.0
        lines.append(ProfileLine(name, shapes, len(group), seconds, seconds / total, gflops))
    lines.sort(key=lambda line: -line.seconds)
    rest = total - sum(line.seconds for line in lines)
    return [*lines, ProfileLine(OTHER, "", 0, rest, rest / total, 0.0)]


def format_shapes(record: Record) -> str:
    """Format the shapes of input, weight and output.

    >>> format_shapes(Record(0, "linear", ((2, 9, 6), (8, 6), (8,)), (2, 9, 8), 0.1, 1728))
    '2x9x6 * 8x6 -> 2x9x8'
    """
    matrices = [shape for shape in record.inputs if len(shape) > 1]
    *inputs, output = ("x".join(map(str, shape)) for shape in (*matrices, record.output))
    return f"{' * '.join(inputs)} -> {output}"


def measure_scaling(
    case: BenchmarkCase, variable: str, values: Sequence[int], rounds: int = 3
) -> Iterator[dict[str, Any]]:
    """Measure ldmref's side of a case at each value of resolution, batch or steps.

    Steps are those of whole images, text encoder and autoencoder included.

    Yields:
        JSON-able: `value`, `seconds` (median), `min`, `max`, `flops`, `gflops`, and `exponent`, the
        k of cost ~ value^k since the previous value: 1 is linear, 2 quadratic.

    Raises:
        UsageError: The case does not depend on `variable`.
        BackendUnavailable: The backend cannot run on this machine.
    """
    if variable == "steps":
        case = replace(case, work="image")
    elif case.work == "text" or (case.work, variable) == ("image", "batch"):
        message = f"{case.name} does not grow with {variable}"
        raise UsageError(message, code="E-GROW", hint="try a row of the U-Net")
    model = case.make_model()
    previous = None
    for value in values:
        field = {"resolution": "size", "steps": "steps"}.get(variable)
        sized = replace(case, **{field: value}) if field else case
        inputs = sized.make_inputs(model, batch=value if variable == "batch" else None)
        flops = count_flops(sized, model, inputs)
        samples = time_workload(ldmref_workload(sized, model, inputs), rounds)
        seconds = statistics.median(samples)
        point = {
            "row": case.name,
            "model": case.model,
            "backend": case.backend,
            "what": variable,
            "value": value,
            "seconds": seconds,
            "min": min(samples),
            "max": max(samples),
            "flops": flops,
            "gflops": flops / seconds / 1e9,
            "exponent": None,
        }
        if previous:
            growth = math.log(seconds / previous["seconds"])
            point["exponent"] = growth / math.log(value / previous["value"])
        previous = point
        yield point


def time_workload(workload: Workload, rounds: int) -> list[float]:
    """Return the seconds per call in each round, after one warm-up call."""
    repeat = workload.repeats()
    return [workload.seconds_per_call(repeat) for _ in range(rounds)]
