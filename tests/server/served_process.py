"""`ldmref serve` in a separate process, as users start it."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

JSON = {"Content-Type": "application/json"}


class Got(NamedTuple):
    """An answer over a separate connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running process and its address."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process = process
        self.port = port
        self.log = log

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120.0) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, JSON if data else {})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Got(response.status, headers, response.read())
        finally:
            connection.close()

    def submit(self, **parameters: Any) -> dict[str, Any]:
        got = self.call("POST", "/v1/jobs", {"parameters": {"prompt": "cat"} | parameters})
        assert got.status == 202, got
        return got.json

    def state(self, url: str) -> str:
        return self.call("GET", url).json["state"]

    def wait_for(self, url: str, *states: str, seconds: float = 60.0) -> str:
        end = time.monotonic() + seconds
        while (state := self.state(url)) not in states:
            assert time.monotonic() < end, f"{url} is still {state}"
            time.sleep(0.02)
        return state

    def open_stream(self, url: str) -> socket.socket:
        """Return a connection on which an event stream was asked for; nothing of it is read."""
        connection = socket.create_connection(("127.0.0.1", self.port), 60)
        head = f"GET {url}/events HTTP/1.1\r\nHost: localhost:{self.port}\r\n\r\n"
        connection.sendall(head.encode())
        return connection

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LDMREF_")}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return kept | threads | {"LDMREF_BACKEND": "numpy"}


def raise_limit_of_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def serving_process(model_folder: Path, folder: Path, *flags: str):
    """Run `ldmref serve` with a model; stop it by SIGTERM, and kill it if it does not stop."""
    log = folder / "serve.log"
    argv = [sys.executable, "-m", "ldmref", "serve", "-m", f"tiny={model_folder}", "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*argv, *flags],
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=folder,
            preexec_fn=raise_limit_of_files,
        )
    try:
        yield Served(process, wait_for_port(process, log), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_for_port(process: subprocess.Popen, log: Path) -> int:
    """Return the port of the address that is printed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        text = log.read_text()
        if "http://" in text:
            port = int(text.split("http://")[1].split()[0].rsplit(":", 1)[1])
            with socket.create_connection(("127.0.0.1", port), 30):
                return port
        assert process.poll() is None, text
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {log.read_text()}")
