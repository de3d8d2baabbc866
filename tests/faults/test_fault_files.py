"""Rows 118 to 135 that need more than one command: other files than the weights, and targets."""

from __future__ import annotations

import ast
import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from fault_cases import COMMAND_LINE, PYTHON, covers
from fault_files import image_folder
from fault_images import image_file, mask, pixels
from PIL import Image
from test_fault_processes import LDMREF, SHORT, assert_refused, environment
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

import ldmref
from ldmref import modes
from ldmref.apps.cli import main as main_module
from ldmref.apps.cli.main import main
from ldmref.datasets import folder as folder_module
from ldmref.datasets import load_dataset, shards
from ldmref.datasets.config import DataConfig
from ldmref.datasets.folder import FolderDataset
from ldmref.errors import Cancelled, CorruptModelError, InputError, LdmrefError, OutputError
from ldmref.io import hub
from ldmref.io.tensors.torch_checkpoint import MAX_GROWTH, read_checkpoint
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.tokens import SpecialTokens
from ldmref.prompts.words import load_word_tokenizer

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")

# -- libraries that panic -------------------------------------------------------------------------


class Panic(BaseException):
    """An error that is no `Exception`."""


@covers(118, "a panic while a prompt is split", PYTHON, code="E-TOKENIZER")
def test_panic_of_the_tokenizers_library():
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(x+x+)+y"), "removed", invert=True)
    hostile = "x" * 30
    with pytest.raises(BaseException) as raw:
        tokenizer.encode(hostile)
    assert not isinstance(raw.value, Exception), "another regular expression must make it panic"
    prompts = PromptTokenizer(tokenizer, 8, SpecialTokens("x", "x", "x", "x"))
    with pytest.raises(CorruptModelError) as caught:
        prompts.tokenize([hostile])
    assert caught.value.code == "E-TOKENIZER"


