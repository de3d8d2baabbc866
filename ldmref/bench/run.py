"""A row from its declaration to its record: both sides made, compared, and measured in turn."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends.traced import TracedBackend
from ldmref.bench.libraries import require
from ldmref.bench.machine import SIZES, peaks
from ldmref.bench.measure import Pairs, difference, in_turn, time_in_turn
from ldmref.bench.peers import theirs
from ldmref.bench.processes import Start, peak_memory, write_model
from ldmref.bench.rows import Row
from ldmref.bench.works import Inputs, inputs_of, model_of, ours
from ldmref.errors import VerifyError
from ldmref.models.model import LatentDiffusion

Record = dict[str, Any]


def run(row: Row, rounds: int = 5, sizes: tuple[int, ...] = SIZES) -> Record:
    """Measure a row.

    Args:
        row: of `rows.select`.
        rounds: turns of each side that are counted, at least 1.
        sizes: of the matrix products whose best rate is called the peak.

    Returns:
        A JSON-able record: the row's fields, `error`, every round's value of `ours` and `theirs`,
        `ratio` (median, min, max); of networks `flops`, `gflops` of both sides, `peak` and `share`.

    Raises:
        BackendUnavailable: backend, device or peer is not here.
        VerifyError: the two sides do not compute the same; nothing was measured.
    """
    require(row)
    measure = {"time": _time, "memory": _memory, "start": _start}[row.measured]
    record = asdict(row) | {"title": row.title, "peer_title": row.peer_title, "rounds": rounds}
    return record | measure(row, rounds, sizes)


def _time(row: Row, rounds: int, sizes: tuple[int, ...]) -> Record:
    """Both sides in this process; where they can, they share the weights."""
    model = model_of(row)
    given = inputs_of(row, model)
    mine, other = ours(row, model, given), theirs(row, model, given)
    error = agree(row, mine.host(mine.call()), other.host(other.call()))
    flops = count_flops(row, model, given)
    pairs = time_in_turn(mine, other, rounds)
    record = {"unit": "s", "error": error, "flops": flops} | pairs.to_dict()
    peak = peaks(row.dtype, row.device, sizes)
    best = max(peak.values(), default=0.0)
    for side in ("ours", "theirs"):
        rate = flops / record[side]["median"] / 1e9
        record[side] |= {"gflops": rate, "share": rate / best if best else None}
    return record | {"peak": peak}


def _memory(row: Row, rounds: int, sizes: tuple[int, ...]) -> Record:
    """A process per side and round; bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        write_model(row, folder)
        files = {side: Path(name) / f"{side}.npy" for side in ("ours", "theirs")}
        found: dict[str, list[dict]] = {side: [] for side in files}

        def measured(side: str) -> float:
            found[side].append(peak_memory(row, side, folder, files[side]))
            return float(found[side][-1]["peak"])

        pairs = in_turn(lambda i: measured("ours"), lambda i: measured("theirs"), rounds)
        error = agree(row, *(np.load(file) for file in files.values()))
    record = {"unit": "B", "error": error} | pairs.to_dict()
    for side, values in found.items():
        record[side]["before"] = [value["before"] for value in values]
    return record


def _start(row: Row, rounds: int, sizes: tuple[int, ...]) -> Record:
    """Whole processes in turn; the first round, which fills the caches, is not counted."""
    with tempfile.TemporaryDirectory() as name:
        start = Start(row, Path(name))
        for side in ("ours", "theirs"):
            start.seconds(side)
        error = agree(row, start.picture("ours"), start.picture("theirs"))
        pairs: Pairs = in_turn(
            lambda i: start.seconds("ours"), lambda i: start.seconds("theirs"), rounds
        )
    return {"unit": "s", "error": error} | pairs.to_dict()


def agree(row: Row, mine: np.ndarray, other: np.ndarray) -> float:
    """The outputs' difference, relative to the largest.

    Raises:
        VerifyError: it is above the row's tolerance.
    """
    error = difference(mine, other)
    if not error <= row.tolerance:
        raise VerifyError(
            f"{row.name}: the two sides differ by {error:.3g} of the largest output, allowed is "
            f"{row.tolerance:.3g}",
            code="E-BENCH",
            hint="their times cannot be compared; see ldmref diff for the layer where they part",
        )
    return error


def traced_model(
    model: LatentDiffusion, layer_of: Mapping[int, str] | None = None
) -> LatentDiffusion:
    """The same model, which records its operations in `model.backend.records`."""
    seen = copy.copy(model)
    seen.backend = TracedBackend(model.backend, layer_of=layer_of)
    return seen


def count_flops(row: Row, model: LatentDiffusion, given: Inputs) -> int:
    """Operations of the row's work: convolutions counted directly, linear layers, attention."""
    seen = traced_model(model)
    ours(row, seen, given).call()
    assert isinstance(seen.backend, TracedBackend)
    return sum(record.flops for record in seen.backend.records)
