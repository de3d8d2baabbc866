"""Record a run in a `with` block: of a model of ldmref, a diffusers pipeline or other modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.models.model import LatentDiffusion
from ldmref.support.lazy_mapping import LazyMapping
from ldmref.trace.files import read_trace
from ldmref.trace.frameworks.framework import find_program, list_frameworks
from ldmref.trace.left_out import LeftOut
from ldmref.trace.model import Trace
from ldmref.trace.name_maps import NameMap
from ldmref.trace.record_plan import tracing
from ldmref.trace.selection import Selection

CODE = "E-TRACE"


class _KeptTensors(LazyMapping[np.ndarray]):
    """Tensors of a temporary folder, which is deleted after the last trace that reads them."""

    def __init__(self, tensors: Mapping[str, np.ndarray], folder: TemporaryDirectory[str]):
        self.tensors = tensors
        self.folder = folder

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors, in order."""
        return self.tensors.keys()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]


class RunRecording:
    """A run that is recorded, with its trace after the block.

    Attributes:
        folder: The folder of the trace. A temporary one is deleted with this object and its traces.
    """

    def __init__(self, folder: str | Path | None):
        self._temporary: TemporaryDirectory[str] | None = None
        if folder is None:
            self._temporary = TemporaryDirectory(prefix="ldmref-")
            folder = self._temporary.name
        self.folder = Path(folder)
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
        trace = read_trace(self.folder)
        if self._temporary is None:
            return trace
        return replace(trace, tensors=_KeptTensors(trace.tensors, self._temporary))

    def __repr__(self) -> str:
        return f"<{'Recorded' if self._ended else 'Recording of a'} run in {str(self.folder)!r}>"


@contextmanager
def recording(
    program: object,
    folder: str | Path | None = None,
    *,
    selection: Selection | None = None,
    overwrite: bool = False,
    call: str | None = None,
    names: NameMap | None = None,
) -> Iterator[RunRecording]:
    """Record every named intermediate of the run in a `with` block; no number changes.

    What cannot be recorded (a sparse tensor, values within `jit`, a call when the disk is full) is
    left out, and the run goes on: a warning at the end of the block names it, and the manifest has
    it as `left_out`. A run in which no network or no layer was called ends in a warning as well.

    Args:
        program: One of
            - a model of ldmref;
            - a pipeline of diffusers. Of one that no family reads, the networks are recorded by the
              names of its components;
            - a module of PyTorch, MLX (`mlx.nn.Module`), Keras 3 (a layer or model that is built,
              on any of its backends), Flax (`flax.nnx.Module`), or of a framework that a plug-in
              adds (`ldmref.trace.frameworks`). Compiled ones hide their layers and cannot be
              recorded;
            - a mapping of modules by name, which are the networks of a program: the calls of
              `{"text_encoder": a, "transformer": b}` are `text_encoder.000`, `transformer.000`,
              and those of `{"vae": c}` are what it encodes and decodes, `vae.encode` and
              `vae.decode`;
            - with `call`, a mapping of the layers of a model that is a function, by their names:
              `{"conv_in": a, "blocks.0": b}`. A call begins with the layer that is called first,
              and ends when that is called again.
        folder: The folder of the trace. None: a temporary one.
        selection: Calls, layers and steps to record. None: all.
        overwrite: Whether a trace in `folder` is replaced.
        call: The name of the calls of a module, `unet` if it is None, or of a function whose layers
            `program` has; not used for models and pipelines.
        names: The layer of ldmref for each path of a module: a mapping of names or globs, or a
            function (`ldmref.trace.name_maps.make_renamer`); a list of names splits the output of a
            joined layer. Modules without a name are left out. None: the paths are ldmref's.

    Yields:
        The run; after the block, `run.trace` holds its arrays.

    Raises:
        UsageError: `program` is none of these or a pipeline without a network, a mapping of modules
            of two frameworks, is recorded already, is not built, or generates twice in a block.
        OutputError: The folder has a trace, or cannot be written.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.random_model("tiny")
    >>> with ldmref.recording(model) as run:
    ...     result = modes.txt2img(model, "a red cat", seed=1, steps=2)
    >>> run.trace.tensors["unet.001//output"].shape
    (2, 4, 8, 8)
    """
    run = RunRecording(folder)
    options: dict[str, Any] = {"selection": selection, "overwrite": overwrite or folder is None}
    with _recorder(program, run.folder, call, names, options):
        yield run
    run._ended = True


def _recorder(
    program: Any, folder: Path, call: str | None, names: NameMap | None, options: Mapping[str, Any]
) -> AbstractContextManager[Any]:
    """Return the context that records a program.

    Raises:
        UsageError: The program is none that can be recorded.
    """
    if isinstance(program, LatentDiffusion):
        return _observing(program, folder, **options)
    if hasattr(program, "components"):
        from ldmref.trace.torch_pipeline import record_pipeline

        return record_pipeline(program, folder, **options)
    found = find_program(program, call)
    if found is not None:
        framework, modules = found
        return framework.record(modules, folder, names, **options)
    frameworks = ", ".join(list_frameworks())
    raise UsageError(
        f"a {type(program).__name__} cannot be recorded",
        code=CODE,
        hint=f"use a model from ldmref.load, a diffusers pipeline, or modules of {frameworks}",
    )


@contextmanager
def _observing(
    model: LatentDiffusion, folder: Path, selection: Selection | None, overwrite: bool
) -> Iterator[None]:
    """Let a model's run be observed in a block."""
    if model.observer is not None:
        raise UsageError("the model is being recorded already", code=CODE)
    with tracing(model, folder, selection, overwrite, LeftOut()) as observer:
        model.observer = observer
        try:
            yield
        finally:
            model.observer = None
