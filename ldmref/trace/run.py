"""Trace a run: every intermediate of a plan, written while it is generated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.controlnet import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks, notify
from ldmref.modes.generate import Callback, CancelFlag, Progress
from ldmref.modes.plan import AnyPlan
from ldmref.modes.result import Result
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import GuidedDenoiser, Interval
from ldmref.samplers.denoiser import Evaluation, Observer
from ldmref.samplers.loop import Denoiser, History, Noise, Stepped
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.files import TraceWriter
from ldmref.trace.recorder import Recorder, RecordingBackend
from ldmref.trace.selection import Selection
from ldmref.trace.store import SpooledStore
from ldmref.version import __version__

CODE = "E-TRACE"


def record_trace(
    planned: AnyPlan,
    model: LatentDiffusion,
    folder: str | Path,
    *,
    selection: Selection | None = None,
    overwrite: bool = False,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
) -> Result:
    """Generate the images of a plan and write every named intermediate as a trace.

    The images are those of `planned.run(model)`, byte for byte. `ldmref.trace.estimate` says how
    large the trace will be. `docs/traces.md` describes the files.

    Args:
        planned: From `modes.plan`; any mode that samples.
        model: The model. Its backend and dtype are those of the trace.
        folder: The folder to write.
        selection: Calls, layers and steps to record; None: all.
        overwrite: Whether a trace in `folder` is replaced.
        callback: Called after every step with a `Progress`.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step. The
            calls until then stay.

    Raises:
        UsageError: The mode does not sample.
        OutputError: The folder has a trace, or cannot be written.
        Cancelled, NumericError, ResourceError: See `ldmref.errors`.

    >>> import ldmref, tempfile
    >>> from ldmref import modes
    >>> from ldmref.trace import read_trace
    >>> model = ldmref.random_model("tiny")
    >>> plan = modes.plan("txt2img", model, prompt="a red cat", seed=1, steps=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = record_trace(plan, model, folder)
    ...     read_trace(folder).calls[:6]
    ['text_encoder', 'text_encoder~1', 'tokens', 'tokens~1', 'schedule', 'unet.000']
    """
    check_callbacks(callback, cancel)
    require_sampling(planned)
    path = Path(folder)
    chosen = selection or Selection()
    writer = TraceWriter(path, describe_program(model, chosen), overwrite=overwrite)
    recorder = Recorder(writer, partial(SpooledStore, path), chosen)
    complete = False
    try:
        with traced_run(planned, model, recorder) as run:
            writer.manifest |= describe_run(run)
            generated = []
            for event in run.generate(cancel):
                if isinstance(event, Progress):
                    notify(callback, event)
                else:
                    generated.append(event)
        complete = True
    finally:
        writer.close(complete)
    return run.result(generated)


def require_sampling(planned: AnyPlan) -> Plan:
    """Return a plan if it can be traced.

    Raises:
        UsageError: The mode does not sample.
    """
    if not isinstance(planned, Plan):
        hint = "trace txt2img with latents=inversion.latents and **inversion.settings"
        raise UsageError(f"{planned.job.mode} does not sample an image", code=CODE, hint=hint)
    return planned


def describe_program(model: LatentDiffusion, selection: Selection) -> dict[str, Any]:
    """Return the part of the manifest that is known before the run."""
    described = {"name": model.config.name, "sha256": model.sha256}
    described |= {"config": model.config.to_dict()} | copy.deepcopy(model.modifications)
    return {
        "program": {"name": "ldmref", "version": __version__},
        "model": described,
        "backend": model.backend.describe(),
        "dtype": model.backend.dtype,
        "selection": dict(selection.record),
    }


def describe_run(run: Run) -> dict[str, Any]:
    """Return the part of the manifest that describes the request."""
    n = len(run.job.seeds)
    return {"params": run.params(n), "seeds": list(run.job.seeds)}


@contextmanager
def traced_run(
    planned: AnyPlan,
    model: LatentDiffusion,
    recorder: Recorder,
    backend: type[RecordingBackend] = RecordingBackend,
) -> Iterator[Run]:
    """Prepare a plan with a model that records; its `generate` records the rest."""
    plan = require_sampling(planned)
    ops = backend(model.backend, recorder, model.config)
    watched = model.with_backend(ops)
    if watched.tiny_autoencoder is not None:
        watched.tiny_autoencoder = watched.tiny_autoencoder.with_backend(ops)
    controls = [
        replace(control, net=control.net.with_backend(ops))
        if isinstance(control.net, ControlNet)
        else control
        for control in plan.job.control
    ]
    plan = replace(plan, job=replace(plan.job, control=tuple(controls)))
    try:
        run = plan.prepare(watched)
        record_tokens(run, recorder)
        values = {f.name: getattr(run, f.name) for f in fields(Run)}
        yield TracedRun(**values, recorder=recorder)
    finally:
        ops.abandon()


def record_tokens(run: Run, recorder: Recorder) -> None:
    """Record the tokens of each prompt: `tokens`, `tokens~1`, ..."""
    for prompt, text in run.text.encoded.items():
        with recorder.call("tokens", run.model.backend) as call:
            if call is not None:
                outputs = {"ids": text.tokens.ids, "weights": text.tokens.weights}
                call.add("", "tokens", {}, {"prompt": prompt}, outputs)


@dataclass(frozen=True, eq=False)
class TracedRun(Run):
    """A run whose batches are recorded."""

    recorder: Recorder = field(kw_only=True)

    def trajectory(self, batch: slice) -> Trajectory:
        """Prepare the sampling of a batch, which will be recorded."""
        plain = super().trajectory(batch)
        watch = StepWatch(self, plain, self.recorder)
        values = {f.name: getattr(plain, f.name) for f in fields(Trajectory)}
        values |= {"step": watch.take_step, "noise": watch.draw_noise}
        return TracedTrajectory(**values, watch=watch)

    def decode(self, latents: Any) -> Any:
        """Decode the final latents, outside of the steps."""
        self.recorder.step = None
        return super().decode(latents)


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
            "name": self.job.schedule,
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
