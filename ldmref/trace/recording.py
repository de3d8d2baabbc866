"""Record a run in a `with` block: of a model of ldmref, a diffusers pipeline or a torch module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ldmref.errors import UsageError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.observed import PreparedRun
from ldmref.trace.files import TraceWriter, read_trace
from ldmref.trace.model import Trace
from ldmref.trace.name_maps import NameMap
from ldmref.trace.observer import TraceObserver
from ldmref.trace.recorder import Recorder
from ldmref.trace.run import describe_program, describe_run
from ldmref.trace.selection import Selection
from ldmref.trace.store import SpooledStore

CODE = "E-TRACE"


class RecordedRunFolder:
    """A run that is being recorded, and its trace afterwards.

    Attributes:
        folder: The folder of the trace. A temporary one is deleted with this object.
    """

    def __init__(self, folder: str | Path | None):
        self._temporary = None if folder is not None else TemporaryDirectory(prefix="ldmref-")
        self.folder = Path(folder if folder is not None else self._temporary.name)  # type: ignore[union-attr]
        self._ended = False

    @property
    def trace(self) -> Trace:
        """The recorded run.

        Raises:
            UsageError: The block has not ended.
        """
        if not self._ended:
            message = "the run is still being recorded"
            raise UsageError(message, code=CODE, hint="read `run.trace` after the `with` block")
        return read_trace(self.folder)

    def __repr__(self) -> str:
        return f"<{'Recorded' if self._ended else 'Recording of a'} run in {str(self.folder)!r}>"


@contextmanager
def recording(
    program: Any,
    folder: str | Path | None = None,
    *,
    selection: Selection | None = None,
    overwrite: bool = False,
    call: str = "unet",
    names: NameMap | None = None,
) -> Iterator[RecordedRunFolder]:
    """Record every named intermediate of the run in a `with` block; no number changes.

    Args:
        program: A model of ldmref, a pipeline of diffusers, or a `torch.nn.Module`.
        folder: The folder of the trace. None: a temporary one.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether a trace in `folder` is replaced.
        call: The name of a module's calls. Models and pipelines have names of their own.
        names: The layer of ldmref for each submodule of a module; see `record_module`. None: the
            paths of the modules.

    Yields:
        The run; after the block, `run.trace` holds its arrays.

    Raises:
        UsageError: `program` is none of these, is recorded already, or generates twice in a block.
        OutputError: The folder has a trace, or cannot be written.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.random_model("tiny")
    >>> with ldmref.recording(model) as run:
    ...     result = modes.txt2img(model, "a red cat", seed=1, steps=2)
    >>> run.trace.tensors["unet.001//output"].shape
    (2, 4, 8, 8)
    """
    run = RecordedRunFolder(folder)
    overwrite = overwrite or folder is None
    if isinstance(program, LatentDiffusion):
        with _observing(program, run.folder, selection or Selection(), overwrite):
            yield run
    elif hasattr(program, "components"):
        from ldmref.trace.torch_pipeline import record_pipeline

        with record_pipeline(program, run.folder, selection=selection, overwrite=overwrite):
            yield run
    else:
        record_module = _module_recorder(program)
        options = {"call": call, "names": names, "selection": selection, "overwrite": overwrite}
        with record_module(program, run.folder, **options):
            yield run
    run._ended = True


def _module_recorder(program: Any) -> Any:
    """Return `record_module` for a module of torch.

    Raises:
        UsageError: It is no module.
    """
    if not hasattr(program, "named_modules"):
        raise UsageError(
            f"a {type(program).__name__} cannot be recorded",
            code=CODE,
            hint="give a model from ldmref.load, a diffusers pipeline or a torch.nn.Module",
        )
    from ldmref.trace.torch_hooks import record_module

    return record_module


@contextmanager
def _observing(
    model: LatentDiffusion, folder: Path, selection: Selection, overwrite: bool
) -> Iterator[None]:
    """Let a model be observed in a block, and write what it computed."""
    if model.observer is not None:
        raise UsageError("the model is being recorded already", code=CODE)
    writer = TraceWriter(folder, describe_program(model, selection), overwrite=overwrite)
    observer = _OneRun(Recorder(writer, partial(SpooledStore, folder), selection), writer)
    model.observer = observer
    complete = False
    try:
        yield
        complete = True
    finally:
        model.observer = None
        observer.abandon()
        writer.close(complete)


class _OneRun(TraceObserver):
    """Records the only run of a block."""

    def __init__(self, recorder: Recorder, writer: TraceWriter):
        super().__init__(recorder)
        self.writer = writer

    def watch(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return a copy of the model whose layers are recorded.

        Raises:
            UsageError: There was a run before.
        """
        if self._ops is not None:
            hint = "record each run in a block of its own"
            raise UsageError("a recording holds one run", code=CODE, hint=hint)
        return super().watch(model)

    def prepared(self, run: PreparedRun) -> None:
        """Describe the run in the manifest."""
        super().prepared(run)
        self.writer.manifest |= describe_run(run)
