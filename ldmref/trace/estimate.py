"""The size of a trace before it is recorded, from shapes alone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ldmref.backends.arguments import split_arrays
from ldmref.backends.base import Backend
from ldmref.errors import ResourceError
from ldmref.families.lookup import find_network
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.tensors.writer import TensorSource, make_header
from ldmref.models.control import ControlNet, own_spec
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.taesd import tiny_spec
from ldmref.modes.active_guide import load_guide
from ldmref.modes.run import Plan
from ldmref.trace.backend import LayerRecordingBackend, is_overridden
from ldmref.trace.calls import TraceCall
from ldmref.trace.files import call_metadata, manifest_text, resolve_names
from ldmref.trace.model import TraceEntry
from ldmref.trace.observer import TraceObserver
from ldmref.trace.record_plan import describe_program, describe_run, require_recordable
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.shapes import FusedShapeBackend, ShapeBackend, shapes_of, without_weights
from ldmref.trace.store import SizeStore, count_bytes

DIGEST_LINE = 72  # bytes of a digest with its punctuation, in the manifest
SPARE = 2**28  # bytes of a disk that are left free


@dataclass(frozen=True)
class TraceEstimate:
    """The size and the content of a trace before it is recorded.

    Attributes:
        bytes: Size of all files.
        largest_call: Size of the largest file, which is needed twice while it is written.
        tensors: The number of stored tensors.
        calls: The calls, in order.
        layers: All names of layers.
        by_kind: Bytes by the kind of call: `unet`, `vae.decode`.
        steps: Indices of the sampler's steps; img2img begins above 0.

    >>> import ldmref
    >>> from ldmref import modes
    >>> from ldmref.trace import estimate_trace
    >>> model = ldmref.random_model("tiny")
    >>> plan = modes.plan("txt2img", model, prompt="a red cat", seed=1, steps=2)
    >>> estimate = estimate_trace(plan, model)
    >>> estimate.steps, sorted(estimate.by_kind)[:3]
    ((0, 1), ['guidance', 'sampler', 'schedule'])
    """

    bytes: int
    largest_call: int
    tensors: int
    calls: tuple[str, ...]
    layers: tuple[str, ...] = field(repr=False)
    by_kind: Mapping[str, int] = field(repr=False)
    steps: tuple[int, ...]


def estimate_trace(
    plan: Plan, model: LatentDiffusion, selection: Selection | None = None
) -> TraceEstimate:
    """Return the size of the trace of a plan, without weights and without computing the networks.

    Each network is defined once per shape. Equal tensors of different origin, which a trace stores
    once, are counted twice, so the estimate is at least the size, and a few percent more at most.

    Args:
        plan: From `modes.plan`.
        model: The model, whose backend and dtype are those of the trace.
        selection: Calls, layers and steps to record. None: all.

    Returns:
        The sizes in bytes, and the calls and layers.

    Raises:
        UsageError: The selection matches no call, layer or step of the run, the plan has two
            passes, or it is an edit.

    >>> import ldmref
    >>> from ldmref import modes
    >>> from ldmref.trace import estimate_trace
    >>> model = ldmref.random_model("tiny")
    >>> estimate = estimate_trace(modes.plan("txt2img", model, prompt="", steps=3), model)
    >>> len([call for call in estimate.calls if call.startswith("unet.")])
    3
    """
    require_recordable(plan)
    selected = selection or Selection()
    everything = _measure(plan, model, Selection())
    if selected != Selection():
        whole = everything.estimate()
        selected.require_matches(whole.calls, whole.layers, whole.steps)
        return _measure(plan, model, selected).estimate()
    return everything.estimate()


def check_space(
    estimate: TraceEstimate, folder: Path, max_bytes: int | None = None, smaller: str = ""
) -> None:
    """Refuse a trace that is larger than a limit or the free space of the disk.

    Args:
        estimate: The estimate.
        folder: The folder to write, which does not have to exist.
        max_bytes: The limit in bytes. None: only the disk's.
        smaller: How to make the trace smaller, for the message.

    Raises:
        ResourceError: It is larger.

    >>> import ldmref
    >>> from ldmref import modes
    >>> from ldmref.trace import check_space, estimate_trace
    >>> model = ldmref.random_model("tiny")
    >>> plan = modes.plan("txt2img", model, prompt="a red cat", seed=1, steps=2)
    >>> from pathlib import Path
    >>> check_space(estimate_trace(plan, model), Path("trace"), max_bytes=100_000_000)
    """
    size = estimate.bytes
    if max_bytes is not None and size > max_bytes:
        message = f"the trace takes about {show_bytes(size)}, more than {show_bytes(max_bytes)}"
        raise ResourceError(message, code="E-TRACE-SIZE", hint=smaller)
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free - SPARE
    if size + estimate.largest_call > free:
        message = (
            f"the trace takes about {show_bytes(size)}, and {show_bytes(max(free, 0))} are free"
        )
        raise ResourceError(message, code="E-TRACE-SIZE", hint=smaller)


def show_bytes(size: float) -> str:
    """Return a size for people.

    Args:
        size: The size in bytes, >= 0.

    Returns:
        The size in B, kB, MB, GB, ... with three digits.

    >>> from ldmref.trace import show_bytes
    >>> show_bytes(1_250_000_000)
    '1.25 GB'
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