@covers(118, "an error that is not an Exception, from anywhere", COMMAND_LINE, code="E-INTERNAL")
def test_no_exception(stage, monkeypatch):
    def panic(argv):
        raise Panic("at the disco")

    monkeypatch.setattr(main_module, "_run", panic)
    assert main(["models"]) == 1
    err = stage.capfd.readouterr().err
    assert "error[E-INTERNAL]: Panic: at the disco" in err and "Traceback" not in err


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with these entry points, whose module makes a file when imported."""
    folder = tmp_path / "site"
    metadata = folder / "their_package-1.2.dist-info"
    metadata.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder))
    imported = tmp_path / "imported"
    (folder / "their_plugin.py").write_text(f"open({str(imported)!r}, 'w').close()\nmine = 3\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n")

    def install(text):
        (metadata / "entry_points.txt").write_text(text)
        return imported

    yield install
    sys.modules.pop("their_plugin", None)


LISTINGS = (["samplers"], ["samplers", "--json"], ["backends"], ["backends", "--json"], ["doctor"])
GROUPS = ("ldmref.samplers", "ldmref.backends")


@covers(116, "a module that makes a file when it is imported", COMMAND_LINE)
@pytest.mark.parametrize("group", GROUPS)
def test_listings_import_no_plug_in(stage, package, group):
    imported = package(f"[{group}]\nmine = their_plugin:mine\n")
    for argv in LISTINGS:
        assert main(argv) == 0 and not imported.exists(), argv
    flag = "--sampler" if group == GROUPS[0] else "--backend"
    argv = ["txt2img", "cat", "-m", str(stage.model_folder)]
    assert main([*argv, "--steps", "1", "-o", "a.png"]) == 0 and not imported.exists()
    assert main([*argv, flag, "mine"]) in (2, 5) and imported.exists()


@covers(117, "lines without a value, without a name, no text", COMMAND_LINE)
@pytest.mark.parametrize("line", ["bare", "bare =", "= bare", "[", "\0", "odd = a:b:c d"])
@pytest.mark.parametrize("group", GROUPS)
def test_damaged_entry_points(stage, package, group, line):
    package(f"[{group}]\n{line}\n")
    for argv in LISTINGS[:-1]:
        assert main(argv) == 0, argv
    argv = ["txt2img", "cat", "-m", str(stage.model_folder), "--steps", "1"]
    assert main([*argv, "-o", "a.png"]) == 0
    for flag, code in (("--sampler", "E-SAMPLER"), ("--backend", "E-BACKEND-NAME")):
        assert main([*argv, flag, "no_such_name"]) == 2
        assert f"error[{code}]" in stage.capfd.readouterr().err


@covers(119, "long prompts of every kind, in little time", PYTHON)
@pytest.mark.parametrize(
    "text", ["x", "e\u0301", "\u1e9b\u0323", "\ufdfa", "9!", " ", "'s", "\U0001f600"]
)
def test_long_prompts_do_not_grow(tiny, text):
    """Ids are at most one for each character of the normalized text, NFD's longest being four."""
    words = tiny.tokenizer.tokenizer
    encoding = words.encode(text * (10_000 // len(text)), add_special_tokens=False)
    assert len(encoding.ids) <= 4 * 10_000


# -- files that are read --------------------------------------------------------------------------


@covers(120, "captions next to an image, tables: too large", PYTHON, code="E-DATA")
@pytest.mark.parametrize(
    ("name", "limit"),
    [("cat.txt", "MAX_CAPTIONS"), ("metadata.jsonl", "MAX_TABLE"), ("metadata.csv", "MAX_TABLE")],
)
def test_limits_of_captions(tmp_path, monkeypatch, name, limit):
    text = {
        "cat.txt": b"a cat\n",
        "metadata.jsonl": b'{"file_name": "cat.png", "text": "a cat"}\n',
        "metadata.csv": b"file_name,text\ncat.png,a cat\n",
    }[name]
    out = image_folder(name, text)(tmp_path)
    assert FolderDataset(out, 16).captions == [["a cat"]]
    monkeypatch.setattr(folder_module, limit, len(text) - 1)
    with pytest.raises(InputError, match="larger than") as caught:
        FolderDataset(out, 16)
    assert caught.value.code == "E-DATA"


@covers(120, "Ctrl-C while images are read", PYTHON, code="E-CANCELLED")
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_stopped_while_images_are_read(tmp_path, kind):
    cancel = threading.Event()
    out = image_folder()(tmp_path)
    if kind == "tar":
        with tarfile.open(out / "a.tar", "w") as tar:
            tar.add(out / "cat.png", "cat.png")
        for file in (out / "cat.png", out / "cat.txt"):
            file.unlink(missing_ok=True)
    assert len(load_dataset(DataConfig(str(out), 16), cancel).images) == 1
    cancel.set()
    with pytest.raises(Cancelled) as caught:
        load_dataset(DataConfig(str(out), 16), cancel)
    assert caught.value.code == "E-CANCELLED"


@covers(120, "a pipe in the folder of a training", COMMAND_LINE, code="E-WRITE")
@pytest.mark.parametrize("name", ["metrics.jsonl", "latents-0.npy", "recipe.toml"])
def test_pipe_in_the_folder_of_a_training(tmp_path, name):
    from ldmref.training.setup import training_folder

    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match="named pipe") as caught, training_folder(tmp_path):
        pass
    assert caught.value.code == "E-WRITE"


# functions that open what ldmref or the kernel has made, and the reader of all others
OWN = {
    ("support/files.py", "_InputFile"),
    ("apps/cli/standard_streams.py", "prepare_streams"),
    ("apps/cli/standard_streams.py", "_discard"), ("datasets/emoji/emoji_dataset.py", "origin"),
    ("datasets/emoji/emoji_dataset.py", "EmojiDataset"),
    ("datasets/emoji/font.py", "emoji_list"), ("apps/server/static_files.py", "read_folder"),
    ("training/monitor/metrics.py", "append_metrics"), ("training/monitor/metrics.py", "_lines"),
    ("training/monitor/metrics.py", "drop_after"),  # `training_folder` refuses a pipe
    ("batch/folder.py", "append"), ("batch/folder.py", "cut_torn_line"),
    ("batch/folder.py", "lock"), ("batch/folder.py", "BatchFolder"),
    ("support/assets.py", "read_asset"), ("support/lazy.py", "_read_imports"),
    ("support/free_memory.py", "_read_sizes"), ("support/free_memory.py", "_read_number"),
    ("check/capstone/questions.py", "config_of"),
    ("check/capstone/autoencoder.py", "with_bias"),
}  # fmt: skip
READERS = {"read_text", "read_bytes", "fromfile", "loadtxt", "genfromtxt"}


@covers(120, "no other function opens a file of others", PYTHON)
def test_files_of_others_are_opened_by_one_function():
    """`open`, `Path.read_text` and their like wait for pipes and know no limit."""
    found = set()
    for path in (ROOT / "ldmref").rglob("*.py"):
        name = path.relative_to(ROOT / "ldmref").as_posix()
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.ClassDef):
                continue
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                target = call.func
                opens = isinstance(target, ast.Name) and target.id == "open"
                opens |= isinstance(target, ast.Attribute) and target.attr in READERS
                modes_of = [a.value for a in call.args[1:] if isinstance(a, ast.Constant)]
                if opens and not any(str(mode)[:1] in "wx" for mode in modes_of):
                    found.add((name, function.name))
    assert found <= OWN, f"use ldmref.support.files.open_file or read_file: {sorted(found - OWN)}"


