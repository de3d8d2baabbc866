"""Read the arrays of a suite: TensorProto, .npy, traces and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.cases.model import CODE, DATA, MAX_BYTES, ONNX_PARTS, TRACES, GoldenCase, Suite
from ldmref.cases.values import from_json
from ldmref.errors import CorruptModelError
from ldmref.support.files import MAX_TABLE_VALUES, parse_json, read_file, shown
from ldmref.trace.files import read_trace


class SuiteReader:
    """Read inputs and outputs of cases; the files of values are read once."""

    def __init__(self, suite: Suite):
        self.suite = suite
        self._values: dict[str, Mapping[str, Any]] = {}

    def inputs(self, case: GoldenCase) -> dict[str, np.ndarray]:
        """Return the inputs of a case by name."""
        return self._read(case, "input", [x.name for x in case.inputs])

    def outputs(self, case: GoldenCase) -> dict[str, np.ndarray]:
        """Return the expected outputs of a case by name."""
        return self._read(case, "output", [x.name for x in case.outputs])

    def model(self, case: GoldenCase) -> Path:
        """Return the path of the ONNX model of a layer or network."""
        return self.suite.folder / case.path / "model.onnx"

    def _read(self, case: GoldenCase, side: str, names: list[str]) -> dict[str, np.ndarray]:
        if case.part in ONNX_PARTS:
            folder = self.suite.folder / case.path / DATA
            return {name: read_tensor(folder / f"{side}_{i}.pb") for i, name in enumerate(names)}
        if case.part == TRACES:
            tensors = read_trace(self.suite.folder / case.path).tensors
            return {name: np.asarray(tensors[name]) for name in names}
        if case.path not in self._values:
            data = read_file(self.suite.folder / case.path, MAX_BYTES, CODE)
            values = parse_json(data, case.path, CODE, most=MAX_TABLE_VALUES)
            self._values[case.path] = values["cases"]
        row = self._values[case.path][case.name]
        return {name: from_json(row[f"{side}s"][name]) for name in names}


def read_tensor(path: Path) -> np.ndarray:
    """Read a serialized TensorProto.

    Raises:
        CorruptModelError: The file is damaged.
    """
    from ldmref.backends.graph.onnx import import_onnx

    onnx = import_onnx()
    data = read_file(path, MAX_BYTES, CODE)
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(data)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("external data")
        return np.array(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # protobuf raises its own class
        message = f"{shown(path)!r} is not a TensorProto: {error}"
        raise CorruptModelError(message, code=CODE) from error


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers.

    Raises:
        CorruptModelError: The file is damaged or holds objects.
    """
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        message = f"{shown(path)!r} is not a .npy file: {error}"
        raise CorruptModelError(message, code=CODE) from error
