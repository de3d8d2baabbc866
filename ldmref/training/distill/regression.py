r"""The regression of a flow map on runs of its teacher.

Two states of one run, x = alpha x0 + sigma eps and x' = alpha' x0 + sigma' eps, determine the pair
(x0, eps) of the straight step between them, and so what a network must predict for a sampler to go
from x to x' in one step:

.. math:: y = \frac{c\, x - k\, x'}{d}, \qquad d = \alpha' \sigma - \alpha \sigma'

| prediction | c                              | k                   |
|------------|--------------------------------|---------------------|
| eps        | alpha'                         | alpha               |
| x0         | -sigma'                        | -sigma              |
| v          | alpha alpha' + sigma sigma'    | alpha^2 + sigma^2   |
| flow       | alpha' + sigma'                | alpha + sigma       |

With alpha = cos phi and sigma = sin phi, DDIM is a rotation, and v is the mean velocity of its arc,
(cos(d) x - x') / sin(d); on the path of flow matching it is (x - x') / (s - s'). The loss is the
squared error of y / k, which is v's or the velocity's for every kind, times d^2 + 0.1: with d^2
alone it is the error of the state at which the step arrives.

Boffi, Albergo, Vanden-Eijnden 2025, arXiv:2505.18825, section 3 (flow maps from a teacher).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ldmref.backends.torch import TorchBackend
from ldmref.math.arrays import Array, along
from ldmref.models.conditioning import Conditioning, add_next_time, select_rows
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params
from ldmref.modes.text import encode_conditioning
from ldmref.training.batches import Part, step_generator
from ldmref.training.diffusion.loss import BINS, sum_in_bins
from ldmref.training.distill.student import DistillAdapter
from ldmref.training.distill.trajectories import Trajectories
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.loss import Loss
from ldmref.training.observe import StepObserver
from ldmref.training.trainer import Trainer

FLOOR = 0.1  # weight of short steps
COEFFICIENTS: dict[str, Callable[[Array, Array, Array, Array], tuple[Array, Array]]] = {
    "eps": lambda a, s, a_end, s_end: (a_end, a),
    "x0": lambda a, s, a_end, s_end: (-s_end, -s),
    "v": lambda a, s, a_end, s_end: (a * a_end + s * s_end, a * a + s * s),
    "flow": lambda a, s, a_end, s_end: (a_end + s_end, a + s),
}  # of x and x', by prediction type

# the shares of the steps of a batch: the whole run, its halves and its quarters in their order; the
# rest lead from any level to any later one
WHOLE, HALVES, QUARTERS = 0.25, (0.17, 0.09), (0.16, 0.06, 0.06, 0.06)
JUMPS = 3  # at most so many steps lead the student to a state of its own


def mean_prediction(
    kind: str, x: Array, end: Array, level: tuple[Array, Array], to: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """Return (y, k, d): what a network must predict for the step from one state to another.

    Args:
        kind: `eps`, `v`, `x0` or `flow`.
        x: The state at the start of the step, (n, ...).
        end: The state at which it must arrive, shape of `x`.
        level: alpha and sigma at the start, scalars or (n,).
        to: alpha and sigma at the end, at a level of less noise.

    Returns:
        The prediction, shape of `x`; and k and d of the formula, shape of the levels.

    >>> import numpy as np
    >>> x, end = np.asarray([[2.0]]), np.asarray([[1.0]])
    >>> y, _, _ = mean_prediction("flow", x, end, (0.25, 0.75), (0.5, 0.5))
    >>> y  # the velocity by which x becomes the end within 0.25
    array([[4.]])
    """
    (alpha, sigma), (alpha_end, sigma_end) = level, to
    c, k = COEFFICIENTS[kind](alpha, sigma, alpha_end, sigma_end)
    d = alpha_end * sigma - alpha * sigma_end
    return along(c / d, x) * x - along(k / d, x) * end, k, d


def arrive(
    kind: str, x: Array, y: Array, level: tuple[Array, Array], to: tuple[Array, Array]
) -> Array:
    """Return the state to which a prediction y leads, x' = (c x - d y) / k, shape of `x`.

    It is the inverse of `mean_prediction`, whose arguments these are.

    >>> import numpy as np
    >>> arrive("flow", np.asarray([[2.0]]), np.asarray([[4.0]]), (0.25, 0.75), (0.5, 0.5))
    array([[1.]])
    """
    (alpha, sigma), (alpha_end, sigma_end) = level, to
    c, k = COEFFICIENTS[kind](alpha, sigma, alpha_end, sigma_end)
    d = alpha_end * sigma - alpha * sigma_end
    return along(c / k, x) * x - along(d / k, x) * y


def choose_steps(rng: np.random.Generator, n: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last level of n steps within runs of `steps` steps, (n,) int64."""
    half, quarter = steps // 2, steps // 4
    fixed = [(0, steps), (0, half), (half, steps)]
    fixed += [(start, start + quarter) for start in range(0, steps, quarter)]
    shares = np.cumsum([WHOLE, *HALVES, *QUARTERS])
    kinds = np.searchsorted(shares, rng.random(n), side="right")
    first = rng.integers(0, steps, n)
    last = rng.integers(first + 1, steps + 1)
    known = np.asarray([*fixed, (0, 0)])[kinds]
    is_random = kinds == len(fixed)
    return np.where(is_random, first, known[:, 0]), np.where(is_random, last, known[:, 1])