READING = (
    "txt2img cat -m {x}.safetensors", "txt2img cat -m {m} --lora {x}.safetensors",
    "txt2img cat -m {m} --vae {x}.safetensors", "txt2img cat -m {m} --embedding {x}.safetensors",
    "txt2img cat -m {m} --embedding {x}.pt", "txt2img cat -m {m} --config {x}.toml",
    "txt2img cat -m {m} --latents {x}.npy", "img2img cat -m {m} -i {x}.png",
    "txt2img cat -m {m} --control {x}.safetensors:{i}", "run --from {x}.png", "info {x}.png",
    "info {x}.safetensors", "convert {x}.safetensors out", "convert {x}.ckpt out.safetensors",
    "train {x}.toml -o out", "evaluate {m} --data {x}.tar",
)  # fmt: skip


@covers(121, "every file that a command reads", COMMAND_LINE, code="E-MODEL")
@covers(122, "every file that a command reads", COMMAND_LINE, code="E-SAFETENSORS")
@LINUX
@pytest.mark.parametrize("target", ["/proc/self/mem", "/proc/self/environ"])
@pytest.mark.parametrize("line", READING)
def test_file_that_cannot_be_read(stage, line, target):
    words = []
    for word in line.split():
        if word.startswith("{x}"):
            link = stage.inputs / f"x.{word.split('.')[1].split(':')[0]}"
            link.symlink_to(target)
        words.append(
            word.format(x=stage.inputs / "x", m=stage.model_folder, i=image_file()(stage.inputs))
        )
    assert main(words) == 3
    err = stage.capfd.readouterr().err
    assert "E-WRITE" not in err and "E-INTERNAL" not in err and "Traceback" not in err
    assert "x." in err and not list(stage.work.iterdir())


@covers(121, "a caption, a vocabulary, a configuration", COMMAND_LINE)
@LINUX
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors", "cat.txt"])
def test_file_of_a_folder_that_cannot_be_read(stage, name):
    folder = image_folder()(stage.inputs)
    shutil.copytree(stage.model_folder, stage.inputs / "model")
    path = (folder if name == "cat.txt" else stage.inputs / "model") / name
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/self/mem")
    argv = (
        ["train", "--data", folder, "-o", "out"]
        if name == "cat.txt"
        else ["txt2img", "cat", "-m", stage.inputs / "model"]
    )
    assert main([str(word) for word in argv]) == 3
    err = stage.capfd.readouterr().err
    assert name in err and "E-WRITE" not in err and not list(stage.work.iterdir())


