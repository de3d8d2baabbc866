"""Row of the fault table about traces whose manifest or arrays are of another type or shape."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from fault_cases import PYTHON, covers

from ldmref import modes
from ldmref.errors import InputError, LdmrefError
from ldmref.explore import load_record
from ldmref.locate import diff_traces
from ldmref.trace import build_trace, load_trace, record_trace
from ldmref.trace.manifest import ATTRIBUTES, FIELDS, MAX_CALLS, check_manifest

WRONG = (1.5, -1, "text", [], {}, [1], {"a": 1}, True, 10**30, float("nan"), [[]], ["x"])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, tiny):
    """A folder of a run of two steps, its manifest without digests, and its arrays."""
    folder = tmp_path_factory.mktemp("trace") / "run"
    plan = modes.plan("txt2img", tiny.config, prompt="a red cat", seed=1, steps=2, cfg_scale=2.0)
    record_trace(plan, tiny, folder)
    manifest = json.loads((folder / "trace.json").read_text())
    del manifest["digests"]
    (folder / "trace.json").write_text(json.dumps(manifest))
    trace = load_trace(folder)
    return folder, manifest, {name: np.asarray(trace.tensors[name]) for name in trace.tensors}


def set_field(manifest, path, value):
    """Return a manifest with a value in the place of a field; its tables are made."""
    changed = copy.deepcopy({key: x for key, x in manifest.items() if key != "entries"})
    changed["entries"] = manifest["entries"]
    *tables, name = path.split(".")
    place = changed
    for table in tables:
        if not isinstance(place.get(table), dict):
            place[table] = {}
        place = place[table]
    place[name] = value
    return changed


@covers(161, "each field of a manifest that is read by twelve values", PYTHON, code="E-TRACE-FILE")
def test_fields_of_another_type(recorded, tmp_path):
    _, manifest, _ = recorded
    for path, (_, is_one) in FIELDS.items():
        for value in WRONG:
            changed = set_field(manifest, path, value)
            if is_one(value):
                continue
            with pytest.raises(LdmrefError) as caught:
                check_manifest(changed, tmp_path)
            assert caught.value.code == "E-TRACE-FILE", (path, value)


@covers(161, "each attribute of an entry that is read, and attributes that are none", PYTHON)
def test_attributes_of_another_type(tmp_path):
    entry = {"call": "sampler.000", "layer": ""}
    for name, (_, is_one) in ATTRIBUTES.items():
        for value in WRONG:
            if not is_one(value):
                described = {"entries": [entry | {"attributes": {name: value}}]}
                with pytest.raises(LdmrefError):
                    check_manifest(described, tmp_path)
    for value in ("text", [1], 3, None, {"i": None}, {"i": "a"}):
        with pytest.raises(LdmrefError):
            check_manifest({"entries": [entry | {"attributes": value}]}, tmp_path)


@covers(161, "manifest of 200,000 calls", PYTHON, code="E-TRACE-FILE")
def test_calls_are_counted_before_they_are_judged(tmp_path):
    entry = {"layer": "", "outputs": {"output": "a"}}
    entries = [entry | {"call": f"unet.{i}"} for i in range(MAX_CALLS)]
    assert check_manifest({"entries": entries}, tmp_path)
    with pytest.raises(LdmrefError) as caught:
        check_manifest({"entries": [*entries, {"call": "unet", "layer": ""}]}, tmp_path)
    assert caught.value.code == "E-TRACE-FILE"


def test_steps_that_name_one_array_again_and_again(recorded, tmp_path):
    _, manifest, arrays = recorded
    steps = [e for e in manifest["entries"] if e["call"].startswith(("sampler", "guidance"))]
    many = []
    for i in range(8000):
        many += [step | {"call": f"{step['call'].partition('.')[0]}.{i}"} for step in steps[:2]]
    big = dict.fromkeys(arrays, np.broadcast_to(np.float32(1.0), (1, 4, 400, 400)))
    trace = build_trace(big, manifest | {"entries": many})
    from ldmref.explore.view import view_run

    with pytest.raises(LdmrefError, match="bytes"):
        view_run(trace, "a")


def test_entries_of_a_call_are_found_without_a_walk(recorded):
    _, manifest, arrays = recorded
    trace = build_trace(arrays, manifest)
    first = trace.calls[0]
    object.__setattr__(trace, "entries", None)  # nothing walks over them again
    assert list(trace.of_call(first)) and not list(trace.of_call("none"))


ODD = {
    "infinite": lambda x: np.full(x.shape, np.inf),
    "one infinity": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, -np.inf, 1.0),
    "NaN": lambda x: np.full(x.shape, np.nan),
    "no axes": lambda x: np.float32(1.5),
    "empty": lambda x: np.zeros(0, np.float32),
    "empty batch": lambda x: np.zeros((0, *x.shape[1:]), x.dtype),
    "transposed batch": lambda x: np.swapaxes(x, 0, 1) if x.ndim > 1 else x[None],
    "twice": lambda x: np.concatenate([x, x]) if x.ndim else np.stack([x, x]),
    "booleans": lambda x: x != 0,
    "whole numbers": lambda x: np.ones(x.shape, np.int64),
    "bytes": lambda x: np.ones(x.shape, np.uint8),
    "huge": lambda x: np.full(x.shape, 1e308),
    "complex": lambda x: np.ones(x.shape, np.complex64),
}
PLACES = """
    unet.000/conv_in/output unet.000//input.timestep text_encoder//input.input_ids
    guidance.000//input.cond sampler.000//input.x schedule//output.sigmas
    vae.decode//input.latents unet.000/down_blocks.0.resnets.0.norm1/output
""".split()


@covers(161, "thirteen odd arrays in eight places of a run", PYTHON)
@pytest.mark.parametrize("title", ODD)
def test_odd_arrays_end_in_rows_or_one_error(recorded, tiny, title):
    _, manifest, arrays = recorded
    assert set(PLACES) <= set(arrays)
    first = [*ODD].index(title) % 4  # each place is that of three arrays, and of "no axes"
    for place in PLACES if title == "no axes" else PLACES[first::4]:
        odd = arrays | {place: ODD[title](arrays[place])}
        try:
            report = diff_traces(build_trace(odd, manifest), tiny)
        except LdmrefError:
            continue
        equal = title == "transposed batch" or place.startswith("schedule")  # a known layout
        assert equal or {"differs", "not judged"} & {row.verdict for row in report.rows}, place
    with pytest.raises(InputError):
        build_trace(arrays | {PLACES[0]: np.array(["text"])}, manifest)


def test_a_record_of_odd_fields_is_read_or_refused(recorded, tmp_path):
    folder, manifest, _ = recorded
    for path in ("model", "params.prompt", "seeds", "branch", "preview", "selection", "warnings"):
        for value in WRONG[::3]:
            text = json.dumps(set_field(manifest, path, value))
            (folder / "trace.json").write_text(text)
            try:
                load_record(folder)
            except LdmrefError:
                pass
            finally:
                (folder / "trace.json").write_text(json.dumps(manifest))
