"""FlowEdit and RF inversion as the steps of a run: its levels, and what each step does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ldmref.math.arrays import Array
from ldmref.samplers import Schedule
from ldmref.samplers.editing import flow_edit_step, rf_inversion_step
from ldmref.samplers.interfaces import Denoiser, Noise, Step


class EditMethod(Protocol):
    """The interface of a method, whose run begins at the latents of the given image."""

    @property
    def source_prompt(self) -> str: ...

    @property
    def source_cfg_scale(self) -> float: ...

    @property
    def leaves_noise(self) -> bool:
        """Whether the last state holds the noise of the last level."""
        ...

    def levels(self, schedule: Schedule) -> list[float]:
        """Return the noise levels of the run."""
        ...

    def visits(self, schedule: Schedule) -> Sequence[int]:
        """Return indices into the levels, in the order in which they are visited."""
        ...

    def step(self, schedule: Schedule, source: Denoiser, data: Array, noise: Noise) -> Step:
        """Return the step, with the denoiser of the source prompt and the latents of the image."""
        ...


@dataclass(frozen=True)
class FlowEdit:
    """FlowEdit in the last `n_max` steps of a schedule, of which `n_min` follow the prompt alone.

    Source: Kulikov et al. 2024, arXiv:2412.08629, algorithm 1.
    """

    source_prompt: str
    source_cfg_scale: float
    n_max: int
    n_min: int
    n_avg: int

    @property
    def source_calls(self) -> int:
        """The number of evaluations of the source's denoiser."""
        return (self.n_max - self.n_min) * self.n_avg

    @property
    def target_calls(self) -> int:
        """The number of evaluations of the target's denoiser."""
        return self.source_calls + self.n_min

    @property
    def leaves_noise(self) -> bool:
        """Whether the last state holds noise: only if the prompt alone decides the last steps."""
        return self.n_min > 0

    def levels(self, schedule: Schedule) -> list[float]:
        """Return the levels of the schedule."""
        return schedule.sigmas.tolist()

    def visits(self, schedule: Schedule) -> Sequence[int]:
        """Return the last `n_max` steps."""
        n = len(schedule.timesteps)
        return range(n - self.n_max, n + 1)

    def step(self, schedule: Schedule, source: Denoiser, data: Array, noise: Noise) -> Step:
        """Return the step of FlowEdit, which draws its noise itself."""
        return flow_edit_step(source, data, self.n_avg, self.n_min)


@dataclass(frozen=True)
class RFInversion:
    """RF inversion: up to noise through all levels of a schedule, and down again.

    Source: Rout et al. 2024, arXiv:2410.10792, algorithms 1 and 2.
    """

    source_prompt: str
    source_cfg_scale: float
    steps: int
    gamma: float
    keep: float
    keep_start: float
    keep_end: float

    @property
    def source_calls(self) -> int:
        """The number of evaluations of the source's denoiser."""
        return self.steps

    @property
    def target_calls(self) -> int:
        """The number of evaluations of the target's denoiser."""
        return self.steps

    @property
    def leaves_noise(self) -> bool:
        """Whether the last state holds the noise of the last level: it does."""
        return True

    def levels(self, schedule: Schedule) -> list[float]:
        """Return the levels from the image up to noise, and down to the edited image.

        The way up has no slope at level 0, and begins at the lowest level of training instead.
        """
        down = schedule.sigmas.tolist()
        up = down[::-1]
        if up[0] == 0.0:
            up[0] = min(up[1] / 2.0, schedule.path.level(float(schedule.training_sigmas[0])))
        return up + down[1:]

    def visits(self, schedule: Schedule) -> Sequence[int]:
        """Return all levels in order."""
        return range(2 * len(schedule.timesteps) + 1)

    def step(self, schedule: Schedule, source: Denoiser, data: Array, noise: Noise) -> Step:
        """Return the step; the pull acts in step i of n if int(start n) <= i < int(end n)."""
        sigmas = schedule.sigmas.tolist()
        first, last = (int(share * self.steps) for share in (self.keep_start, self.keep_end))
        return rf_inversion_step(
            source,
            data,
            noise(),
            self.gamma,
            self.keep,
            sigmas[last],
            sigmas[first],
            schedule.path,
        )
