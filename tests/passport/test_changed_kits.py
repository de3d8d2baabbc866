"""Kits that were changed by hand, with their digests made anew: each is refused before it judges.

A check reads the manifest, the floors, the run and the checkpoint. What they may hold is declared,
so a change is named.
"""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from ldmref.cases.model import digest_of
from ldmref.errors import CorruptModelError, KeyMismatchError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.passport import check_dump, make_module_kit, read_kit
from ldmref.passport.make import tensors_file

OTHER = "sd15"


@pytest.fixture
def kit(small_kit, tmp_path):
    """Return a copy of the kit that may be changed."""
    shutil.copytree(small_kit.folder, tmp_path / "kit")
    return tmp_path / "kit"


def stamp(folder):
    """Write the digests of a kit's files anew."""
    manifest = json.loads((folder / "kit.json").read_text())
    for path in [*manifest["digests"]]:
        if (folder / path).is_file():
            data = (folder / path).read_bytes()
            manifest["digests"][path] = hashlib.sha256(data).hexdigest()
    manifest["digest"] = digest_of(manifest["digests"])
    (folder / "kit.json").write_text(json.dumps(manifest))


def change_json(folder, name, change):
    """Change the content of a JSON file of a kit, and its digests."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    stamp(folder)


def own_run_of(folder):
    """Judge the run of a kit by the kit."""
    kit = read_kit(folder)
    return check_dump(kit.trace, kit)


def set_in(*path, to):
    """Return a function that sets a value of nested dictionaries."""

    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


# -- the manifest ---------------------------------------------------------------------------------

WRONG_FIELDS = {
    "family": ([], "", None, 3),
    "networks": ("ab", ["a", 3], {"a": "b"}, ["../a"]),
    "wrong": ({}, ["a"], [{"name": 3}], [{"name": "a"}], None),
    "request": ([], "red", None),
    "rows": ("ab", {"a": "rows"}, {"a": {"b": 3}}),
    "nodes": (-1, "a", 1.5, True),
    "digest": ("00", 3),
    "digests": ({}, [], {"a": 3}, None),
}


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_a_field_that_is_not_as_declared_is_refused(field, kit):
    manifest = json.loads((kit / "kit.json").read_text())
    for value in WRONG_FIELDS[field]:
        (kit / "kit.json").write_text(json.dumps(manifest | {field: value}))
        with pytest.raises(CorruptModelError, match=r"kit\.json is damaged") as caught:
            read_kit(kit)
        assert caught.value.code == "E-PASSPORT" and field in str(caught.value)


@pytest.mark.parametrize(
    "path", ["floors.json", "trace/trace.json", "trace/trace.safetensors", "checkpoint/config.json",
             "checkpoint/transformer.safetensors", "checkpoint/tokenizer.json"],
)  # fmt: skip
def test_every_file_that_a_check_reads_has_a_digest(path, kit):
    change_json(kit, "kit.json", lambda manifest: manifest["digests"].pop(path))
    with pytest.raises(CorruptModelError, match=f"{path} has no digest"):
        own_run_of(kit)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 10**9), ("steps", "a"), ("prompt", 5), ("prompt", []), ("width", -8), ("seed", "a"),
     ("cfg_scale", "high"), ("sampler", "none"), ("guess", 1)],
)  # fmt: skip
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_request_is_that_of_the_run_and_can_be_run(name, value, everywhere, kit):
    if everywhere:
        change_json(kit, "trace/trace.json", set_in("params", name, to=value))
    change_json(kit, "kit.json", set_in("request", name, to=value))
    with pytest.raises(CorruptModelError, match=name):
        own_run_of(kit)


# -- floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "1e-7", float("nan"), float("inf"), -1, True, [1.0], {}])
def test_a_floor_is_a_number_of_at_least_zero(value, kit):
    change_json(kit, "floors.json", set_in("floors", "transformer.000//output", to=[value] * 3))
    with pytest.raises(CorruptModelError, match=r"floors\.json holds no floors"):
        own_run_of(kit)


@pytest.mark.parametrize("formats", [None, [], "float32", ["float32"], ["a", "b", "c"], [1, 2, 3]])
def test_floors_are_of_all_formats(formats, kit):
    change_json(kit, "floors.json", set_in("formats", to=formats))
    with pytest.raises(CorruptModelError, match="formats must be float32, bfloat16, float16"):
        own_run_of(kit)


def test_every_output_has_a_floor(kit):
    change_json(kit, "floors.json", lambda content: content["floors"].pop("vae.decode//output"))
    with pytest.raises(CorruptModelError, match=r"no floor of vae\.decode//output"):
        own_run_of(kit)


# -- the run and the checkpoint -------------------------------------------------------------------


def test_a_trace_without_its_manifest_is_no_run(kit):
    (kit / "trace/trace.json").write_text("{}")
    stamp(kit)
    with pytest.raises(CorruptModelError, match="no complete run"):
        own_run_of(kit)


def test_a_run_has_all_nodes_that_the_manifest_counts(kit):
    path = kit / "trace/trace.safetensors"
    tensors = {name: np.array(x) for name, x in TensorFile(path).items()}
    kept = {name: x for name, x in tensors.items() if not name.startswith("vae.encode/")}
    path.write_bytes(tensors_file(kept))

    def drop_encoder(content):
        content["entries"] = [e for e in content["entries"] if e["call"] != "vae.encode"]

    change_json(kit, "trace/trace.json", drop_encoder)
    with pytest.raises(CorruptModelError, match=r"nodes, and kit\.json counts 275"):
        own_run_of(kit)


def test_the_checkpoint_of_another_family_is_refused(kit, make_small_kit):
    other = make_small_kit(OTHER).folder
    shutil.copytree(other / "checkpoint", kit / "checkpoint", dirs_exist_ok=True)
    manifest = json.loads((kit / "kit.json").read_text())
    manifest["digests"] |= {
        f"checkpoint/{path.name}": "" for path in (kit / "checkpoint").iterdir()
    }
    (kit / "kit.json").write_text(json.dumps(manifest))
    stamp(kit)
    with pytest.raises(CorruptModelError, match="its checkpoint is a model sd15"):
        own_run_of(kit)
    change_json(kit, "kit.json", set_in("family", to=OTHER))
    with pytest.raises(CorruptModelError, match="another model than its checkpoint"):
        own_run_of(kit)


@pytest.mark.parametrize("file", ["transformer", "text_encoder", "vae"])
def test_tensors_that_do_not_fit_the_configuration_are_refused(file, kit):
    path = kit / f"checkpoint/{file}.safetensors"
    tensors = {name: np.array(x) for name, x in TensorFile(path).items()}
    first = next(iter(tensors))
    for changed in (
        {name: x for name, x in tensors.items() if name != first},
        tensors | {"another": np.ones(3, np.float32)},
        tensors | {first: np.ones((7, 7, 7), np.float32)},
    ):
        path.write_bytes(tensors_file(changed))
        stamp(kit)
        with pytest.raises(KeyMismatchError, match="fit"):
            own_run_of(kit)


# -- kits of modules ------------------------------------------------------------------------------


def test_kits_of_modules_have_the_same_form(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU())
    folder = tmp_path / "kit"
    make_module_kit("mlp", {"net": (net, {"input": torch.ones(3, 4)})}, folder)
    assert own_run_of(folder).passed
    for change, message in (
        (set_in("networks", to=["net", "other"]), "no call of other"),
        (set_in("rows", to={"net": {"input": "columns"}}), "rows of arguments"),
        (set_in("rows", to={"other": {"input": "rows"}}), "rows of arguments"),
    ):
        shutil.copy(folder / "kit.json", tmp_path / "kit.json")
        change_json(folder, "kit.json", change)
        with pytest.raises(CorruptModelError, match=message):
            own_run_of(folder)
        shutil.copy(tmp_path / "kit.json", folder / "kit.json")
