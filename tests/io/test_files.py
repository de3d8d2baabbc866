"""Errors name the kind of thing that is in the place of a model's file, without waiting."""

from __future__ import annotations

import errno
import gzip
import os
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

import ldmref
from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError, UnsafeFileError, UsageError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.adapters.lora_file import read_loras
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.io.checkpoint import read_model_config
from ldmref.io.locate import find_model
from ldmref.io.single_file import find_named_config
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.torch_checkpoint import is_pickle, read_checkpoint
from ldmref.prompts.clip_vocabulary import load_tokenizer
from ldmref.prompts.wordpiece import wordpiece_tokenizer
from ldmref.support.files import (
    check_input_path,
    make_read_error,
    not_a_file,
    open_file,
    parse_json,
)

READERS = {
    "load": lambda path: ldmref.load(path, backend="numpy"),
    "lora": lambda path: ldmref.load(lora=[path], backend="numpy"),
    "vae": lambda path: ldmref.load(vae=path, backend="numpy"),
    "find_model": find_model,
    "model_config": read_model_config,
    "named_config": find_named_config,
    "load_controlnet": lambda path: ldmref.load_controlnet(path, "numpy"),
    "open_controlnet": open_controlnet,
    "load_taesd": lambda path: ldmref.load_taesd(path, get_backend("numpy")),
    "read_vae": read_vae,
    "read_loras": lambda path: read_loras([path]),
    "read_embeddings": read_embeddings,
    "load_tokenizer": load_tokenizer,
    "wordpiece": lambda path: wordpiece_tokenizer(path, 77),
    "TensorFile": TensorFile,
}
NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()
PATHLESS = [5, 1.5, True, b"x", ["a"], ("a", "b", "c"), {"a": 1}, NOTHING, "", "a\0b", "\ud800"]


def special(tmp_path, kind):
    path = tmp_path / f"{kind}.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(tmp_path)  # the names of sockets are short
            listener.bind(path.name)
    elif kind == "device":
        os.symlink("/dev/zero", path)
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_named(tmp_path, monkeypatch, reader, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=kind) as caught:
        READERS[reader](special(tmp_path, kind))
    assert "\n" not in str(caught.value) and caught.value.code != "E-ERROR"


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 3000, "x" * 300 + ".json"])
@pytest.mark.parametrize("reader", READERS)
def test_names_that_are_too_long(tmp_path, monkeypatch, reader, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="too long") as caught:
        READERS[reader](name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, *PATHLESS], ids=repr)
@pytest.mark.parametrize(
    "reader",
    [
        "load",
        "read_vae",
        "read_loras",
        "read_embeddings",
        "open_controlnet",
        "model_config",
        "TensorFile",
    ],
)
def test_what_is_no_path_is_a_usage_error(reader, value):
    with pytest.raises(UsageError) as caught:
        READERS[reader](value)
    codes = {
        "read_vae": "E-VAE",
        "read_loras": "E-LORA",
        "read_embeddings": "E-EMBEDDING",
        "open_controlnet": "E-CONTROL",
    }
    assert caught.value.code == codes.get(reader, caught.value.code)


@pytest.mark.parametrize("name", ["backend", "device", "dtype", "speed", "variant"])
@pytest.mark.parametrize("value", [5, True, ["numpy"], {"a": 1}, b"numpy"], ids=repr)
def test_names_of_another_type(name, value):
    with pytest.raises(UsageError):
        ldmref.load(**{name: value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"fetch": "no"},
        {"ema": 1},
        {"allow_nonfinite": "yes"},
        {"max_memory": True},
        {"lora": 5},
        {"lora": None},
        {"lora": [("a",)]},
        {"lora": [("a", 1, 2)]},
        {"lora": b"x"},
        {"lora": [("a", "1")]},
    ],
    ids=repr,
)
def test_arguments_of_another_type(arguments):
    with pytest.raises(UsageError):
        ldmref.load(backend="numpy", **arguments)


@pytest.mark.parametrize("arguments", [(None,), (5,), (["tiny"],), ("tiny", "1"), ("tiny", 1.5)])
def test_random_model_takes_a_name_and_a_number(arguments):
    with pytest.raises(UsageError):
        ldmref.random_model(*arguments, backend="numpy")


def test_embeddings_of_another_type():
    model = ldmref.random_model(backend="numpy")
    for value in (None, 5, ["word"], "word", {"a": 1}):
        with pytest.raises(UsageError):
            model.with_embeddings(value)


# -- other formats --------------------------------------------------------------------------------


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")
    return path.read_bytes()


FORMATS = {
    "HTML": b"<!DOCTYPE html>\n<html><head>", "html": b"<html lang=en>" + bytes(50),
    "spaces": b"\n\n  <!doctype HTML>", "bom": b"\xef\xbb\xbf<!DOCTYPE html>",
    "XML": b"<?xml version='1.0'?><Error>", "JSON": b'{"error": "Repository not found"}',
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
    "gzip": gzip.compress(b"x" * 100), "PNG": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(50), "GGUF": b"GGUF\x01\0\0\0" + bytes(50),
    "NumPy": b"\x93NUMPY\x01\0" + bytes(50), "7z": b"7z\xbc\xaf\x27\x1c" + bytes(50),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50), "PDF": b"%PDF-1.7" + bytes(50),
}  # fmt: skip
NAMES = {"html": "HTML", "spaces": "HTML", "bom": "HTML"}
CODES = {"LFS": "E-LFS", "GGUF": "E-GGUF"}


