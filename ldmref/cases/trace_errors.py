"""The tolerances of golden traces: runs with random errors of the size of float32's roundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.golden_models import golden_model
from ldmref.cases.parameters import random_stream
from ldmref.cases.recorder import RUNS, SAFETY, U, bound_of, largest_rounding
from ldmref.cases.trace_runs import GoldenTrace, RecordedRun, record_run
from ldmref.cases.values import NamedArrays
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import Schedule, training_alphas_cumprod

LEVEL_ROUNDINGS = 8.0  # of a level of a flow: s, k s, (k - 1) s, the sum, the quotient, 1000 s
ROUNDINGS = 16.0  # of the largest operand, in a computation of the host


def record_exactly(trace: GoldenTrace, inputs: NamedArrays) -> RecordedRun:
    """Return a golden trace, computed in float64."""
    model = golden_model(trace.family, NumpyBackend(dtype="float64"))
    return record_run(trace, model, inputs)


def tolerances(trace: GoldenTrace, inputs: NamedArrays, exact: RecordedRun) -> dict[str, float]:
    """Return the largest absolute error that float32 arithmetic explains, by tensor.

    The bound of each operation of a network times a random number in [-1, 1] is added to its
    result, and `ROUNDINGS` roundings to each result of the host; alpha-bars are products of
    rounded factors. The errors propagate through the run. SAFETY times the largest deviation of
    RUNS such runs, and the rounding of the result, are the tolerance.
    """
    largest = dict.fromkeys(exact.tensors, 0.0)
    backend = DisturbedBackend(dtype="float64")
    model = golden_model(trace.family, backend)
    for run in range(RUNS):
        errors = backend.restart(f"{trace.name}/errors/{run}")
        disturbed = record_run(
            trace, _with_rounded_schedule(model, errors), inputs, disturb_host(errors)
        )
        for name, y in exact.tensors.items():
            change = np.abs(disturbed.tensors[name] - y)
            largest[name] = max(largest[name], float(np.max(change, initial=0.0)))
    return {
        name: SAFETY * error + largest_rounding(exact.tensors[name])
        for name, error in largest.items()
    }


class Errors:
    """A source of random errors."""

    def __init__(self, key: str):
        self.stream = random_stream(key)

    def add(self, y: Array, *operands: Array) -> Array:
        """Add `ROUNDINGS` roundings of the largest number among a result and its operands."""
        largest = sum(float(np.max(np.abs(x), initial=0.0)) for x in (y, *operands))
        return self.spread(y, ROUNDINGS * U * largest)

    def spread(self, y: Array, bound: Any) -> Array:
        """Add a bound times uniform random numbers in [-1, 1]."""
        return y + self.stream.uniform(-1.0, 1.0, np.shape(y)) * bound


class DisturbedBackend(NumpyBackend):
    """NumPy in float64; networks have random errors in each operation, within its bound."""

    compiles = True  # a recorder around it records whole networks

    def set_up(self) -> None:
        super().set_up()
        self.operations = DisturbedOperations(NumpyBackend(dtype=self.dtype))

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        return self.operations.compile(network, params)

    def restart(self, key: str) -> Errors:
        """Begin another run of the same networks, and return its errors."""
        self.operations.errors = Errors(key)
        self.operations.calls = 0
        return self.operations.errors


class DisturbedOperations(NamedBackend):
    """Compute operations with random errors; the bounds of the first run are kept."""

    def __init__(self, inner: Backend):
        super().__init__(inner)
        self.errors = Errors("")
        self.calls = 0
        self._bounds: dict[tuple[int, str], np.ndarray | float] = {}

    def begin(self, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count the calls of networks."""
        self.calls += 1
        return arrays

    def visit(self, call: LayerCall) -> Any:
        """Compute an operation and add its error."""
        y = call.compute(call.inputs)
        if call.composite:
            return y
        key = self.calls, call.name
        if key not in self._bounds:
            self._bounds[key] = bound_of(call, y)
        return self.errors.spread(y, self._bounds[key])


def _with_rounded_schedule(model: LatentDiffusion, errors: Errors) -> LatentDiffusion:
    """Return a model whose alpha-bars are a product of rounded factors; a flow has none."""
    config: ModelConfig = model.config
    if config.scheduler.path is FLOW:
        return model
    alpha_bar = training_alphas_cumprod(config.scheduler)
    alphas = alpha_bar / np.append(1.0, alpha_bar[:-1])
    betas = 1.0 - alphas * (1.0 + errors.spread(np.zeros_like(alphas), 2.0 * U))
    betas = np.clip(betas, 0.0, 1.0)
    other = model.with_backend(model.backend)
    scheduler = replace(config.scheduler, trained_betas=tuple(betas.tolist()))
    other.config = replace(config, scheduler=scheduler)
    return other


def disturb_host(errors: Errors) -> Callable[[Trajectory], Trajectory]:
    """Return a function that adds errors to every computation of the host in a trajectory."""

    def change(trajectory: Trajectory) -> Trajectory:
        schedule = trajectory.schedule
        if schedule.path is FLOW:
            schedule = _with_rounded_levels(schedule, errors)
        return replace(
            trajectory,
            schedule=schedule,
            x=errors.add(trajectory.x),
            guidance=RoundedGuidance(trajectory.guidance, errors),
            step=_rounded_step(trajectory.step, errors),
        )

    return change


def _with_rounded_levels(schedule: Schedule, errors: Errors) -> Schedule:
    """Return the levels of a flow with the roundings of their spacing and their shift."""
    sigmas = errors.spread(schedule.sigmas, LEVEL_ROUNDINGS * U * schedule.sigmas)
    sigmas = np.minimum(sigmas, 1.0)
    ratio = sigmas[: len(schedule.timesteps)] / schedule.sigmas[: len(schedule.timesteps)]
    return schedule._replace(sigmas=sigmas, timesteps=schedule.timesteps * ratio)


@dataclass(frozen=True)
class RoundedGuidance(Guidance):
    """A guidance with random errors."""

    inner: Guidance
    errors: Errors

    def __post_init__(self) -> None:
        """Leave the fields unchecked: they are not declared parameters."""

    def combines(self, prediction_type: str) -> str:
        return self.inner.combines(prediction_type)

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return self.inner.needs(sigma, cfg_scale)

    def __call__(
        self, predictions: Mapping[str, Array], sigma: float, cfg_scale: float, memory: History
    ) -> tuple[Array, History]:
        y, memory = self.inner(predictions, sigma, cfg_scale, memory)
        scaled = [cfg_scale * x for x in predictions.values()]
        return self.errors.add(y, *scaled), memory


def _rounded_step(step: Step, errors: Errors) -> Step:
    """Return a step with random errors of the predicted x0 and of the result."""

    def take_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        def rounded(x: Array, sigma: float) -> Array:
            return errors.add(denoise(x, sigma), x)

        x_next, x0, history = step(rounded, x, interval, history, noise)
        return errors.add(x_next, x, x0), x0, history

    return take_step
