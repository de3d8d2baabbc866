"""Check the rows of a batch without weights, and give each its seed and its digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldmref import modes
from ldmref.batch.inputs import RowInputs, find_inputs
from ldmref.batch.keys import ModelIdentity, derive_seed, digest_request, make_key
from ldmref.batch.rows import BatchRow, RowFailure, make_failure
from ldmref.errors import LdmrefError, UsageError
from ldmref.models.config import ModelConfig
from ldmref.modes.plan import find_mode
from ldmref.modes.run import Plan

RANDOM = (None, -1)  # the seeds that stand for a random one, which a batch derives

# From a mode and the values of a row to values that a configuration completes.
CompleteRow = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class BatchShard:
    """Part `index` (from 1) of `count` parts of a batch."""

    index: int
    count: int

    def holds(self, number: int) -> bool:
        """Return whether a row with this number belongs to the shard."""
        return number % self.count == self.index - 1

    @property
    def name(self) -> str:
        """The name of the shard in the names of files."""
        return f"{self.index}-of-{self.count}"


@dataclass(frozen=True)
class PlannedRow:
    """A checked row.

    Args:
        row: The row.
        inputs: Its parameters, with the seed, and its files.
        request: The resolved request: JSON-able values.
        digest: The SHA-256 of the request.
        images: The number of images.
        key: The key; "" until the model is known.
    """

    row: BatchRow
    inputs: RowInputs
    request: Mapping[str, Any]
    digest: str
    images: int
    key: str = ""

    def with_key(self, identity: ModelIdentity) -> PlannedRow:
        """Return the row with its key."""
        return replace(self, key=make_key(self.request, identity))

    def plan(self, config: ModelConfig) -> Plan:
        """Return the plan of the row."""
        return modes.plan(self.row.mode, config, **self.inputs.parameters())


def plan_rows(
    rows: Iterable[BatchRow | RowFailure],
    config: ModelConfig,
    folder: Path,
    complete: CompleteRow | None = None,
) -> list[PlannedRow | RowFailure]:
    """Check every row; those that are wrong become failures.

    Args:
        rows: From `read_rows`.
        config: The model's configuration.
        folder: The folder to which paths in rows are relative.
        complete: Fills in values that a configuration file gives.
    """
    return [
        row if isinstance(row, RowFailure) else _plan_or_fail(row, config, folder, complete)
        for row in rows
    ]


def _plan_or_fail(
    row: BatchRow, config: ModelConfig, folder: Path, complete: CompleteRow | None
) -> PlannedRow | RowFailure:
    try:
        return plan_row(row, config, folder, complete)
    except LdmrefError as error:
        return make_failure(row.line, row.custom_id, error)


def plan_row(
    row: BatchRow, config: ModelConfig, folder: Path, complete: CompleteRow | None = None
) -> PlannedRow:
    """Check a row.

    Raises:
        LdmrefError: A parameter or a file is wrong.
    """
    takes = find_mode(row.mode).parameters
    require_images(row.mode)
    values = dict(row.values if complete is None else complete(row.mode, row.values))
    seed = values.get("seed")
    if isinstance(seed, list) and any(one in RANDOM for one in seed):
        raise UsageError(
            "a list of seeds in a batch must hold seeds only, not -1",
            code="E-SEED",
            hint="leave seed out: a batch derives it from the row",
        )
    derived = "seed" in takes and seed in RANDOM
    inputs = find_inputs(row.mode, values, folder, config)
    if derived:
        inputs = replace(inputs, values={**inputs.values, "seed": 0})
    plan = modes.plan(row.mode, config, **inputs.parameters())
    request = resolve_request(plan, inputs)
    if derived:
        seed = derive_seed({k: v for k, v in request.items() if k not in ("seed", "seed_b")})
        inputs = replace(inputs, values={**inputs.values, "seed": seed})
        request = resolve_request(modes.plan(row.mode, config, **inputs.parameters()), inputs)
    return PlannedRow(row, inputs, request, digest_request(request), len(plan.job.seeds))


def require_images(mode: str) -> None:
    """Refuse a mode that does not generate images.

    Raises:
        UsageError: The mode finds noise.
    """
    if mode == "invert":
        raise UsageError(
            "a batch does not run invert, which finds noise instead of an image",
            code="E-MODE",
            hint="ldmref invert --noise FILE.npy, then a row of txt2img with that file as latents",
        )


def resolve_request(plan: Plan, inputs: RowInputs) -> dict[str, Any]:
    """Return the resolved parameters of a plan, with the digests of its files.

    The size of batches within the row is part of it, since it may change the last bits.
    """
    together = plan.job.batch_size
    grouped = {"batch_size": together} if together > 1 and len(plan.job.seeds) > 1 else {}
    return {**plan.params, **grouped, **inputs.digests}


def select_shard(
    rows: Iterable[PlannedRow | RowFailure], shard: BatchShard | None
) -> list[PlannedRow | RowFailure]:
    """Return the rows of a shard: by digest, so equal rows share one; by line if a row is wrong."""
    if shard is None:
        return list(rows)
    return [row for row in rows if shard.holds(_number(row))]


def _number(row: PlannedRow | RowFailure) -> int:
    return row.line if isinstance(row, RowFailure) else int(row.digest, 16)
