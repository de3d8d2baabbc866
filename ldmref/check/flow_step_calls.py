"""Call somebody's stochastic flow step, whatever its parameters, and read its law from the results.

Parameters are filled by their names (`ROLES`): the state, the velocity, the flow times as numbers
or by a scheduler with `sigmas` and `index_for_timestep`, the noise level, the state reached. All
values of a state are equal, so a log-density is a parabola in the state reached: three calls give
its curvature, its maximum, which is the mean of the transition, and its height. Without one the
returned arrays differ in their coefficients of state and velocity, so their order and their
names do not count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldmref.check.comparison import to_host
from ldmref.errors import InputError
from ldmref.math.arrays import Array

if TYPE_CHECKING:
    from types import ModuleType

SHAPE = (2, 4, 2, 2)
WIDE = (2, 4, 32, 32)
LAYOUTS = (
    "return the state reached or its mean, and its std, x0 and the log-density if there are any, "
    "in any order: in a tuple, list, dict, named tuple, data class or an object with attributes"
)
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


class ReturnedArray(NamedTuple):
    """One array among the returned values that has the shape of the state.

    Args:
        position: Its place among the values.
        of_state: Its coefficient of the state.
        of_velocity: Its coefficient of the velocity.
        std: The std of its noise, for a state and a velocity of zeros.
    """

    position: int
    of_state: float
    of_velocity: float
    std: float

    def is_transition(self, s: float) -> bool:
        """Return whether it is the state reached or its mean, and no other known array.

        Others are the state itself, the velocity, x0 = x - s u, eps = x + (1 - s) u, and what
        depends on neither, such as the noise or a std.
        """
        others = ((1.0, 0.0), (0.0, 1.0), (1.0, -s), (1.0, 1.0 - s), (0.0, 0.0))
        own = (self.of_state, self.of_velocity)
        return not any(np.allclose(own, other, rtol=0.0, atol=1e-4) for other in others)


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
        arrays: The arrays returned that may be the state reached or its mean.
        position: The array whose law this is; None: the law of the log-density.
    """

    s: float
    s_next: float
    of_state: float
    of_velocity: float
    curvature: float
    height: float
    std: float
    arrays: tuple[ReturnedArray, ...] = ()
    position: int | None = None

    def read_from(self, position: int) -> MeasuredStep:
        """Return the law of the array at this place, for a step without a log-density."""
        (own,) = (array for array in self.arrays if array.position == position)
        law = {"of_state": own.of_state, "of_velocity": own.of_velocity}
        return replace(self, position=position, **law)


