"""What was not compared is never said to agree, and the manifest of a trace is checked."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.locate import DiffReport, Row, diff_traces
from ldmref.trace import Selection, build_trace, load_trace, record_trace


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return the folder of a small trace of the embedded model."""
    folder = tmp_path_factory.mktemp("complete") / "trace"
    model = ldmref.load("emoji", dtype="float32")
    plan = modes.plan("txt2img", model, prompt="red heart", seed=1, steps=1)
    chosen = Selection(layers=("conv_in",))
    record_trace(plan, model, folder, selection=chosen)
    return folder


@pytest.fixture
def folder(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "trace")
    return tmp_path / "trace"


def run(path, capsys, *more):
    code = main(["diff", str(path), "--model", "emoji", "-q", *more])
    return code, capsys.readouterr()


def change(folder, **values):
    path = folder / "trace.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_complete_trace_agrees(folder, capsys):
    code, shown = run(folder, capsys)
    assert code == 0, shown
    assert "agree within the rounding" in shown.out


def test_a_trace_without_its_unet_is_refused(folder, capsys):
    (folder / "unet.000.safetensors").unlink()
    code, shown = run(folder, capsys)
    assert code == 3 and "unet.000.safetensors of its manifest is missing" in shown.err


def test_only_the_text_encoder_left_is_refused(folder, capsys):
    for path in folder.glob("*.safetensors"):
        if not path.name.startswith("text_encoder"):
            path.unlink()
    assert run(folder, capsys)[0] == 3


def test_tensors_that_the_manifest_names_in_vain_are_a_gap(folder, capsys):
    (folder / "unet.000.safetensors").unlink()
    change(folder, digests={})
    code, shown = run(folder, capsys)
    assert code == 10 and "of the manifest missing" in shown.err
    assert "agree" not in shown.out


def test_a_stopped_run_is_a_gap(folder, capsys):
    change(folder, complete=False)
    code, shown = run(folder, capsys)
    assert code == 10 and "stopped before its end" in shown.err


def test_a_flipped_byte_is_the_files_fault_not_the_ports(folder, capsys):
    path = folder / "unet.000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    code, shown = run(folder, capsys)
    assert code == 3 and "was changed since it was recorded" in shown.err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"version": 99}, "version 99; this ldmref reads 1"),
        ({"format": "other"}, "not a manifest of ldmref-trace"),
        ({"entries": None}, "'entries' must be a list, not None"),
        ({"entries": [None]}, "entry 0 must be an object"),
        ({"entries": [{"call": "unet.000"}]}, "entry 0 must have 'layer' as text"),
        ({"entries": [{"call": "a", "layer": "", "inputs": []}]}, "'inputs' as an object"),
        ({"entries": [{"call": "a", "layer": "", "inputs": {"x": 1}}]}, "name tensors in text"),
        ({"params": [1]}, "'params' must be an object"),
        ({"digests": {"a": 1}}, "must map names of files"),
    ],
)
def test_a_wrong_manifest_gets_one_line(folder, capsys, values, words):
    change(folder, **values)
    code, shown = run(folder, capsys)
    assert code == 3 and words in shown.err, shown.err
    assert "E-INTERNAL" not in shown.err


def test_names_that_belong_to_no_layer_are_not_agreement(tmp_path, capsys):
    save_file({"unet.000/no_such_layer/output": np.ones((1, 2), np.float32)}, tmp_path / "p.st")
    code, shown = run(tmp_path / "p.st", capsys)
    assert code == 10 and "nothing was compared" in shown.err
    assert "no_such_layer" in shown.err


def test_a_layer_that_is_not_known_is_a_gap(folder, tmp_path, capsys):
    trace = load_trace(folder)
    entry = trace.find("unet.000", "conv_in")
    layer = {f"{entry.name}/input": trace.read_inputs(entry)["input"]}
    layer[f"{entry.name}/output"] = trace.read_outputs(entry)["output"]
    more = {"unet.000/no_such_layer/output": np.ones((1, 2), np.float32)}
    save_file(layer | more, tmp_path / "port.safetensors")
    code, shown = run(tmp_path / "port.safetensors", capsys)
    assert code == 10 and "not everything could be compared" in shown.err
    assert "no_such_layer" in shown.err


def test_a_call_that_is_not_known_is_a_gap(tmp_path, capsys):
    save_file({"vea.decode//output": np.ones((1, 2), np.float32)}, tmp_path / "port.safetensors")
    code, shown = run(tmp_path / "port.safetensors", capsys)
    assert code == 10 and "vea.decode is no call of a trace" in shown.err


def test_json_says_that_it_is_not_complete(tmp_path, capsys):
    save_file({"vea.decode//output": np.ones((1, 2), np.float32)}, tmp_path / "port.safetensors")
    _, shown = run(tmp_path / "port.safetensors", capsys, "--json")
    report = json.loads(shown.out.splitlines()[0])
    assert (report["verdict"], report["equal"]) == ("nothing compared", False)


def test_verdicts():
    judged, unknown = Row("a", "b"), Row("a", "b", verdict="not judged")
    assert DiffReport((judged,)).verdict == "equal"
    assert DiffReport((judged, unknown)).verdict == "incomplete"
    assert DiffReport((judged,), gaps=("x",)).verdict == "incomplete"
    assert DiffReport((unknown,)).verdict == DiffReport(()).verdict == "nothing compared"
    assert DiffReport((unknown, Row("a", "b", verdict="differs"))).verdict == "differs"


# -- nothing infinite is equal ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_array_of_the_host_may_be_infinite(recorded, value):
    """Each recorded array outside of the networks gets one bad value, which is seen."""
    from ldmref.locate.pipeline import judge_host

    trace = load_trace(recorded)
    model = ldmref.load("emoji", dtype="float32")
    entries = [vars(e) for e in trace.entries if not e.layer]
    tensors = {n: np.array(x) for n, x in trace.tensors.items() if "//" in n}
    right = {row.kind: row.verdict for row in judge_host(trace, model, "float32", [])}
    assert set(right.values()) == {"equal"}
    judged = ("sampler.000//", "guidance.000//", "schedule//", "vae.decode//input")
    used = {name for e in entries for name in [*e["inputs"].values(), *e["outputs"].values()]}
    changed = [n for n in sorted(used) if n.startswith(judged) and tensors[n].size > 1]
    assert len(changed) > 7
    for name in changed:
        bad = tensors[name].copy()
        bad.reshape(-1)[0] = value
        port = build_trace(tensors | {name: bad}, {**trace.manifest, "entries": entries})
        verdicts = {row.verdict for row in judge_host(port, model, "float32", [])}
        assert verdicts & {"differs", "not judged"}, name


def test_an_infinite_allowance_is_not_equal():
    """ldmref's own float16 overflows in the sum of squares, so it has no noise floor there."""
    model = ldmref.random_model("tiny", seed=1)
    norm = "unet.000/down_blocks.0.resnets.0.norm1"
    layer = model.params["unet"].down_blocks["0"].resnets["0"].norm1
    x = np.random.default_rng(0).standard_normal((1, len(layer.weight), 8, 8))
    layer.weight = np.full_like(layer.weight, 65000.0)
    right = model.backend.group_norm(x, layer.weight, layer.bias, 1, 1e-5)
    wrong = np.clip(right + 0.41 * np.abs(right).max() * np.sign(x), -60000, 60000)
    tensors = {f"{norm}/input": x, f"{norm}/output": np.asarray(wrong, np.float16)}
    report = diff_traces(build_trace(tensors), model, dtype="float16")
    (row,) = report.rows
    assert row.verdict != "equal"
    assert not report.equal
