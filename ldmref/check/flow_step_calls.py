"""Call somebody's stochastic flow step, whatever its parameters, and read its law from the results.

Parameters are filled by their names (`ROLES`): the state, the velocity, the flow times as numbers
or by a scheduler with `sigmas` and `index_for_timestep`, the noise level, the state reached. All
values of a state are equal, so a log-density is a parabola in the state reached: three calls give
its curvature, its maximum, which is the mean of the transition, and its height.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.check.comparison import to_host
from ldmref.errors import InputError

SHAPE = (2, 4, 2, 2)
COUNT = 16  # values of an example
ROLES: dict[str, tuple[str, ...]] = {
    "state": ("sample", "latents", "x", "xs", "xt", "x_t", "z"),
    "velocity": ("model_output", "velocity", "v", "u", "noise_pred", "pred", "prediction"),
    "time": ("sigma", "s", "t", "sigma_t", "s_cur", "t_cur"),
    "next time": ("sigma_next", "s_next", "sigma_prev", "t_next", "t_prev"),
    "second time": ("sigma_max", "at_one"),
    "times": ("sigmas",),
    "number of the step": ("index", "step_index", "i"),
    "timesteps": ("timestep",),
    "scheduler": ("self", "scheduler"),
    "noise level": ("noise_level", "eta", "a", "kappa", "level"),
    "state reached": ("prev_sample", "x_next", "next_sample", "next_latents", "fixed_next_latents"),
    "switch": ("grpo", "ddpo", "sde_solver"),
    "nothing": ("key", "generator"),
}


class SchedulerStandIn:
    """What a step reads of a scheduler: its flow times, timesteps and their numbers."""

    def __init__(self, times: Any, index: int):
        self.sigmas = times
        self.timesteps = 1000.0 * times[:-1]
        self.step_index = index

    def index_for_timestep(self, timestep: Any) -> int:
        """Return the number of the step at this timestep."""
        return int(np.argmin(np.abs(to_host(self.timesteps) - float(timestep))))


@dataclass(frozen=True)
class MeasuredStep:
    """The law of one step, read from calls.

    Args:
        s: The flow time before it.
        s_next: The flow time after it.
        of_state: The mean's coefficient of the state.
        of_velocity: The mean's coefficient of the velocity.
        curvature: Minus the log-density's coefficient of the square of all values; NaN without one.
        height: The log-density at the mean.
        std: The std of a state that the function draws.
    """

    s: float
    s_next: float
    of_state: float
    of_velocity: float
    curvature: float
    height: float
    std: float


class FlowStepCalls:
    """A step function, and the calls of it.

    Args:
        function: The step, with parameters of the names in `ROLES`.
        times: Flow times from 1 to 0.
        level: Noise level to pass.

    Raises:
        InputError: A parameter without a default has an unknown name.
    """

    def __init__(self, function: Callable[..., Any], times: Sequence[float], level: float):
        self.function = function
        self.times = times
        self.level = level
        self.roles = dict(_find_roles(function))
        self.torch = getattr(inspect.getmodule(function), "torch", None)
        self.array = np.asarray if self.torch is None else _torch_array(self.torch)

    def measure(self, index: int) -> MeasuredStep:
        """Return the law of the step with this number."""
        of_state, curvature, height = self._mean(index, 1.0, 0.0)
        of_velocity = self._mean(index, 0.0, 1.0)[0]
        s, s_next = self.times[index : index + 2]
        std = self._sampled_std(index)
        return MeasuredStep(s, s_next, of_state, of_velocity, curvature, height, std)

    def _call(self, index: int, x: Any, u: Any, reached: Any) -> list[Any]:
        s, s_next = self.times[index : index + 2]
        times = self.array(np.asarray(self.times))
        values = {
            "state": x,
            "velocity": u,
            "time": self.array(np.asarray(s)),
            "next time": self.array(np.asarray(s_next)),
            "second time": self.array(np.asarray(self.times[1])),
            "times": times,
            "number of the step": index,
            "timesteps": self.array(np.full(x.shape[0], 1000.0 * s)),
            "scheduler": SchedulerStandIn(times, index),
            "noise level": self.level,
            "state reached": reached,
            "switch": True,
            "nothing": None,
        }
        with contextlib.ExitStack() as stack:
            if self.torch is not None:  # the same noise in every call, to cancel it
                stack.enter_context(self.torch.random.fork_rng(devices=[]))
                self.torch.manual_seed(0)
            return _values(self.function(**{n: values[role] for n, role in self.roles.items()}))

    def _full(self, value: float) -> Any:
        return self.array(np.full(SHAPE, value))

    def _mean(self, index: int, x: float, u: float) -> tuple[float, float, float]:
        """Return the mean, and curvature and height of the log-density (NaN without one)."""
        results = {}
        if "state reached" in self.roles.values():
            for reached in (-1.0, 0.0, 1.0):
                arrays = [self._full(value) for value in (x, u, reached)]
                results[reached] = [to_host(v) for v in self._call(index, *arrays)]
            for low, middle, high in zip(*results.values(), strict=True):
                a, b, c = (float(v.mean()) for v in (low, middle, high))
                bend = -(a + c - 2 * b) / 2
                if abs(bend) > 1e-6 * max(abs(a), abs(b), abs(c), 1e-3):
                    top = (c - a) / (4 * bend)
                    return top, bend, b + bend * top * top
        found = results.get(0.0) or [
            to_host(v) for v in self._call(index, self._full(x), self._full(u), None)
        ]
        means = [v for v in found if v.shape == SHAPE and np.ptp(v) < 1e-6]
        if means:
            return float(means[-1].mean()), np.nan, np.nan
        return self._mean_without_noise(index, x, u), np.nan, np.nan

    def _mean_without_noise(self, index: int, x: float, u: float) -> float:
        """Return the mean of a step that only draws: its noise cancels in a difference."""
        sampled = []
        for values in ((x, u), (0.0, 0.0)):
            x0, u0 = (self._full(value) for value in values)
            result = self._call(index, x0, u0, None)
            sampled += [to_host(v) for v in result if to_host(v).shape == SHAPE][:1]
        gap = sampled[0] - sampled[1] if len(sampled) == 2 else np.asarray([0.0, 1.0])
        return float(gap.mean()) if np.ptp(gap) < 1e-5 else np.nan

    def _sampled_std(self, index: int) -> float:
        """Return the std of the state that the function draws; NaN if it draws none."""
        zeros = self.array(np.zeros((2, 4, 32, 32)))
        sampled = [to_host(v) for v in self._call(index, zeros, zeros, None)]
        spreads = [float(v.std()) for v in sampled if v.shape == (2, 4, 32, 32)]
        return max(spreads, default=np.nan)


def _find_roles(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Yield the parameters of known names with their roles."""
    known = {name: role for role, names in ROLES.items() for name in names}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in known:
            yield name, known[name]
        elif parameter.default is parameter.empty and parameter.kind < parameter.VAR_POSITIONAL:
            names = ", ".join(sorted(known))
            message = f"{function.__name__} has a parameter {name!r}, which is not known"
            raise InputError(message, code="E-AGAINST", hint=f"rename it; known are {names}")


def _torch_array(torch: Any) -> Callable[[np.ndarray], Any]:
    return lambda values: torch.as_tensor(values, dtype=torch.float32)


def _values(result: Any) -> list[Any]:
    """Return the arrays and numbers of a result: a tuple, a dict, a data class, or one value."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, Mapping):
        result = list(result.values())
    items = list(result) if isinstance(result, tuple | list) else [result]
    return [item for item in items if item is not None]
