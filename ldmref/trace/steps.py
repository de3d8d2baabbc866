"""The schedule, the guidance and the steps of a run, as calls of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.run import Run
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import GuidedDenoiser, Interval
from ldmref.samplers.denoiser import Evaluation, Observer
from ldmref.samplers.interfaces import Denoiser, History, Noise, Stepped
from ldmref.samplers.own_spacing import name_of
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.recorder import Recorder


@dataclass(frozen=True, eq=False)
class TracedTrajectory(Trajectory):
    """A trajectory whose evaluations are recorded."""

    watch: StepWatch = field(kw_only=True, repr=False)

    def denoiser(
        self, model: LatentDiffusion | None = None, observe: Observer | None = None
    ) -> GuidedDenoiser:
        """Return the guided model, observed by the trace and by `observe`.

        Another model is given only to repeat a step and find the origin of NaN, before the run
        fails.
        """
        if model is not None and model is not self.model:
            self.watch.recorder.paused = True

        def both(evaluation: Evaluation) -> None:
            self.watch.observe(evaluation)
            if observe is not None:
                observe(evaluation)

        return super().denoiser(model, both)


class StepWatch:
    """Records the schedule, the guidance and the steps of a trajectory."""

    def __init__(self, run: Run, trajectory: Trajectory, recorder: Recorder):
        self.ops = run.model.backend
        self.job = run.job
        self.trajectory = trajectory
        self.recorder = recorder
        self.evaluations: list[tuple[Evaluation, str]] = []
        self.draws: list[Array] = []
        self.kind = run.model.config.scheduler.prediction_type
        self._record_schedule(run)

    def _record_schedule(self, run: Run) -> None:
        schedule = self.trajectory.schedule
        config = run.model.config.scheduler
        attributes = {
            "name": name_of(self.job.schedule),
            "sampler": self.job.sampler.name,
            "steps": self.job.steps,
            "visits": [int(i) for i in self.trajectory.visits],
            "init_noise_sigma": float(schedule.init_noise_sigma),
        }
        outputs = {
            "sigmas": schedule.sigmas,
            "timesteps": schedule.timesteps,
            "alphas_cumprod": training_alphas_cumprod(config),
        }
        self.recorder.step = None
        with self.recorder.call("schedule", self.ops) as call:
            if call is not None:
                call.add("", "schedule", {}, attributes, outputs)

    def draw_noise(self) -> Array:
        """Return fresh noise, and remember it."""
        noise = self.trajectory.noise()
        self.draws.append(noise)
        return noise

    def observe(self, evaluation: Evaluation) -> None:
        """Record one evaluation of the guided denoiser."""
        name = ""
        guidance = self.job.guidance
        attributes = {**guidance.record, "prediction_type": self._kind_of_outputs()}
        scale = {"scale": float(self.job.cfg_scale), "sigma": float(evaluation.sigma)}
        with self.recorder.call("guidance", self.ops) as call:
            if call is not None:
                name = call.name
                inputs = {**evaluation.outputs, **scale}
                call.add("", "guidance", inputs, attributes, {"": evaluation.guided})
        self.evaluations.append((evaluation, name))

    def take_step(
        self, denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        """Take a step of the sampler and record it."""
        self._record_jump(x, interval)
        self.recorder.step = interval.i
        self.recorder.visited.add(interval.i)
        self.evaluations = []
        x_next, x0, history = self.trajectory.step(denoise, x, interval, history, noise)
        attributes = {
            "sampler": self.job.sampler.name,
            "eta": self.job.eta,
            "i": interval.i,
            "i_next": interval.i_next,
            "n": interval.n,
            "prediction_type": self._kind_of_outputs(),
            "evaluations": [name for _, name in self.evaluations],
        }
        with self.recorder.call("sampler", self.ops) as call:
            if call is not None:
                call.add("", "step", self._inputs(x, interval), attributes, {"": x_next})
                if self.trajectory.constrain is not None:
                    known = self.trajectory.constrain(x_next, interval)
                    call.add("constrain", "constrain", {"input": x_next}, {}, {"": known})
        self.draws = []
        return x_next, x0, history

    def _inputs(self, x: Array, interval: Interval) -> dict[str, Any]:
        """Return the inputs of a step; those of evaluations after the first have a number."""
        inputs: dict[str, Any] = {"x": x}
        inputs |= {"sigma": float(interval.sigma), "sigma_next": float(interval.sigma_next)}
        for i, (evaluation, _) in enumerate(self.evaluations):
            suffix = f".{i}" if i else ""
            inputs[f"prediction{suffix}"] = evaluation.guided
            inputs[f"x0{suffix}"] = evaluation.x0
            if evaluation.x is not x:
                inputs[f"x_at{suffix}"] = evaluation.x
                inputs[f"sigma_at{suffix}"] = float(evaluation.sigma)
        for i, noise in enumerate(self.draws):
            inputs[f"noise.{i}" if i else "noise"] = noise
        return inputs

    def _record_jump(self, x: Array, interval: Interval) -> None:
        """Record the noise that took x back up before a step (RePaint)."""
        for noise in self.draws:
            with self.recorder.call("jump", self.ops) as call:
                if call is not None:
                    inputs = {"noise": noise, "sigma": float(interval.sigma)}
                    call.add("", "jump", inputs, {}, {"": x})
        self.draws = []

    def _kind_of_outputs(self) -> str:
        return "x0" if self.job.guidance.on_x0 else self.kind
