"""The folder of a trace, and the names of its tensors."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError, InputError, OutputError
from ldmref.trace import (
    TraceEntry,
    TraceWriter,
    build_trace,
    load_trace,
    read_trace,
    record_trace,
    save_trace,
    tensor_name,
)


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


def test_a_call_is_read_once_and_has_its_parts():
    x = np.ones(3)
    names = [
        "guide.unet.003", "controlnet_2.001", "vae", "vae.decode~2", "tokens_2~1", "mine.000",
        "sampler.004",
    ]  # fmt: skip
    trace = build_trace({f"{name}/{layer}/output": x for name in names for layer in ("", "a")})
    calls = trace.calls
    assert calls == names and all(entry.call in calls for entry in trace.entries)
    assert {id(entry.call) for entry in trace.entries} == {id(call) for call in calls}
    read = [(call.kind, call.number, call.network, call.is_host) for call in calls]
    assert read == [
        ("guide.unet", 3, "unet", False),
        ("controlnet_2", 1, "controlnet", False),
        ("vae", 0, "vae.decode", False),
        ("vae.decode", 2, "vae.decode", False),
        ("tokens_2", 1, "", True),
        ("mine", 0, "", False),
        ("sampler", 4, "", True),
    ]
    assert [call for call in calls if call.is_guide] == names[:1]
    assert [call.controlnet for call in calls] == [0, 2, 0, 0, 0, 0, 0]
    assert entry("unet.001", "").call.number == 1  # of any text
    assert json.dumps([*calls]) == json.dumps(names)


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


# -- a trace in one file --------------------------------------------------------------------------


def recorded_folder(tmp_path):
    model = ldmref.random_model("tiny")
    plan = modes.plan("txt2img", model, prompt="a cat", seed=1, steps=2)
    record_trace(plan, model, tmp_path / "folder")
    return read_trace(tmp_path / "folder")


def test_one_file_holds_the_whole_trace(tmp_path):
    trace = recorded_folder(tmp_path)
    path = save_trace(trace, tmp_path / "run.safetensors")
    found = load_trace(path)
    assert [e.name for e in found.entries] == [e.name for e in trace.entries]
    for entry, other in zip(trace.entries, found.entries, strict=True):
        assert (entry.kind, entry.attributes) == (other.kind, other.attributes)
        for before, after in ((entry.inputs, other.inputs), (entry.outputs, other.outputs)):
            assert before.keys() == after.keys()
            for role, name in before.items():
                a, b = trace.tensors[name], found.tensors[after[role]]
                assert a.dtype == b.dtype and np.array_equal(a, b), name
    assert found.manifest["params"] == trace.manifest["params"]
    # the names alone are enough, those of tensors that are stored once included
    assert {*trace.tensors} <= {*found.tensors}
    folder = sum(file.stat().st_size for file in (tmp_path / "folder").iterdir())
    assert path.stat().st_size < 1.1 * folder
    with pytest.raises(OutputError, match="exists"):
        save_trace(trace, path)


def test_bfloat16_stays_bfloat16_in_one_file(tmp_path):
    values = np.array([1.0, -2.5, 2.0**-100], np.float32)
    name = "unet.000/conv_in/output"
    trace = build_trace({name: values}, kinds={name: "BF16"})
    found = load_trace(save_trace(trace, tmp_path / "run.safetensors"))
    assert found.kinds[name] == "BF16" and np.array_equal(found.tensors[name], values)


@pytest.mark.parametrize(
    "manifest,message",
    [("{", "JSON"), ("[]", "not a manifest"), ('{"version": 2}', "has version 2")],
)
def test_a_damaged_manifest_in_one_file_is_refused(tmp_path, manifest, message):
    tensors = {"unet.000//output": np.zeros(2, np.float32)}
    metadata = {"format": "ldmref-trace", "manifest": manifest}
    save_file(tensors, tmp_path / "run.safetensors", metadata)
    with pytest.raises(InputError, match=message):
        load_trace(tmp_path / "run.safetensors")