def choose_own_states(
    rng: np.random.Generator, first: np.ndarray, last: np.ndarray, share: float
) -> np.ndarray:
    """Return by how many of its own steps the student reaches the start of each step, (n,) int64.

    A share of the steps that begin one to `JUMPS` times their own length after the first level
    begins at the student's own states; all others, with 0, at those of the teacher.
    """
    jumps, rest = np.divmod(first, last - first)
    possible = (rest == 0) & (jumps <= JUMPS)
    return np.where(possible & (rng.random(len(first)) < share), jumps, 0)


class StepBatch(NamedTuple):
    """The steps of a batch: tensors on the device, (n, ...).

    Where `jumps` is not 0, `x` is the first state of the run, from which the student jumps as often
    until it is at the level `first`.
    """

    runs: np.ndarray
    prompts: list[str]
    x: torch.Tensor
    end: torch.Tensor
    first: np.ndarray
    last: np.ndarray
    jumps: np.ndarray


class StepBatches:
    """Samples the batch of each step, `batches(step, part)`, from the generators of that step."""

    def __init__(self, recipe: FineTuneRecipe, runs: Trajectories, ops: TorchBackend):
        self.recipe = recipe
        self.runs = runs
        self.ops = ops

    def __call__(self, step: int, part: Part) -> StepBatch:
        n = self.recipe.diffusion.optimizer.batch_size
        rng = step_generator(self.recipe.seed, step, "distill")
        numbers = part.slice(rng.integers(0, len(self.runs.prompts), n))
        distill = self.recipe.distill
        steps = choose_steps(rng, n, distill.steps)
        jumps = part.slice(choose_own_states(rng, *steps, distill.own_states))
        first, last = (part.slice(x) for x in steps)
        start = np.where(jumps > 0, 0, first)
        x, end = (self.ops.asarray(self.runs.read(numbers, at)) for at in (start, last))
        prompts = [self.runs.prompts[i] for i in numbers]
        return StepBatch(numbers, prompts, x, end, first, last, jumps)


def distillation_trainer(
    recipe: FineTuneRecipe,
    adapter: DistillAdapter,
    runs: Trajectories,
    ops: TorchBackend,
    observer: StepObserver | None = None,
) -> Trainer:
    """Return a trainer of the student on runs of its teacher; `observer` sees every step.

    Args:
        recipe: The recipe.
        adapter: The student.
        runs: The runs.
        ops: A backend in float32 that records gradients. For a recipe in bfloat16, matrix products
            alone are rounded, as torch's autocast does it: on processors that takes two thirds of
            the time of networks in bfloat16.
        observer: Sees every step. None: nothing does.
    """
    stage = recipe.diffusion
    config = adapter.config
    batches = StepBatches(recipe, runs, ops)
    size = (recipe.data.size, recipe.data.size)
    rounds = recipe.dtype == "bfloat16"

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        batch = batches(step, part)
        student = adapter.adapted(ops, params)
        with torch.no_grad():
            condition = encode_conditioning(student, batch.prompts, size)
        t, t_next = (ops.asarray(runs.levels.t[i]) for i in (batch.first, batch.last))
        with torch.autocast(batch.x.device.type, torch.bfloat16, rounds):
            with torch.no_grad():
                batch = reach_own_states(student, runs, batch, condition)
            output = student.predict(batch.x, t, add_next_time(condition, t_next))
        losses = step_losses(config, runs, batch, output)
        index = (t * (BINS / config.scheduler.num_train_timesteps)).long().clamp(0, BINS - 1)
        return Loss(losses.mean(), batch=batch.runs, by_timestep=sum_in_bins(losses, index))

    trainer = Trainer(stage.optimizer, stage.budget.steps, adapter.initial, loss, ops)
    trainer.observer = observer
    return trainer


def reach_own_states(
    student: LatentDiffusion, runs: Trajectories, batch: StepBatch, condition: Conditioning
) -> StepBatch:
    """Return a batch that begins at the student's own states, where it is to do so.

    Each jump is as long as the step that follows it, as in sampling with equal steps; what the step
    must reach stays the state of the teacher's run.
    """
    ops = student.backend
    kind = student.config.scheduler.prediction_type
    alpha, sigma = (
        torch.as_tensor(x, device=batch.x.device) for x in (runs.levels.alpha, runs.levels.sigma)
    )
    length = batch.last - batch.first
    x = batch.x.double()
    for jump in range(batch.jumps.max(initial=0)):
        rows = np.flatnonzero(batch.jumps > jump)
        start, end = length[rows] * jump, length[rows] * (jump + 1)
        t, t_next = (ops.asarray(runs.levels.t[i]) for i in (start, end))
        there = add_next_time(select_rows(condition, rows), t_next)
        y = student.predict(x[rows].to(batch.x.dtype), t, there).double()
        level, to = (alpha[start], sigma[start]), (alpha[end], sigma[end])
        x[rows] = arrive(kind, x[rows], y, level, to)
    return batch._replace(x=x.to(batch.x.dtype))


def step_losses(
    config: ModelConfig, runs: Trajectories, batch: StepBatch, output: torch.Tensor
) -> torch.Tensor:
    """Return the loss of each step, (n,), of the student's `output`, (n, z, h, w)."""
    alpha, sigma = (
        torch.as_tensor(x, device=output.device) for x in (runs.levels.alpha, runs.levels.sigma)
    )
    start = alpha[batch.first], sigma[batch.first]
    end = alpha[batch.last], sigma[batch.last]
    kind = config.scheduler.prediction_type
    target, k, d = mean_prediction(kind, batch.x.double(), batch.end.double(), start, end)
    error = (output.to(batch.x.dtype) - target.to(batch.x.dtype)).square().flatten(1).mean(1)
    return error * ((d.square() + FLOOR) / k.square()).to(error.dtype)
