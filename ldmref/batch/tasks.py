"""One row as an executor runs it: a task in, an outcome out, both without any file."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from threadpoolctl import threadpool_limits

from ldmref import modes
from ldmref.backends import Backend
from ldmref.backends.fast.threads import one_thread
from ldmref.batch.inputs import read_unchanged
from ldmref.batch.keys import ModelIdentity, identify_model
from ldmref.batch.planning import PlannedRow
from ldmref.errors import Cancelled, LdmrefError, ResourceError, UsageError
from ldmref.io.images.metadata import encode_png
from ldmref.loading import load
from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Control
from ldmref.modes.generate import CancelFlag, GeneratedImage
from ldmref.modes.registry import require_config
from ldmref.support.free_memory import is_out_of_memory

ModelSource = LatentDiffusion | Callable[[], LatentDiffusion]


@dataclass(frozen=True)
class RowTask:
    """Everything that a worker needs for a row, without files except for ControlNets.

    Args:
        key: The key of the row.
        mode: Its mode.
        values: Its parameters.
        images: The content of its images, by parameter.
        several: The content of its lists of images, by parameter.
        controls: The arguments of its `Control`s, with the content of their images.
    """

    key: str
    mode: str
    values: Mapping[str, Any] = field(repr=False)
    images: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    several: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)
    controls: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters for `modes.plan`."""
        images = {name: io.BytesIO(content) for name, content in self.images.items()}
        several = {name: [*map(io.BytesIO, contents)] for name, contents in self.several.items()}
        controls = [
            Control(**{**c, "image": None if c["image"] is None else io.BytesIO(c["image"])})
            for c in self.controls
        ]
        more = {"control": controls} if controls else {}
        return {**self.values, **images, **several, **more}


class EncodedImage(NamedTuple):
    """A generated image as a PNG file, with its SHA-256 and its record."""

    png: bytes
    sha256: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class RowOutcome:
    """The images of a row, or the error that prevented them.

    Args:
        key: The key of the row.
        images: All of its images; empty if it failed.
        warnings: Warnings, one line each.
        seconds: The time that it took.
        error: Code, message and hint of the error; None if there was none.
    """

    key: str
    images: tuple[EncodedImage, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    error: tuple[str, str, str] | None = None


class RowExecutor(Protocol):
    """Runs tasks in any order, on one worker or many."""

    def run(
        self, tasks: Iterator[RowTask], cancel: CancelFlag | None
    ) -> Generator[RowOutcome, None, None]:
        """Yield the outcome of every task.

        Raises:
            Cancelled: `cancel` was set.
        """
        ...


def make_task(planned: PlannedRow) -> RowTask:
    """Return the task of a row, with the content of its images.

    Raises:
        ImageError: An image has changed since the row was checked.
    """
    inputs = planned.inputs
    digests = inputs.digests
    images = {
        name: read_unchanged(path, digests[name]).getvalue() for name, path in inputs.images.items()
    }
    several = {
        name: tuple(
            read_unchanged(path, digest).getvalue()
            for path, digest in zip(paths, digests[name], strict=True)
        )
        for name, paths in inputs.several.items()
    }
    controls = tuple(
        {**control, "image": read_control_image(control["image"], digest["image"])}
        for control, digest in zip(inputs.controls, digests.get("control", ()), strict=True)
    )
    return RowTask(planned.key, planned.row.mode, inputs.values, images, several, controls)


def read_control_image(path: Path | None, digest: str | None) -> bytes | None:
    """Return the content of a control's image; None for a control without one.

    Raises:
        ImageError: It has changed.
    """
    if path is None or digest is None:
        return None
    return read_unchanged(path, digest).getvalue()


def generate_task(
    model: LatentDiffusion, task: RowTask, cancel: CancelFlag | None = None
) -> RowOutcome:
    """Generate the images of a row, alone: no other row changes a bit of them.

    Raises:
        Cancelled: `cancel` was set.
    """
    start = time.monotonic()
    try:
        parameters = task.parameters()
        if (path := parameters.get("guide")) is not None:
            parameters["guide"] = load_guide(path, model.backend)
        run = modes.plan(task.mode, model.config, **parameters).prepare(model)
        images = tuple(
            encode_image(event, run)
            for event in run.generate(cancel)
            if isinstance(event, GeneratedImage)
        )
        return RowOutcome(task.key, images, tuple(run.warnings), time.monotonic() - start)
    except Cancelled:
        raise
    except Exception as error:  # a row that fails in any way does not stop the batch
        known = to_row_error(error)
        seconds = time.monotonic() - start
        described = (known.code, str(known), known.hint)
        return RowOutcome(task.key, seconds=seconds, error=described)


@lru_cache(maxsize=1)
def load_guide(path: str, ops: Backend) -> LatentDiffusion:
    """Return the second model of a row; the last one is kept for the rows that follow."""
    return load(path, backend=ops)


def encode_image(image: GeneratedImage, run: modes.Run) -> EncodedImage:
    """Return a generated image as the PNG that `Result.save` writes."""
    params = run.params_of(image.index)
    png = encode_png(image.image, params)
    return EncodedImage(png, hashlib.sha256(png).hexdigest(), params)


def to_row_error(error: Exception) -> LdmrefError:
    """Return the error itself, or an equivalent one with a code."""
    if isinstance(error, LdmrefError):
        return error
    if is_out_of_memory(error):
        return ResourceError("out of memory", code="E-MEMORY", hint="use fewer workers")
    text = f"{type(error).__name__}: {error} (please report)"
    return LdmrefError(text, code="E-INTERNAL")


def load_source(source: ModelSource) -> LatentDiffusion:
    """Return the model of a source.

    Raises:
        UsageError: It is neither a model nor a function that returns one.
    """
    model = source() if callable(source) else source
    require_config("a batch", model)
    return model


def load_same(source: ModelSource, identity: ModelIdentity) -> LatentDiffusion:
    """Return the model of a source, in a worker of a batch with a known identity.

    Raises:
        UsageError: It is another model, or on another backend or version.
    """
    model = load_source(source)
    found = vars(identify_model(model))
    wanted = vars(identity)
    differing = [
        f"{name} {found[name]}, not {wanted[name]}" for name in found if found[name] != wanted[name]
    ]
    if differing:
        raise UsageError(
            f"a worker differs from the batch: it has {differing[0]}",
            code="E-WORKER",
            hint="install the same versions and the same model on every machine",
        )
    return model


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Compute with this many threads within the context, in NumPy and in torch."""
    torch = sys.modules.get("torch")
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(threads, user_api="blas"))
        if threads == 1:
            stack.enter_context(one_thread())
        if torch is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        yield
