"""The command that docs/backends.md names runs, with few rounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/measure_backends.py"


@pytest.mark.slow
def test_every_backend_is_measured(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    openvino = pytest.importorskip("ldmref.backends.openvino")
    if not openvino.supports_bfloat16(openvino._open_core()):
        pytest.skip("this processor has no bfloat16 products")
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--start-ups", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [" ".join(row[:2]) for row in rows] == [
        "numpy fast",
        "torch fast",
        "onnx fast",
        "openvino fast",
        "openvino fastest",
    ]
    assert all(int(row[-1]) <= (16 if row[1] == "fastest" else 1) for row in rows)
