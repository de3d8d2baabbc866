"""Cost of a piece of work: its time, by operation, shape and layer, and as its size grows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.work import MeasuredWork
from ldmref.backends.traced import Record, TracedBackend, layer_names
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


def measure_work(work: MeasuredWork, model: object, rounds: int, peak: float) -> dict[str, Any]:
    """Measure a piece of work of a model.

    Args:
        work: The piece of work.
        model: Its model (`work.make_model()`).
        rounds: Measured rounds, at least 1.
        peak: GFLOP/s of matrix products on this machine; 0: unknown.

    Returns:
        JSON-able: the work's fields and `title`, `seconds` (median), `min`, `max`, `values`,
        `flops`, `gflops`, and `share` of the peak or None.
    """
    inputs = work.make_inputs(model)
    flops = count_flops(work, model, inputs)
    samples = work.make_workload(model, inputs).time(rounds)
    seconds = statistics.median(samples)
    gflops = flops / seconds / 1e9
    spread = {"min": min(samples), "max": max(samples), "values": samples}
    rate = {"flops": flops, "gflops": gflops, "share": gflops / peak if peak else None}
    return asdict(work) | {"title": work.title, "seconds": seconds} | spread | rate


def profile_work(work: MeasuredWork) -> dict[str, Any]:
    """Profile a piece of work; the second run is measured.

    Returns:
        JSON-able: total `seconds` and `flops`, and `ProfileLine`s by `kinds`, `shapes` and
        `layers`, in order of decreasing time. The last line, `other`, is the time outside the
        backend's operations: additions, concatenations, reshapes, Python. The device is
        synchronized after each operation, so a GPU takes longer than without a profile.
    """
    model = work.make_model()
    traced, records = trace(model, name_layers(model, work.networks))
    workload = work.make_workload(traced, work.make_inputs(traced))
    workload.run()
    records.clear()
    seconds = workload.seconds_per_call()
    tables = {
        "kinds": group_records(records, seconds, lambda r: (r.name, "")),
        "shapes": group_records(records, seconds, lambda r: (r.name, format_shapes(r))),
        "layers": group_records(records, seconds, lambda r: (r.layer or f"({r.name})", "")),
    }
    return {
        "work": work.work,
        "title": work.title,
        "backend": work.backend,
        "seconds": seconds,
        "flops": sum(record.flops for record in records),
    } | {name: [vars(line) for line in lines] for name, lines in tables.items()}


def trace(
    model: LatentDiffusion, layer_of: Mapping[int, str] | None = None
) -> tuple[LatentDiffusion, list[Record]]:
    """Return the model on a recording backend, and the list to which its operations are added."""
    backend = TracedBackend(model.backend, layer_of=layer_of)
    return model.with_backend(backend), backend.records


def count_flops(work: MeasuredWork, model: Any, inputs: object) -> int:
    """Count the operations of convolutions (in direct form), linear layers and attention."""
    traced, records = trace(model)
    work.make_workload(traced, inputs).run()
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
    work: MeasuredWork, variable: str, values: Sequence[int], rounds: int = 3
) -> Iterator[dict[str, Any]]:
    """Measure a piece of work at each value of resolution, batch or steps.

    Steps are those of whole images, text encoder and autoencoder included.

    Yields:
        JSON-able: `value`, `seconds` (median), `min`, `max`, `flops`, `gflops`, and `exponent`, the
        k of cost ~ value^k since the previous value: 1 is linear, 2 quadratic.

    Raises:
        UsageError: The work does not depend on `variable`.
        BackendUnavailable: The backend cannot run on this machine.
    """
    if variable == "steps":
        work = replace(work, work="image")
    elif work.work == "text" or (work.work, variable) == ("image", "batch"):
        message = f"{work.work} does not grow with {variable}"
        raise UsageError(message, code="E-GROW", hint="try unet")
    model = work.make_model()
    previous = None
    for value in values:
        field = {"resolution": "size", "steps": "steps"}.get(variable)
        sized = replace(work, **{field: value}) if field else work
        inputs = sized.make_inputs(model, batch=value if variable == "batch" else None)
        flops = count_flops(sized, model, inputs)
        samples = sized.make_workload(model, inputs).time(rounds)
        seconds = statistics.median(samples)
        point = {
            "work": work.work,
            "model": work.model,
            "backend": work.backend,
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