class _Size(NamedTuple):
    """The size of a call: bytes of its file and of its lines in the manifest, and its tensors."""

    file: int
    rows: int
    tensors: int


class _Sizes:
    """The destination of calls that are only measured."""

    def __init__(self) -> None:
        self.manifest: dict[str, Any] = {}
        self.calls: list[str] = []
        self.sizes: list[_Size] = []
        self.by_kind: Counter[str] = Counter()
        self.layers: set[str] = set()
        self.known: dict[Any, tuple[Any, _Size | None]] = {}
        self.steps: tuple[int, ...] = ()

    def write_call(
        self,
        call: str,
        entries: list[TraceEntry],
        tensors: Mapping[str, TensorSource],
        shared: Mapping[str, str],
    ) -> None:
        header = make_header(tensors, call_metadata(call, shared, tensors))
        values = sum(count_bytes(source) for source in tensors.values())
        rows = manifest_text({}, [resolve_names(entry, shared) for entry in entries])
        self.add(call, _Size(len(header) + values, len(rows), len(tensors)))
        self.layers |= {entry.layer for entry in entries if entry.layer}

    def add(self, call: str, size: _Size) -> None:
        """Count a call of a known size."""
        self.calls.append(call)
        self.sizes.append(size)
        self.by_kind[TraceCall(call).kind] += size.file

    def estimate(self) -> TraceEstimate:
        rows = sum(size.rows + DIGEST_LINE for size in self.sizes)
        manifest = len(manifest_text(self.manifest, [])) + rows + sum(map(len, self.calls))
        return TraceEstimate(
            sum(size.file for size in self.sizes) + manifest,
            max((size.file for size in self.sizes), default=0),
            sum(size.tensors for size in self.sizes),
            tuple(self.calls),
            tuple(sorted(self.layers)),
            dict(self.by_kind),
            self.steps,
        )


class _MeasuringBackend(LayerRecordingBackend):
    """A recording backend that looks at networks of each shape once."""

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        """Return the network, whose later calls of equal shapes repeat the first one's size."""
        run = super().compile(network, params)
        declared = find_network(self.networks, network.__name__, {})
        if declared is None or not declared.numbered:
            return run
        kind = self.prefix + declared.name
        sizes: Any = self.recorder.writer

        def repeated(*args: Any, **kwargs: Any) -> Any:
            arrays, template = split_arrays(args, kwargs)
            key = kind, id(params), template, tuple(array.shape for array in arrays)
            output, size = sizes.known.get(key, (None, None))
            name = self.recorder.next_name(kind)
            taken = self.recorder.selection.takes_call(name, self.recorder.step)
            if output is None or (taken and size is None):
                output = run(*args, **kwargs)
                sizes.known[key] = output, sizes.sizes[-1] if taken else None
                return output
            self.recorder.count_call(kind)
            if taken:
                sizes.add(name, size)
            return output

        return repeated


def _measure(plan: Plan, model: LatentDiffusion, selection: Selection) -> _Sizes:
    inner = model.backend
    fused = is_overridden(inner, "group_norm_silu") or is_overridden(inner, "geglu")
    ops = (FusedShapeBackend if fused else ShapeBackend)(dtype=inner.dtype)
    weightless = _weightless(model, ops)
    if model.tiny_autoencoder is not None:
        tiny = model.tiny_autoencoder.with_backend(ops)
        tiny.params = shapes_of(tiny_spec(tiny.config), ops)
        weightless.tiny_autoencoder = tiny
    sizes = _Sizes()
    sizes.manifest = describe_program(model, selection)
    recorder = Recorder(sizes, SizeStore, selection)
    observer = TraceObserver(recorder, _MeasuringBackend, inner.compiles)
    run = _with_weightless_parts(plan, model, ops).prepare(weightless, observer)
    sizes.manifest |= describe_run(run)
    for _ in run.generate():
        pass
    sizes.steps = tuple(sorted(recorder.visited))
    return sizes


def _weightless(model: LatentDiffusion, ops: Backend) -> LatentDiffusion:
    """Return a copy of a model without weights and limits."""
    copied = model.with_backend(ops)
    copied.params = without_weights(model_spec(model.config), ops)
    copied.max_memory = copied.max_seconds = None
    return copied


def _with_weightless_parts(plan: Plan, model: LatentDiffusion, ops: Backend) -> Plan:
    """Return a plan whose ControlNets and second model have no weights."""
    controls = []
    for control in plan.job.control:
        net = control.net
        if not isinstance(net, ControlNet):
            net = open_controlnet(net, model.config.denoiser)
        params = shapes_of(own_spec(net.config), ops)
        controls.append(replace(control, net=ControlNet(ops, net.config, params, net.name)))
    job = replace(plan.job, control=tuple(controls))
    if (guide := job.guide) is not None:
        job = replace(job, guide=replace(guide, source=_weightless(load_guide(model, guide), ops)))
    return replace(plan, job=job)
