"""One small kit without wrong dumps: its files, its model, and batches of a port taken apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from batched_ports import all_together, one_by_one, run_batches

from ldmref.cases.golden_models import golden_model
from ldmref.models.params import flatten
from ldmref.passport import read_kit
from ldmref.passport.apart import take_apart
from ldmref.trace.model import tensor_name

TEXT = "text_encoder"
CLOSE = 1e-4  # relative, of float32 through a few blocks


@pytest.fixture(scope="module")
def kit(small_kit):
    """Return the small kit."""
    return small_kit


@pytest.fixture(scope="module")
def port(kit):
    """Return a port that runs all rows of a step in one batch."""
    return run_batches(kit, all_together, pad=-1)


def test_a_kit_holds_the_files_that_its_text_describes(kit):
    found = {path.relative_to(kit.folder).as_posix() for path in kit.folder.rglob("*.*")}
    assert found == {*kit.digests, "kit.json"}
    described = (kit.folder / "README.txt").read_text()
    for path in ("trace/trace.safetensors", "trace/trace.json", "floors.json", "schedules.json"):
        assert path in kit.digests and path in described
    for network in ("transformer", "text_encoder", "vae"):
        assert f"checkpoint/{network}.safetensors" in kit.digests
    kit.check_files()
    assert read_kit(kit.folder) == kit


def test_the_manifest_counts_what_is_there(kit):
    manifest = json.loads((kit.folder / "kit.json").read_text())
    assert manifest["nodes"] == sum(bool(entry.outputs) for entry in kit.trace.entries)
    assert (manifest["faults"], manifest["faults_left_out"]) == (0, {"a": "not tried"})
    noise = kit.trace.tensors[manifest["noise"]["tensor"]]
    assert manifest["noise"]["shape"] == [*noise.shape] and len(noise) == len(kit.request["prompt"])
    assert manifest["request"] == kit.request


def test_the_checkpoint_is_the_model_of_the_run(kit):
    model = kit.model()
    for network, params in golden_model(kit.family).params.items():
        read = flatten(model.params[network])
        assert read.keys() == flatten(params).keys()
        assert all(np.array_equal(read[name], x) for name, x in flatten(params).items())


def test_the_run_is_exact_and_has_an_image_to_encode(kit):
    whole = [entry for entry in kit.trace.entries if not entry.layer]
    results = [name for e in whole if e.call.network for name in e.outputs.values()]
    assert {kit.trace.tensors[name].dtype.name for name in results} == {"float64"}
    [image] = kit.trace.read_inputs(kit.trace.find("vae.encode")).values()
    assert image.shape == (1, 3, kit.request["height"], kit.request["width"])
    assert np.abs(image).max() <= 1.0 and 0.4 < image.std() < 0.6
    assert np.mean(np.abs(image) == 1.0) < 0.1  # little of it is clipped


def test_floors_are_of_all_outputs_and_those_of_their_format(kit):
    arrays = {
        tensor_name(e.call, e.layer, "output", role): kit.trace.tensors[name]
        for e in kit.trace.entries
        for role, name in e.outputs.items()
    }
    for dtype, unit in (("float32", 2.0**-23), ("float16", 2.0**-10), ("bfloat16", 2.0**-7)):
        floors = kit.floors[dtype]
        assert floors.keys() <= arrays.keys()
        assert 0.2 * unit < np.median([x for x in floors.values() if x]) < 20 * unit
    floats = {name for name, x in arrays.items() if x.dtype.kind == "f"}
    assert {*kit.floors["float32"]} == floats


def test_the_kits_own_run_is_not_taken_apart(kit):
    config = kit.model().config
    assert take_apart(kit.trace, kit.trace, config, (0, 0)) is None


@pytest.mark.parametrize("batches", [all_together, one_by_one])
def test_each_row_of_a_port_stands_beside_that_of_the_kit(kit, batches):
    port = run_batches(kit, batches, pad=-1)
    size = kit.request["width"], kit.request["height"]
    found = take_apart(port, kit.trace, kit.model().config, size)
    assert found is not None and found.gaps == ()
    assert {*found.port.calls} == {*found.kit.calls} == {*found.matches}
    calls = {match.kit.call for match in found.matches.values()}
    assert calls == {call for call in kit.trace.calls if call.network and call != "vae.encode"}
    compared = 0
    for entry in found.kit.entries:
        own = found.port.find(entry.call, entry.layer)
        shared = entry.outputs.keys() & (own.outputs.keys() if own else set())
        for role in shared:
            right = found.kit.tensors[entry.outputs[role]]
            got = found.port.tensors[own.outputs[role]]
            assert (got.shape == right.shape and len(got) == 1) or "freqs" in entry.layer
            assert np.abs(got - right).max() <= CLOSE * np.abs(right).max(), entry.name
            compared += 1
    assert compared > 200
    told = any("rows of transformer are judged one by one" in note for note in found.notes)
    assert told == (batches is all_together)


def test_rows_that_are_no_rows_of_the_kit_are_named(kit):
    """A text of other tokens, in a batch by itself."""

    def one_more(rows):
        return [*all_together(rows), *([rows[:1]] if rows[0].call == TEXT else [])]

    def next_tokens(network, arrays):
        alone = network.name == TEXT and len(arrays["ids"]) == 1
        return {**arrays, "ids": arrays["ids"] + 1} if alone else arrays

    port = run_batches(kit, one_more, pad=-1, change=next_tokens)
    found = take_apart(port, kit.trace, kit.model().config, (0, 0))
    assert found is not None and [f"{TEXT}~1 row 0" in gap for gap in found.gaps] == [True]


def test_what_the_host_reads_are_the_calls_of_the_kit(kit, port):
    found = take_apart(port, kit.trace, kit.model().config, (0, 0))
    assert found is not None
    for call in found.host.calls:
        own, right = found.host.find(call), kit.trace.find(call)
        arrays = [(found.host.tensors[x], right.outputs[r]) for r, x in own.outputs.items()]
        assert all(len(x) == len(kit.trace.tensors[name]) for x, name in arrays)
    assert "transformer.003" in found.host.calls
