"""The observer of a run that records it: networks, schedule, guidance, steps and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.modes.job import Job
from ldmref.modes.trajectory import PreparedRun, RunObserver, TakenStep, Trajectory
from ldmref.samplers import Interval
from ldmref.samplers.curve import path_point
from ldmref.samplers.denoiser import Evaluation
from ldmref.samplers.parts import COMBINE
from ldmref.samplers.path import VE
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.backend import LayerRecordingBackend
from ldmref.trace.calls import CONSTRAIN, GUIDE_CALLS
from ldmref.trace.recorder import Recorder


class TraceObserver(RunObserver):
    """Records a run as the calls of a trace.

    Args:
        recorder: Where calls are recorded.
        whole: Whether to record only inputs and outputs of networks. None: if the backend compiles.
    """

    recording: Callable[..., LayerRecordingBackend] = LayerRecordingBackend
    """Makes the backend that records the layers."""

    def __init__(self, recorder: Recorder, whole: bool | None = None):
        self.recorder = recorder
        self.whole = whole
        self.model: LatentDiffusion
        self.job: Job
        self.trajectory: Trajectory
        self.evaluations: list[tuple[Evaluation, str]] = []
        self.draws: list[Array] = []
        self._ops: LayerRecordingBackend | None = None
        self._guide_ops: LayerRecordingBackend | None = None

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the model whose layers are recorded."""
        self._ops = self.recording(model.backend, self.recorder, model.config, self.whole)
        watched = model.with_backend(self._ops)
        if watched.tiny_autoencoder is not None:
            watched.tiny_autoencoder = watched.tiny_autoencoder.with_backend(self._ops)
        return watched

    def watch_guide(self, guide: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the weaker model whose calls are recorded as `guide.unet.000`."""
        self._guide_ops = self.recording(
            guide.backend, self.recorder, guide.config, self.whole, GUIDE_CALLS
        )
        return guide.with_backend(self._guide_ops)

    def abandon(self) -> None:
        """Forget calls that were interrupted."""
        for ops in (self._ops, self._guide_ops):
            if ops is not None:
                ops.abandon()

    def prepared(self, run: PreparedRun) -> None:
        """Record the tokens of each prompt: `tokens`, `tokens~1`, ...

        Raises:
            UsageError: The run is an edit.
        """
        require_one_prompt(run.job)
        self.model = run.model
        self.job = run.job
        for prompt, encoded in run.text.encoded.items():
            with self.recorder.call("tokens", run.model.backend) as call:
                if call is not None:
                    outputs = {"ids": encoded.tokens.ids, "weights": encoded.tokens.weights}
                    call.add("", "tokens", {}, {"prompt": prompt}, outputs)

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Record the image to enlarge, if there is one, and the schedule."""
        self.trajectory = trajectory
        self.draws = []
        job = self.job
        self.recorder.step = None
        if job.mode == "superres":
            with self.recorder.call("low_resolution", self.model.backend) as call:
                if call is not None:
                    call.add("", "low_resolution", {}, {}, {"": trajectory.channels})
        schedule = trajectory.schedule
        attributes = {
            "name": job.schedule and str(job.schedule),
            "sampler": job.sampler.name,
            "steps": job.steps,
            "visits": [int(i) for i in trajectory.visits],
            "init_noise_sigma": float(schedule.init_noise_sigma),
            **self._path(),
        }
        outputs = {"sigmas": schedule.sigmas, "timesteps": schedule.timesteps}
        if not schedule.of_flow:
            outputs["alphas_cumprod"] = training_alphas_cumprod(self.model.config.scheduler)
        with self.recorder.call("schedule", self.model.backend) as call:
            if call is not None:
                call.add("", "schedule", {}, attributes, outputs)
        return trajectory

    def stepping(self, x: Array, interval: Interval) -> None:
        """Record the noise that took x back up before the step (RePaint)."""
        for noise in self.draws:
            with self.recorder.call("jump", self.model.backend) as call:
                if call is not None:
                    inputs = {"noise": noise, "sigma": float(interval.sigma)}
                    call.add("", "jump", inputs, {}, {"": x})
        self.draws = []
        self.evaluations = []
        self.recorder.step = interval.i
        self.recorder.visited.add(interval.i)

    def noise_sampled(self, noise: Array) -> Array:
        """Remember the noise, an input of the step or of a jump."""
        self.draws.append(noise)
        return noise

    def evaluated(self, evaluation: Evaluation) -> None:
        """Record the guidance of an evaluation."""
        name = ""
        job = self.job
        attributes = {**job.guidance.record, "prediction_type": self._kind_of_outputs()}
        values = {"scale": evaluation.scale, "sigma": evaluation.sigma}
        inputs = COMBINE.record({"predictions": evaluation.outputs} | values)
        with self.recorder.call(COMBINE.call, self.model.backend) as call:
            if call is not None:
                name = call.name
                call.add("", COMBINE.call, inputs, attributes, {"": evaluation.guided})
        self.evaluations.append((evaluation, name))

    def stepped(self, step: TakenStep) -> Array:
        """Record the step, and the constraint after it."""
        interval = step.interval
        attributes = {
            "sampler": self.job.sampler.name,
            "eta": self.job.eta,
            "i": interval.i,
            "i_next": interval.i_next,
            "n": interval.n,
            "prediction_type": self._kind_of_outputs(),
            "evaluations": [name for _, name in self.evaluations],
            "levels": self._levels(interval),
            **self.trajectory.settings,
            **self._path(),
        }
        with self.recorder.call("sampler", self.model.backend) as call:
            if call is not None:
                call.add("", "step", self._inputs(step), attributes, {"": step.sampled})
                if self.trajectory.constrain is not None:
                    inputs = {"input": step.sampled}
                    call.add(CONSTRAIN, CONSTRAIN, inputs, {}, {"": step.x_next})
        self.draws = []
        return step.x_next

    def finished(self, latents: Array) -> None:
        """End the steps: what the decoder computes belongs to none."""
        self.recorder.step = None

    def _inputs(self, step: TakenStep) -> dict[str, Any]:
        """Return the inputs of a step; those of evaluations after the first have a number."""
        interval = step.interval
        inputs: dict[str, Any] = {"x": step.x}
        inputs |= {"sigma": float(interval.sigma), "sigma_next": float(interval.sigma_next)}
        for i, (evaluation, _) in enumerate(self.evaluations):
            inputs[numbered_role("prediction", i)] = evaluation.guided
            inputs[numbered_role("x0", i)] = evaluation.x0
            if evaluation.x is not step.x or evaluation.sigma != interval.sigma:
                inputs[numbered_role("x_at", i)] = evaluation.x
                inputs[numbered_role("sigma_at", i)] = float(evaluation.sigma)
        return inputs | number_draws(self.draws)

    def _path(self) -> dict[str, str]:
        """Return the path of the run, unless it is that of x0 + sigma eps."""
        path = self.trajectory.schedule.path
        return {} if path is VE else {"path": path.name}

    def _levels(self, interval: Interval) -> dict[str, Any]:
        """Return where the step begins and ends on the curve of the run."""
        kind = self.model.config.scheduler.prediction_type
        path = self.trajectory.schedule.path
        asked = self.job.noise_path is not None
        ends = (interval.sigma, interval.sigma_next)
        points = [path_point(kind, float(sigma), path, asked) for sigma in ends]
        return {
            "curve": points[0].curve,
            "signal": [point.signal for point in points],
            "noise": [point.noise for point in points],
        }

    def _kind_of_outputs(self) -> str:
        config = self.model.config.scheduler
        return self.job.guidance.combines(config.prediction_type)


def require_one_prompt(job: Job) -> None:
    """Check that a run follows one prompt.

    Raises:
        UsageError: It is an edit.
    """
    if job.mode == "edit":
        message = "a recorded run follows one prompt, and an edit follows two"
        hint = "record txt2img or img2img with each prompt"
        raise UsageError(message, code="E-MODE", hint=hint)


def number_draws(draws: Sequence[Array]) -> dict[str, Array]:
    """Return the noises of a step by role: `noise`, `noise.1`, ..."""
    return {numbered_role("noise", i): noise for i, noise in enumerate(draws)}


def numbered_role(role: str, i: int) -> str:
    """Return the role of the array of an evaluation or a draw: `noise`, `noise.1`, ...

    >>> numbered_role("noise", 0), numbered_role("noise", 1)
    ('noise', 'noise.1')
    """
    return f"{role}.{i}" if i else role
