"""The executor `ray`: on this machine, and on a cluster of which a worker dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batches import (
    count_images,
    find_children,
    make_rows,
    read_folder,
    read_jsonl,
    run_to_the_end,
    start_batch,
    wait_for,
    write_rows,
)

pytest.importorskip("ray", reason="ray is not installed")

ACTOR = "ray::MapWorker"
RAY = ("--executor", "ray", "--workers", "2")


def run_python(code, *arguments, timeout=300):
    """Run a script in its own process, in which models can be imported from `deadly`."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def listening(pid):
    """Return the addresses, in hexadecimal, at which the processes below a process listen."""
    found = set()
    for child in find_children(pid, ""):
        sockets = set()
        for link in Path(f"/proc/{child}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            sockets |= {target[8:-1]} if target.startswith("socket:") else set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in sockets:
                    found.add(fields[1].partition(":")[0])
    return found


@pytest.mark.slow
def test_ray_writes_the_files_that_serial_writes_on_localhost(tmp_path, tiny_folder):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(20))
    run_to_the_end(requests, tmp_path / "whole", "-m", tiny_folder, "--backend", "numpy")
    process = start_batch(requests, tmp_path / "out", "-m", tiny_folder, *RAY)
    wait_for(lambda: count_images(tmp_path / "out") > 0 or process.poll() is not None)
    addresses = listening(process.pid)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 9, err
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}
    assert out == b""
    lines = err.decode().splitlines()
    assert all(line.startswith(("ldmref", "hint", str(tmp_path))) for line in lines), lines


@pytest.mark.slow
def test_killed_actors_lose_no_row(tmp_path, tiny_folder):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(300))
    run_to_the_end(requests, tmp_path / "whole", "-m", tiny_folder, "--backend", "numpy")
    process = start_batch(requests, tmp_path / "out", "-m", tiny_folder, *RAY)
    killed = set()
    for images in (20, 80, 140):
        wait_for(lambda images=images: count_images(tmp_path / "out") > images)
        wait_for(lambda: set(find_children(process.pid, ACTOR)) - killed)
        actor = min(set(find_children(process.pid, ACTOR)) - killed)
        os.kill(actor, signal.SIGKILL)
        killed.add(actor)
    out, err = process.communicate(timeout=300)
    assert out == b"" and b"270 generated, 30 failed" in err, err

    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")
    assert len(killed) == 3


DEADLY = """
import sys
from functools import partial
import deadly
from ldmref.batch import run_batch
rows = [{"prompt": p, "steps": 1} for p in ("red cat", "red hat", "blue cat", "dog", "green face")]
source = partial(deadly.load_deadly, sys.argv[1], 99)
summary = run_batch(source, rows, sys.argv[2], executor="ray", workers=2)
print(summary.generated, summary.failed)
"""


@pytest.mark.slow
def test_a_row_that_kills_every_actor_has_failed(tmp_path):
    (tmp_path / "deaths").mkdir()
    ran = run_python(DEADLY, tmp_path / "deaths", tmp_path / "out")
    assert ran.stdout.split() == ["4", "1"], ran.stderr
    [error] = read_jsonl(tmp_path / "out/errors.jsonl")
    assert (error["line"], error["code"]) == (2, "E-WORKER")
    assert len(list((tmp_path / "deaths").iterdir())) == 2


ANOTHER = """
import os, sys
from functools import partial
import deadly
from ldmref.batch import run_batch
source = partial(deadly.load_another_in_workers, os.getpid())
try:
    run_batch(source, [{"prompt": "cat", "steps": 1}], sys.argv[1], executor="ray", workers=1)
except Exception as error:
    print(type(error).__name__, error.code)
"""


@pytest.mark.slow
def test_a_worker_with_another_model_ends_the_batch(tmp_path):
    ran = run_python(ANOTHER, tmp_path / "out")
    assert ran.stdout.split() == ["UsageError", "E-WORKER"], ran.stderr
    assert not (tmp_path / "out/errors.jsonl").exists()


CLUSTER = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from functools import partial
import ray
from ray.cluster_utils import Cluster
import ldmref
from ldmref.batch import run_batch

model, requests, out = sys.argv[1:]
cluster = Cluster(head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
removed = []

def remove(event):
    if event.done == 60 and not removed:
        connected = ray._private.worker.global_worker.node._raylet_socket_name
        removed.append(next(n for n in nodes if n._raylet_socket_name != connected))
        cluster.remove_node(removed[0], allow_graceful=False)

source = partial(ldmref.load, model, backend="numpy")
options = {"executor": "ray", "workers": 2, "address": cluster.address, "report": remove}
try:
    summary = run_batch(source, requests, out, **options)
finally:
    cluster.shutdown()
print(summary.generated, summary.failed, len(removed))
"""


@pytest.mark.slow
def test_a_cluster_that_loses_one_of_two_nodes_completes_the_batch(tmp_path, tiny_folder):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(200))
    run_to_the_end(requests, tmp_path / "whole", "-m", tiny_folder, "--backend", "numpy")
    ran = run_python(CLUSTER, tiny_folder, requests, tmp_path / "out")
    assert ran.stdout.split()[-3:] == ["180", "20", "1"], ran.stderr
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_ends_ray(tmp_path, tiny_folder):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(300))
    process = start_batch(requests, tmp_path / "out", "-m", tiny_folder, *RAY)
    wait_for(lambda: count_images(tmp_path / "out") > 10)
    children = find_children(process.pid, "")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"run the command again" in err, err
    assert b"Traceback" not in err
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in children), 30)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line(tmp_path, tiny_folder):
    requests = write_rows(tmp_path / "requests.jsonl", make_rows(2))
    flags = ("-m", tiny_folder, "--executor", "ray", "--address", "127.0.0.1:9")
    code, _, err = run_to_the_end(requests, tmp_path / "out", *flags)
    assert code == 3 and "error[E-RAY]: cannot reach Ray at '127.0.0.1:9'" in err, err