@covers(121, "the disk fails in the middle of a storage", COMMAND_LINE, code="E-MODEL")
@pytest.mark.parametrize("zipped", [True, False])
def test_disk_that_fails_while_converting(stage, monkeypatch, zipped):
    """The target is open at that time: its name must not be blamed."""
    torch = pytest.importorskip("torch")
    path = stage.inputs / "model.ckpt"
    tensors = {"a": torch.zeros(100_000)}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    path.unlink()
    path.symlink_to("/proc/self/mem") if Path("/proc/self/mem").exists() else None
    with pytest.raises(InputError, match=r"model\.ckpt"):
        checkpoint.read(checkpoint.tensors["a"])


def headers(kind: bytes, count: int) -> bytes:
    """`count` headers of one kind, each of which announces the next."""
    content = b"9 path=a\n" if kind == b"x" else b"a\0"
    info = tarfile.TarInfo("././@LongLink")
    info.type = kind
    info.size = len(content)
    block = info.tobuf(tarfile.GNU_FORMAT) + content.ljust(512, b"\0")
    return block * count + b"\0" * 1024


@covers(123, "3,000 headers of each kind", COMMAND_LINE, code="E-DATA")
@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"], ids=["L", "K", "x", "g"])
def test_chain_of_headers(stage, kind):
    path = stage.inputs / "a.tar"
    path.write_bytes(headers(kind, 3000))
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig(str(path), 16))
    assert caught.value.code == "E-DATA"
    argv = ["evaluate", str(stage.model_folder), "--data", str(path), "--samples", "0"]
    assert main(argv) == 3 and "error[E-DATA]" in stage.capfd.readouterr().err


@covers(124, "captions after the next image", PYTHON)
def test_files_of_a_key_apart(tmp_path):
    path = tmp_path / "a.tar"
    image = image_file()(tmp_path).read_bytes()
    files = {"a.png": image, "b.png": image, "a.txt": b"a house", "b.txt": b"a boat"}
    for names in itertools.permutations(files):
        with tarfile.open(path, "w") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
        data = shards.ShardDataset(path, 16)
        keys = [key for key, _ in itertools.groupby(name[0] for name in names)]
        complete = [["a boat"], ["a house"]]
        assert bool(data.warnings) == (len(keys) > 2)
        assert data.warnings or sorted(data.captions) == complete


@covers(125, "up to four times the file", PYTHON, code="E-PICKLE-DAMAGED")
@pytest.mark.parametrize("zipped", [True, False])
def test_views_of_a_storage(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.ckpt"
    tensor = torch.arange(100_000.0)
    for count in (1, MAX_GROWTH, MAX_GROWTH + 1, 50):
        views = {f"t{i}": tensor for i in range(count)}
        torch.save(views, path, _use_new_zipfile_serialization=zipped)
        if count <= MAX_GROWTH:
            assert len(read_checkpoint(path).tensors) == count
            continue
        with pytest.raises(CorruptModelError, match="at most 4 times") as caught:
            read_checkpoint(path)
        assert caught.value.code == "E-PICKLE-DAMAGED"


@covers(
    127,
    "main is not text, is too long, is a pipe; a user that does not exist",
    PYTHON,
    COMMAND_LINE,
    code="E-MODEL",
)
@pytest.mark.parametrize("content", [b"\xff\xfe", b"a" * 5000, b"\0", "fifo", "folder"])
def test_damaged_cache(stage, monkeypatch, content):
    monkeypatch.setenv("HF_HUB_CACHE", str(stage.inputs))
    folder = stage.inputs / "models--owner--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "snapshots" / "abc").mkdir(parents=True)
    ref = folder / "refs" / "main"
    if isinstance(content, bytes):
        ref.write_bytes(content)
    else:
        os.mkfifo(ref) if content == "fifo" else ref.mkdir()
    assert hub.find_cached(hub.HubReference("owner/model")) is None
    (folder / "snapshots" / "abc" / "model_index.json").write_text("{}")
    assert hub.find_cached(hub.HubReference("owner/model")) == folder / "snapshots" / "abc"
    assert main(["txt2img", "cat", "-m", "owner/other"]) == 3
    assert "error[E-MODEL]" in stage.capfd.readouterr().err


@covers(127, "a cache of a user that does not exist", COMMAND_LINE, code="E-MODEL")
@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_cache_of_nobody(stage, monkeypatch, name):
    for other in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "~nosuchuser/x")
    assert main(["txt2img", "cat", "-m", "owner/model"]) == 3
    assert "error[E-MODEL]" in stage.capfd.readouterr().err


