"""A batch that is killed with SIGKILL again and again equals the uninterrupted one in the end."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest
from batches import (
    count_images,
    find_children,
    kill_when,
    make_rows,
    read_folder,
    run_to_the_end,
    start_batch,
    wait_for,
    write_rows,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
EXECUTORS = {
    "serial": ("--executor", "serial"),
    "process": ("--executor", "process", "--workers", "2"),
    "ray": ("--executor", "ray", "--workers", "2"),
}


def kill_and_resume(folder, model, rows, executor, kills, seed):
    """Kill the batch so often while it writes, resume it, and compare it with a whole one."""
    rng = random.Random(seed)
    requests = write_rows(folder / "requests.jsonl", make_rows(rows))
    flags = ("-m", model, "--backend", "numpy")
    code, _, _ = run_to_the_end(requests, folder / "whole", *flags)
    assert code == 9  # every tenth row is wrong
    total = count_images(folder / "whole")
    out = folder / "out"
    killed = 0
    while killed < kills:
        before = count_images(out)
        end = before + rng.uniform(0.0, max(2.0, 2.0 * (total - before) / (kills - killed + 1)))
        process = start_batch(requests, out, *flags, *EXECUTORS[executor])
        killed += kill_when(process, lambda end=end: count_images(out) >= end)
        if count_images(out) == total:
            break
    assert killed
    code, printed, _ = run_to_the_end(requests, out, *flags, *EXECUTORS[executor], "--json")
    summary = json.loads(printed.splitlines()[-2])["summary"]
    assert code == 9 and summary["left"] == 0
    assert read_folder(out) == read_folder(folder / "whole")
    return killed


@pytest.mark.parametrize("executor", ["serial", "process"])
def test_a_killed_batch_is_completed_file_by_file(tmp_path, tiny_folder, executor):
    kill_and_resume(tmp_path, tiny_folder, 40, executor, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_batch_of_500_rows_survives_random_kills(tmp_path, tiny_folder, executor):
    killed = kill_and_resume(tmp_path, tiny_folder, 500, executor, kills=6, seed=2)
    assert killed >= 3


def test_workers_end_with_the_batch_that_was_killed(tmp_path, tiny_folder):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(40))
    flags = ("-m", tiny_folder, *EXECUTORS["process"])
    process = start_batch(requests, tmp_path / "out", *flags)
    wait_for(lambda: count_images(tmp_path / "out") > 2)
    workers = find_children(process.pid, "spawn_main")
    assert len(workers) == 2
    assert kill_when(process, lambda: True)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/cmdline") for pid in workers), 20)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("executor", ["serial", "process"])
def test_ctrl_c_stops_cleanly(tmp_path, tiny_folder, executor, number, code):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(400))
    flags = ("-m", tiny_folder, *EXECUTORS[executor])
    process = start_batch(requests, tmp_path / "out", *flags)
    wait_for(lambda: count_images(tmp_path / "out") > 2)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"rows left: run the command again" in err and b"Traceback" not in err
    files = {path.name for path in (tmp_path / "out/images").iterdir()}
    lines = (tmp_path / "out/manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["file"].removeprefix("images/") for line in lines} == files
