"""`ldmref serve` under load and at its end: parallel, silent, slow and vanishing clients."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import served_process
from PIL import Image
from served_process import environment, raise_limit_of_files, serving_process

import ldmref
from ldmref import modes
from ldmref.io.native import save_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, signals, limits of files")

LONG = {"steps": 1000, "count": 50, "seed": 1}  # minutes, if nobody cancels it
SHORT = {"prompt": "cat", "steps": 2}


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, tiny.config, tiny.params, [tiny.tokenizer])
    return folder


@pytest.fixture
def start(tiny_folder, tmp_path):
    """`start(*flags)` is a context of a running server."""
    return lambda *flags: serving_process(tiny_folder, tmp_path, *flags)


def assert_works(served) -> None:
    assert served.call("GET", "/healthz").json == {"status": "ok"}
    got = served.call("POST", "/v1/generate", {"parameters": SHORT})
    assert got.status == 200 and got.body.startswith(b"\x89PNG"), got


# -- parallel requests ----------------------------------------------------------------------------


def test_each_of_100_parallel_requests_gets_its_own_image(start, tiny_folder):
    def generate(seed):
        return seed, served.call("POST", "/v1/generate", {"parameters": SHORT | {"seed": seed}})

    with start("--queue", "100") as served, ThreadPoolExecutor(100) as clients:
        answers = dict(clients.map(generate, range(1000, 1100)))
    assert {got.status for got in answers.values()} == {200}
    images = {}
    for seed, got in answers.items():
        assert got.headers["ldmref-seed"] == str(seed)
        images[seed] = np.array(Image.open(io.BytesIO(got.body)))
    assert len({image.tobytes() for image in images.values()}) == 100
    model = ldmref.load(tiny_folder)
    for seed in (1000, 1037, 1099):
        expected = modes.txt2img(model, "cat", steps=2, seed=seed).images[0]
        assert np.array_equal(images[seed], np.array(expected))


def test_full_queue_says_when_to_come_back_and_goes_on(start):
    with start("--queue", "2") as served:
        running = served.submit(**LONG)
        served.wait_for(running["url"], "running")
        waiting = [served.submit(**SHORT)["url"] for _ in range(2)]
        for path in ("/v1/jobs", "/v1/generate"):
            got = served.call("POST", path, {"parameters": SHORT})
            assert got.status == 429 and got.json["error"]["code"] == "E-QUEUE"
            assert int(got.headers["retry-after"]) >= 1
        with ThreadPoolExecutor(50) as clients:
            body = {"parameters": SHORT}
            got = clients.map(lambda _: served.call("POST", "/v1/generate", body), range(50))
            assert Counter(answer.status for answer in got) == {429: 50}
        served.call("DELETE", running["url"])
        assert [served.wait_for(url, "done") for url in waiting] == ["done"] * 2
        assert served.state(running["url"]) == "cancelled"
        assert_works(served)


# -- clients that vanish --------------------------------------------------------------------------


def test_client_that_disappears_frees_its_place(start):
    """Neither its running job nor those that wait for a client go on without it."""
    with start("--queue", "8") as served:
        body = b'{"parameters": {"prompt": "cat", "steps": 1000, "count": 50}}'
        head = (
            f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        clients = []
        for _ in range(5):
            clients.append(socket.create_connection(("127.0.0.1", served.port), 30))
            clients[-1].sendall(head + body)
        end = time.monotonic() + 30
        while len(served.call("GET", "/v1/jobs").json["jobs"]) < 5:
            assert time.monotonic() < end
        for client in clients:
            client.close()
        urls = [job["url"] for job in served.call("GET", "/v1/jobs").json["jobs"]]
        assert {served.wait_for(url, "cancelled", seconds=30) for url in urls} == {"cancelled"}
        assert_works(served)


# -- clients that listen, or do not read ----------------------------------------------------------

STREAMS = 1000


def test_1000_idle_event_streams_and_slow_readers_do_not_stop_the_service(start):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STREAMS:
        pytest.skip(f"limits: {hard} open files, the test needs {3 * STREAMS}")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit_of_files()
    connections = []
    try:
        with start("--max-streams", "1100", "--queue", "8") as served:
            running = served.submit(**LONG)
            served.wait_for(running["url"], "running")
            waiting = served.submit(**SHORT, seed=3)
            connections += [served.open_stream(waiting["url"]) for _ in range(STREAMS)]
            slow = [served.open_stream(running["url"]) for _ in range(50)]
            for connection in connections:
                assert connection.recv(2000).startswith(b"HTTP/1.1 200")
            connections += slow
            for path in ("/healthz", "/", "/v1/capabilities", "/v1/jobs"):
                assert served.call("GET", path).status == 200
            served.call("DELETE", running["url"])
            served.wait_for(waiting["url"], "done")
            assert_works(served)
            for connection in connections[:STREAMS]:
                assert b"event: done" in read_to_end_of_chunks(connection)
            for connection in connections:
                connection.close()
            end = time.monotonic() + 30
            while served.open_files > 100:
                assert time.monotonic() < end, "connections stay open"
                time.sleep(0.05)
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def read_to_end_of_chunks(connection: socket.socket) -> bytes:
    """Read a chunked body to its last chunk, or to the end of the connection."""
    data = bytearray()
    while not data.endswith(b"0\r\n\r\n"):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def test_streams_beyond_the_limit_of_an_address_are_refused(start):
    with start("--max-streams", "3") as served:
        running = served.submit(**LONG)
        held = [served.open_stream(running["url"]) for _ in range(3)]
        for connection in held:
            assert connection.recv(2000).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            got = served.call("GET", f"{running['url']}/events")
            assert got.status == 429 and got.json["error"]["code"] == "E-STREAMS"
            assert int(got.headers["retry-after"]) >= 1
        held.pop().close()
        end = time.monotonic() + 20
        while True:
            with served.open_stream(running["url"]) as again:
                if again.recv(2000).startswith(b"HTTP/1.1 200"):
                    break
            assert time.monotonic() < end, "the place of a closed stream is not free again"
            time.sleep(0.05)
        served.call("DELETE", running["url"])
        assert_works(served)


def test_silent_connections_do_not_stop_the_service(start):
    """More connections than are allowed, which send nothing or half a head."""
    with start("--max-connections", "50") as served:
        silent = [socket.create_connection(("127.0.0.1", served.port), 30) for _ in range(40)]
        for connection in silent[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: lo")
        assert served.call("GET", "/healthz").status == 200
        surplus = [socket.create_connection(("127.0.0.1", served.port), 30) for _ in range(20)]
        assert served.call("GET", "/healthz").status == 503
        for connection in [*silent, *surplus]:
            connection.close()
        end = time.monotonic() + 20
        while served.call("GET", "/healthz").status == 503:
            assert time.monotonic() < end, "the places of closed connections are not free again"
            time.sleep(0.05)
        assert_works(served)


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_ends_jobs_streams_and_the_process(start, name):
    with start("--queue", "8") as served:
        running = served.submit(**LONG)
        served.wait_for(running["url"], "running")
        waiting = served.submit(**SHORT)
        streams = [served.open_stream(url["url"]) for url in (running, waiting)]
        for stream in streams:
            assert stream.recv(2000).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        served.process.send_signal(getattr(signal, name))
        for stream in streams:
            assert b"event: cancelled" in read_to_end_of_chunks(stream)
        code = served.process.wait(30)
        assert time.monotonic() - started < 20  # 5 s are meant
        assert code in (0, 128 + getattr(signal, name), -getattr(signal, name))
        text = served.log.read_text()
        assert "Traceback" not in text and "Exception" not in text, text
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", served.port), 5)


def test_port_in_use_is_refused_with_a_hint(tiny_folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [sys.executable, "-m", "ldmref", "serve", "-m", f"t={tiny_folder}", "--port", port]
        ran = subprocess.run(
            argv, capture_output=True, env=environment(), cwd=tmp_path, timeout=120
        )
    assert ran.returncode == 8
    assert b"error[E-PORT]" in ran.stderr and b"--port" in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_token(tiny_folder, tmp_path, host):
    argv = [sys.executable, "-m", "ldmref", "serve", "-m", f"t={tiny_folder}", "--port", "0"]
    ran = subprocess.run(
        [*argv, "--host", host], capture_output=True, env=environment(), cwd=tmp_path, timeout=120
    )
    assert ran.returncode == 2 and b"error[E-TOKEN]" in ran.stderr


def test_token_and_prompt_appear_in_no_log_and_no_list_of_processes(
    tiny_folder, tmp_path, monkeypatch
):
    token = "correct-horse-battery"
    given = environment() | {"LDMREF_SERVER_TOKEN": token}
    monkeypatch.setattr(served_process, "environment", lambda: given)
    with serving_process(tiny_folder, tmp_path) as served:
        assert served.call("GET", "/").status == 200
        assert served.call("GET", "/v1/jobs").status == 401
        assert served.call("GET", f"/v1/jobs?token={token}").status == 401
        with socket.create_connection(("127.0.0.1", served.port), 30) as connection:
            body = b'{"parameters": {"prompt": "secretword \\u001b[2J", "steps": 1}}'
            connection.sendall(
                b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nAuthorization: Bearer "
                + token.encode()
                + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            assert connection.recv(2000).startswith(b"HTTP/1.1 200")
        text = served.log.read_text()
        assert token not in text and "secretword" not in text and "\x1b" not in text
        shown = open(f"/proc/{served.process.pid}/cmdline").read()
        assert token not in shown


# -- a long life ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_flat_after_1000_jobs(start):
    """Images, events and connections of ended jobs are returned."""
    with start("--max-results", "100000", "--queue", "8") as served:

        def run(count, first):
            for i in range(count):
                parameters = SHORT | {"seed": first + i, "prompt": f"cat {first + i}"}
                if i % 3:
                    got = served.call("POST", "/v1/generate", {"parameters": parameters})
                    assert got.status == 200
                    continue
                job = served.submit(**parameters)
                with served.open_stream(job["url"]) as stream:
                    if i % 2:  # half of them leave before the end
                        assert b"event: done" in read_to_end_of_chunks(stream)
                served.wait_for(job["url"], "done")

        run(200, 0)
        time.sleep(2)
        before, files = served.memory, served.open_files
        run(800, 200)
        time.sleep(2)
        served.call("GET", "/v1/jobs")
        assert served.memory - before < 8, f"{before:.1f} -> {served.memory:.1f} MiB"
        assert served.open_files <= files + 5
        assert len(served.call("GET", "/v1/jobs").json["jobs"]) < 50
        threads = int(re.search(r"Threads:\s+(\d+)", status_of(served)).group(1))
        assert threads < 60


def status_of(served) -> str:
    with open(f"/proc/{served.process.pid}/status") as file:
        return file.read()


# -- a worker that dies ---------------------------------------------------------------------------


class Dying:
    """A task that ends its worker in the way of a plug-in or a library."""

    kind = "generate"
    request: ClassVar[dict] = {}
    previews = False

    def __init__(self, error: BaseException):
        self.error = error

    def run(self, model, report, cancel):
        raise self.error


ERRORS = [SystemExit(3), KeyboardInterrupt(), MemoryError(), RecursionError(), GeneratorExit(),
          ValueError("a red heart"), StopIteration(), BaseException("odd")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_worker_survives_whatever_a_job_raises(tiny, error, caplog):
    from ldmref.apps.server.engine import Engine
    from ldmref.apps.server.inputs import plan_task

    engine = Engine({"tiny": tiny})
    try:
        job = engine.submit(Dying(error))
        assert job.wait(20) and job.state == "failed"
        assert job.error.code in ("E-INTERNAL", "E-MEMORY")
        assert "heart" not in str(job.error) + job.error.hint + caplog.text
        after = engine.submit(plan_task(engine, "txt2img", SHORT))
        assert after.wait(20) and after.state == "done"
    finally:
        engine.close()


def test_process_that_crashes_ends_with_an_error(start):
    """A crash in a library ends the process; no client waits for ever."""
    with start() as served:
        running = served.submit(**LONG)
        served.wait_for(running["url"], "running")
        stream = served.open_stream(running["url"])
        waiting = threading.Thread(target=read_to_end_of_chunks, args=(stream,), daemon=True)
        waiting.start()
        os.kill(served.process.pid, signal.SIGSEGV)
        assert served.process.wait(30) == -signal.SIGSEGV
        waiting.join(20)
        assert not waiting.is_alive()
