"""Cases of whole runs: their traces as files, and what of them is compared."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.cases.golden_models import (
    PREFIX,
    VOCABULARIES,
    golden_config,
    network_cases,
    pad_of,
    vocabulary_files,
    vocabulary_of,
)
from ldmref.cases.model import TRACES, CaseTensor, GoldenCase, WriteFile
from ldmref.cases.network_cases import LENGTH
from ldmref.cases.onnx_cases import rounded_up
from ldmref.cases.trace_errors import record_exactly, tolerances
from ldmref.cases.trace_runs import GoldenTrace, RecordedRun, golden_traces
from ldmref.io.tensors.writer import source, write_to
from ldmref.trace.files import call_metadata, manifest_text, resolve_names
from ldmref.trace.manifest import MANIFEST

FILE = "trace.safetensors"
TEXT = ("encoder_hidden_states", "text_embeds", "time_ids")  # the same in every step
# kind of call -> the tensors that are compared, in the order in which they are computed
COMPARED: Mapping[str, tuple[str, ...]] = {
    "vae.encode": ("/output.mean",),
    "text_encoder": ("/input.input_ids", "/output", "/output.pooled"),
    "unet": ("/input.sample", "/input.timestep", *(f"/input.{name}" for name in TEXT), "/output"),
    "guidance": ("/output",),
    "sampler": ("/output", "constrain/output"),
    "vae.decode": ("/input.latents", "/output"),
}


def selected_traces(families: Collection[str] = ()) -> Iterator[GoldenTrace]:
    """Yield the traces of families; (): of all."""
    return (trace for trace in golden_traces() if not families or trace.family in families)


def networks_of_traces(families: Collection[str] = ()) -> set[str]:
    """Return the names of the networks that the traces of families call."""
    return {
        name
        for trace in selected_traces(families)
        for name in network_cases(trace.family, trace.mode).values()
    }


def write_traces(write: WriteFile, families: Collection[str] = ()) -> Iterator[GoldenCase]:
    """Write the traces of families and their vocabularies; yield their cases.

    Args:
        write: Function `write(path, data)` that writes a file of the suite.
        families: Names in `ldmref.cases.families.FAMILIES`; (): all.
    """
    kinds: dict[str, None] = {}
    for trace in selected_traces(families):
        kinds[vocabulary_of(golden_config(trace.family))] = None
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
        for name in compared(exact)
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


def compared(run: RecordedRun) -> list[str]:
    """Return the names of the tensors that are compared, in the order of the run."""
    names = []
    seen: set[bytes] = set()
    for call in dict.fromkeys(entry.call for entry in run.entries):
        kind = call.partition("~")[0].removesuffix("_2")
        kind = kind if kind in COMPARED else kind.partition(".")[0]
        for ending in COMPARED.get(kind, ()):
            name = f"{call}/{ending}"
            once = ending.removeprefix("/input.") in TEXT
            if name not in run.tensors or (once and run.tensors[name].tobytes() in seen):
                continue
            if once:
                seen.add(run.tensors[name].tobytes())
            names.append(name)
    return names


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
        "vocabulary": f"{VOCABULARIES}/{vocabulary_of(config)}",
        "length": LENGTH,
        "prediction_type": config.scheduler.prediction_type,
        "scaling_factor": config.vae.scaling_factor,
    }
    if vocabulary_of(config) == "clip":
        last = config.text_encoder.vocab_size - 1  # the end token
        pads = [pad_of(config, i) for i in range(len(config.text_encoders))]
        attributes["pad"] = [last if pad is None else pad for pad in pads]
    return attributes


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
    write_to(file, sources, call_metadata("", shared))
    write(path, file.getvalue())
    return shared
