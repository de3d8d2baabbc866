"""The files of a kit and their readers, without the run of a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_row_units import run_of

from ldmref.cases.golden_models import golden_config
from ldmref.cases.trace_runs import NEGATIVE, NOISE, RecordedRun
from ldmref.errors import CorruptModelError, LdmrefError, OutputError, UsageError
from ldmref.io.kit_folder import find_makers_tables, makers_tables
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.locate.faults.table import FAULTS
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.models.params import flatten
from ldmref.passport.kit import (
    FLOORS,
    Kit,
    WrongDump,
    kit_text,
    read_kit,
)
from ldmref.passport.make import (
    distinct_families,
    floors_text,
    noise_tokens,
    schedules_text,
    tensors_file,
    write_kit,
    write_wrong,
)
from ldmref.passport.original import complete_inputs, has_sizes
from ldmref.passport.recorded import (
    FORMATS,
    STEPS,
    WIDE,
    KitRun,
    is_first,
    kit_families,
    kit_trace,
    stored_run,
)
from ldmref.passport.wrong import first_calls
from ldmref.samplers.registry import SAMPLERS
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import TraceEntry

WRONG = WrongDump("scale", "unet.000/a", "no scale", "no scale: 2", "kernels")


def made_kit(folder, **changes):
    """Write a kit of two small files, and return it."""
    files = {"README.txt": b"a kit", "wrong/scale.safetensors": b"numbers"}
    digests = {}
    for path, data in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
        digests[path] = hashlib.sha256(data).hexdigest()
    kit = replace(Kit(folder, "sd15", "2.0", digests, [WRONG], {"steps": 2}), **changes)
    (folder / "kit.json").write_text(kit_text(kit, "a program", {"nodes": 7}), "utf-8")
    return kit


# -- the manifest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", [(), ("net", "head")])
def test_a_manifest_is_read_as_it_was_written(networks, tmp_path):
    kit = made_kit(tmp_path, networks=networks)
    found = read_kit(tmp_path)
    assert found == kit and found.digest == kit.digest
    found.check_files()
    text = json.loads((tmp_path / "kit.json").read_text())
    assert ("networks" in text) == bool(networks) and text["digest"] == kit.digest
    assert (text["program"], text["nodes"], text["wrong"][0]["cause"]) == (
        "a program",
        7,
        "no scale: 2",
    )


def test_a_digest_is_that_of_all_files_and_a_label_has_its_first_digits(tmp_path):
    kit = made_kit(tmp_path)
    assert kit.label == f"sd15 2.0 ({kit.digest[:12]})" and len(kit.digest) == 64
    assert WRONG.path in kit.digests
    for path in kit.digests:
        other = replace(kit, digests={**kit.digests, path: "0" * 64})
        assert other.digest != kit.digest


@pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", "c:/a", "a\\..\\b", "", "a/"])
def test_paths_that_lead_out_of_a_kit_are_refused(path, tmp_path):
    kit = made_kit(tmp_path)
    for changes in ({"digests": {**kit.digests, path: "00"}}, {"networks": (path,)}):
        made_kit(tmp_path, **changes)
        with pytest.raises(CorruptModelError) as caught:
            read_kit(tmp_path)
        assert caught.value.code == "E-PASSPORT"


@pytest.mark.parametrize("change", [b"other", None])
@pytest.mark.parametrize("path", ["README.txt", "wrong/scale.safetensors"])
def test_every_file_is_compared_with_its_digest(path, change, tmp_path):
    kit = made_kit(tmp_path)
    (tmp_path / path).unlink() if change is None else (tmp_path / path).write_bytes(change)
    with pytest.raises(LdmrefError) as caught:
        kit.check_files()
    assert path.rpartition("/")[2] in str(caught.value) and caught.value.code == "E-PASSPORT"


def test_a_kit_of_modules_has_no_model_of_ldmref(tmp_path):
    with pytest.raises(UsageError) as caught:
        made_kit(tmp_path, networks=("net",)).model()
    assert caught.value.code == "E-PASSPORT"


def test_a_kit_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "kit"

    def fail(temporary):
        made_kit(temporary)
        raise ValueError

    with pytest.raises(ValueError):
        write_kit(folder, False, fail)
    assert not folder.exists()
    kit = write_kit(folder, False, made_kit)
    assert kit.folder == folder and read_kit(folder) == kit
    with pytest.raises(OutputError):
        write_kit(folder, False, made_kit)
    assert write_kit(folder, True, made_kit) == kit


def test_wrong_dumps_are_files_that_are_listed():
    files = {}
    array = np.float32([[1, 2]])
    dumps = [(replace(WRONG, name=name), {"unet.000/a/output": array}) for name in "ab"]
    assert write_wrong(files.__setitem__, dumps) == [dump for dump, _ in dumps]
    assert [*files] == ["wrong/a.safetensors", "wrong/b.safetensors"]
    assert files["wrong/a.safetensors"] == files["wrong/b.safetensors"]


def test_a_file_of_tensors_is_read_as_it_was_written(tmp_path):
    tensors = {"a": np.float32([[1, 2]]).T, "b": np.arange(3)}
    (tmp_path / "a.safetensors").write_bytes(tensors_file(tensors))
    found = TensorFile(tmp_path / "a.safetensors")
    assert {*found} == {*tensors}
    assert all(np.array_equal(found[name], x) for name, x in tensors.items())


# -- floors ---------------------------------------------------------------------------------------


def test_floors_are_rounded_up_and_those_of_an_overflow_are_left_out(tmp_path):
    exact = {"a": 1.23456e-7, "b": 0.0, "c": 3.0, "not stored": 1.0}
    low = {"a": 2.5e-3, "c": float("inf"), "b": float("nan")}
    floors = dict(zip(FORMATS, (exact, low, {"a": 1.0}), strict=True))
    (tmp_path / FLOORS).write_text(floors_text(floors, {"a", "b", "c"}))
    found = Kit(tmp_path, "sd15", "2.0", {}, ()).floors
    assert [{*found[dtype]} for dtype in FORMATS] == [{"a", "b", "c"}, {"a"}, {"a"}]
    for dtype, stored in found.items():
        for name, floor in stored.items():
            assert floors[dtype][name] <= floor <= 1.02 * floors[dtype][name]


@pytest.mark.parametrize("text", ["[]", "{}", '{"formats": ["float32"], "floors": {"a": 3}}',
                                  '{"formats": ["float32"], "floors": {"a": []}}',
                                  '{"formats": ["float32"], "floors": []}'])  # fmt: skip
def test_damaged_floors_are_refused(text, tmp_path):
    (tmp_path / FLOORS).write_text(text)
    with pytest.raises(CorruptModelError) as caught:
        _ = Kit(tmp_path, "sd15", "2.0", {}, ()).floors
    assert caught.value.code == "E-PASSPORT"


# -- what is stored -------------------------------------------------------------------------------


def entry(call, layer="", **outputs):
    inputs = {"input": f"{call}/{layer}/input", "positions": f"{call}/{layer}/input.positions"}
    return TraceEntry(TraceCall(call), layer, inputs, {"output": f"{call}/{layer}/output"})


def test_a_kit_stores_the_layers_of_first_calls_and_their_outputs_alone():
    calls = ("text_encoder", "text_encoder~1", "unet.000", "unet.001", "sampler.000", "vae.decode")
    entries = [entry(call, layer) for call in calls for layer in ("a", "")]
    sizes = {"a": WIDE + 1, "": WIDE + 1}
    tensors = {
        name: np.full(sizes[e.layer], 1 / 3)
        for e in entries
        for name in (*e.inputs.values(), *e.outputs.values())
    }
    small = "unet.000/a/input.positions"
    tensors[small] = np.full(WIDE, 1 / 3)
    run = KitRun("sd15", {NOISE: np.ones(1)}, RecordedRun(tensors, entries, {"n": 1}), {})
    stored = stored_run(run)
    layers = [e.call for e in stored.entries if e.layer]
    assert layers == ["text_encoder", "unet.000", "vae.decode"]
    assert [e.call for e in stored.entries if not e.layer] == [*calls]
    for e in stored.entries:
        assert [*e.inputs] == (["positions"] if e.layer else ["input", "positions"])
        for name in (*e.inputs.values(), *e.outputs.values()):
            exact = not e.layer or name == small
            assert stored.tensors[name].dtype == (np.float64 if exact else np.float32)
    used = {n for e in stored.entries for n in (*e.inputs.values(), *e.outputs.values())}
    assert {*stored.tensors} == used | {NOISE} and stored.manifest == {"n": 1}


@pytest.mark.parametrize(
    ("call", "first"),
    [("unet.000", True), ("unet.001", False), ("unet", False), ("text_encoder", True),
     ("text_encoder~1", False), ("vae.decode", True), ("sampler.000", False), ("own.000", False)],
)  # fmt: skip
def test_the_first_call_of_a_network_has_its_number_only_if_it_is_numbered(call, first):
    config = golden_config("sd15")
    networks = {network.name: network for network in family_of(config).networks(config)}
    assert is_first(entry(call, "a"), networks) == first


def test_first_calls_are_those_of_networks():
    run = run_of(
        {
            name: {"output": np.ones((1, 1))}
            for name in ("tokens", "unet.003", "unet.001", "vae.decode", "vae.decode~1")
        }
    )
    assert first_calls(run) == ["unet.003", "vae.decode"]


# -- the request ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3-medium", "flux-dev", "z-image"])
def test_a_kit_asks_for_two_images_of_its_size_in_two_steps(family):
    run = kit_trace(family)
    config = golden_config(family)
    lowest = 4 if isinstance(config.denoiser, UNetConfig) else 1  # levels that halve
    cells = (2 * lowest, 3 * lowest)
    params = run.params
    assert (params["height"], params["width"]) == tuple(n * config.size_multiple for n in cells)
    assert [prompt.split()[0] for prompt in params["prompt"]] == ["red", "red"] and params[
        "negative_prompt"
    ] in ("", NEGATIVE)
    assert (params["steps"], params["seed"]) == (STEPS, [0, 1]) == (2, [0, 1])
    assert not SAMPLERS[params["sampler"]].stochastic
    assert (run.name, run.family, run.mode) == (f"{family}.passport", family, "txt2img")


def test_texts_with_a_template_have_a_length_that_holds_it():
    length = kit_trace("qwen-image-2.1").params["max_sequence_length"]
    assert length % 16 == 0 and 0 < length < 512
    assert "max_sequence_length" not in kit_trace("sd15").params


def test_only_presets_with_golden_runs_have_kits():
    families = kit_families()
    assert len(families) == len({*families}) and "tiny" not in families
    for name in ("tiny", "sd16"):
        with pytest.raises(UsageError) as caught:
            kit_trace(name)
        assert caught.value.code == "E-PASSPORT"
    assert "sd15" in str(caught.value.hint)


def test_no_two_kits_are_of_the_same_network_and_each_has_makers_names():
    families = distinct_families()
    configs = [golden_config(family) for family in families]
    assert len({repr(config.denoiser) for config in configs}) == len(families)
    assert {*families} < {*kit_families()}
    for config in configs:
        tables = find_makers_tables(config)
        network = config.denoiser.network
        assert tables is not None and makers_tables(config).keys() == tables.keys()
        shapes = flatten(family_of(config).declared(config, network).spec())
        assert tables[network].keys() == shapes.keys()


def test_noise_is_also_given_as_tokens_where_pipelines_pass_them():
    noise = np.arange(2 * 16 * 4 * 6, dtype=np.float64).reshape(2, 16, 4, 6)
    [(name, tokens)] = noise_tokens(golden_config("flux-dev"), noise).items()
    assert name == f"{NOISE}.tokens" and tokens.shape == (2, 6, 64)
    assert np.array_equal(np.sort(tokens, axis=None), noise.reshape(-1))
    assert np.array_equal(tokens[0, 1].reshape(16, 2, 2), noise[0, :, :2, 2:4])
    assert noise_tokens(golden_config("sd15"), noise) == {}


@pytest.mark.parametrize(("family", "sides"), [("flux-dev", (512, 1024)), ("sd15", ())])
def test_schedules_are_of_several_numbers_of_steps_and_sizes_that_shift_them(family, sides):
    rows = json.loads(schedules_text(family))
    assert [row["steps"] for row in rows] == [4, 8, 20, 50] * (len(sides) or 1)
    for row in rows:
        assert len(row["sigmas"]) == row["steps"] + 1 and len(row["timesteps"]) == row["steps"]
        assert row["sampler"] == kit_trace(family).params["sampler"]
        assert row.get("width") == row.get("height")
    assert sorted({row["width"] for row in rows if "width" in row}) == [*sides]


# -- faults and inputs ----------------------------------------------------------------------------


def test_every_row_of_the_table_of_faults_is_tried_under_a_name_of_its_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(Path(fault.name).name == fault.name and fault.source for fault in FAULTS)
    assert {"between.other_skip", "block.other_modulation"} <= {fault.name for fault in FAULTS}


def test_inputs_that_a_dump_lacks_are_those_of_the_kit():
    ones = np.ones((1, 3))
    whole = {"input.sample": ones, "input.mask": 2.0 * ones, "output": ones}
    run = run_of({"unet.000": whole})
    call = TraceCall("unet.000")
    port = run_of({"unet.000": {"input.sample": 5.0 * ones, "output": ones}})
    made = complete_inputs(port, run, call)
    assert made is not None and len(made.entries) == 1
    arrays = made.read_inputs(made.entries[0])
    assert {role: x[0, 0] for role, x in arrays.items()} == {"sample": 5.0, "mask": 2.0}
    assert made.read_outputs(made.entries[0])["output"][0, 0] == 1.0
    alone = run_of({"unet.000": {"output": ones}, "vae.decode": {"output": ones}})
    made = complete_inputs(alone, run, call)
    assert made is not None and [e.call for e in made.entries] == ["unet.000", "vae.decode"]
    assert {*made.entries[0].inputs} == {"sample", "mask"}
    assert complete_inputs(run_of({"unet.000": whole}), run, call) is None
    assert complete_inputs(port, run, TraceCall("unet.001")) is None
    other = run_of({"unet.000": {"output": np.ones((2, 3))}})
    assert complete_inputs(other, run, call) is None  # another batch


def test_a_layer_without_its_whole_call_gets_the_inputs_of_the_call():
    ones = np.ones((1, 3))
    run = run_of({"unet.000": {"input.sample": ones, "output": ones}})
    layer = TraceEntry(TraceCall("unet.000"), "a", {}, {"output": "x"})
    port = replace(run, tensors={"x": ones}, entries=(layer,))
    made = complete_inputs(port, run, TraceCall("unet.000"))
    assert made is not None and [e.layer for e in made.entries] == ["", "a"]
    assert np.array_equal(made.read_inputs(made.entries[0])["sample"], ones)


def test_outputs_have_the_kits_sizes_in_any_shape():
    run = run_of({"unet.000": {"output": np.ones((2, 3)), "output.more": np.ones(4)}})
    for arrays, fits in (
        ({"output": np.ones((3, 2))}, True),
        ({"output": np.ones((2, 4))}, False),
        ({"output": np.ones((2, 3)), "output.more": np.ones(5)}, False),
        ({"output.own": np.ones(7)}, True),
    ):
        port = run_of({"unet.000": arrays})
        assert has_sizes(port, port.entries[0], run) == fits
    port = run_of({"unet.001": {"output": np.ones(9)}})
    assert has_sizes(port, port.entries[0], run)