@pytest.mark.parametrize("kind", FORMATS)
def test_other_formats_are_named(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FORMATS[kind])
    with pytest.raises(CorruptModelError, match=NAMES.get(kind, kind)) as caught:
        ldmref.load(path, backend="numpy")
    assert caught.value.code == CODES.get(kind, "E-SAFETENSORS") and caught.value.hint


def test_an_archive_is_no_pickle(tmp_path):
    path = tmp_path / "model.safetensors"
    archive(path)
    with pytest.raises(CorruptModelError, match="zip"):
        TensorFile(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(UnsafeFileError):
        TensorFile(path)


def test_a_page_in_place_of_a_configuration(tmp_path):
    (tmp_path / "config.json").write_text("<!DOCTYPE html><html>")
    with pytest.raises(CorruptModelError, match="HTML") as caught:
        ldmref.load(tmp_path, backend="numpy")
    assert caught.value.code == "E-CONFIG"


def test_a_missing_pickle_is_missing(tmp_path):
    with pytest.raises(InputError) as caught:
        find_model(tmp_path / "a.ckpt")
    assert caught.value.code == "E-MODEL" and not isinstance(caught.value, UnsafeFileError)


def test_pickle_readers_do_not_wait(tmp_path):
    pipe = special(tmp_path, "pipe")
    for read in (is_pickle, read_checkpoint):
        with pytest.raises(InputError, match="pipe"):
            read(pipe)


def test_a_file_that_may_not_be_read(tmp_path):
    """In a process without root's rights, where that can be arranged."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(1, np.float32)}, path)
    path.chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys, pathlib\n"
        "from ldmref.io.tensors.safetensors import TensorFile\n"
        "from ldmref.errors import InputError\n"
        "if os.getuid() == 0: os.seteuid(65534)\n"
        "try: TensorFile(sys.argv[1])\n"
        "except InputError as error:\n"
        "    sys.exit(error.code != 'E-MODEL' or 'denied' not in str(error))\n"
        "sys.exit('read')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# -- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        '{"a": 1, "a": 2}',
        "[" * 5000 + "]" * 5000,
        "[" * 200 + "]" * 200,
        '{"a":' * 900 + "1" + "}" * 900,
        "1" * 5000,
        "\ufeff\ufeff{}",
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_refused(text):
    with pytest.raises(CorruptModelError) as caught:
        parse_json(text.encode(), "config.json")
    assert caught.value.code == "E-CONFIG" and len(str(caught.value)) < 300


def test_json_that_is_read():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, -Infinity]}', "x") == {"a": [1, float("-inf")]}


def test_paths():
    assert check_input_path("nowhere").name == "nowhere" and check_input_path(os.curdir).is_dir()
    with pytest.raises(UsageError):
        check_input_path(5)


def test_what_is_no_regular_file_is_said_in_one_way(tmp_path):
    (tmp_path / "a").write_text("")
    os.mkfifo(tmp_path / "pipe")
    assert not_a_file(tmp_path / "a") == ""
    answers = {
        "gone": "does not exist",
        "a/b": "does not exist",
        ".": "is a folder, not a file",
        "pipe": "is a named pipe (FIFO), not a file",
        "/dev/zero": "is a device, not a file",
        "a\0b": "is not a file name",
        "\ud800": "is not a file name",
    }
    assert {
        name: not_a_file(f"{tmp_path}/{name}" if name[0] != "/" else name) for name in answers
    } == answers
    assert not_a_file("x" * 5000).startswith("cannot be read")


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("--config", "E-CONFIG-FILE"),
        ("--latents", "E-LATENTS"),
        ("--image", "E-IMAGE-MISSING"),
        ("--lora", "E-LORA"),
        ("--against", "E-AGAINST"),
    ],
)
def test_every_reader_says_that_a_device_is_one(flag, code, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = {"--image": ["img2img", "cat"], "--against": ["check"]}.get(flag, ["txt2img", "cat"])
    assert main([*argv, flag, "/dev/zero"]) == 3
    err = capfd.readouterr().err
    assert f"error[{code}]" in err and "a device" in err and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["lora", "read_vae", "TensorFile"])
def test_a_file_that_is_not_there_is_looked_for(tmp_path, name):
    with pytest.raises(InputError) as caught:
        READERS[name](tmp_path / "gone.safetensors")
    assert "gone.safetensors" in str(caught.value) and caught.value.hint


def test_hints_of_errors_of_the_system(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(InputError, match="cannot read 'b'") as caught:
        open_file(tmp_path / "a/b")
    assert caught.value.hint == "check the path; a relative one starts at the working folder"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="cannot read 'loop'") as caught:
        open_file(tmp_path / "loop")
    assert "symbolic links" in caught.value.hint
    with pytest.raises(InputError, match="cannot read 'aaa") as caught:
        open_file(tmp_path / ("a" * 300))
    assert "longer" in caught.value.hint
    denied = make_read_error(tmp_path / "a", PermissionError(errno.EACCES, "Permission denied"))
    assert "permissions" in denied.hint
    assert make_read_error(tmp_path / "a", OSError("odd")).hint == ""
