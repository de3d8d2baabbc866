"""`run_batch` in one process: idempotent, resumable, verified, sharded."""

from __future__ import annotations

import json
import random
import shutil
import threading

import deadly
import pytest
from batches import count_images, make_rows, read_folder, read_jsonl, write_rows
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.batch import check_batch, run_batch
from ldmref.batch.folder import BatchFolder
from ldmref.errors import Cancelled, OutputError, UsageError


@pytest.fixture
def whole(tiny, requests, tmp_path):
    """Return the folder of an uninterrupted batch."""
    run_batch(tiny, requests, tmp_path / "whole")
    return tmp_path / "whole"


def test_every_image_is_the_one_of_its_mode(tiny, requests, whole, tmp_path):
    lines = read_jsonl(whole / "manifest.jsonl")
    rows = make_rows(20)
    assert {line["line"] for line in lines} == {i + 1 for i in range(20) if i % 10 != 9}
    for line in lines:
        row = dict(rows[line["line"] - 1])
        mode = row.pop("mode", "txt2img")
        assert row.pop("custom_id", None) == line["custom_id"]
        if "image" in row:
            row["image"] = tmp_path / "given.png"
        row.setdefault("seed", line["params"]["seed"] - line["index"])
        result = getattr(modes, mode)(tiny, **row)
        result.save(tmp_path / "one.png", overwrite=True)
        suffix = f"-{line['index']}" if len(result) > 1 else ""
        saved = tmp_path / f"one{suffix}.png"
        assert saved.read_bytes() == (whole / line["file"]).read_bytes()
        assert line["params"] == result.params_of(line["index"])
        assert line["warnings"] == result.warnings


def test_wrong_rows_are_listed_and_the_others_are_done(whole):
    errors = read_jsonl(whole / "errors.jsonl")
    assert [(e["line"], e["code"], e["key"]) for e in errors] == [
        (10, "E-STEPS", None),
        (20, "E-STEPS", None),
    ]


def test_a_second_run_generates_nothing_and_changes_nothing(tiny, requests, whole):
    before = read_folder(whole)
    times = {path: path.stat().st_mtime_ns for path in whole.glob("images/*")}
    summary = run_batch(tiny, requests, whole)
    assert (summary.generated, summary.verified, summary.failed) == (0, 18, 2)
    assert read_folder(whole) == before
    assert {path: path.stat().st_mtime_ns for path in whole.glob("images/*")} == times


def test_missing_and_damaged_files_are_generated_again(tiny, requests, whole):
    before = read_folder(whole)
    first, second, third, *_ = sorted(whole.glob("images/*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1
    third.write_bytes(content)
    assert 1 <= run_batch(tiny, requests, whole).generated <= 6
    assert read_folder(whole) == before


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.3, 0.5, 0.99])
def test_a_manifest_that_was_cut_off_is_completed(tiny, requests, whole, cut):
    before = read_folder(whole)
    manifest = whole / "manifest.jsonl"
    content = manifest.read_bytes()
    manifest.write_bytes(content[: int(cut * len(content))])
    assert run_batch(tiny, requests, whole).verified < 18
    assert read_folder(whole) == before


def test_what_a_killed_write_left_is_removed(tiny, requests, whole):
    before = read_folder(whole)
    image = next(whole.glob("images/*")).name
    for name in (f"images/.{image}.0123abcd.part", ".manifest.jsonl.0123abcd.part"):
        (whole / name).write_text("half")
    run_batch(tiny, requests, whole)
    assert read_folder(whole) == before


def test_a_model_is_loaded_once(tiny, tmp_path):
    loads = []

    def load():
        loads.append(1)
        return tiny

    run_batch(load, [{"prompt": "cat", "steps": 1}], tmp_path)
    assert len(loads) == 1


