"""Results of other programs: files that they wrote, and commands that write them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.cases.files import read_npy, read_tensor
from ldmref.cases.model import (
    CODE,
    MAX_BYTES,
    ONNX_PARTS,
    TRACES,
    VALUE_PARTS,
    GoldenCase,
    Suite,
)
from ldmref.cases.runtimes import Answer, Outputs
from ldmref.cases.values import from_json
from ldmref.cases.verdicts import MISSING
from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.support.files import MAX_TABLE_VALUES, check_input_path, parse_json, read_file, shown
from ldmref.trace.readers import load_trace

RESULTS = "results"  # .json or .safetensors, next to the folders of outputs
TAIL = 300  # characters of what a failing command printed


def split_command(command: str) -> list[str]:
    """Return the words of a command line.

    Raises:
        UsageError: It is empty, its quotes do not match, or it names neither {folder} nor {case}.
    """
    try:
        words = shlex.split(command, posix=os.name != "nt")
    except ValueError as error:
        raise UsageError(f"the command {command!r}: {error}", code=CODE) from error
    if not any(place in word for word in words for place in ("{folder}", "{case}")):
        message = "the command names neither {folder}, the suite, nor {case}, the folder of a case"
        hint = '--command "./my_runner {folder} {output}"'
        raise UsageError(message, code=CODE, hint=hint)
    return words


def run_command(
    command: str, suite: Suite, cases: Sequence[GoldenCase], output: Path, timeout: float
) -> dict[str, str]:
    """Run a program, once for the suite or, with {case}, once for each ONNX case and trace.

    Args:
        command: Command line with {folder}, {output} and {list}; or {case}, {output}, {kind} and
            {name}.
        suite: The suite.
        cases: The cases to run; {list} is a file with their names, one a line.
        output: The folder for its results.
        timeout: Seconds that one run may take.

    Returns:
        Notes about runs that failed, by case; a failed run of the whole suite is an error.

    Raises:
        InputError: The program does not exist, or a run of the whole suite failed.
    """
    words = split_command(command)
    output.mkdir(parents=True, exist_ok=True)
    names = output / "cases.txt"
    names.write_text("".join(f"{case.name}\n" for case in cases), encoding="utf-8")
    fills = {"{folder}": str(suite.folder), "{output}": str(output), "{list}": str(names)}
    if not any("{case}" in word for word in words):
        note = _run(words, fills, timeout)
        if note:
            raise InputError(f"the command {note}", code=CODE, hint="run it by hand")
        return {}
    notes = {}
    for case in cases:
        if case.part not in VALUE_PARTS:
            folder = output / case.path
            folder.mkdir(parents=True, exist_ok=True)
            here = {
                "{case}": str(suite.folder / case.path),
                "{output}": str(folder),
                "{name}": case.name,
                "{kind}": case.kind,
            }
            note = _run(words, fills | here, timeout)
            if note:
                notes[case.name] = f"the command {note}"
    return notes


def _run(words: Sequence[str], fills: Mapping[str, str], timeout: float) -> str:
    """Run a program; return what went wrong, or ""."""
    filled = []
    for word in words:
        for place, value in fills.items():
            word = word.replace(place, value)
        filled.append(word)
    try:
        run = subprocess.run(
            filled,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except OSError as error:
        message = f"cannot run {filled[0]!r}: {error.strerror}"
        hint = "--command takes a program and its arguments"
        raise InputError(message, code=CODE, hint=hint) from error
    except subprocess.TimeoutExpired:
        return f"took longer than {timeout:g} s"
    if run.returncode == 0:
        return ""
    printed = " ".join(run.stdout.decode("utf-8", "replace").split())[-TAIL:]
    return f"ended with code {run.returncode}" + (f": {printed}" if printed else "")


def read_results(
    folder: Path, cases: Sequence[GoldenCase], notes: Mapping[str, str]
) -> Iterator[Answer]:
    """Read what a program wrote, in `results.json`, `results.safetensors` and folders.

    `PART/NAME` holds `output_0.pb` or `output_0.npy`, for a trace its tensors in safetensors files
    or .npy files, as `ldmref.trace.load_trace` reads a folder.
    """
    values: dict[str, Any] = {}
    for suffix in (".json", ".safetensors"):
        path = folder / f"{RESULTS}{suffix}"
        if path.is_file():
            values |= read_values(path)
    for case in cases:
        outputs = None
        if case.part in ONNX_PARTS:
            outputs = _read_outputs(folder / case.path, case)
        elif case.part == TRACES and (folder / case.path).is_dir():
            outputs = _read_trace(folder / case.path, case)
        if outputs is None and case.name in values:
            outputs = select_outputs(values[case.name], case)
        yield case, outputs, notes.get(case.name, MISSING)


def _read_outputs(folder: Path, case: GoldenCase) -> Outputs | None:
    """Return the outputs in a folder, or in its test_data_set_0; None if there are none."""
    found: Outputs = {}
    for place in (folder, folder / "test_data_set_0"):
        for i, tensor in enumerate(case.outputs):
            for suffix, read in ((".pb", read_tensor), (".npy", read_npy)):
                path = place / f"output_{i}{suffix}"
                if path.is_file():
                    found.setdefault(tensor.name, read(path))
    return found or None


def _read_trace(folder: Path, case: GoldenCase) -> Outputs | None:
    """Return the outputs in the trace that a program wrote; None if it wrote none."""
    if not any(path.suffix in (".safetensors", ".npy") for path in folder.rglob("*")):
        return None
    tensors = load_trace(folder).tensors
    return {x.name: np.asarray(tensors[x.name]) for x in case.outputs if x.name in tensors}


def read_values(path: Path) -> dict[str, Any]:
    """Read a file of results: JSON {CASE: {OUTPUT: array}}, or safetensors named CASE/OUTPUT.

    An array is nested lists of numbers, or {"dtype", "shape", "data"} as in the suite. A case with
    one output may have the array itself.

    Raises:
        InputError: The file does not exist.
        CorruptModelError: It is neither.
    """
    path = check_input_path(path, "the file of results", CODE)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix != ".json":
        message = f"{shown(path)!r}: results are in a file that ends in .json or .safetensors"
        raise UsageError(message, code=CODE)
    data = parse_json(read_file(path, MAX_BYTES, CODE), path.name, CODE, most=MAX_TABLE_VALUES)
    if isinstance(data, dict) and isinstance(data.get("cases"), dict):
        data = {name: row.get("outputs", row) for name, row in data["cases"].items()}
    if not isinstance(data, dict):
        message = f"{shown(path)!r} holds no object with a key per case"
        raise CorruptModelError(message, code=CODE)
    return data


def _read_safetensors(path: Path) -> dict[str, Any]:
    from ldmref.io.tensors.safetensors import TensorFile

    found: dict[str, Any] = {}
    for name, array in TensorFile(path).items():
        case, _, output = name.partition("/")  # outputs of traces have a / in their names
        found.setdefault(case, {})[output or "output"] = np.asarray(array)
    return found


def select_outputs(value: object, case: GoldenCase) -> Outputs:
    """Return the outputs of a case from a row of a file of results.

    Raises:
        CorruptModelError: A value is not an array.
    """
    names = [tensor.name for tensor in case.outputs]
    if not isinstance(value, Mapping) or "data" in value:
        value = {names[0]: value}
    try:
        return {
            name: x if isinstance(x, np.ndarray) else from_json(x)
            for name, x in value.items()
            if name in names
        }
    except (ValueError, TypeError, KeyError) as error:
        message = f"{case.name}: {type(error).__name__}: {error}"
        raise CorruptModelError(message, code=CODE) from error


def check_names(values: Mapping[str, Any], suite: Suite) -> None:
    """Refuse a file of results that names no case of the suite.

    Raises:
        UsageError: None of its names is a case's.
    """
    if not set(values) & set(suite.cases):
        some = ", ".join(repr(json.dumps(name)[1:-1]) for name in list(values)[:3])
        message = f"no case of the suite is called {some or 'anything'}"
        hint = f"names begin with {', '.join(f'{part}.' for part in VALUE_PARTS)} or a family"
        raise UsageError(message, code=CODE, hint=hint)
