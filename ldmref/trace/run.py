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
from ldmref.models.controlnet import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks, notify
from ldmref.modes.generate import Callback, CancelFlag, Progress
from ldmref.modes.plan import AnyPlan
from ldmref.modes.result import Result
from ldmref.modes.run import Plan, Run
from ldmref.modes.trajectory import Trajectory
from ldmref.trace.backend import LayerRecordingBackend
from ldmref.trace.files import TraceWriter
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.steps import StepWatch, TracedTrajectory
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
        callback: Called after every step with a `Progress`. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
            The calls until then stay. None: the run cannot be cancelled.

    Returns:
        The images, as `planned.run(model)` returns them.

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
    selected = selection or Selection()
    writer = TraceWriter(path, describe_program(model, selected), overwrite=overwrite)
    recorder = Recorder(writer, partial(SpooledStore, path), selected)
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
        "layers": not model.backend.compiles,
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
    backend: type[LayerRecordingBackend] = LayerRecordingBackend,
    whole: bool | None = None,
) -> Iterator[Run]:
    """Prepare a plan with a model that records; its `generate` records the rest."""
    plan = require_sampling(planned)
    ops = backend(model.backend, recorder, model.config, whole)
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