@covers(27, "the working folder, the folder above, the root", PYTHON, COMMAND_LINE, code="E-MODEL")
@pytest.mark.parametrize("name", [".", "..", "/", "./"])
def test_folders_without_a_name_are_named(stage, name):
    with pytest.raises(InputError, match="is not a model folder") as caught:
        ldmref.load(name)
    assert caught.value.code == "E-MODEL" and "''" not in str(caught.value)
    assert main(["txt2img", "cat", "-m", name]) == 3
    assert "''" not in stage.capfd.readouterr().err


# -- files that are written -----------------------------------------------------------------------


@covers(128, "every file that is written", COMMAND_LINE, code="E-EXISTS")
@pytest.mark.parametrize(
    "line",
    [
        "txt2img cat -m {m} -o {o}.png",
        "txt2img cat -m {m} -o {o}.webp",
        "convert {m} {o}.safetensors",
        "invert cat -m {m} -i {i} --noise {o}.npy",
    ],
)
def test_output_that_is_a_link_to_nothing(stage, monkeypatch, line):
    def too_late(*arguments, **options):
        raise AssertionError("computed before the target was checked")

    for name in ("unet", "encode_text"):
        monkeypatch.setattr(type(stage.model), name, too_late)
    words = line.format(m=stage.model_folder, o="link", i=image_file()(stage.inputs)).split()
    link = stage.work / next(word for word in words if word.startswith("link"))
    link.symlink_to(stage.work / "gone")
    assert main(words) == 8
    assert "error[E-EXISTS]" in stage.capfd.readouterr().err
    assert link.is_symlink() and [*stage.work.iterdir()] == [link]


@covers(128, "from Python, and numbered names", PYTHON, code="E-EXISTS")
def test_links_to_nothing_count_as_files(stage):
    result = modes.txt2img(stage.model, "cat", steps=1, seed=7)
    (stage.work / "a.png").symlink_to("gone")
    with pytest.raises(OutputError) as caught:
        result.save(stage.work / "a.png")
    assert caught.value.code == "E-EXISTS"
    result.save(stage.work / "a.png", overwrite=True)  # replaces the link, not what it leads to
    assert not (stage.work / "a.png").is_symlink() and not (stage.work / "gone").exists()
    (stage.work / "cat-7.png").symlink_to("gone")
    argv = ["txt2img", "cat", "-m", str(stage.model_folder), "--steps", "1", "--seed", "7"]
    assert main(argv) == 0 and (stage.work / "cat-7-2.png").is_file()
    assert (stage.work / "cat-7.png").is_symlink()


@covers(
    129, "the last, the first, one that cannot be written", PYTHON, COMMAND_LINE, code="E-EXISTS"
)
@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_files_are_checked_as_a_whole(stage, taken, kind):
    result = modes.txt2img(stage.model, "cat", steps=1, seed=7, count=3)
    path = stage.work / f"part-{taken}.png"
    if kind == "file":
        path.write_bytes(b"old")
    elif kind == "link":
        path.symlink_to("gone")
    else:
        path.mkdir()
    with pytest.raises(OutputError) as caught:
        result.save(stage.work / "part.png")
    assert caught.value.code == "E-EXISTS" and [*stage.work.iterdir()] == [path]
    argv = ["txt2img", "cat", "-m", str(stage.model_folder), "--steps", "1", "-c", "3"]
    assert main([*argv, "-o", "part.png"]) == 8 and [*stage.work.iterdir()] == [path]


