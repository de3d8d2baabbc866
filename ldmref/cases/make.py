"""Make a suite: all files of a folder, and the manifest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldmref.cases.described_folder import WriteFile, write_into
from ldmref.cases.families import FAMILIES
from ldmref.cases.formula_cases import formula_cases
from ldmref.cases.model import (
    CODE,
    FORMAT,
    MANIFEST,
    ONNX_PARTS,
    PARTS,
    SUITE_FOLDER,
    TRACES,
    VALUE_PARTS,
    VERSION,
    GoldenCase,
    Suite,
    manifest_text,
    read_suite,
)
from ldmref.cases.sampler_cases import guidance_cases, sampler_cases
from ldmref.cases.schedule_cases import schedule_cases
from ldmref.cases.tokenizer_cases import tokenizer_cases
from ldmref.cases.trace_cases import networks_of_traces, write_traces
from ldmref.cases.values import ValueCase, to_json
from ldmref.errors import UsageError, did_you_mean
from ldmref.io.atomic import atomic_folder
from ldmref.models.presets import list_presets
from ldmref.support.version import __version__

README = f"""ldmref-cases {VERSION}: golden cases for ports of latent diffusion

cases.json        every case: part, kind, path, inputs, outputs with tolerances; SHA-256 of files
layers/NAME/      ONNX backend test cases: model.onnx, data.json, test_data_set_0/input_0.pb, ...
networks/NAME/    the same, of whole networks
traces/NAME/      whole runs: trace.safetensors with tensors CALL/LAYER/ROLE, and trace.json
values/PART.json  all others: cases.NAME.inputs and .outputs; arrays as dtype, shape, data

An element passes if |got - expected| <= atol + rtol |expected|, with [atol, rtol] of the dtype in
which the program computes. `ldmref cases run . --command "./runner {{folder}} {{output}}"` judges a
program that writes PART/NAME/output_0.pb or .npy, and results.json, {{CASE: {{OUTPUT: array}}}}.
docs/cases.md of ldmref describes the format. License of the data: Apache-2.0.
"""
DESCRIPTIONS = {
    "schedules": "betas, alpha-bars, sigmas and timesteps; attributes that are missing are neutral",
    "samplers": "the k-th evaluation returns predictions[k], the k-th request for noise noise[k]; "
    "states[i] is x after step i",
    "guidance": "predictions of step s are named PREDICTION.s; memory goes from step 0 to step 1",
    "tokenizers": "ids (chunks, length); vocabularies are files of the suite",
    "formulas": "functions of the same name in ldmref.math",
}


def make_suite(
    folder: Path,
    parts: Iterable[str] = PARTS,
    families: Iterable[str] = (),
    *,
    overwrite: bool = False,
) -> Suite:
    """Write the golden cases to a folder.

    Two runs on one machine write the same bytes. Inputs and parameters are the same bytes on every
    machine; results are computed in float64, whose last bits depend on the processor's libraries,
    and are rounded to float32 in ONNX cases.

    Args:
        folder: The folder to write.
        parts: The parts to make, names in `PARTS`. With "traces", the networks that they call are
            also written.
        families: The families whose networks, layers and traces to write, names in `FAMILIES`; ():
            all.
        overwrite: Whether to replace a folder that holds a suite.

    Returns:
        The suite that was written.

    Raises:
        UsageError: A family is unknown.
        OutputError: The folder exists (unless it is empty, or a suite and `overwrite`).
        BackendUnavailable: Layers, networks or traces are asked for, and the package onnx is not
            installed.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from ldmref.cases import make_suite
    >>> suite = make_suite(Path(tempfile.mkdtemp()) / "cases", ["schedules"])
    >>> {case.part for case in suite.cases.values()}
    {'schedules'}
    """
    SUITE_FOLDER.check_writable(folder, overwrite, lambda path: read_suite(path).digests)
    families = tuple(families)
    others = set(families) - set(FAMILIES)
    presets = list_presets() if others else {}
    for family in others - presets.keys():
        hint = did_you_mean(family, {*FAMILIES, *presets})
        raise UsageError(f"unknown family {family!r}", code=CODE, hint=hint)
    with atomic_folder(folder) as temporary:
        suite = _write(temporary, tuple(parts), families, with_networks=True)
    return replace(suite, folder=folder)


@contextmanager
def temporary_suite(parts: Iterable[str] = PARTS) -> Iterator[Suite]:
    """Make a suite in a temporary folder, which is removed at the end.

    Args:
        parts: The parts to make, names in `PARTS`. Traces alone do not bring their networks, which
            ldmref makes without the suite.

    Yields:
        The suite.

    >>> from ldmref.cases import temporary_suite
    >>> with temporary_suite(["schedules"]) as suite:
    ...     len(suite.cases) > 10
    True
    """
    with tempfile.TemporaryDirectory(prefix="ldmref-cases-") as name:
        yield _write(Path(name), tuple(parts), (), with_networks=False)


def _write(
    folder: Path, parts: tuple[str, ...], families: tuple[str, ...], *, with_networks: bool
) -> Suite:
    digests: dict[str, str] = {}
    write = write_into(folder, digests)
    write("README.txt", README.encode())
    cases: list[GoldenCase] = []
    called = networks_of_traces(families) if TRACES in parts and with_networks else ()
    if called or set(parts) & set(ONNX_PARTS):
        from ldmref.cases.onnx_cases import write_onnx_cases

        wanted = [part for part in parts if part in ONNX_PARTS]
        cases += write_onnx_cases(write, wanted, families, called)
    if TRACES in parts:
        cases += write_traces(write, families)
    for part in VALUE_PARTS:
        if part in parts:
            cases += _write_values(write, part)
    cases.sort(key=lambda case: PARTS.index(case.part))
    digests = dict(sorted(digests.items()))
    suite = Suite(folder, VERSION, {case.name: case for case in cases}, digests, families)
    (folder / MANIFEST).write_text(manifest_text(suite, f"ldmref {__version__}"), encoding="utf-8")
    return suite


def value_cases(part: str, write: WriteFile = lambda path, data: None) -> Iterator[ValueCase]:
    """Yield the cases of a part that runs on the host; `write` writes further files."""
    generators: dict[str, Callable[[], Iterator[ValueCase]]] = {
        "schedules": schedule_cases,
        "samplers": sampler_cases,
        "guidance": guidance_cases,
        "tokenizers": lambda: tokenizer_cases(write),
        "formulas": formula_cases,
    }
    with np.errstate(all="ignore"):
        yield from generators[part]()


def _write_values(write: WriteFile, part: str) -> list[GoldenCase]:
    rows = []
    cases = []
    for value in value_cases(part, write):
        case, outputs = value.solve()
        cases.append(case)
        row = {
            "kind": case.kind,
            "attributes": dict(case.attributes),
            "inputs": {name: to_json(x) for name, x in value.inputs.items()},
            "outputs": {name: to_json(y) for name, y in outputs.items()},
        }
        rows.append(f"{json.dumps(case.name)}: {json.dumps(row, ensure_ascii=False)}")
    head = {"format": FORMAT, "version": VERSION, "part": part, "description": DESCRIPTIONS[part]}
    lines = ",\n".join(rows)
    text = json.dumps(head)[:-1] + ', "cases": {\n' + lines + "\n}}\n"
    write(f"values/{part}.json", text.encode())
    return cases