@pytest.mark.parametrize("model", ["emoji", None, lambda: "emoji"])
def test_something_that_is_not_a_model_is_refused(tmp_path, model):
    with pytest.raises(UsageError) as caught:
        run_batch(model, [{"prompt": "cat"}], tmp_path)
    assert caught.value.code == "E-MODEL"


def test_equal_rows_are_generated_once(tiny, tmp_path):
    row = {"prompt": "red heart", "steps": 1}
    rows = [row | {"custom_id": name} for name in ("a", "b", "c")]
    summary = run_batch(tiny, rows, tmp_path)
    lines = read_jsonl(summary.manifest)
    assert (summary.rows, summary.generated, summary.images) == (3, 3, 1)
    assert [line["custom_id"] for line in lines] == ["a", "b", "c"]
    assert len({line["file"] for line in lines}) == 1 and count_images(tmp_path) == 1


def test_the_order_of_rows_changes_no_image(tiny, requests, whole, tmp_path):
    rows = [row for row in make_rows(20) if "custom_id" not in row]
    random.Random(1).shuffle(rows)
    shuffled = write_rows(tmp_path / "shuffled.jsonl", rows)
    run_batch(tiny, shuffled, tmp_path / "shuffled")
    images = {name: digest for name, digest in read_folder(whole).items() if "images" in name}
    others = read_folder(tmp_path / "shuffled")
    for name, digest in others.items():
        key = name.removeprefix("images/")
        if "images" in name:
            assert digest in [d for n, d in images.items() if n.endswith(key)]


def test_images_of_rows_that_are_gone_keep_their_lines(tiny, requests, whole):
    kept = write_rows(requests, make_rows(20)[:5])
    before = count_images(whole)
    run_batch(tiny, kept, whole)
    lines = read_jsonl(whole / "manifest.jsonl")
    gone = [line for line in lines if line["line"] is None]
    assert gone and count_images(whole) == before
    write_rows(requests, make_rows(20))
    assert run_batch(tiny, requests, whole).generated == 0
    assert not [line for line in read_jsonl(whole / "manifest.jsonl") if line["line"] is None]


def test_a_limit_leaves_the_rest_for_the_next_run(tiny, requests, whole, tmp_path):
    summary = run_batch(tiny, requests, tmp_path / "out", limit=3)
    assert (summary.generated, summary.left) == (3, 15)
    while summary.left:
        summary = run_batch(tiny, requests, tmp_path / "out", limit=5)
    assert read_folder(tmp_path / "out") == read_folder(whole)


# -- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_shards_merge_to_the_whole(tiny, requests, whole, tmp_path, count):
    out = tmp_path / "out"
    sizes = [run_batch(tiny, requests, out, shard=(i + 1, count)).rows for i in range(count)]
    assert sum(sizes) == 20
    assert len(list(out.glob("manifest-*.jsonl"))) == count
    summary = run_batch(tiny, requests, out)
    assert (summary.generated, summary.verified) == (0, 18)
    assert read_folder(out) == read_folder(whole)


def test_a_missing_shard_is_generated_by_the_merge(tiny, requests, whole, tmp_path):
    out = tmp_path / "out"
    run_batch(tiny, requests, out, shard=(2, 2))
    assert run_batch(tiny, requests, out).generated > 0
    assert read_folder(out) == read_folder(whole)


def test_shards_in_folders_of_their_own_hold_the_images_of_the_whole(
    tiny, requests, whole, tmp_path
):
    together = tmp_path / "together"
    for i in (1, 2):
        run_batch(tiny, requests, tmp_path / f"part-{i}", shard=(i, 2))
        shutil.copytree(tmp_path / f"part-{i}", together, dirs_exist_ok=True)
    assert run_batch(tiny, requests, together).generated == 0
    assert read_folder(together) == read_folder(whole)


def test_equal_rows_are_in_one_shard(tiny, tmp_path):
    rows = [{"prompt": "cat", "steps": 1}] * 6
    sizes = [run_batch(tiny, rows, tmp_path, shard=(i, 3)).rows for i in (1, 2, 3)]
    assert sorted(sizes) == [0, 0, 6] and count_images(tmp_path) == 1


