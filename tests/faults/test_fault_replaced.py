"""Rows of the fault table about manifests, records and folders that are not what they seem."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from fault_cases import COMMAND_LINE, PYTHON, covers
from record_files import changed_file, steps_as_trace

from ldmref import explore
from ldmref.apps.cli.main import main
from ldmref.backends.graph import disk_cache
from ldmref.batch.folder import BatchFolder, is_named_after, name_image
from ldmref.errors import CorruptModelError, OutputError, UsageError
from ldmref.io.atomic import require_own

# -- 147: manifests of a batch --------------------------------------------------------------------


def manifest_line(key, index, file, content):
    digest = hashlib.sha256(content).hexdigest()
    return {"key": key, "index": index, "file": file, "sha256": digest}


@covers(147, "file outside of the folder, file of another row, name of 10,000 characters", PYTHON)
def test_files_of_other_rows(tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    folder = BatchFolder(tmp_path / "out")
    keys = ["0123456789abcdef" * 4, "fedcba9876543210" * 4]
    names = [name_image(key, "a/b", 0, 1) for key in keys]
    for name in names:
        (folder.path / name).write_bytes(name.encode())
    outside = tmp_path / "images" / f"{keys[0][:16]}.png"
    outside.parent.mkdir()
    outside.write_bytes(b"x")
    own, other = names
    for file, content, verified in (
        (own, own.encode(), True),
        (own, b"other", False),
        (other, other.encode(), False),
        (f"../images/{outside.name}", b"x", False),
        (str(outside), b"x", False),
        (f"images/../{own}", own.encode(), False),
        ("images/" + "a" * 10_000 + ".png", b"", False),
        (None, b"", False),
        (3, b"", False),
    ):
        assert folder.verify(manifest_line(keys[0], 0, file, content)) is verified, str(file)[:30]


def test_every_name_of_an_image_is_its_own():
    key = "0123456789abcdef" * 4
    for custom_id in (None, "", "Blue heart/../x", "a" * 200, "-" * 9, f"{key[:16]}-1", "ä.-_9"):
        for index, count in ((0, 1), (0, 3), (2, 3), (49_999, 50_000)):
            line = {"key": key, "index": index, "file": name_image(key, custom_id, index, count)}
            assert is_named_after(line), line
            assert not is_named_after(line | {"key": "f" * 64}), line
            assert count == 1 or not is_named_after(line | {"index": index + 1}), line


@covers(147, "lines of rows that are gone", COMMAND_LINE)
def test_lines_of_rows_that_are_gone(stage):
    (stage.work / "a.jsonl").write_text('{"prompt": "cat", "steps": 1, "seed": 1}\n')
    argv = ["batch", "a.jsonl", "-o", "out", "-m", str(stage.model_folder), "-q"]
    assert main(argv) == 0
    manifest = stage.work / "out" / "manifest.jsonl"
    line = json.loads(manifest.read_text())
    key = "0" * 64
    hostile = [{"file": "a" * 10_000}, {"file": "\0"}, {"file": "/etc/passwd"}, {"file": None}, {}]
    lines = [line, *({"key": key, "index": i} | more for i, more in enumerate(hostile))]
    manifest.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert main(argv) == 0
    assert [json.loads(one) for one in manifest.read_text().splitlines()] == [line]


# -- 148: ranges of a grid ------------------------------------------------------------------------


@covers(148, "eight ranges", COMMAND_LINE, code="E-GRID")
def test_ranges_of_a_grid(stage):
    for axis in ("cfg=nan:1:1", "cfg=1:nan:1", "cfg=1:2:nan", "cfg=-inf:inf:1", "cfg=1:2:inf",
                 "cfg=1e308:-1e308:1e-300", f"steps=1:{'9' * 400}:1", "steps=1:5:0"):  # fmt: skip
        assert main(["grid", "cat", "-m", str(stage.model_folder), "-x", axis]) in (2,), axis
        _, err = stage.capfd.readouterr()
        assert "error[E-GRID]" in err or "error[E-CFG-SCALE]" in err, (axis, err)


# -- 149: run records -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tiny):
    return explore.record_run(tiny, prompt="red cat", seed=7, steps=3)


@covers(149, "9 damaged records", PYTHON, code="E-RECORD")
def test_damaged_records(record):
    bias = np.zeros(3, np.float32)
    for title, content in {
        "its model is text": changed_file(record, manifest={"params": {"mode": "a", "model": "b"}}),
        "its branch is text": changed_file(record, manifest={"branch": "emoji"}),
        "half of its preview": changed_file(record, manifest={"preview": {"bias": bias.tolist()}}),
        "text as preview": changed_file(record, manifest={"preview": "emoji"}),
        "NaN in a step": changed_file(record, {"guidance.000//input.sigma": np.float64("nan")}),
        "negative in a step": changed_file(record, {"guidance.000//input.sigma": np.float64(-1)}),
        "float as image": changed_file(record, {"image//output": np.zeros((1, 8, 8, 3), "f4")}),
        "entries": changed_file(record, manifest={"entries": [1, 2]}),
        "words": changed_file(record, {"words.001//output": np.zeros((1, 2, 3), np.float16)}),
    }.items():
        code = ""
        try:
            explore.load_record(content)
        except CorruptModelError as error:
            code = error.code
        assert code == "E-RECORD", title


@covers(149, "rising noise levels, wrong descriptions of a branch", PYTHON, code="E-RECORD")
def test_records_that_cannot_be_continued(record, tiny):
    states = {"x": record.x, "x0": record.x0, "image": np.asarray(record.image)}
    states |= {"timesteps": np.array(record.meta["timesteps"], np.float64)}
    rising = steps_as_trace(
        states | {"sigmas": record.sigmas[::-1]}, {"params": record.params, "seeds": [7]}
    )
    with pytest.raises(UsageError, match="noise levels of the record rise"):
        explore.truth_line(tiny, explore.load_record(rising), tolerance=0.5)
    trunk = dict(record.params)
    for recipe in (
        {"trunk": trunk, "step": 1, "changes": "abc"},
        {"trunk": trunk, "step": 1, "changes": 5},
        {"trunk": "abc", "step": 1},
        {"trunk": trunk | {"mode": "dance"}, "step": 1},
        {"trunk": {k: v for k, v in trunk.items() if k != "mode"}, "step": 1},
    ):
        loaded = explore.load_record(changed_file(record, manifest={"branch": recipe}))
        for step in (0, 2):
            with pytest.raises(UsageError) as caught:
                explore.branch_run(tiny, loaded, step, cfg_scale=2.0)
            assert caught.value.code == "E-RECORD", recipe


# -- 150: folders to replace ----------------------------------------------------------------------


@covers(150, "file, folder and link beside those of the program", PYTHON, code="E-EXISTS")
def test_folders_with_other_files(tmp_path):
    own = ["a.json", "b/c.bin"]
    (tmp_path / "b").mkdir()
    for name in own:
        (tmp_path / name).write_text("own")
    require_own(tmp_path, own)
    require_own(tmp_path, [*own, "not there"])
    for name in ("notes.txt", ".hidden", "b/d.bin"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match=name):
            require_own(tmp_path, own)
        (tmp_path / name).unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="empty"):
        require_own(tmp_path, own)
    (tmp_path / "empty").rmdir()
    if os.name == "posix":
        (tmp_path / "b" / "link").symlink_to(tmp_path)
        with pytest.raises(OutputError, match="link"):
            require_own(tmp_path, own)


@covers(150, "suite of cases", COMMAND_LINE, code="E-EXISTS")
def test_suite_that_is_replaced(stage):
    cases = ["cases", "make", "--part", "schedules", "-o", "cases"]
    assert main(cases) == 0
    (stage.work / "cases" / "mine.txt").write_text("mine")
    assert main([*cases, "--overwrite"]) == 8
    assert (stage.work / "cases" / "mine.txt").read_text() == "mine"


@covers(150, "exported model", COMMAND_LINE, code="E-EXISTS")
def test_export_that_is_replaced(stage):
    pytest.importorskip("onnx")
    from ldmref.export.folder import _files_of, require_target

    export = ["export", "onnx", str(stage.model_folder), "-o", "onnx"]
    assert main(export) == 0
    require_target(stage.work / "onnx", overwrite=True)
    manifest = stage.work / "onnx" / "ldmref.json"
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({k: v for k, v in written.items() if k != "files"}))
    older = {*_files_of({k: v for k, v in written.items() if k != "files"})}
    for path in {*written["files"]} - older:  # of the pipeline, which older exports did not have
        file = stage.work / "onnx" / path
        file.unlink()
        if not any(file.parent.iterdir()):
            file.parent.rmdir()
    mine = stage.work / "onnx" / "unet" / "mine.txt"
    mine.write_text("mine")
    assert main([*export, "--overwrite"]) == 8 and mine.read_text() == "mine"
    mine.unlink()
    require_target(stage.work / "onnx", overwrite=True)  # an export of an older version
    assert "error[E-EXISTS]" in stage.capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="links")
@covers(128, "suite of cases", COMMAND_LINE, code="E-EXISTS")
def test_suite_on_a_dangling_link(stage):
    (stage.work / "cases").symlink_to(stage.work / "nowhere")
    for more in ([], ["--overwrite"]):
        argv = ["cases", "make", "--part", "schedules", "-o", "cases", *more]
        assert main(argv) == 8 and "broken link" in stage.capfd.readouterr().err
    assert not (stage.work / "nowhere").exists()


# -- 151: compiled graphs -------------------------------------------------------------------------


@covers(151, "two files that were swapped", PYTHON)
def test_swapped_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "find_folder", lambda: tmp_path)
    for key in ("a", "b"):
        disk_cache.write(key, key.encode())
    assert disk_cache.read("a") == b"a"
    (tmp_path / "a.graph").rename(tmp_path / "c.graph")
    (tmp_path / "b.graph").rename(tmp_path / "a.graph")
    assert [disk_cache.read(key) for key in "abc"] == [None, None, None]
    disk_cache.write("a", b"new")
    assert disk_cache.read("a") == b"new"
