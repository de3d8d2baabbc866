"""The size of a trace before it is recorded, from shapes alone."""

from __future__ import annotations

import copy
import io
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import ResourceError
from ldmref.io.tensors.writer import TensorSource
from ldmref.models.controlnet import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.taesd import tiny_spec
from ldmref.modes.plan import AnyPlan
from ldmref.trace.files import manifest_text, resolve_names, write_call_to
from ldmref.trace.model import TraceEntry
from ldmref.trace.recorder import Recorder, RecordingBackend, flatten_arrays, is_overridden
from ldmref.trace.run import describe_program, describe_run, on_backend, traced_run
from ldmref.trace.selection import Selection
from ldmref.trace.shapes import FusedShapeBackend, ShapeBackend, shapes_of, without_weights
from ldmref.trace.store import SizeStore, count_bytes

DIGEST_LINE = 72  # bytes of a digest with its punctuation, in the manifest
SPARE = 2**28  # bytes of a disk that are left free


@dataclass(frozen=True)
class TraceEstimate:
    """What a trace would hold.

    Attributes:
        bytes: Size of all files.
        largest_call: Size of the largest file, which is needed twice while it is written.
        tensors: The number of stored tensors.
        calls: The calls, in order.
        layers: All names of layers.
        by_kind: Bytes by the kind of call: `unet`, `vae.decode`.
        steps: The number of steps of a trajectory.
    """

    bytes: int
    largest_call: int
    tensors: int
    calls: tuple[str, ...]
    layers: tuple[str, ...] = field(repr=False)
    by_kind: Mapping[str, int] = field(repr=False)
    steps: int


def estimate_trace(
    planned: AnyPlan, model: LatentDiffusion, selection: Selection | None = None
) -> TraceEstimate:
    """Return the size of the trace of a plan, without weights and without computing the networks.

    Each network is defined once per shape. Equal tensors of different origin, which a trace stores
    once, are counted twice, so the estimate is at least the size, and a few percent more at most.

    Raises:
        UsageError: The selection matches no call, layer or step of the run.

    >>> import ldmref
    >>> from ldmref import modes
    >>> model = ldmref.random_model("tiny")
    >>> estimate = estimate_trace(modes.plan("txt2img", model, prompt="", steps=3), model)
    >>> len([call for call in estimate.calls if call.startswith("unet.")])
    3
    """
    chosen = selection or Selection()
    everything = _measure(planned, model, Selection())
    if chosen != Selection():
        whole = everything.estimate()
        chosen.require_matches(whole.calls, whole.layers, whole.steps)
        return _measure(planned, model, chosen).estimate()
    return everything.estimate()


def check_space(
    estimate: TraceEstimate, folder: Path, max_bytes: int | None = None, smaller: str = ""
) -> None:
    """Refuse a trace that is larger than a limit or the free space of the disk.

    Args:
        estimate: The estimate.
        folder: The folder to write, which does not have to exist.
        max_bytes: The limit; None: only the disk's.
        smaller: How to make the trace smaller, for the message.

    Raises:
        ResourceError: It is larger.
    """
    size = estimate.bytes
    if max_bytes is not None and size > max_bytes:
        message = f"the trace takes about {show_bytes(size)}, more than {show_bytes(max_bytes)}"
        raise ResourceError(message, code="E-TRACE-SIZE", hint=smaller)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free - SPARE
    if size + estimate.largest_call > free:
        message = f"the trace takes about {show_bytes(size)}, and {show_bytes(max(free, 0))} are free"
        raise ResourceError(message, code="E-TRACE-SIZE", hint=smaller)


def show_bytes(size: float) -> str:
    """Return a size for people.

    >>> show_bytes(1_250_000_000)
    '1.25 GB'
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


class _Sizes:
    """The destination of calls that are only measured."""

    def __init__(self) -> None:
        self.manifest: dict[str, Any] = {}
        self.calls: list[str] = []
        self.bytes: list[int] = []
        self.tensors = 0
        self.by_kind: Counter[str] = Counter()
        self.layers: set[str] = set()
        self.entry_bytes = 0
        self.steps = 0
        self.last = 0

    def write_call(
        self,
        call: str,
        entries: list[TraceEntry],
        tensors: Mapping[str, TensorSource],
        shared: Mapping[str, str],
    ) -> None:
        header = io.BytesIO()
        empty = {name: np.empty(0) for name in tensors}
        write_call_to(header, call, empty, shared)
        shapes = sum(len(str(list(source.shape))) + 14 for source in tensors.values())
        size = len(header.getvalue()) + shapes + sum(map(count_bytes, tensors.values()))
        rows = manifest_text({}, [resolve_names(entry, shared) for entry in entries])
        self.add(call, size, len(rows), len(tensors))
        self.layers |= {entry.layer for entry in entries if entry.layer}

    def add(self, call: str, size: int, rows: int, tensors: int) -> None:
        """Count a call of a known size."""
        self.last = size, rows, tensors
        self.calls.append(call)
        self.bytes.append(size)
        self.entry_bytes += rows + DIGEST_LINE + len(call)
        self.tensors += tensors
        self.by_kind[call.partition("~")[0].rstrip("0123456789").rstrip(".")] += size

    def estimate(self) -> TraceEstimate:
        text = manifest_text(self.manifest, [])
        return TraceEstimate(
            sum(self.bytes) + self.entry_bytes + len(text),
            max(self.bytes, default=0),
            self.tensors,
            tuple(self.calls),
            tuple(sorted(self.layers)),
            dict(self.by_kind),
            self.steps,
        )


def _measure(planned: AnyPlan, model: LatentDiffusion, selection: Selection) -> _Sizes:
    inner = model.backend
    fused = is_overridden(inner, "group_norm_silu") or is_overridden(inner, "geglu")
    ops = (FusedShapeBackend if fused else ShapeBackend)(dtype=inner.dtype)
    hollow = model.with_backend(ops)
    hollow.params = without_weights(model_spec(model.config), ops)
    hollow.max_memory = None
    hollow.max_seconds = None
    if model.tiny_autoencoder is not None:
        tiny = on_backend(model.tiny_autoencoder, ops)
        tiny.params = shapes_of(tiny_spec(tiny.config), ops)
        hollow.tiny_autoencoder = tiny
    sizes = _Sizes()
    sizes.manifest = describe_program(model, selection)
    recorder = Recorder(sizes, SizeStore, selection)
    with traced_run(_hollow_plan(planned, ops), hollow, recorder) as run:
        sizes.manifest |= describe_run(run)
        for _ in run.generate():
            pass
    return sizes
