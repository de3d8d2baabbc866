"""Guided runs of the teacher, all of their states, on disk.

folder/trajectories-DIGEST-00000.safetensors, ... hold `SHARD` runs each: `states`, float16, (n,
levels, z, h, w), in the scale of the network's training, with their prompts in the metadata. Their
captions and seeds follow from the recipe's seed and the number of the run alone, so an interrupted
series continues with the next file, and a longer one begins with the shorter. The digest identifies
the teacher, the images and how the runs are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import torch

from ldmref import modes
from ldmref.datasets.base import Dataset
from ldmref.datasets.config import DataSummary
from ldmref.errors import Cancelled, InputError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers.denoiser import in_own_scale
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import Schedule
from ldmref.support.files import parse_json
from ldmref.training.batches import step_generator
from ldmref.training.distributed import first_rank_first
from ldmref.training.finetune.recipe import FineTuneRecipe

SHARD = 64  # runs in a file
BATCH = 16  # runs at a time on a processor; on other devices `LARGE_BATCH`
LARGE_BATCH = 1024
FIRST_SEED = 2**32  # above those that people give


class RunLevels(NamedTuple):
    """The levels of the states: x = alpha x0 + sigma eps at timestep t, each (levels,) float64."""

    alpha: np.ndarray
    sigma: np.ndarray
    t: np.ndarray


class Trajectories(NamedTuple):
    """The runs.

    Attributes:
        states: Of each file, (n, levels, z, h, w) float16, memory-mapped.
        prompts: One for each run.
        levels: The levels of the states.
    """

    states: list[np.ndarray]
    prompts: list[str]
    levels: RunLevels

    def read(self, runs: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return the states of some runs at some levels, (n, z, h, w) float32."""
        pairs = zip(runs.tolist(), levels.tolist(), strict=True)
        found = [self.states[run // SHARD][run % SHARD, level] for run, level in pairs]
        return np.stack(found).astype(np.float32)


def find_levels(config: ModelConfig, schedule: Schedule) -> RunLevels:
    """Return the levels of a run of a schedule, in the scale of the network's training."""
    levels = schedule.sigmas.tolist()
    ratio = np.asarray([schedule.path.ratio(level) for level in levels])
    if config.scheduler.path is FLOW:
        sigma = np.asarray([FLOW.level(r) for r in ratio.tolist()])
        alpha = 1.0 - sigma
    else:
        alpha = 1.0 / np.sqrt(1.0 + ratio**2)
        sigma = ratio * alpha
    return RunLevels(alpha, sigma, np.append(schedule.timesteps, schedule.timestep(levels[-1])))


def stored_trajectories(
    recipe: FineTuneRecipe,
    folder: Path,
    teacher: LatentDiffusion,
    data: Dataset,
    summary: DataSummary,
    log: Callable[[str], None],
    cancel: Event | None = None,
) -> Trajectories:
    """Return the runs of a recipe; make those that are missing.

    Args:
        recipe: Says how many runs there are, and how they are made.
        folder: Where they are stored.
        teacher: The model, on a backend that computes in float32.
        data: Its captions are the prompts; images of weight 0 have none.
        summary: Identifies the data.
        log: Called with a line after each file.
        cancel: Stops between two batches; what belongs to a complete file is kept. None: nothing
            does.

    Raises:
        Cancelled: `cancel` was set.
        OutputError: A file cannot be written.
        InputError: A file is damaged.
    """
    count = recipe.distill.trajectories
    name = f"trajectories-{_digest(recipe, summary)}"
    starts = range(0, count, SHARD)
    paths = [folder / f"{name}-{i:05}.safetensors" for i in range(len(starts))]
    with first_rank_first():
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        together = max(1, _batch_size(teacher) // SHARD)
        for first in range(0, len(missing), together):
            shards = missing[first : first + together]
            numbers = [starts[i] + j for i in shards for j in range(SHARD)]
            batches = [*_run_batches(recipe, teacher, data, numbers, cancel)]
            states = np.concatenate([states for states, _ in batches])
            prompts = [prompt for _, texts in batches for prompt in texts]
            for k, i in enumerate(shards):
                own = slice(k * SHARD, (k + 1) * SHARD)
                _write(paths[i], states[own], prompts[own])
            log(f"{min(numbers[-1] + 1, count)} of {count} runs of the teacher are stored")
    shards = [_read(path) for path in paths]
    levels = find_levels(teacher.config, start_runs(recipe, teacher, [""], [0]).schedule)
    prompts = [prompt for _, texts in shards for prompt in texts]
    return Trajectories([states for states, _ in shards], prompts[:count], levels)


def start_runs(
    recipe: FineTuneRecipe, teacher: LatentDiffusion, prompts: list[str], seeds: list[int]
) -> Trajectory:
    """Return guided runs of the teacher, as txt2img begins them."""
    distill = recipe.distill
    plan = modes.plan(
        "txt2img",
        teacher,
        prompt=prompts,
        seed=seeds,
        steps=distill.steps,
        cfg_scale=distill.cfg_scale,
        sampler=distill.sampler,
        schedule=distill.schedule,
        width=recipe.data.size,
        height=recipe.data.size,
        batch_size=len(prompts),
    )
    return plan.prepare(teacher).trajectory(slice(0, len(prompts)))


def list_states(runs: Trajectory) -> np.ndarray:
    """Return all states of runs, (n, levels, z, h, w) float16, in the network's own scale."""
    ops = runs.model.backend
    kind = runs.model.config.scheduler.prediction_type
    path = runs.schedule.path
    with torch.no_grad(), ops.inference():
        states = [(runs.x, runs.levels[0]), *((s.x, s.sigma) for s in runs.states())]
        own = [in_own_scale(kind, x, sigma, path)[0] for x, sigma in states]
        return np.stack([ops.to_numpy(x).astype(np.float16) for x in own], axis=1)


def choose_prompts(recipe: FineTuneRecipe, data: Dataset, numbers: Sequence[int]) -> list[str]:
    """Return the prompts of runs: captions of random images, some of them empty."""
    odds = data.weights / data.weights.sum()
    cumulative = np.cumsum(odds)
    prompts = []
    for number in numbers:
        rng = step_generator(recipe.seed, number, "trajectory")
        image = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        empty = rng.random() < recipe.diffusion.objective.caption_dropout
        prompts.append("" if empty else data.caption(image, rng))
    return prompts


def _run_batches(
    recipe: FineTuneRecipe,
    teacher: LatentDiffusion,
    data: Dataset,
    numbers: Sequence[int],
    cancel: Event | None,
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield the states and the prompts of the runs with these numbers, some at a time."""
    size = _batch_size(teacher)
    for start in range(0, len(numbers), size):
        if cancel is not None and cancel.is_set():
            message = f"stopped after {numbers[0]} runs of the teacher"
            hint = "they are stored; repeat the command to resume"
            raise Cancelled(message, code="E-CANCELLED", hint=hint)
        batch = numbers[start : start + size]
        prompts = choose_prompts(recipe, data, batch)
        seeds = [FIRST_SEED * (1 + recipe.seed % 2**30) + number for number in batch]
        yield list_states(start_runs(recipe, teacher, prompts, seeds)), prompts


def _batch_size(teacher: LatentDiffusion) -> int:
    """Return how many runs are computed at a time."""
    return BATCH if teacher.backend.device == "cpu" else LARGE_BATCH


def _write(path: Path, states: np.ndarray, prompts: list[str]) -> None:
    write_tensors(path, {"states": source(states)}, {"prompts": json.dumps(prompts)})


def _read(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the states and the prompts of a file."""
    file = TensorFile(path)
    try:
        prompts = parse_json(file.metadata["prompts"], "prompts")
        return file["states"], [str(prompt) for prompt in prompts]
    except (KeyError, ValueError, TypeError) as error:
        message = f"the runs of the teacher in {str(path)!r} cannot be read: {error}"
        hint = "delete the file: it is made again"
        raise InputError(message, code="E-RESUME", hint=hint) from error


def _digest(recipe: FineTuneRecipe, summary: DataSummary) -> str:
    """Return the digest of everything that a run depends on, except for its number."""
    distill = recipe.distill
    parts = (
        summary,
        recipe.seed,
        recipe.data.size,
        recipe.diffusion.objective.caption_dropout,
        distill.steps,
        distill.cfg_scale,
        distill.sampler,
        distill.schedule,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