class FlowStepCalls:
    """A step function, and the calls of it.

    Args:
        function: The step, with parameters of the names in `ROLES`.
        times: Flow times from 1 to 0.
        level: Noise level to pass.

    Raises:
        InputError: A parameter without a default has an unknown name, or the function raises.
    """

    def __init__(self, function: Callable[..., Any], times: Sequence[float], level: float):
        self.function = function
        self.times = times
        self.level = level
        self.roles = dict(_find_roles(function))
        self.torch = getattr(inspect.getmodule(function), "torch", None)
        self.array = np.asarray if self.torch is None else _torch_array(self.torch)

    def measure(self, index: int) -> MeasuredStep:
        """Return the law of the step with this number; NaN if a log-density alone has it."""
        s, s_next = self.times[index : index + 2]
        arrays = tuple(a for a in self._arrays(index) if a.is_transition(s))
        of_state, curvature, height = self._density(index, 1.0, 0.0)
        of_velocity = self._density(index, 0.0, 1.0)[0]
        std = max((a.std for a in arrays), default=np.nan)
        return MeasuredStep(s, s_next, of_state, of_velocity, curvature, height, std, arrays)

    def lost_numbers(self, index: int) -> tuple[bool, bool]:
        """Return whether arrays, and whether other values of the step are not finite.

        A function that raises in the last step has no log-density there: its std may be 0.
        """
        try:
            found = self._drawn(index, self._full(0.5), self._full(-0.5))
            if self._takes_reached():
                found += self._call(index, *map(self._full, (0.5, -0.5, 0.25)))
        except InputError:
            if index + 2 == len(self.times):
                return False, True
            raise
        lost = [(v.shape == SHAPE, not np.isfinite(v).all()) for v in found if v is not None]
        return (True, True) in lost, (False, True) in lost

    def _call(self, index: int, x: Array, u: object, reached: object) -> list[np.ndarray | None]:
        """Return the values of one call on the host; None for texts and the like."""
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
        arguments = {name: values[role] for name, role in self.roles.items()}
        with same_noise(self.torch), np.errstate(all="ignore"):
            try:
                returned = self.function(**arguments)
            except Exception as error:  # another implementation may fail in any way
                message = f"{self._name()} raised {type(error).__name__}: {error}"
                hint = "a step gets its arguments by name, and None for a state to be drawn"
                raise InputError(message, code="E-AGAINST", hint=hint) from error
        return [*map(self._to_host, values_of(returned, self._name()))]

    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _to_host(self, value: object) -> np.ndarray | None:
        """Convert a value; texts, functions and the like are none."""
        try:
            return None if value is None else to_host(value)
        except (TypeError, ValueError):
            return None

    def _full(self, value: float) -> Any:
        return self.array(np.full(SHAPE, value))

    def _takes_reached(self) -> bool:
        return "state reached" in self.roles.values()

    def _drawn(self, index: int, x: Array, u: Array) -> list[np.ndarray | None]:
        """Return the values of a call that draws the state reached, if the function can draw it."""
        if self._can_draw:
            return self._call(index, x, u, None)
        return self._call(index, x, u, 0.0 * x)

    @functools.cached_property
    def _can_draw(self) -> bool:
        if not self._takes_reached():
            return True
        with contextlib.suppress(InputError):
            self._call(len(self.times) // 2, self._full(0.0), self._full(0.0), None)
            return True
        return False

    def _density(self, index: int, x: float, u: float) -> tuple[float, float, float]:
        """Return the log-density's maximum, curvature and height; NaN without one."""
        if not self._takes_reached():
            return np.nan, np.nan, np.nan
        results = [
            self._call(index, *map(self._full, (x, u, reached))) for reached in (-1.0, 0.0, 1.0)
        ]
        for values in zip(*results, strict=True):
            if any(v is None for v in values):
                continue
            a, b, c = (float(v.mean()) for v in values)
            bend = -(a + c - 2 * b) / 2
            if abs(bend) > 1e-6 * max(abs(a), abs(b), abs(c), 1e-3):
                top = (c - a) / (4 * bend)
                return top, bend, b + bend * top * top
        return np.nan, np.nan, np.nan

    def _arrays(self, index: int) -> Iterator[ReturnedArray]:
        """Yield the arrays of the state's shape, with their laws, in calls of the same noise."""
        at_zero, of_state, of_velocity = (
            self._drawn(index, self._full(x), self._full(u))
            for x, u in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        )
        zeros = self.array(np.zeros(WIDE))
        wide = self._drawn(index, zeros, zeros)
        for i, (zero, *others) in enumerate(zip(at_zero, of_state, of_velocity, strict=True)):
            if zero is None or zero.shape != SHAPE:
                continue
            gaps = [other - zero for other in others]
            x, u = (float(gap.mean()) if np.ptp(gap) < 1e-4 else np.nan for gap in gaps)
            yield ReturnedArray(i, x, u, float(np.std(np.asarray(wide[i]))))


@contextlib.contextmanager
def same_noise(torch: Any) -> Iterator[None]:
    """Give every block the same noise, of PyTorch and of NumPy's generators without a seed."""
    make = np.random.default_rng
    # functions under test may draw from NumPy's global state
    state = np.random.get_state()  # noqa: NPY002
    np.random.default_rng = lambda seed=None: make(0 if seed is None else seed)
    np.random.seed(0)  # noqa: NPY002
    try:
        with contextlib.ExitStack() as stack:
            if torch is not None:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                torch.manual_seed(0)
            yield
    finally:
        np.random.default_rng = make
        np.random.set_state(state)  # noqa: NPY002


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


def _torch_array(torch: ModuleType) -> Callable[[np.ndarray], Any]:
    return lambda values: torch.as_tensor(values, dtype=torch.float32)


def values_of(result: object, name: str = "the step") -> list[Any]:
    """Return the values of a result, whatever holds them; their order does not count.

    Raises:
        InputError: It is no array, number, tuple, list, dict or object with attributes.

    >>> values_of((1.0, 2.0)), values_of({"x": 1.0, "mean": 2.0}), values_of(1.0)
    ([1.0, 2.0], [1.0, 2.0], [1.0])
    """
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, Mapping):
        return [*result.values()]
    if isinstance(result, tuple | list):
        return [*result]
    if hasattr(result, "shape") or isinstance(result, int | float):
        return [result]
    if getattr(result, "__dict__", None):
        return [*vars(result).values()]
    message = f"{name} returned {type(result).__name__}, which holds no arrays"
    raise InputError(message, code="E-AGAINST", hint=LAYOUTS)