def test_an_unknown_option_is_refused_with_the_name_that_is_meant(tiny, tmp_path):
    rows = [{"prompt": "cat", "steps": 1}]
    for start, name in ((run_batch, "worker"), (check_batch, "limits")):
        with pytest.raises(UsageError, match=f"no option '{name}'") as caught:
            start(tiny, rows, tmp_path / "out", **{name: 1})
        assert name.rstrip("s") in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1,), "1/2", (1, 2.0), (True, 2)])
def test_a_shard_that_does_not_exist_is_refused(tiny, tmp_path, shard):
    with pytest.raises(UsageError) as caught:
        run_batch(tiny, [{"prompt": "cat"}], tmp_path, shard=shard)
    assert caught.value.code == "E-SHARD"


# -- failures -------------------------------------------------------------------------------------


def test_failures_stay_until_they_are_retried(tmp_path):
    model = deadly.load_failing()
    rows = [{"prompt": p, "steps": 1} for p in ("red heart", "cat", "dog", "cat", "blue heart")]
    summary = run_batch(model, rows, tmp_path)
    assert (summary.generated, summary.failed) == (2, 3)
    errors = read_jsonl(summary.errors)
    assert [(e["line"], e["code"]) for e in errors] == [
        (2, "E-INTERNAL"),
        (3, "E-MEMORY"),
        (4, "E-INTERNAL"),
    ]
    assert all(len(e["key"]) == 64 and "\n" not in e["message"] for e in errors)
    healthy = deadly.load_tiny()
    assert run_batch(healthy, rows, tmp_path).failed == 3
    summary = run_batch(healthy, rows, tmp_path, retry_errors=True)
    assert (summary.generated, summary.failed, summary.errors) == (3, 0, None)
    assert not (tmp_path / "errors.jsonl").exists()


def test_an_image_that_changes_after_the_check_fails_its_row(tiny, tmp_path):
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "given.png")
    rows = [
        {"prompt": "cat", "steps": 1},
        {"mode": "img2img", "prompt": "cat", "image": "given.png", "strength": 1.0, "steps": 1},
    ]

    def change(event):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "given.png")

    summary = run_batch(tiny, rows, tmp_path / "out", folder=tmp_path, report=change)
    assert read_jsonl(summary.errors)[0]["code"] == "E-IMAGE-CHANGED"
    assert run_batch(tiny, rows, tmp_path / "out", folder=tmp_path).generated == 1


