"""Trace a run: every intermediate of a plan, written while it is generated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ldmref.backends.named import AGAIN, NAMED_OPERATIONS
from ldmref.errors import ResourceError, UsageError
from ldmref.families.lookup import networks_of_run
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.params import flatten
from ldmref.modes.generate import Callback, CancelFlag, check_callbacks
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.trajectory import PreparedRun, TakenStep, Trajectory
from ldmref.samplers import Interval
from ldmref.support.version import __version__
from ldmref.trace.files import SIZE_CODE, TraceWriter
from ldmref.trace.left_out import LEFT_OUT, LeftOut
from ldmref.trace.observer import TraceObserver, require_one_prompt
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import CODE as SELECTION_CODE
from ldmref.trace.selection import Selection
from ldmref.trace.store import SpooledStore

OF_THE_IMAGE = ("vae.decode", "image", "words", "jump")  # calls after the first step
MOST_CALLS = 1000  # numbers of calls that a pattern may name before they are made


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
    max_bytes: int | None = None,
) -> Result:
    """Generate the images of a plan and write every named intermediate as a trace.

    The images are those of `plan.run(model)`, byte for byte. `docs/traces.md` describes the
    files. After the first step that is recorded, a trace that would be too large and a selection
    that matches nothing are refused, and nothing is left of it.

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
        max_bytes: The most bytes of tensors. None: as many as the disk has room for.

    Returns:
        The images, as `plan.run(model)` returns them.

    Raises:
        UsageError: The plan has two passes (`upscale`) or is an edit, or the selection matches no
            call, layer or step of the run.
        OutputError: The folder has a trace, or cannot be written.
        ResourceError: The trace takes more than `max_bytes`, or than the disk has; or a limit of
            the model.
        Cancelled, NumericError: See `ldmref.errors`.

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
    selected = selection or Selection()
    program = describe_program(model, selected)
    writer = TraceWriter(Path(folder), program, overwrite=overwrite, max_bytes=max_bytes)
    recorder = Recorder(writer, partial(SpooledStore, writer.folder), selected)
    observer = CheckedTracer(recorder, writer, whole)
    with closing(observer, writer):
        result = plan.run(model, callback, cancel, observer)
        observer.require_matches()
        return result


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
    left_out: LeftOut,
) -> Iterator[RunTracer]:
    """Yield the observer of one run, whose calls are written to a folder.

    The trace is complete if the block ends without an error.

    Args:
        model: The model whose run is observed.
        folder: The folder of the trace.
        selection: Calls, layers and steps to record; None: all.
        overwrite: Whether a trace in `folder` is replaced.
        left_out: Notes what cannot be written, and the run goes on.

    Raises:
        OutputError: The folder has a trace, or cannot be written.
    """
    selected = selection or Selection()
    writer = TraceWriter(folder, describe_program(model, selected), overwrite=overwrite)
    recorder = Recorder(writer, partial(SpooledStore, folder), selected, left_out=left_out)
    observer = RunTracer(recorder, writer)
    with closing(observer, writer, left_out):
        yield observer
    left_out.warn(writer.is_empty)


@contextmanager
def closing(
    observer: TraceObserver, writer: TraceWriter, left_out: LeftOut | None = None
) -> Iterator[None]:
    """End a trace with the block: it is complete without an error, and deleted if it is refused."""
    complete = refused = False
    try:
        yield
        complete = True
    except (UsageError, ResourceError) as error:
        refused = error.code in (SIZE_CODE, SELECTION_CODE)
        raise
    finally:
        observer.abandon()
        if left_out is not None and left_out.reasons:
            writer.manifest[LEFT_OUT] = left_out.reasons
        if refused:
            writer.discard()
        else:
            writer.close(complete)


class RunTracer(TraceObserver):
    """Records one run, and describes it in the manifest."""

    def __init__(self, recorder: Recorder, writer: TraceWriter, whole: bool | None = None):
        super().__init__(recorder, whole)
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
        """Describe the run in the manifest, and record the images and arrays of its request."""
        super().prepared(run)
        self.writer.manifest |= describe_run(run)
        inputs = run.inputs
        if inputs:
            with self.recorder.call("inputs", run.model.backend) as call:
                if call is not None:
                    call.add("", "inputs", inputs)


class CheckedTracer(RunTracer):
    """Records one run, and ends it early if it is too large or the selection matches nothing.

    All steps record the same layers: the first one that is recorded says how large the trace will
    be, and which calls and layers there are until the image is decoded.
    """

    _checked = False
    _before = 0

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Check the steps of the selection.

        Raises:
            UsageError: The run has no such step.
        """
        self._steps = [i for i, j in pairwise(trajectory.visits) if j > i]
        self.recorder.selection.require_steps(sorted({*self._steps}))
        return super().started(trajectory)

    def stepping(self, x: Array, interval: Interval) -> None:
        """Note the size before the step."""
        super().stepping(x, interval)
        if not self._checked:
            self._before = self.writer.size

    def stepped(self, step: TakenStep) -> Array:
        """Check the rest of the run after the first step that is recorded.

        Raises:
            UsageError: A pattern of the selection matches no name.
            ResourceError: The trace will be too large.
        """
        x = super().stepped(step)
        selection = self.recorder.selection
        if not self._checked and selection.takes_step(step.interval.i):
            self._checked = True
            later = list_later_names(self.model, self.recorder.numbered)
            self.require_matches(() if self._ops is not None and self._ops.whole else later)
            left = sum(map(selection.takes_step, self._steps)) - 1
            self.writer.require_room(left * (self.writer.size - self._before))
        return x

    def require_matches(self, later: tuple[str, ...] = ()) -> None:
        """Refuse a selection that matches nothing of the calls and layers so far, or of `later`.

        Raises:
            UsageError: A pattern matches no name.
        """
        recorder = self.recorder
        recorder.selection.require_matches(recorder.calls, recorder.layers, later)


def list_later_names(model: LatentDiffusion, numbered: set[str]) -> tuple[str, ...]:
    """Return the names that calls and layers may have after the first step, and some more."""
    kinds = {*OF_THE_IMAGE, *numbered, *(net.name for net in networks_of_run(model.config))}
    calls = (f"{kind}.{i:03}" for kind in kinds for i in range(MOST_CALLS))
    again = (f"{kind}{AGAIN}1" for kind in kinds)
    spec = model_spec(model.config)
    modules = {
        name for network in spec.values() for leaf in flatten(network) for name in _parents(leaf)
    }
    operations = (f"{name}.{kind}" for name in modules for kind in NAMED_OPERATIONS)
    return (*kinds, *calls, *again, *modules, *operations)


def _parents(leaf: str) -> Iterator[str]:
    """Yield the names of the modules around a parameter."""
    while leaf := leaf.rpartition(".")[0]:
        yield leaf


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
