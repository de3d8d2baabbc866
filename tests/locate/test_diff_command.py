"""`ldmref diff`: its table, JSON, plot and exit codes, and the tool `diff_trace`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref.apps.cli.main import main
from ldmref.apps.mcp import Protocol, make_tools
from ldmref.apps.mcp.generation import image_schema
from ldmref.apps.mcp.traces import answer_diff, resolve_inside
from ldmref.errors import UsageError

LAYER = "unet.000/conv_in"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a right and a wrong port of one layer of the embedded model."""
    path = tmp_path_factory.mktemp("ports")
    model = ldmref.load("emoji", backend="numpy")
    p = model.params["unet"].conv_in
    x = np.random.default_rng(0).standard_normal((1, p.weight.shape[1], 8, 8)).astype(np.float32)
    y = np.ascontiguousarray(model.backend.conv2d(x, p.weight, p.bias, 1, 1))
    outputs = {"right": y, "wrong": y - p.bias[:, None, None]}
    for name, output in outputs.items():
        save_file({f"{LAYER}/input": x, f"{LAYER}/output": output}, path / f"{name}.safetensors")
    return path


def test_a_right_port_exits_with_0(folder, capsys):
    assert main(["diff", str(folder / "right.safetensors"), "--model", "emoji"]) == 0
    said = "1 layer or computation agrees within the rounding of float32"
    assert capsys.readouterr().out.strip() == said


def test_a_wrong_port_exits_with_4(folder, capsys):
    assert main(["diff", str(folder / "wrong.safetensors"), "-m", "emoji"]) == 4
    shown = capsys.readouterr()
    assert "bias is missing" in shown.out
    assert "E-DIFF" in shown.err
    assert LAYER in shown.err


def test_a_reference_adds_the_inherited_difference(folder, capsys):
    traces = [str(folder / f"{name}.safetensors") for name in ("right", "wrong")]
    assert main(["diff", *traces, "--model", "emoji"]) == 4
    assert "inherited" in capsys.readouterr().out


def test_the_reference_may_be_a_model(folder):
    assert main(["diff", "emoji", str(folder / "right.safetensors")]) == 0


def test_json_holds_every_row(folder, capsys):
    main(["diff", str(folder / "wrong.safetensors"), "--model", "emoji", "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[0])
    (row,) = report["rows"]
    assert (row["layer"], row["cause"], row["verdict"]) == ("conv_in", "bias is missing", "differs")
    assert not report["equal"]


def test_all_lists_layers_that_are_equal(folder, capsys):
    main(["diff", str(folder / "right.safetensors"), "--model", "emoji", "--all"])
    assert f"{LAYER} " in capsys.readouterr().out


def test_a_plot_is_written_once(folder, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["diff", str(folder / "wrong.safetensors"), "--model", "emoji"]
    plot = tmp_path / "diff.png"
    assert main([*arguments, "--plot", str(plot)]) == 4
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--plot", str(plot)]) == 8


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "one or two traces"),
        (["a", "b", "c"], 2, "one or two traces"),
        (["missing.safetensors"], 3, "missing.safetensors"),
        (["PORT"], 2, "--model"),
        (["PORT", "--model", "nothing-like-it"], 3, "nothing-like-it"),
        (["PORT", "--model", "emoji", "--dtype", "float8"], 2, "float8"),
        (["PORT", "--model", "emoji", "--plot", "x.txt"], 2, ".png"),
    ],
)
def test_bad_input_gets_one_line(folder, arguments, code, words, capsys):
    port = str(folder / "right.safetensors")
    assert main(["diff", *[port if a == "PORT" else a for a in arguments]]) == code
    assert words in capsys.readouterr().err


def test_a_file_without_names_of_layers_is_refused(tmp_path, capsys):
    save_file({"weight": np.ones(3)}, tmp_path / "x.safetensors")
    assert main(["diff", str(tmp_path / "x.safetensors"), "--model", "emoji"]) in (2, 3)
    assert capsys.readouterr().err


# -- the tool -------------------------------------------------------------------------------------