@pytest.mark.parametrize("what", ["write_image", "append"])
def test_a_full_disk_stops_the_batch_and_the_next_run_completes_it(
    tiny, requests, whole, tmp_path, monkeypatch, what
):
    write = getattr(BatchFolder, what)
    calls = []

    def write_or_fail(folder, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise OutputError("cannot write: No space left on device", code="E-WRITE")
        return write(folder, *arguments)

    monkeypatch.setattr(BatchFolder, what, write_or_fail)
    with pytest.raises(OutputError, match="No space left"):
        run_batch(tiny, requests, tmp_path / "out")
    monkeypatch.undo()
    assert 3 <= run_batch(tiny, requests, tmp_path / "out").verified < 18
    assert read_folder(tmp_path / "out") == read_folder(whole)


def test_a_stopped_batch_keeps_what_is_finished(tiny, requests, whole, tmp_path):
    stop = threading.Event()

    def stop_at_four(event):
        if event.done == 4:
            stop.set()

    with pytest.raises(Cancelled) as caught:
        run_batch(tiny, requests, tmp_path / "out", report=stop_at_four, cancel=stop)
    assert caught.value.partial.generated >= 4 and caught.value.partial.left > 0
    run_batch(tiny, requests, tmp_path / "out")
    assert read_folder(tmp_path / "out") == read_folder(whole)


def test_events_count_the_rows(tiny, requests, tmp_path):
    events = []
    summary = run_batch(tiny, requests, tmp_path / "out", report=events.append)
    first, *others = events
    assert (first.done, len(first.failures)) == (0, 2)
    assert [event.done for event in others] == list(range(1, others[-1].total + 1))
    lines = [line for event in others for line in event.lines]
    assert len({line["file"] for line in lines}) == summary.images
    assert all(event.seconds > 0 for event in others)


def test_a_check_writes_nothing(tiny, requests, tmp_path):
    check = check_batch(tiny, requests, tmp_path / "out")
    assert (check.rows, check.left, check.verified, len(check.failures)) == (20, 18, 0, 2)
    assert check.seconds > 0 and not (tmp_path / "out").exists()
    run_batch(tiny, requests, tmp_path / "out", limit=4)
    before = read_folder(tmp_path / "out")
    assert check_batch(tiny, requests, tmp_path / "out").verified >= 4
    assert read_folder(tmp_path / "out") == before


def test_the_configuration_is_enough_to_check_rows(tiny, tmp_path):
    """The model is loaded after the check; a function that fails shows the order."""
    checked = []

    def load():
        assert checked
        return tiny

    def complete(mode, values):
        checked.append(mode)
        return {"steps": 1, **values}

    rows = [{"prompt": "cat"}]
    summary = run_batch(load, rows, tmp_path, config=tiny.config, complete=complete)
    assert read_jsonl(summary.manifest)[0]["params"]["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"executor": "threads"}, "E-EXECUTOR"),
        ({"executor": "serial", "workers": 2}, "E-WORKERS"),
        ({"executor": "process", "workers": 0}, "E-WORKERS"),
        ({"threads": 0}, "E-THREADS"),
        ({"threads": True}, "E-THREADS"),
        ({"limit": 0}, "E-LIMIT"),
        ({"address": "localhost:1"}, "E-EXECUTOR"),
        ({"gpus": 1.0, "executor": "process"}, "E-EXECUTOR"),
        ({"gpus": -1, "executor": "ray"}, "E-GPUS"),
        ({"gpus": float("nan"), "executor": "ray"}, "E-GPUS"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_read(tiny, tmp_path, arguments, code):
    with pytest.raises(UsageError) as caught:
        run_batch(tiny, tmp_path / "no.jsonl", tmp_path / "out", **arguments)
    assert caught.value.code == code and not (tmp_path / "out").exists()


def test_the_manifest_replays_its_images(whole, tiny):
    line = read_jsonl(whole / "manifest.jsonl")[0]
    record = modes.record.upgrade_record(line["params"])
    plan = modes.plan(record["mode"], tiny.config, **modes.record.replay(record, {}))
    assert plan.run(tiny).images[0].tobytes() == Image.open(whole / line["file"]).tobytes()
    assert json.loads(Image.open(whole / line["file"]).info["ldmref"]) == line["params"]


def test_an_array_in_a_file_is_the_noise_of_a_row(tiny, tmp_path):
    import numpy as np

    np.save(tmp_path / "noise.npy", np.random.default_rng(0).standard_normal((1, 4, 8, 8), "f4"))
    rows = [{"prompt": "cat", "steps": 1, "latents": "noise.npy"}]
    summary = run_batch(tiny, rows, tmp_path / "out", folder=tmp_path)
    noise = np.load(tmp_path / "noise.npy")
    expected = modes.txt2img(tiny, "cat", steps=1, latents=noise, seed=0)
    line = read_jsonl(summary.manifest)[0]
    image = Image.open(tmp_path / "out" / line["file"])
    assert image.tobytes() == expected.images[0].tobytes()


def test_the_public_names_are_here():
    assert set(ldmref.batch.__all__) <= set(dir(ldmref.batch))
    assert ldmref.batch.run_batch is run_batch
