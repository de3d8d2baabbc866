"""Weights that are damaged, altered or suspicious, and arguments given with them."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError, InputError, OutputError, UnsafeFileError, UsageError
from ldmref.io import embedded
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.diffusers.folder import open_weight_files
from ldmref.io.embedded import EMBEDDED, PUBLISHED, embedded_folder, require_published
from ldmref.io.locate import find_model
from ldmref.io.native import check_weights, hash_file, save_folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    model = ldmref.random_model("tiny", backend="numpy")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, model.config, model.params, [model.tokenizer], np.float32)
    return folder


@pytest.fixture
def folder(tmp_path, tiny_folder):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def change(folder, name, value, record=True):
    """Set a tensor; `record`: as its maker would, with the new digest in config.json."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name][...] = value
    save_file(tensors, path)
    if record:
        config = json.loads((folder / "config.json").read_text())
        config["sha256"]["model.safetensors"] = hash_file(path)
        (folder / "config.json").write_text(json.dumps(config))


def flip(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -- NaN, infinity, zeros -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_weights_are_refused_unless_allowed(folder, value):
    change(folder, "unet.conv_in.bias", value)
    with pytest.raises(CorruptModelError, match=r"unet\.conv_in\.bias") as caught:
        ldmref.load(folder, backend="numpy")
    assert caught.value.code == "E-NONFINITE"
    model = ldmref.load(folder, backend="numpy", allow_nonfinite=True)
    assert any("unet.conv_in.bias" in warning for warning in model.warnings)


def test_the_first_five_names_are_listed():
    flat = {f"t{i}": np.array([np.nan], np.float32) for i in range(9)}
    with pytest.raises(CorruptModelError, match=r"9 tensors") as caught:
        check_weights(flat)
    assert str(caught.value).endswith("t0, t1, t2, t3, t4")


def test_weights_that_are_all_zero_are_warned_about(folder):
    assert not ldmref.load(folder, backend="numpy").warnings  # biases may be zero
    change(folder, "unet.conv_in.weight", 0)
    model = ldmref.load(folder, backend="numpy")
    assert any("unet.conv_in.weight" in warning for warning in model.warnings)
    result = modes.txt2img(model, "red heart", steps=1, seed=0)
    assert any("zero" in warning for warning in result.warnings)


# -- digests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_the_recorded_one_is_refused(folder, name):
    if name == "tokenizer.json":
        (folder / name).write_text((folder / name).read_text() + "\n")
    else:
        flip(folder / name)
    with pytest.raises(CorruptModelError, match=name) as caught:
        ldmref.load(folder, backend="numpy")
    assert caught.value.code == "E-DIGEST" and "sha256" in caught.value.hint
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]  # as the hint says; folders of earlier versions have none
    (folder / "config.json").write_text(json.dumps(config))
    ldmref.load(folder, backend="numpy")


def test_a_copy_of_the_embedded_model_with_a_flipped_byte(tmp_path):
    copy = shutil.copytree(find_model("emoji"), tmp_path / "copy")
    assert ldmref.load(copy, backend="numpy").sha256 == PUBLISHED["emoji"]["model.safetensors"]
    flip(copy / "model.safetensors")
    with pytest.raises(CorruptModelError) as caught:
        ldmref.load(copy, backend="numpy")
    assert caught.value.code == "E-DIGEST"


def test_a_digest_that_is_known_is_not_computed_again():
    require_published(embedded_folder("emoji"), PUBLISHED["emoji"]["model.safetensors"])
    with pytest.raises(CorruptModelError) as caught:
        require_published(embedded_folder("emoji"), "0" * 64)
    assert caught.value.code == "E-DIGEST" and "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_are_the_published_ones(name):
    require_published(embedded_folder(name))


def test_the_embedded_map_has_the_other_networks_of_its_base():
    base, flow_map = (open_checkpoint(name) for name in ("emoji", "emoji-map"))
    shared = [name for name in base.tensors if not name.startswith("unet.")]
    assert shared and {name.split(".")[0] for name in shared} == {"text_encoder", "vae"}
    assert all(np.array_equal(base.tensors[name], flow_map.tensors[name]) for name in shared)
    assert base.tensors.keys() < flow_map.tensors.keys()
    texts = [checkpoint.tokenizers[0].tokenizer.to_str() for checkpoint in (base, flow_map)]
    assert texts[0] == texts[1]
    assert flow_map.sha256 == PUBLISHED["emoji-map"]["model.safetensors"]


