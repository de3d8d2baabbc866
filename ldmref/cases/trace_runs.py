"""Golden traces: whole runs of tiny models, whose noise and images are data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref import modes
from ldmref.cases.golden_models import golden_config, golden_runs
from ldmref.cases.parameters import random_array
from ldmref.cases.values import NamedArrays
from ldmref.io.tensors.writer import TensorSource
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import GeneratedImage, on_backend
from ldmref.modes.run import Plan
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers.registry import SAMPLERS
from ldmref.support.bfloat16 import decode_bfloat16
from ldmref.trace.backend import LayerRecordingBackend
from ldmref.trace.model import TraceEntry
from ldmref.trace.observer import TraceObserver
from ldmref.trace.record_plan import describe_program, describe_run
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.store import SpooledStore

PROMPT = "a red heart"
NEGATIVE = "table"
SIDE = 16  # of the images, in pixels
STEPS = 3
NOISE = "noise"  # the names of tensors that are not a call's
MASK = "mask"
GIVEN = "vae.encode//input.image"
STEP_NOISE = "sampler.{:03}//input.noise"


def record_whole(*args: Any) -> LayerRecordingBackend:
    """Return a backend that records inputs and outputs of networks, without their layers."""
    inner, recorder, config, _, *prefix = args
    return LayerRecordingBackend(inner, recorder, config, True, *prefix)


@dataclass(frozen=True)
class GoldenTrace:
    """One run.

    Attributes:
        name: `FAMILY.MODE.SAMPLER`.
        family: The name of its model, a preset.
        mode: "txt2img", "img2img" or "inpaint".
        params: Further parameters of the mode.
        noisy: Whether the sampler adds noise.
    """

    name: str
    family: str
    mode: str
    params: Mapping[str, Any]
    noisy: bool = False

    @property
    def images(self) -> int:
        """The number of images, one for each prompt."""
        prompt = self.params["prompt"]
        return 1 if isinstance(prompt, str) else len(prompt)

    def inputs(self) -> dict[str, np.ndarray]:
        """Return the arrays that the run is given, by the name of the tensor.

        There is noise for the last step, which most samplers do not use.
        """
        vae = golden_config(self.family).vae
        width, height = (self.params.get(name, SIDE) // vae.factor for name in ("width", "height"))
        latents = (self.images, vae.latent_channels, height, width)
        found = {NOISE: random_array(f"traces/{self.name}/noise", latents)}
        for i in range(STEPS if self.noisy else 0):
            found[STEP_NOISE.format(i)] = random_array(f"traces/{self.name}/noise/{i}", latents)
        if self.mode != "txt2img":
            pixels = np.rint(63.5 * random_array("traces/image", (1, 3, SIDE, SIDE)) + 127.5)
            found[GIVEN] = np.clip(pixels, 0.0, 255.0) / 127.5 - 1.0
        if self.mode == "inpaint":
            mask = np.zeros((1, 1, SIDE, SIDE))
            mask[..., 4:12, 2:10] = 1.0
            found[MASK] = mask
        return {name: x.astype(np.float64) for name, x in found.items()}


@dataclass(frozen=True)
class RecordedRun:
    """The recorded calls of a run.

    Attributes:
        tensors: The inputs and outputs of every call, by name.
        entries: The calls, in their order.
        manifest: The request, the model and the backend.
    """

    tensors: dict[str, np.ndarray] = field(repr=False)
    entries: list[TraceEntry] = field(repr=False)
    manifest: dict[str, Any]


def golden_traces(families: Collection[str] = ()) -> Iterator[GoldenTrace]:
    """Yield the traces of all runs that families declare.

    Args:
        families: Names of models, also of other packages; (): all of ldmref.
    """
    for run in golden_runs(families):
        params = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "steps": STEPS}
        params |= {"sampler": run.sampler, "cfg_scale": 5.0, "seed": 0}
        if run.mode == "txt2img":
            params |= {"width": SIDE, "height": SIDE}
        elif run.mode == "img2img":
            params |= {"steps": STEPS + 1, "strength": 0.75}
        noisy = SAMPLERS[run.sampler].stochastic
        yield GoldenTrace(run.name, run.preset, run.mode, params | dict(run.params), noisy)


def record_run(
    trace: GoldenTrace,
    model: LatentDiffusion,
    inputs: NamedArrays,
    change: Callable[[Trajectory], Trajectory] = lambda trajectory: trajectory,
    recording: Callable[..., LayerRecordingBackend] = record_whole,
) -> RecordedRun:
    """Generate the images of a golden trace from the given noise, and record every call.

    Args:
        trace: The run.
        model: The model, `golden_model(trace.family)` on any backend.
        inputs: The arrays of `GoldenTrace.inputs`.
        change: Changes the sampling before its first step.
        recording: Makes the backend that records, as `LayerRecordingBackend`.
    """
    found = RecordedRun({}, [], {})
    recorder = make_recorder(found)
    observer = GivenNoise(recorder, inputs, change, recording)
    try:
        run = _plan(trace, model, inputs).prepare(model, observer)
        made = [event for event in run.generate() if isinstance(event, GeneratedImage)]
        assert len(made) == trace.images
    finally:
        observer.abandon()
    found.manifest.update(describe_program(model, recorder.selection) | describe_run(run))
    return found


def make_recorder(found: RecordedRun) -> Recorder:
    """Return a recorder of all calls, which are kept in `found`."""
    store = partial(SpooledStore, Path(tempfile.gettempdir()))
    return Recorder(_Calls(found), store, Selection())


def _plan(trace: GoldenTrace, model: LatentDiffusion, inputs: NamedArrays) -> Plan:
    """Return the plan of a run whose initial noise is given, of which the record has a digest."""
    params: dict[str, Any] = dict(trace.params) | {"latents": inputs[NOISE]}
    if trace.mode != "txt2img":
        pixels = np.rint(127.5 * (inputs[GIVEN][0].transpose(1, 2, 0) + 1.0))
        params["image"] = pixels.astype(np.uint8)
    if trace.mode == "inpaint":
        params["mask"] = inputs[MASK][0, 0] > 0.5
    plan = modes.plan(trace.mode, model, **params)
    start = plan.start  # rounds the noise to float32
    return replace(plan, start=lambda model: replace(start(model), noise=inputs[NOISE]))


class GivenNoise(TraceObserver):
    """Records a run whose noise is given.

    Args:
        recorder: Where calls are recorded.
        inputs: The arrays of `GoldenTrace.inputs`.
        change: Changes the sampling before its first step.
        recording: Makes the backend that records.
    """

    def __init__(
        self,
        recorder: Recorder,
        inputs: NamedArrays,
        change: Callable[[Trajectory], Trajectory],
        recording: Callable[..., LayerRecordingBackend],
    ):
        super().__init__(recorder)
        self.recording = recording
        self.inputs = inputs
        self.change = change

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Record the schedule; return the sampling with the given noise."""
        super().started(trajectory)
        names = (STEP_NOISE.format(i) for i in range(STEPS))
        noises = iter([self.inputs[name] for name in names if name in self.inputs])
        ops = trajectory.model.backend
        return self.change(replace(trajectory, noise=lambda: on_backend(ops, next(noises))))


class _Calls:
    """Complete calls, kept in memory."""

    def __init__(self, found: RecordedRun):
        self.found = found

    def write_call(
        self,
        call: str,
        entries: list[TraceEntry],
        tensors: Mapping[str, TensorSource],
        shared: Mapping[str, str],
    ) -> None:
        """Keep the tensors of a call."""
        arrays = {name: _as_numbers(tensor) for name, tensor in tensors.items()}
        self.found.tensors.update(arrays | {name: arrays[old] for name, old in shared.items()})
        self.found.entries.extend(entries)


def _as_numbers(tensor: TensorSource) -> np.ndarray:
    """Return a stored tensor as numbers; bfloat16 is stored as its bits."""
    return decode_bfloat16(tensor.read()) if tensor.kind == "BF16" else np.array(tensor.read())
