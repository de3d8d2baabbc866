"""The folder of a trace, and the names of its tensors."""

import numpy as np
import pytest

from ldmref.errors import CorruptModelError, OutputError
from ldmref.trace import TraceEntry, TraceWriter, build_trace, read_trace, tensor_name


def entry(call, layer, **fields):
    inputs = {"input": tensor_name(call, layer, "input")}
    outputs = {"output": tensor_name(call, layer, "output")}
    return TraceEntry(call, layer, inputs, outputs, **fields)


def write(folder, **options):
    x = np.arange(6.0).reshape(2, 3)
    writer = TraceWriter(folder, {"program": "a test"}, **options)
    for i in range(2):
        call = f"unet.{i:03}"
        layers = [entry(call, "conv_out", kind="conv2d", attributes={"stride": 1}), entry(call, "")]
        names = [name for e in layers for name in (*e.inputs.values(), *e.outputs.values())]
        writer.write_call(call, layers, {name: x + i for name in names})
    writer.close()
    return x


def test_what_is_written_is_read(tmp_path):
    x = write(tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    assert trace.calls == ["unet.000", "unet.001"]
    found = trace.find("unet.001", "conv_out")
    assert (found.kind, found.attributes) == ("conv2d", {"stride": 1})
    assert np.array_equal(trace.read_inputs(found)["input"], x + 1)
    assert trace.manifest["program"] == "a test"


def test_names_are_enough(tmp_path):
    write(tmp_path / "t")
    (tmp_path / "t" / "trace.json").unlink()
    trace = read_trace(tmp_path / "t")
    assert {e.name for e in trace.entries} >= {"unet.000/conv_out", "unet.001/"}


def test_roles_and_other_names():
    trace = build_trace(
        {"unet.000//input.timestep": 1, "unet.000//output": 2, "note": 3, "a/b/weight": 4}
    )
    (only,) = trace.entries
    assert only.inputs == {"timestep": "unet.000//input.timestep"}
    assert only.outputs == {"output": "unet.000//output"}


def test_an_existing_trace_is_kept(tmp_path):
    write(tmp_path / "t")
    with pytest.raises(OutputError):
        write(tmp_path / "t")
    write(tmp_path / "t", overwrite=True)


def test_a_folder_without_tensors_is_refused(tmp_path):
    with pytest.raises(CorruptModelError, match="no safetensors"):
        read_trace(tmp_path)
