"""Cases of whole runs: their traces as files, and what of them is compared."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.cases.golden_models import (
    END,
    PREFIX,
    VOCABULARIES,
    golden_config,
    network_cases,
    vocabularies_of,
    vocabulary_files,
)
from ldmref.cases.model import TRACES, CaseTensor, GoldenCase, WriteFile
from ldmref.cases.network_cases import LENGTH
from ldmref.cases.onnx_cases import rounded_up
from ldmref.cases.trace_errors import record_exactly, tolerances
from ldmref.cases.trace_runs import GoldenTrace, RecordedRun, golden_traces
from ldmref.io.tensors.writer import source, write_to
from ldmref.models.autoencoder_kind import autoencoder_of, scales_of
from ldmref.models.config import ModelConfig, TextConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.trace.files import call_metadata, manifest_text, resolve_names
from ldmref.trace.manifest import MANIFEST

FILE = "trace.safetensors"
INPUT = "/input."
ENCODER = "vae.encode"  # whose variance a run does not use
OF_HOST: Mapping[str, tuple[str, ...]] = {  # kind of call -> the tensors that are compared
    "guidance": ("/output",),
    "sampler": ("/output", "constrain/output"),
}


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
    shared = _write_tensors(write, f"{path}/{FILE}", recorded | plain)
    model = exact.manifest["model"] | {"name": f"{PREFIX}{trace.family}"}
    stored_as = {"backend": {"name": "numpy"}, "dtype": "float32"}  # computed in float64
    manifest = exact.manifest | stored_as | {"model": model, "complete": True}
    entries = [resolve_names(entry, shared) for entry in exact.entries]
    write(f"{path}/{MANIFEST}", manifest_text(manifest, entries).encode())
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
    changing = ("x", "t")
    return {f"{INPUT}{x.role}" for x in denoiser.inputs if x.argument not in changing}


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
