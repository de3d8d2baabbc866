"""The needs of a port: traces that agree, exported graphs that compute the same, golden cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.cases import make_suite, open_runtime, run_cases
from ldmref.cases.golden_families import golden_models_of
from ldmref.locate import diff_traces
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.testing.family.networks import compute, float64_params, relative_error
from ldmref.testing.family.report import Findings
from ldmref.testing.family.runs import recorded
from ldmref.testing.family.subject import Subject, require

FLOORS = 16  # as `ldmref diff` allows of float32's own error
EPSILON = 2.0**-24
SIDES = ((8, 8), (8, 12))


def check_traces(subject: Subject, found: Findings) -> None:
    """Check that the trace of a run agrees with the model that made it, and is compared whole."""
    with found.about(""):
        for name in subject.require_small():
            with found.about(f"{name!r}"):
                report = diff_traces(recorded(subject, name), subject.model(name))
                for row in report.faults[:3]:
                    found.problem(f"{name!r}: {row.name} ({row.kind}) differs from itself")
                for gap in report.gaps:
                    found.problem(f"{name!r}: not compared: {gap}")
                found.require(report.equal, f"{name!r}: the trace is {report.verdict}")


def check_export(subject: Subject, found: Findings) -> None:
    """Check that exported graphs compute the networks in ONNX Runtime, at two sizes."""
    with found.about(""):
        require("onnx")
        runtime = require("onnxruntime")
        from ldmref.export import export_onnx
        from ldmref.export.networks import declare_graphs

        for name, config in subject.require_small().items():
            with found.about(f"{name!r}"):
                folder = subject.place("onnx")
                export_onnx(subject.model(name), folder)
                for network in declare_graphs(config):
                    if not network.exported:
                        found.leave_out(f"{network.name} of {name!r} is not exported")
                        continue
                    path = folder / network.exported / "model.onnx"
                    for line in _compare_graph(subject, name, config, network, path, runtime):
                        found.problem(f"{network.name} of {name!r}: {line}")


def _compare_graph(
    subject: Subject,
    name: str,
    config: ModelConfig,
    network: DeclaredNetwork,
    path: Path,
    runtime: Any,
) -> Iterator[str]:
    """Yield the outputs of a graph that are further from float64 than float32 on NumPy is."""
    session = runtime.InferenceSession(path)
    wide = float64_params(subject, name, network)
    narrow = subject.keep(("params", name), lambda: subject.params(name))[network.params]
    for side in SIDES:
        inputs = subject.inputs(config, network, f"{name}/export", side)
        want = compute(get_backend("numpy", dtype="float64"), network, wide, inputs)
        near = compute(get_backend("numpy", dtype="float32"), network, narrow, inputs)
        outputs = [x.name for x in session.get_outputs()]
        got = session.run(outputs, _feed(session, network, inputs))
        for role, x in zip(want, got, strict=False):
            floor = max(relative_error(near[role], want[role]), EPSILON)
            error = relative_error(x, want[role])
            if not error <= FLOORS * floor:
                yield f"the graph is {error:.1e} away at {side}, float32 on NumPy {floor:.1e}"


def _feed(
    session: Any, network: DeclaredNetwork, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the inputs by the names and in the types of a graph."""
    kinds = {x.name: x.type for x in session.get_inputs()}
    types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
    found = {}
    for x in network.inputs:
        label = x.exported or x.role
        if label in kinds:
            found[label] = inputs[x.argument].astype(types.get(kinds[label], np.float32))
    return found


def check_cases(subject: Subject, found: Findings) -> None:
    """Check that golden cases pass: of networks in ONNX Runtime, of declared runs in ldmref."""
    with found.about(""):
        small = subject.require_small()
        require("onnx")
        declared = golden_models_of(subject.family).runs
        runs = [run for run in declared if run.preset in subject.presets]
        parts = ("networks", "traces") if runs else ("networks",)
        suite = make_suite(subject.place("cases"), parts, tuple(small))
        if not runs:
            found.leave_out("the family declares no golden runs")
        for part, runtime in (("networks", "onnxruntime"), ("traces", "ldmref")):
            if part not in parts:
                continue
            with found.about(f"{part} in {runtime}"):
                cases = suite.select(parts=[part])
                found.require(bool(cases), f"no case of {part} was made")
                opened = open_runtime(runtime, "numpy" if runtime == "ldmref" else None)
                for verdict in run_cases(suite, opened, cases):
                    found.require(verdict.passed, str(verdict))