@covers(130, "formats that are not written", PYTHON, COMMAND_LINE, code="E-FORMAT")
@pytest.mark.parametrize("name", ["x.gif", "x.PNGG", "x.jpg.bmp", "gone/x.gif"])
def test_ending_of_another_format(stage, name):
    result = modes.txt2img(stage.model, "cat", steps=1, seed=7)
    with pytest.raises(OutputError) as caught:
        result.save(name)
    assert caught.value.code == "E-FORMAT" and ".png" in caught.value.hint
    argv = ["txt2img", "cat", "-m", str(stage.model_folder), "--steps", "1", "-o", name]
    assert main(argv) == 8 and "error[E-FORMAT]" in stage.capfd.readouterr().err
    assert not list(stage.work.iterdir())


DELETED = """
import os, sys
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
from ldmref.apps.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@covers(131, "commands that write next to their inputs", COMMAND_LINE, code="E-FOLDER")
@pytest.mark.parametrize(
    "line",
    [
        "txt2img cat -m {m}",
        "txt2img cat -m {m} -o a.png",
        "convert {m} a.safetensors",
        "convert {m} out",
        "train --data {d} -o out",
    ],
)
def test_deleted_working_folder(stage, line):
    data = image_folder()(stage.inputs)
    words = line.format(m=stage.model_folder, d=data).split()
    ran = subprocess.run(
        [LDMREF[0], "-c", DELETED, *words], capture_output=True, env=environment(), timeout=120
    )
    assert_refused(ran, "E-FOLDER", 8)
    assert b"E-INTERNAL" not in ran.stderr and not list(stage.work.iterdir())


@covers(131, "commands that do not need it", COMMAND_LINE)
def test_deleted_working_folder_is_not_needed(stage):
    out = stage.inputs / "a.png"
    for words in (["models"], ["txt2img", "cat", "-m", stage.model_folder, *SHORT, "-o", out]):
        ran = subprocess.run(
            [LDMREF[0], "-c", DELETED, *map(str, words)],
            capture_output=True,
            env=environment(),
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
    Image.open(out).load()


BAD_VALUES = {
    "LDMREF_STEPS": "0", "LDMREF_CFG_SCALE": "1e9", "LDMREF_SAMPLER": "eular",
    "LDMREF_SCHEDULE": "carras", "LDMREF_WIDTH": "-8", "LDMREF_HEIGHT": "0",
    "LDMREF_BACKEND": "nunpy", "LDMREF_DEVICE": "tpu", "LDMREF_DTYPE": "float31",
    "LDMREF_SPEED": "faster", "LDMREF_MAX_MEMORY": "much", "LDMREF_MAX_SECONDS": "-1",
    "LDMREF_MODEL": "no_such_model", "LDMREF_NEGATIVE_PROMPT": "a" * 5000,
}  # fmt: skip


@covers(132, "every variable with a bad value", COMMAND_LINE, code="E-STEPS")
@pytest.mark.parametrize("name", BAD_VALUES)
@pytest.mark.parametrize("form", ["variable", "file"])
def test_values_are_named_by_origin(stage, monkeypatch, name, form):
    key = "name" if name == "LDMREF_BACKEND" else name.removeprefix("LDMREF_").lower()
    if form == "variable":
        monkeypatch.setenv(name, BAD_VALUES[name])
        origin = name
    else:
        from ldmref.declare import get_fields
        from ldmref.support.config import TABLES

        table = next(table for table, cls in TABLES.items() if key in get_fields(cls))
        value = BAD_VALUES[name]
        value = value if get_fields(TABLES[table])[key].kind is not str else f'"{value}"'
        origin = "ldmref.toml"
        (stage.work / origin).write_text(f"[{table}]\n{key} = {value}\n")
    argv = ["txt2img", "cat", *(() if key == "model" else ("-m", str(stage.model_folder)))]
    assert main(argv) in (2, 3, 5)
    err = stage.capfd.readouterr().err
    assert f"]: {origin}: " in err, err
    assert [path.suffix for path in stage.work.iterdir()] == [".toml"] * (form == "file")


DIGITS = {
    "full width": "１２",
    "Arabic": "٣",
    "Devanagari": "२",
    "underscore": "1_0",
    "superscript": "²",
}


@covers(133, "variables and flags", COMMAND_LINE, code="E-USAGE")
@pytest.mark.parametrize("text", DIGITS.values(), ids=DIGITS.keys())
@pytest.mark.parametrize(
    "flag",
    [
        "--steps",
        "--cfg",
        "--seed",
        "--width",
        "--eta",
        "--sigmas",
        "--count",
        "LDMREF_STEPS",
        "LDMREF_CFG_SCALE",
        "LDMREF_MAX_SECONDS",
    ],
)
def test_digits_of_other_scripts(stage, monkeypatch, flag, text):
    argv = ["txt2img", "cat", "-m", str(stage.model_folder)]
    if flag.startswith("LDMREF_"):
        monkeypatch.setenv(flag, text)
    else:
        argv += [flag, text]
    assert main(argv) == 2
    assert "error[E-" in stage.capfd.readouterr().err and not list(stage.work.iterdir())


@covers(134, "torch's device without numbers", COMMAND_LINE, PYTHON, code="E-DEVICE")
def test_device_without_numbers(stage):
    pytest.importorskip("torch")
    with pytest.raises(LdmrefError) as caught:
        ldmref.load(stage.model_folder, backend="torch", device="meta")
    assert caught.value.code == "E-DEVICE"
    recipe = stage.inputs / "recipe.toml"
    recipe.write_text(
        f'device = "meta"\n[data]\nsource = "{image_folder()(stage.inputs)}"\n'
        '[model]\npreset = "tiny"\n'
    )
    assert main(["train", str(recipe), "-o", "out"]) == 5
    assert "error[E-DEVICE]" in stage.capfd.readouterr().err


def mutable(value):
    """Yield every list and dictionary in a value."""
    if isinstance(value, dict | list):
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from mutable(child)


@covers(135, "params_of shares nothing with params", PYTHON)
def test_records_are_copies(tiny, tmp_path):
    result = modes.txt2img(tiny, ["cat", "dog"], steps=1, seed=7, sigmas=None)
    own = {id(part) for part in mutable(result.params)}
    for i in range(2):
        assert not own & {id(part) for part in mutable(result.params_of(i))}


# -- rows whose tests proved too little -----------------------------------------------------------


@covers(44, "the scale enters the image as the formula says", PYTHON)
@pytest.mark.parametrize("cfg", [0.0, 0.5, 1.0, 2.0, -1.0, 51.0])
def test_guidance_scale_is_used(monkeypatch, cfg):
    """uncond + cfg * (cond - uncond): one Euler step to sigma 0 returns x0, which is linear in it.

    Computed in float64, and given out in float32: each of the latents is rounded once.
    """
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    rows = []
    original = type(model).predict

    def counted(self, x, *arguments, **named):
        rows.append(len(x))
        return original(self, x, *arguments, **named)

    def latents(scale):
        rows.clear()
        result = modes.txt2img(model, "cat", cfg_scale=scale, steps=1, seed=3, sampler="euler")
        assert bool(result.warnings) == (scale > 50 or scale == 0.0)
        return result.latents.astype(np.float64)

    monkeypatch.setattr(type(model), "predict", counted)
    uncond = latents(0.0)
    cond = latents(1.0)
    assert sum(rows) == 1
    found = latents(cfg)
    assert sum(rows) == (1 if cfg in (0.0, 1.0) else 2)  # rows of the network's batches
    atol = 2.0**-24 * np.abs(uncond).max() * (2 + 2 * abs(cfg))
    np.testing.assert_allclose(found, uncond + cfg * (cond - uncond), rtol=0, atol=atol)
    assert np.abs(cond - uncond).max() > 100 * 2.0**-24 * np.abs(uncond).max()


@covers(75, "the pixels of a mask of one pixel", PYTHON)
@pytest.mark.parametrize("place", [(0, 0), (5, 5), (7, 4), (15, 15)])
@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_mask_of_one_pixel(tiny, tmp_path, place, rng):
    """Repainted, without a warning, wherever it lies; by diffusers' rule only at a cell's corner,
    else unchanged with a warning."""
    x, y = place
    path = image_file()(tmp_path)
    white = mask((x, y, x + 1, y + 1))(tmp_path)
    result = modes.inpaint(tiny, "cat", path, white, steps=2, seed=1, rng=rng)
    before = pixels()
    after = np.asarray(result[0])
    changed = (before != after).any(axis=-1)
    corner = x % tiny.config.vae.factor == 0 and y % tiny.config.vae.factor == 0
    repainted = rng == "philox" or corner
    changed[y, x] = changed[y, x] and repainted
    assert not np.delete(changed.ravel(), y * 16 + x).any()
    assert bool([w for w in result.warnings if "cell" in w]) == (not repainted)
    if repainted:
        assert (before[y, x] != after[y, x]).any()


@covers(81, "NaN at one step of several, in every network", PYTHON, code="E-NAN")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_nan_at_a_step(tiny, monkeypatch, step, bad):
    """The error names the step; no image is given out, and the next request is as before."""
    expected = modes.txt2img(tiny, "cat", steps=3, seed=0, sampler="euler").latents
    calls = itertools.count()
    original = type(tiny).predict

    def poisoned(self, *arguments, **named):
        out = original(self, *arguments, **named)
        return out * bad if next(calls) == step else out

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny), "predict", poisoned)
        with pytest.raises(LdmrefError) as caught:
            modes.txt2img(tiny, "cat", steps=3, seed=0, sampler="euler", cfg_scale=1.0)
    assert caught.value.code == "E-NAN" and caught.value.exit_code == 7
    assert f"step {step + 1}" in str(caught.value)
    again = modes.txt2img(tiny, "cat", steps=3, seed=0, sampler="euler").latents
    assert np.array_equal(again, expected)


@covers(81, "infinity and NaN through the command line: no file", COMMAND_LINE, code="E-NAN")
@pytest.mark.parametrize(
    "part",
    [
        "unet.conv_out.bias",
        "vae.decoder.conv_out.bias",
        "text_encoder.text_model.final_layer_norm.bias",
    ],
)
def test_nan_gives_no_image(stage, part):
    from fault_models import tiny as tiny_with

    def poke(tensors):
        tensors[part] = tensors[part].copy()
        tensors[part][0] = np.inf

    folder = tiny_with(weights=poke)(stage.inputs)
    argv = ["txt2img", "cat", "-m", str(folder), "--steps", "2", "--allow-nonfinite", "-o", "a.png"]
    assert main(argv) == 7
    assert "error[E-NAN]" in stage.capfd.readouterr().err and not list(stage.work.iterdir())


@covers(89, "the reader ends in the middle of an image", COMMAND_LINE)
@pytest.mark.parametrize("lines", [False, True], ids=["image", "listing"])
def test_reader_that_ends_early(stage, lines):
    """The output must be larger than the pipe's buffer, or nobody would notice."""
    import fcntl

    argv = (
        [*LDMREF, "info", "emoji", "--tensors"]
        if lines
        else [
            *LDMREF,
            "txt2img",
            "cat",
            "-m",
            stage.model_folder,
            *SHORT,
            "--width",
            "128",
            "--height",
            "128",
            "-o",
            "-",
        ]
    )
    process = subprocess.Popen(
        [str(word) for word in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        bufsize=0,
    )
    assert process.stdout is not None and process.stderr is not None
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    first = process.stdout.read(1)
    assert first
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 141, err
    assert b"Traceback" not in err and b"error[" not in err and b"Exception ignored" not in err
    whole = subprocess.run([str(word) for word in argv], capture_output=True, env=environment())
    assert len(whole.stdout) > 4096 + 1, "too short to fill the pipe"


def test_the_embedded_tokenizer_is_one_of_ours():
    """And every one that this version writes: the parts are compared with those of the library."""
    path = ROOT / "ldmref" / "assets" / "emoji" / "tokenizer.json"
    loaded = load_word_tokenizer(path, 16).tokenizer
    assert loaded.to_str() == Tokenizer.from_file(str(path)).to_str()
