"""Trace a run: every intermediate of a plan, written while it is generated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.errors import UsageError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.callbacks import check_callbacks
from ldmref.modes.generate import Callback, CancelFlag
from ldmref.modes.observed import PreparedRun
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.support.version import __version__
from ldmref.trace.files import TraceWriter
from ldmref.trace.left_out import LEFT_OUT, LeftOut
from ldmref.trace.observer import TraceObserver, require_one_prompt
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.store import SpooledStore


def record_trace(
    plan: Plan,
    model: LatentDiffusion,
    folder: str | Path,
    *,
    selection: Selection | None = None,
    overwrite: bool = False,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    whole: bool | None = None,
) -> Result:
    """Generate the images of a plan and write every named intermediate as a trace.

    The images are those of `plan.run(model)`, byte for byte. `ldmref.trace.estimate` says how
    large the trace will be. `docs/traces.md` describes the files.

    Args:
        plan: From `modes.plan`.
        model: The model. Its backend and dtype are those of the trace.
        folder: The folder to write.
        selection: Calls, layers and steps to record; None: all.
        overwrite: Whether a trace in `folder` is replaced.
        callback: Called after every step with a `Progress`. None: nothing is called.
        cancel: A `threading.Event`; once it is set, `Cancelled` is raised before the next step.
            The calls until then stay. None: the run cannot be cancelled.
        whole: Whether only inputs and outputs of networks are recorded. None: if the backend
            compiles networks. False records the layers on every backend; one that compiles then
            computes the networks operation by operation, and its images may differ by 1/255.

    Returns:
        The images, as `plan.run(model)` returns them.

    Raises:
        UsageError: The plan has two passes (`upscale`), or is an edit.
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
    require_recordable(plan)
    check_callbacks(callback, cancel)
    with tracing(model, Path(folder), selection, overwrite, whole=whole) as observer:
        return plan.run(model, callback, cancel, observer)


def require_recordable(plan: Plan) -> None:
    """Check that the run of a plan can be recorded.

    Raises:
        UsageError: It has two passes, or is an edit.
    """
    if len(plan.passes) > 1:
        message = "a recorded run has one pass, and upscale adds a second one"
        raise UsageError(message, code="E-TRACE", hint="leave upscale out")
    require_one_prompt(plan.job)


@contextmanager
def tracing(
    model: LatentDiffusion,
    folder: Path,
    selection: Selection | None,
    overwrite: bool,
    left_out: LeftOut | None = None,
    whole: bool | None = None,
) -> Iterator[RunTracer]:
    """Yield the observer of one run, whose calls are written to a folder.

    The trace is complete if the block ends without an error.

    Args:
        model: The model whose run is observed.
        folder: The folder of the trace.
        selection: Calls, layers and steps to record; None: all.
        overwrite: Whether a trace in `folder` is replaced.
        left_out: Notes what cannot be written, and the run goes on. None: it ends in an error.
        whole: Whether only inputs and outputs of networks are recorded. None: if the backend
            compiles networks.

    Raises:
        OutputError: The folder has a trace, or cannot be written.
    """
    selected = selection or Selection()
    writer = TraceWriter(folder, describe_program(model, selected), overwrite=overwrite)
    recorder = Recorder(writer, partial(SpooledStore, folder), selected, left_out=left_out)
    observer = RunTracer(recorder, writer, whole)
    complete = False
    try:
        yield observer
        complete = True
    finally:
        observer.abandon()
        if left_out is not None and left_out.reasons:
            writer.manifest[LEFT_OUT] = left_out.reasons
        writer.close(complete)
        if left_out is not None and complete:
            left_out.warn(writer.is_empty)


class RunTracer(TraceObserver):
    """Records one run, and describes it in the manifest."""

    def __init__(self, recorder: Recorder, writer: TraceWriter, whole: bool | None = None):
        super().__init__(recorder, whole=whole)
        self.writer = writer

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the model whose layers are recorded.

        Raises:
            UsageError: There was a run before, or another pass of it (`upscale`).
        """
        if self._ops is not None:
            hint = "record each run in another block, and leave upscale out"
            raise UsageError("a recording holds one run of one pass", code="E-TRACE", hint=hint)
        return super().watch(model)

    def prepared(self, run: PreparedRun) -> None:
        """Describe the run in the manifest."""
        super().prepared(run)
        self.writer.manifest |= describe_run(run)


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


def describe_run(run: PreparedRun) -> dict[str, Any]:
    """Return the part of the manifest that describes the request."""
    n = len(run.job.seeds)
    return {"params": run.params(n), "seeds": list(run.job.seeds)}
