"""A program in C writes a trace, which is read and shown."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ldmref.apps.cli.main import main
from ldmref.trace import read_trace

SOURCE = Path(__file__).parents[2] / "examples" / "porting" / "write_trace.c"
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.skipif(COMPILER is None, reason="NOT TESTED: there is no C compiler here")
def test_a_program_in_c_writes_a_trace(tmp_path, capsys):
    program = tmp_path / "write_trace"
    warnings = ("-Wall", "-Wextra", "-Werror", "-std=c11", "-D_POSIX_C_SOURCE=200809L")
    command = [COMPILER, "-O2", *warnings, "-o", program, SOURCE, "-lm"]
    subprocess.run(command, check=True)
    subprocess.run([program, tmp_path / "port"], check=True)
    trace = read_trace(tmp_path / "port")
    assert {*trace.calls} == {"unet.000", "guidance.000"}
    entry = trace.find("unet.000", "time_embedding.silu")
    x = trace.read_inputs(entry)["input"].astype(np.float64)
    y = trace.read_outputs(entry)["output"]
    assert y.dtype == np.float32 and y.shape == (2, 8)
    assert np.allclose(y, x / (1.0 + np.exp(-x)), rtol=1e-6)
    given = trace.read_inputs(trace.find("guidance.000"))
    guided = given["uncond"] + given["scale"] * (given["cond"] - given["uncond"])
    assert np.allclose(guided, trace.read_outputs(trace.find("guidance.000"))["output"], rtol=1e-6)
    assert main(["trace", "show", str(tmp_path / "port"), "--calls", "*"]) == 0
    assert "time_embedding.silu" in capsys.readouterr().out
