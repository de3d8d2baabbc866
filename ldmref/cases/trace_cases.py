"""Cases of whole runs: their traces as files, and what of them is compared.

The tolerances come from runs with random errors of the size of float32's roundings.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.described_folder import WriteFile
from ldmref.cases.golden_models import (
    END,
    PREFIX,
    VOCABULARIES,
    golden_config,
    golden_model,
    network_cases,
    vocabularies_of,
    vocabulary_files,
)
from ldmref.cases.model import TRACES, CaseTensor, GoldenCase
from ldmref.cases.network_cases import LENGTH
from ldmref.cases.onnx_cases import rounded_up
from ldmref.cases.parameters import random_stream
from ldmref.cases.recorder import (
    RUNS,
    SAFETY,
    U,
    bound_of,
    largest_rounding,
    map_results,
    split_results,
)
from ldmref.cases.trace_runs import GoldenTrace, RecordedRun, golden_traces, record_run
from ldmref.cases.values import NamedArrays
from ldmref.io.tensors.writer import source, write_to
from ldmref.math.arrays import Array
from ldmref.models.autoencoder_kind import autoencoder_of, scales_of
from ldmref.models.config import ModelConfig, TextConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.text_kind import kind_of
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import Schedule, training_alphas_cumprod
from ldmref.trace.files import call_metadata, manifest_text, resolve_names
from ldmref.trace.manifest import MANIFEST

FILE = "trace.safetensors"
INPUT = "/input."
ENCODER = "vae.encode"  # whose variance a run does not use
OF_HOST: Mapping[str, tuple[str, ...]] = {  # kind of call -> the tensors that are compared
    "guidance": ("/output",),
    "sampler": ("/output", "constrain/output"),
}

LEVEL_ROUNDINGS = 8.0  # of a level of a flow: s, k s, (k - 1) s, the sum, the quotient, 1000 s
ROUNDINGS = 16.0  # of the largest operand, in a computation of the host


def networks_of_traces(families: Collection[str] = ()) -> set[str]:
    """Return the names of the networks that the traces of families call."""
    return {
        name
        for trace in golden_traces(families)
        for name in network_cases(trace.family, trace.mode).values()
    }


def write_traces(write: WriteFile, families: Collection[str] = ()) -> Iterator[GoldenCase]:
    """Write the traces of families and their vocabularies; yield their cases.

    Args:
        write: Function `write(path, data)` that writes a file of the suite.
        families: Names in `ldmref.cases.families.FAMILIES`; (): all.
    """
    kinds: dict[str, None] = {}
    for trace in golden_traces(families):
        kinds |= dict.fromkeys(filter(None, vocabularies_of(trace.family)))
        yield _write_trace(write, trace)
    for kind in kinds:
        for name, text in vocabulary_files(kind).items():
            write(f"{VOCABULARIES}/{kind}/{name}", text.encode())


def _write_trace(write: WriteFile, trace: GoldenTrace) -> GoldenCase:
    start = trace.inputs()
    exact = record_exactly(trace, start)
    allowed = tolerances(trace, start, exact)
    recorded = {name: rounded(x) for name, x in exact.tensors.items()}
    plain = {name: rounded(x) for name, x in start.items() if "//" not in name}
    inputs = {name: x for name, x in (recorded | plain).items() if name in start}
    path = f"{TRACES}/{trace.name}"
    write_run(write, path, trace.family, replace(exact, tensors=recorded | plain), "float32")
    outputs = tuple(
        CaseTensor(name, dtype, recorded[name].shape, _tolerance(dtype, allowed[name]))
        for name in compared(exact, golden_config(trace.family))
        for dtype in [str(recorded[name].dtype)]
    )
    described = tuple(CaseTensor(name, str(x.dtype), x.shape) for name, x in inputs.items())
    return GoldenCase(
        trace.name,
        TRACES,
        trace.mode,
        path,
        described,
        outputs,
        _attributes(trace),
        (),
        "propagated",
    )


def write_run(write: WriteFile, path: str, family: str, run: RecordedRun, dtype: str) -> None:
    """Write a recorded run as a trace of two files, in which equal tensors are stored once.

    Args:
        write: Function `write(path, data)` that writes a file.
        path: The folder of the trace.
        family: The name of its model.
        run: The run, computed in float64.
        dtype: The number format in which its tensors are stored.
    """
    model = run.manifest["model"] | {"name": f"{PREFIX}{family}"}
    stored_as = {"backend": {"name": "numpy"}, "dtype": dtype}
    manifest = run.manifest | stored_as | {"model": model, "complete": True}
    write_calls(write, path, RecordedRun(run.tensors, run.entries, manifest))


def write_calls(write: WriteFile, path: str, run: RecordedRun) -> None:
    """Write recorded calls as a trace of two files, under the manifest of the run.

    Args:
        write: Function `write(path, data)` that writes a file.
        path: The folder of the trace.
        run: The run.
    """
    shared = _write_tensors(write, f"{path}/{FILE}", run.tensors)
    entries = [resolve_names(entry, shared) for entry in run.entries]
    write(f"{path}/{MANIFEST}", manifest_text(run.manifest, entries).encode())


def compared(run: RecordedRun, config: ModelConfig) -> list[str]:
    """Return the names of the tensors that are compared, in the order of the run.

    They are all inputs and outputs of the networks, and what the host computes between them. The
    conditioning is the same in every step, so each array of it is listed once; images are given.
    """
    networks = {network.name: network for network in family_of(config).networks(config)}
    tensors = {**OF_HOST, **{name: _compared(net) for name, net in networks.items()}}
    conditioning = _conditioning(networks[config.denoiser.network])
    names = []
    seen: set[tuple[str, bytes]] = set()
    for call in dict.fromkeys(entry.call for entry in run.entries):
        for ending in tensors.get(call.kind, ()):
            name = f"{call}/{ending}"
            if name not in run.tensors:
                continue
            key = ending, run.tensors[name].tobytes()
            once = call.kind == config.denoiser.network and ending in conditioning
            if not once or key not in seen:
                seen.add(key)
                names.append(name)
    return names


def _compared(network: DeclaredNetwork) -> tuple[str, ...]:
    """Return the tensors of a call of a network that are compared."""
    inputs = [f"{INPUT}{x.role}" for x in network.inputs if x.content != "image"]
    outputs = [f"/output.{role}" if role else "/output" for role, _ in network.outputs]
    return (*inputs, *outputs[: 1 if network.name == ENCODER else None])


def _conditioning(denoiser: DeclaredNetwork) -> set[str]:
    """Return the inputs of a denoiser that are the same in every step."""
    changing = ("timesteps", "ends")
    constant = (x for x in denoiser.inputs if x.argument != "x" and x.content not in changing)
    return {f"{INPUT}{x.role}" for x in constant}


def rounded(x: np.ndarray) -> np.ndarray:
    """Return an array as a trace stores it: float32, except for schedules and single numbers."""
    return x.astype(np.float32) if x.dtype.kind == "f" and x.ndim > 1 else x


def _tolerance(dtype: str, atol: float) -> dict[str, tuple[float, float]]:
    return {} if dtype == "int64" else {"float32": (rounded_up(atol), 0.0)}


def _attributes(trace: GoldenTrace) -> dict[str, Any]:
    """Return the arguments of a run that are not arrays."""
    config = golden_config(trace.family)
    attributes = {key: value for key, value in trace.params.items() if key != "seed"}
    attributes |= {
        "networks": network_cases(trace.family, trace.mode),
        "length": LENGTH,
        "prediction_type": config.scheduler.prediction_type,
    }
    if autoencoder_of(config.vae).scales is not None:
        attributes["scaling_factor"] = scales_of(config.vae)[0]
    kinds = vocabularies_of(trace.family)
    if any(kinds):
        folders = [f"{VOCABULARIES}/{kind}" for kind in kinds]
        attributes["vocabulary"] = folders[0]
        if len({*folders}) > 1:
            attributes["vocabularies"] = folders
    if kinds[:1] == ("clip",):
        pairs = zip(kinds, config.text_encoders, strict=False)
        attributes["pad"] = [_pad(kind, text) for kind, text in pairs]
    return attributes


def _pad(kind: str, text: TextConfig) -> int:
    """Return the id that pads the tokens of a text encoder; T5's is 0."""
    pad = 0 if kind == "t5" else kind_of(text).padding(text)
    return END if pad is None else pad


