"""The page's reader of recorded runs, in Node: the same arrays as Python reads, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record_files import changed_file, read_metadata
from safetensors.numpy import save
from static_site import run_node

import ldmref
from ldmref import explore, modes
from ldmref.trace import load_trace, record_trace, save_trace

PAGE = Path(ldmref.__file__).parent / "apps" / "server" / "page" / "js"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))
SCRIPT = """
  const { readFileSync } = await import("node:fs");
  const file = readFileSync(given);
  const buffer = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
  try {
    const { meta, tensors } = m.readRecord(buffer);
    return { meta, tensors };
  } catch (error) {
    if (!(error instanceof m.RecordError)) throw error;
    return { error: error.message };
  }
"""
STACKED = ("x", "x0", "x0_uncond", "x0_cond", "sigmas", "attention", "training_alpha_bar")


def read(content, tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    return run_node("record", SCRIPT, str(path), PAGE)


@pytest.fixture(scope="module")
def record(tiny):
    return explore.record_run(tiny, prompt="a red cat", negative_prompt="dog", seed=7, steps=3)


def assert_same(found, record):
    for name in STACKED:
        expected = getattr(record, name)
        is_known = expected is not None and expected.size > 0  # a flow has no alpha-bar of training
        assert (name in found["tensors"]) == is_known, name
        if not is_known:
            continue
        tensor = found["tensors"][name]
        values = np.array([np.nan if x is None else x for x in tensor["data"]])
        assert tuple(tensor["shape"]) == expected.shape, name
        np.testing.assert_allclose(values, np.ravel(expected), rtol=1e-5, atol=2e-5, err_msg=name)
    image = found["tensors"]["image"]
    assert bytes(image["data"]) == record.image.tobytes()
    assert image["shape"] == list(np.asarray(record.image).shape)
    known = record.meta | {"version": None, "attention": None}
    for key, value in found["meta"].items():
        if key in ("alpha_bar", "snr"):
            np.testing.assert_allclose(np.array(value, float), np.array(known[key], float))
        elif key not in ("attention", "format", "version", "network", "is_map"):
            assert value == known[key], key
    assert (found["meta"]["attention"] or {}).get("layers") == (record.meta["attention"] or {}).get(
        "layers"
    )


RUNS = [
    ("txt2img", {}),
    ("txt2img", {"sampler": "heun_churn"}),
    ("txt2img", {"guidance": {"name": "interval", "low": 0.5, "high": 4.0}, "steps": 6}),
    ("txt2img", {"guidance": "apg", "cfg_scale": 3.0}),
    ("txt2img", {"cfg_scale": 0.0}),
    ("inpaint", {"image": PHOTO, "mask": HALF}),
]


@pytest.mark.parametrize("mode,parameters", RUNS)
def test_the_page_reads_what_python_reads(tiny, mode, parameters, tmp_path):
    request = {"prompt": "a red cat", "seed": 3, "steps": 3, **parameters}
    record = explore.record_run(tiny, mode, **request)
    assert_same(read(record.to_bytes(), tmp_path), record)


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_the_page_reads_the_run_of_a_flow(name, tmp_path):
    model = ldmref.random_model(name, backend="numpy")
    record = explore.record_run(model, prompt="a red cat", seed=3, steps=3)
    found = read(record.to_bytes(), tmp_path)
    assert_same(found, record)
    assert found["meta"]["path"] == "flow" and found["meta"]["levels"]["curve"] == "flow"


@pytest.mark.parametrize("path", ["ve", "flow"])
def test_the_page_reads_a_run_on_another_path(tiny, path, tmp_path):
    record = explore.record_run(tiny, prompt="a red cat", seed=3, steps=3, noise_path=path)
    assert_same(read(record.to_bytes(), tmp_path), record)


def test_a_record_without_levels_is_read(tiny, record, tmp_path):
    """Those of other programs."""
    trace = record.to_bytes()
    manifest = json.loads(read_metadata(trace)["manifest"])
    for entry in manifest["entries"]:
        entry["attributes"].pop("levels", None)
    content = changed_file(record, manifest={"entries": manifest["entries"]})
    assert read(content, tmp_path)["meta"]["levels"] is None
    assert explore.load_record(content).meta["levels"] is None


def test_branches_and_the_truth(tiny, record, tmp_path):
    branch = explore.branch_run(tiny, record, 1, prompt="a blue dog", steps=5)
    branch = branch.with_truth(explore.truth_line(tiny, branch, tolerance=0.5))
    found = read(branch.to_bytes(), tmp_path)
    assert_same(found, branch)
    assert found["tensors"]["truth_distance"]["data"] == branch.truth.distance.tolist()
    assert found["tensors"]["local_error"]["data"] == branch.truth.local_error.tolist()


def test_a_complete_trace_in_one_file(tiny, tmp_path):
    plan = modes.plan("txt2img", tiny, prompt="a red cat", seed=7, steps=2)
    record_trace(plan, tiny, tmp_path / "folder")
    record = explore.load_record(tmp_path / "folder")
    assert_same(read(record.to_bytes(), tmp_path), record)
    save_trace(load_trace(tmp_path / "folder"), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    assert read(content, tmp_path) == {"error": 'The recorded run has no tensor "image//output".'}


def with_attribute(record, name):
    """Return the entries of a record whose steps have another value of an attribute."""
    entries = json.loads(read_metadata(record.to_bytes())["manifest"])["entries"]
    for entry in entries:
        if entry["call"].startswith("sampler."):
            entry["attributes"][name] = "spiral"
    return {"entries": entries}


def test_a_damaged_run_is_explained(record, tmp_path):
    state = {"sampler.000//input.x": np.zeros((2, *record.x.shape[1:]), np.float32)}
    for part, content in {
        "traces of version 1": changed_file(record, manifest={"version": 2}),
        "no steps of a sampler": changed_file(record, manifest={"entries": []}),
        "one of 2": changed_file(record, manifest={"seeds": [1, 2]}),
        'no tensor "image//output"': changed_file(record, without=["image//output"]),
        "an unknown path, spiral": changed_file(record, manifest=with_attribute(record, "path")),
        "does not fit the state": changed_file(record, state),
        "not a run record": save({"x": np.zeros(3, np.float32)}),
    }.items():
        found = read(content, tmp_path)
        assert part in found.get("error", ""), (part, found.get("error"))