@pytest.mark.parametrize("name", PUBLISHED["emoji"])
def test_an_altered_embedded_model_is_refused(tmp_path, monkeypatch, name):
    """Even if its config.json records the altered digest."""
    folder = shutil.copytree(embedded_folder("emoji"), tmp_path / "emoji")
    if name == "model.safetensors":
        change(folder, "unet.conv_in.bias", 0.5)
    else:
        (folder / name).write_text((folder / name).read_text() + " ")
        config = json.loads((folder / "config.json").read_text())
        config["sha256"]["tokenizer.json"] = hash_file(folder / "tokenizer.json")
        (folder / "config.json").write_text(json.dumps(config))
    folders = {name: embedded_folder(name) for name in EMBEDDED} | {"emoji": folder}
    monkeypatch.setattr(embedded, "embedded_folder", folders.__getitem__)
    monkeypatch.setattr("ldmref.io.locate.embedded_folder", folders.__getitem__)
    with pytest.raises(CorruptModelError, match="published") as caught:
        ldmref.load(backend="numpy")
    assert caught.value.code == "E-DIGEST"


# -- the model's own tokenizer and configuration --------------------------------------------------


@pytest.mark.parametrize("name", ["emoji", "folder"])
@pytest.mark.parametrize(
    "argument,code", [("tokenizer", "E-TOKENIZER"), ("config", "E-MODEL-CONFIG")]
)
def test_a_second_tokenizer_or_configuration_is_refused(folder, name, argument, code):
    with pytest.raises(UsageError) as caught:
        ldmref.load(folder if name == "folder" else name, backend="numpy", **{argument: folder})
    assert caught.value.code == code


# -- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\0b", "x" * 300]
)
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, name):
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        open_weight_files(tmp_path, "model")
    assert isinstance(caught.value, UnsafeFileError) or caught.value.code == "E-MODEL"


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"a": None}, {"a": ["b"]}, {"a": 5}])
def test_an_index_without_files(tmp_path, weight_map):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError):
        open_weight_files(tmp_path, "model")


# -- pickling -------------------------------------------------------------------------------------


def image(model):
    return np.asarray(modes.txt2img(model, "red heart", seed=1, steps=1)[0])


def test_a_pickled_model_draws_the_same_image(folder):
    model = ldmref.load(folder, backend="numpy")
    data = pickle.dumps(model)
    assert (image(pickle.loads(data)) == image(model)).all()
    used = pickle.dumps(model)  # the networks are on the backend now
    assert (image(pickle.loads(used)) == image(model)).all()
    assert len(data) < 200_000 and len(used) < 200_000  # weights are references to the file


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_without_a_file_is_pickled_with_its_weights(dtype):
    model = ldmref.random_model("tiny", backend="numpy", dtype=dtype)
    again = pickle.loads(pickle.dumps(model))
    assert again.backend.dtype == dtype and (image(again) == image(model)).all()


def test_a_pickled_torch_model(folder):
    pytest.importorskip("torch")
    model = ldmref.load(folder, backend="torch")
    before = image(model)
    assert (image(pickle.loads(pickle.dumps(model))) == before).all()


def test_a_model_in_another_process(folder):
    model = ldmref.load(folder, backend="numpy")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (pool.apply(image, (model,)) == image(model)).all()


def test_a_pickled_model_whose_file_has_changed_or_gone(folder):
    data = pickle.dumps(ldmref.load(folder, backend="numpy"))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptModelError) as caught:
        pickle.loads(data)
    assert caught.value.code == "E-FILE-CHANGED"
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        pickle.loads(data)


# -- writing --------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys, pathlib, numpy as np, ldmref
sys.dont_write_bytecode = True  # a .pyc would be cut off as well
from ldmref.errors import OutputError
from ldmref.apps.cli.main import main
model = ldmref.random_model("tiny", backend="numpy")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("out", ["new", "new.safetensors", "model", "old.safetensors"])
def test_a_full_disk_leaves_what_was_there(tmp_path, folder, out):
    old = tmp_path / "old.safetensors"
    old.write_bytes(b"old")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    target = shutil.copytree(folder, tmp_path / "source")
    before |= {path: path.read_bytes() for path in target.iterdir()}
    argv = ["convert", str(target), str(tmp_path / out), "--overwrite"]
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *argv], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 8 and "E-WRITE" in run.stderr, run.stderr
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_is_replaced_whole(folder):
    model = ldmref.random_model("tiny", seed=1, backend="numpy")
    save_folder(folder, model.config, model.params, [model.tokenizer], np.float32)
    again = ldmref.load(folder, backend="numpy")
    assert (again.params.unet.conv_in.bias == model.params.unet.conv_in.bias).all()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_cannot_be_replaced_is_kept(folder, monkeypatch):
    import os

    model = ldmref.random_model("tiny", seed=1, backend="numpy")
    replace = os.replace
    refused = []

    def failing(source, to):
        if to == folder and not refused:
            refused.append(source)
            raise OSError(28, "No space left on device")
        return replace(source, to)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError):
        save_folder(folder, model.config, model.params, [model.tokenizer], np.float32)
    monkeypatch.undo()
    ldmref.load(folder, backend="numpy")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