def _write_tensors(
    write: WriteFile, path: str, tensors: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Write a safetensors file, in which equal tensors are stored once; return their names."""
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    shared: dict[str, str] = {}
    for name, x in tensors.items():
        key = x.dtype.str, x.shape, hashlib.sha256(x.tobytes()).digest()
        if first.setdefault(key, name) != name:
            shared[name] = first[key]
    sources = {name: source(x) for name, x in tensors.items() if name not in shared}
    file = io.BytesIO()
    write_to(file, sources, call_metadata("", shared, sources))
    write(path, file.getvalue())
    return shared


def record_exactly(trace: GoldenTrace, inputs: NamedArrays) -> RecordedRun:
    """Return a golden trace, computed in float64."""
    model = golden_model(trace.family, NumpyBackend(dtype="float64"))
    return record_run(trace, model, inputs)


def tolerances(trace: GoldenTrace, inputs: NamedArrays, exact: RecordedRun) -> dict[str, float]:
    """Return the largest absolute error that float32 arithmetic explains, by tensor.

    The bound of each operation of a network times a random number in [-1, 1] is added to its
    result, and `ROUNDINGS` roundings to each result of the host; alpha-bars are products of
    rounded factors. The errors propagate through the run. SAFETY times the largest deviation of
    RUNS such runs, and the rounding of the result, are the tolerance.
    """
    largest = dict.fromkeys(exact.tensors, 0.0)
    backend = DisturbedBackend(dtype="float64")
    model = golden_model(trace.family, backend)
    for run in range(RUNS):
        errors = backend.restart(f"{trace.name}/errors/{run}")
        disturbed = record_run(
            trace, _with_rounded_schedule(model, errors), inputs, disturb_host(errors)
        )
        for name, y in exact.tensors.items():
            change = np.abs(disturbed.tensors[name] - y)
            largest[name] = max(largest[name], float(np.max(change, initial=0.0)))
    return {
        name: SAFETY * error + largest_rounding(exact.tensors[name])
        for name, error in largest.items()
    }


class Errors:
    """A source of random errors."""

    def __init__(self, key: str):
        self.stream = random_stream(key)

    def add(self, y: Array, *operands: Array) -> Array:
        """Add `ROUNDINGS` roundings of the largest number among a result and its operands."""
        largest = sum(float(np.max(np.abs(x), initial=0.0)) for x in (y, *operands))
        return self.spread(y, ROUNDINGS * U * largest)

    def spread(self, y: Array, bound: Array) -> Array:
        """Add a bound times uniform random numbers in [-1, 1]."""
        return y + self.stream.uniform(-1.0, 1.0, np.shape(y)) * bound


class DisturbedBackend(NumpyBackend):
    """NumPy in float64; networks have random errors in each operation, within its bound."""

    compiles = True  # a recorder around it records whole networks

    def set_up(self) -> None:
        super().set_up()
        self.operations = DisturbedOperations(NumpyBackend(dtype=self.dtype))

    def compile(self, network: Callable, params: Mapping[str, Any]) -> Callable:
        return self.operations.compile(network, params)

    def restart(self, key: str) -> Errors:
        """Begin another run of the same networks, and return its errors."""
        self.operations.errors = Errors(key)
        self.operations.calls = 0
        return self.operations.errors


class DisturbedOperations(NamedBackend):
    """Compute operations with random errors; the bounds of the first run are kept."""

    def __init__(self, inner: Backend):
        super().__init__(inner)
        self.errors = Errors("")
        self.calls = 0
        self._bounds: dict[tuple[int, str], list[np.ndarray | float]] = {}

    def begin(self, network: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count the calls of networks."""
        self.calls += 1
        return arrays

    def visit(self, call: LayerCall) -> Any:
        """Compute an operation, or a layer that has none, and add its error."""
        y, has_parts = self.compute_layer(call)
        if has_parts:
            return y
        key = self.calls, call.name
        if key not in self._bounds:
            self._bounds[key] = [bound_of(one, part) for one, part in split_results(call, y)]
        bounds = iter(self._bounds[key])
        return map_results(lambda x: self.errors.spread(x, next(bounds)), y)


def _with_rounded_schedule(model: LatentDiffusion, errors: Errors) -> LatentDiffusion:
    """Return a model whose alpha-bars are a product of rounded factors; a flow has none."""
    config: ModelConfig = model.config
    if config.scheduler.path is FLOW:
        return model
    alpha_bar = training_alphas_cumprod(config.scheduler)
    alphas = alpha_bar / np.append(1.0, alpha_bar[:-1])
    betas = 1.0 - alphas * (1.0 + errors.spread(np.zeros_like(alphas), 2.0 * U))
    betas = np.clip(betas, 0.0, 1.0)
    other = model.with_backend(model.backend)
    scheduler = replace(config.scheduler, trained_betas=tuple(betas.tolist()))
    other.config = replace(config, scheduler=scheduler)
    return other


def disturb_host(errors: Errors) -> Callable[[Trajectory], Trajectory]:
    """Return a function that adds errors to every computation of the host in a trajectory."""

    def change(trajectory: Trajectory) -> Trajectory:
        schedule = trajectory.schedule
        if schedule.path is FLOW:
            schedule = _with_rounded_levels(schedule, errors)
        return replace(
            trajectory,
            schedule=schedule,
            x=errors.add(trajectory.x),
            guidance=RoundedGuidance(trajectory.guidance, errors),
            step=_rounded_step(trajectory.step, errors),
        )

    return change


def _with_rounded_levels(schedule: Schedule, errors: Errors) -> Schedule:
    """Return the levels of a flow with the roundings of their spacing and their shift."""
    sigmas = errors.spread(schedule.sigmas, LEVEL_ROUNDINGS * U * schedule.sigmas)
    sigmas = np.minimum(sigmas, 1.0)
    ratio = sigmas[: len(schedule.timesteps)] / schedule.sigmas[: len(schedule.timesteps)]
    return schedule._replace(sigmas=sigmas, timesteps=schedule.timesteps * ratio)


@dataclass(frozen=True)
class RoundedGuidance(Guidance):
    """A guidance with random errors."""

    inner: Guidance
    errors: Errors

    def __post_init__(self) -> None:
        """Leave the fields unchecked: they are not declared parameters."""

    def combines(self, prediction_type: str) -> str:
        return self.inner.combines(prediction_type)

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        return self.inner.needs(sigma, cfg_scale)

    def __call__(
        self, predictions: Mapping[str, Array], sigma: float, cfg_scale: float, memory: History
    ) -> tuple[Array, History]:
        y, memory = self.inner(predictions, sigma, cfg_scale, memory)
        scaled = [cfg_scale * x for x in predictions.values()]
        return self.errors.add(y, *scaled), memory


def _rounded_step(step: Step, errors: Errors) -> Step:
    """Return a step with random errors of the predicted x0 and of the result."""

    def take_step(
        denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
    ) -> Stepped:
        def rounded(x: Array, sigma: float) -> Array:
            return errors.add(denoise(x, sigma), x)

        x_next, x0, history = step(rounded, x, interval, history, noise)
        return errors.add(x_next, x, x0), x0, history

    return take_step