def ask(folder, **arguments):
    def traces(request, call):
        return answer_diff(folder, lambda: ldmref.load("emoji", backend="numpy"), request, call)

    tools = make_tools(lambda a, c: [], image_schema(), run_code=False, traces=traces)
    params = {"name": "diff_trace", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    result = Protocol(tools).answer(message)["result"]
    return result["isError"], result["content"][0]["text"]


def test_the_tool_names_the_fault(folder):
    wrong, text = ask(folder, port="wrong.safetensors", reference="right.safetensors")
    assert not wrong
    (fault,) = json.loads(text)["faults"]
    assert fault["cause"] == "bias is missing"
    assert fault["inherited"] > 0


def test_the_tool_reads_no_other_folder(folder, tmp_path):
    secret = tmp_path / "secret.safetensors"
    save_file({f"{LAYER}/input": np.ones(1)}, secret)
    link = folder / "link.safetensors"
    link.symlink_to(secret)
    trace = folder / "trace"
    trace.mkdir()
    (trace / "x.safetensors").symlink_to(secret)
    try:
        for name in (str(secret), f"../{tmp_path.name}", "link.safetensors", "..", "trace", "a\0"):
            wrong, text = ask(folder, port=name)
            assert wrong, name
            assert "folder of traces" in text
    finally:
        link.unlink()
        (trace / "x.safetensors").unlink()
        trace.rmdir()


def test_there_is_no_tool_without_a_folder():
    names = [tool.name for tool in make_tools(lambda a, c: [], image_schema(), run_code=True)]
    assert "diff_trace" not in names


def test_a_name_inside_is_resolved(folder):
    assert resolve_inside(folder, "right.safetensors").name == "right.safetensors"
    with pytest.raises(UsageError, match="no trace"):
        resolve_inside(folder, "none")


def test_mcp_refuses_a_folder_that_is_missing(capsys):
    assert main(["mcp", "--traces", "no-such-folder"]) == 2
    assert "no-such-folder" in capsys.readouterr().err


def test_a_port_with_a_lora_is_judged_with_it(tmp_path, capsys):
    """The weight of the LoRA counts, and without it the layer differs."""
    rng = np.random.default_rng(1)
    weight = ldmref.load("emoji", backend="numpy").params["unet"].conv_in.weight
    down = rng.standard_normal((2, *weight.shape[1:])).astype(np.float32)
    up = rng.standard_normal((weight.shape[0], 2, 1, 1)).astype(np.float32)
    lora = tmp_path / "style.safetensors"
    name = "unet.conv_in.lora_{}.weight"
    save_file({name.format("A"): down, name.format("B"): up}, lora)
    model = ldmref.load("emoji", backend="numpy", lora=[(lora, 0.5)])
    p = model.params["unet"].conv_in
    x = rng.standard_normal((1, weight.shape[1], 8, 8)).astype(np.float32)
    y = np.ascontiguousarray(model.backend.conv2d(x, p.weight, p.bias, 1, 1))
    port = tmp_path / "port.safetensors"
    save_file({f"{LAYER}/input": x, f"{LAYER}/output": y}, port)
    command = ["diff", str(port), "-m", "emoji"]
    assert main([*command, "--lora", f"{lora}:0.5"]) == 0
    assert main([*command, "--lora", str(lora)]) == 4
    assert main(command) == 4
    assert main(["diff", str(port), "-m", "ldmref-cases/sd15", "--lora", str(lora)]) != 0
    capsys.readouterr()


def unknown_traces(folder, factor):
    """Write two recordings of a module that no family knows, the second one with a change."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    paths = []
    for name, scale in (("a", 1.0), ("b", factor)):
        hidden = x - 1.0
        tensors = {
            "other.000//input": x,
            "other.000/first/output": hidden,
            "other.000/second/output": scale * np.tanh(hidden),
        }
        paths.append(str(folder / f"{name}.safetensors"))
        save_file(tensors, paths[-1])
    return paths


@pytest.mark.parametrize("model", [[], ["-m", "emoji"]], ids=["no-model", "any-model"])
def test_two_recordings_of_an_unknown_module_are_compared(model, tmp_path, capsys):
    paths = unknown_traces(tmp_path, 1.25)
    assert main(["diff", *paths, *model, "--json"]) == 10
    report = json.loads(capsys.readouterr().out.splitlines()[0])
    assert report["verdict"] == "incomplete" and not report["equal"]
    found = {row["layer"]: (row["verdict"], row["inherited"]) for row in report["rows"]}
    assert found == {"first": ("not judged", 0.0), "second": ("not judged", 0.25)}


def test_one_recording_of_an_unknown_module_needs_a_model(tmp_path, capsys):
    assert main(["diff", unknown_traces(tmp_path, 1.0)[0]]) == 2
    assert "E-TRACE-MODEL" in capsys.readouterr().err
