"""Rows of the fault table about the server."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_cases import COMMAND_LINE, HTTP, covers
from fault_server import connect, post, serving, status_of

from ldmref.apps.server.app import create_app
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.inputs import plan_task
from ldmref.support.server_settings import ServerSettings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and pipes")

SHORT = {"prompt": "cat", "steps": 1, "seed": 3}
LONG = {"prompt": "cat", "steps": 1000, "count": 50}
BODY = json.dumps({"parameters": SHORT}).encode()
CHUNKED = "Transfer-Encoding: chunked"


def generate(client, **parameters):
    return client.post("/v1/generate", json={"parameters": SHORT | parameters})


def assert_works(port):
    with connect(port) as connection:
        connection.sendall(post(length=len(BODY)) + BODY)
        assert status_of(connection) == 200


def own_client(tiny, **settings):
    """Return a client of a server with other settings, and its engine."""
    from starlette.testclient import TestClient

    engine = Engine({"tiny": tiny}, ServerSettings(**settings))
    return TestClient(create_app(engine), base_url="http://localhost"), engine


# -- 97, 98: bodies and connections ---------------------------------------------------------------

BODIES = {
    "100 MB": (413, post(length=10**8) + b" " * 200_000),
    "chunks without end": (413, post(CHUNKED) + b"1000\r\n%s\r\n" % (b" " * 4096) * 30),
    "less than announced": (408, post(length=1000) + BODY),
    "two lengths": (400, post("Content-Length: 5", length=5) + b"12345"),
    "length and chunks": (400, post(CHUNKED, length=5) + b"0\r\n\r\n"),
    "negative length": (400, post(length=-1)),
    "compressed": (415, post("Content-Encoding: gzip", length=2) + b"\x1f\x8b"),
}


@covers(97, "seven bodies", HTTP, code="E-BODY")
def test_bodies(tiny):
    with serving(tiny) as port:
        for title, (status, data) in BODIES.items():
            with connect(port) as connection:
                try:
                    connection.sendall(data)
                except OSError:
                    pass  # refused before everything was sent
                assert status_of(connection) == status, title
        assert_works(port)


@covers(98, "half a body, half a head, nothing", HTTP, code="E-TIMEOUT")
def test_slow_senders(tiny):
    with serving(tiny) as port:
        slow = [connect(port) for _ in range(20)]
        for number, connection in enumerate(slow):
            connection.sendall([b"", b"POST / HT", post(length=10)][number % 3])
        assert_works(port)
        assert {status_of(connection) for connection in slow[2::3]} == {408}
        for connection in slow:
            connection.close()


@covers(98, "event streams that nobody reads", HTTP, code="E-STREAMS")
def test_idle_streams(tiny):
    with serving(tiny, max_streams=20) as port:
        body = json.dumps({"parameters": LONG}).encode()
        client = http.client.HTTPConnection("localhost", port)
        client.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
        path = json.loads(client.getresponse().read())["url"]
        client.close()
        head = f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        streams = [connect(port) for _ in range(25)]
        statuses = []
        for stream in streams:
            stream.sendall(head)
            statuses.append(status_of(stream))
        assert sorted(statuses) == [200] * 20 + [429] * 5
        with connect(port) as connection:
            connection.sendall(f"DELETE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert status_of(connection) == 200
        assert_works(port)
        for stream in streams:
            stream.close()


# -- 99, 100: queue -------------------------------------------------------------------------------


@covers(99, "30 requests at once", HTTP)
def test_parallel_requests(tiny):
    client, engine = own_client(tiny, queue=30)
    with ThreadPoolExecutor(30) as clients:
        seeds = range(30)
        answers = list(clients.map(lambda seed: generate(client, seed=seed), seeds))
    assert [answer.headers["ldmref-seed"] for answer in answers] == [str(seed) for seed in seeds]
    assert len({answer.content for answer in answers}) == 30
    engine.close()


@covers(99, "full queue", HTTP, code="E-QUEUE")
def test_full_queue(tiny):
    client, engine = own_client(tiny, queue=1)
    jobs = []
    while (answer := client.post("/v1/jobs", json={"parameters": LONG})).status_code == 202:
        jobs.append(answer.json()["url"])
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "E-QUEUE"
    assert int(answer.headers["retry-after"]) >= 1 and 1 <= len(jobs) <= 2
    for url in jobs:
        client.delete(url)
    engine.get(jobs[0].rsplit("/", 1)[1]).wait(20)
    assert generate(client).status_code == 200
    engine.close()


@covers(100, "client that closes its connection, and DELETE", HTTP)
def test_client_that_leaves(tiny):
    body = json.dumps({"parameters": LONG}).encode()
    client, engine = own_client(tiny)
    url = client.post("/v1/jobs", json={"parameters": LONG}).json()["url"]
    assert client.delete(url).status_code == client.delete(url).status_code == 200
    assert engine.get(url.rsplit("/", 1)[1]).wait(20)
    assert client.get(url).json()["state"] == "cancelled"
    engine.close()
    with serving(tiny) as port:
        with connect(port) as connection:
            connection.sendall(post(length=len(body)) + body)
            time.sleep(0.3)
        assert_works(port)  # with one worker: the long job has ended


# -- 101, 102: paths and pages --------------------------------------------------------------------


@covers(101, "12 paths below three folders", HTTP, code="E-PATH")
def test_paths(client):
    job = client.post("/v1/jobs", json={"parameters": SHORT}).json()["url"]
    for folder in ("/page/", f"{job}/files/", f"{job}/images/"):
        for path in ("../../settings.py", "..%2f..%2fsettings.py", "%2e%2e/settings.py", "%00",
                     "/etc/passwd", "%2fetc%2fpasswd", "C:/x", "..\\x", "index.html%00", "~", ".",
                     "http://localhost/"):  # fmt: skip
            assert client.get(folder + path).status_code == 404, folder + path


@covers(102, "hosts and origins", HTTP, code="E-ORIGIN")
def test_foreign_pages(client):
    for headers in ({"Host": "evil.example"}, {"Host": "localhost.evil.example:7860"},
                    {"Origin": "http://evil.example"}, {"Origin": "null"},
                    {"Origin": "http://localhost:3000"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        answer = client.post("/v1/generate", json={"parameters": SHORT}, headers=headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.post("/v1/generate", content=BODY, headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.post("/v1/generate", content=BODY).status_code == 415
    assert generate(client).status_code == 200


# -- 103, 104: other machines ---------------------------------------------------------------------


def run(*argv):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    argv = [sys.executable, "-m", "ldmref", "serve", *argv]
    return subprocess.run(argv, capture_output=True, env=kept, timeout=120)


@covers(103, "0.0.0.0 and :: without a token", COMMAND_LINE, code="E-TOKEN")
def test_open_address(tiny_folder):
    for host in ("0.0.0.0", "::"):
        ran = run("-m", f"tiny={tiny_folder}", "--port", "0", "--host", host)
        assert ran.returncode == 2 and b"error[E-TOKEN]" in ran.stderr, ran.stderr


@covers(104, "no token, wrong ones, and the right one in both forms", HTTP, code="E-TOKEN")
def test_token(tiny, caplog):
    caplog.set_level(logging.DEBUG, "ldmref")
    token = "correct-horse-battery"
    client, engine = own_client(tiny, token=token)
    basic = base64.b64encode(f"user:{token}".encode()).decode()
    for text in ("", "Bearer x", f"Bearer {token}x", f"Basic {basic[:-4]}", token):
        answer = client.get("/v1/jobs", headers={"Authorization": text})
        assert answer.status_code == 401 and token not in answer.text
    assert client.get(f"/v1/jobs?token={token}").status_code == 401
    for text in (f"Bearer {token}", f"Basic {basic}"):
        assert client.get("/v1/jobs", headers={"Authorization": text}).status_code == 200
    assert client.get("/").status_code == 200
    assert token not in caplog.text
    engine.close()


# -- 105: settings of A1111 -----------------------------------------------------------------------

SETTINGS = {"outdir_samples": "/tmp/x", "ckpt_dir": "/etc", "api_enable_requests": True}


@covers(105, "checkpoint of a path, folders, permissions", HTTP)
def test_settings_of_a1111(client):
    path = "/sdapi/v1/options"
    before = client.get(path)
    if before.status_code == 404:
        pytest.skip("A1111: this version does not have its interface")
    for value in ("/etc/passwd", "../tiny", "http://localhost/x.safetensors"):
        attempt = {"sd_model_checkpoint": value}
        assert client.post(path, json=attempt).status_code in (404, 422)
        answer = client.post("/sdapi/v1/txt2img", json=SHORT | {"override_settings": attempt})
        assert answer.status_code in (404, 422)
    assert client.post(path, json=SETTINGS).status_code in (200, 422)
    answer = client.post("/sdapi/v1/txt2img", json=SHORT | {"override_settings": SETTINGS})
    assert answer.status_code in (200, 422)
    assert client.get(path).json() == before.json()


# -- 106 to 108: what is told ---------------------------------------------------------------------


@covers(106, "exception within a route", HTTP, code="E-INTERNAL")
def test_unexpected_error(client, monkeypatch, caplog):
    def fail(*arguments):
        raise KeyError("/home/someone/secret.py")

    monkeypatch.setattr("ldmref.apps.server.native.make_task", fail)
    answer = generate(client)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "E-INTERNAL")
    number = error["hint"].split()[-1]
    assert f"error {number}: KeyError in " in caplog.text and "native.py" in caplog.text
    for text in (answer.text, caplog.text):
        assert "secret" not in text and "Traceback" not in text


@covers(107, "line breaks and escapes in path, headers and prompt", HTTP)
def test_log(client, caplog):
    caplog.set_level(logging.INFO, "ldmref")
    generate(client, prompt="secretword \x1b[2J\r\nfake line")
    client.get("/a%0d%0a127.0.0.1%20GET%20/fake%1b[2J%c2%85%e2%80%a8", headers={"X": "\x1b[2J"})
    client.request("GET", "/", headers={"Host": "evil\x1b[2J"})
    lines = [record.getMessage() for record in caplog.records if record.name == "ldmref.server"]
    assert len(lines) == 3 and all(line.isprintable() for line in lines)
    assert "secretword" not in caplog.text and "\\x1b" in lines[1]


SCRIPT = '</script><img src=x onerror="alert(1)">'


@covers(108, "script in a prompt, a path, a model's name", HTTP)
def test_scripts(client):
    answers = [
        generate(client, prompt=SCRIPT),
        generate(client, sampler=SCRIPT),
        client.get(f"/page/{SCRIPT}"),
        client.post("/v1/generate", json={"model": SCRIPT, "parameters": SHORT}),
        client.get("/v1/jobs"),
    ]
    for answer in answers:
        assert answer.headers["content-type"] in ("image/png", "application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]


# -- 109, 110: the process and its workers --------------------------------------------------------


@covers(109, "port in use", COMMAND_LINE, code="E-PORT")
def test_port_in_use(tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("-m", f"tiny={tiny_folder}", "--port", str(taken.getsockname()[1]))
    assert ran.returncode == 8 and b"error[E-PORT]" in ran.stderr, ran.stderr


@covers(109, "SIGTERM while a job runs and others wait", COMMAND_LINE)
def test_sigterm(tiny_folder):
    argv = [sys.executable, "-m", "ldmref", "serve", "-m", f"tiny={tiny_folder}", "--port", "0"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().split("http://127.0.0.1:")[1].split()[0])
        body = json.dumps({"parameters": LONG}).encode()
        for _ in range(3):
            with connect(port) as connection:
                connection.sendall(post(path="/v1/jobs", length=len(body)) + body)
                assert status_of(connection) == 202
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (143, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


class Raising:
    """A work that raises anything."""

    kind = "generate"
    previews = False

    def __init__(self, error):
        self.error = error
        self.request = {}

    def run(self, model, report, cancel):
        raise self.error


@covers(110, "job that raises SystemExit, KeyboardInterrupt, MemoryError, ...", HTTP)
def test_worker(tiny):
    engine = Engine({"tiny": tiny})
    for error in (SystemExit(1), KeyboardInterrupt(), MemoryError(), BaseException(), OSError(5)):
        job = engine.submit(Raising(error))
        assert job.wait(20) and job.state == "failed"
    job = engine.submit(plan_task(engine, "txt2img", SHORT))
    assert job.wait(20) and job.state == "done"
    assert sum("worker" in thread.name for thread in threading.enumerate()) >= 1
    engine.close()
