"""Jobs whose reader has gone: an attended one ends and leaves the queue to others."""

import contextlib
import socket
import time

import pytest
from waiting import wait_until

from ldmref.apps.server import streams

ALONE = 0.2  # seconds, in place of some more
IN_TIME = 2.0  # the same, where a busy machine needs some to come back


@pytest.fixture
def read(server, monkeypatch):
    """`with read(job):` follows the events of a job on a connection of its own."""
    monkeypatch.setattr(streams, "ALONE_SECONDS", ALONE)

    @contextlib.contextmanager
    def follow(job):
        before = job.log.has_readers
        with socket.create_connection(server.address, timeout=20.0) as connection:
            request = f"GET {job.url}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
            connection.sendall(request.encode())
            wait_until(lambda: before or job.log.has_readers)
            received = b""
            while not before and b"event: queued" not in received:
                chunk = connection.recv(4096)  # the headers may come alone
                assert chunk, received
                received += chunk
            yield
        wait_until(lambda: before or not job.log.has_readers)

    return follow


@pytest.fixture
def attended(server, gated):
    """`attended()` submits a task that waits for its gate; it returns the task and its job."""

    def make():
        task = gated()
        job = server.engine.submit(task)
        job.attended = True
        return task, job

    return make


def test_a_closed_tab_frees_the_queue(server, read, gated, attended):
    task, job = attended()
    others = server.engine.submit(gated(lambda report, cancel: None))
    with read(job):
        task.started.wait()
    wait_until(lambda: others.state == "running")
    assert job.state == "cancelled"


def test_a_job_that_waits_leaves_the_queue(read, attended):
    (_, running), (_, waiting) = attended(), attended()
    with read(waiting):
        pass
    wait_until(lambda: waiting.has_ended)
    assert (running.state, waiting.state) == ("running", "cancelled")


@pytest.mark.parametrize("kind", ["record", "truth"])
def test_the_computations_of_the_page_stop(server, read, kind):
    run = {"prompt": "a cat", "steps": 900, "sampler": "euler", "seed": 1}
    answer = server.client.post(
        "/v1/jobs", json={"kind": kind, "parameters": run, "attended": True}
    ).json()
    job = server.engine.get(answer["id"])
    with read(job):
        wait_until(lambda: job.progress.get("step", 0) > 1)
    wait_until(lambda: job.has_ended)
    assert job.state == "cancelled"


def test_a_job_that_nobody_begins_to_read_ends(server, monkeypatch):
    monkeypatch.setattr(streams, "ALONE_SECONDS", ALONE)
    body = {"parameters": {"prompt": "a cat", "steps": 900}, "attended": True}
    job = server.engine.get(server.client.post("/v1/jobs", json=body).json()["id"])
    assert job.wait(10.0) and job.state == "cancelled"


def test_other_jobs_go_on_without_a_reader(server, read, gated):
    task = gated()
    job = server.engine.submit(task)
    with read(job):
        task.started.wait()
    time.sleep(2 * ALONE)
    assert job.state == "running"
    task.gate.set()
    assert job.wait(10.0) and job.state == "done"


@pytest.mark.parametrize(("given", "expected"), [({}, False), ({"attended": True}, True)])
def test_a_request_says_whether_its_job_is_attended(server, given, expected):
    body = {"parameters": {"prompt": "a cat", "steps": 1}, **given}
    job = server.client.post("/v1/jobs", json=body).json()
    assert server.engine.get(job["id"]).attended is expected
    answer = server.client.post("/v1/jobs", json=body | {"attended": "yes"})
    assert answer.status_code == 400 and "attended" in answer.json()["error"]["message"]


def test_a_reader_that_comes_back_in_time_keeps_the_job(read, attended, monkeypatch):
    monkeypatch.setattr(streams, "ALONE_SECONDS", IN_TIME)
    task, job = attended()
    with read(job):
        task.started.wait()
    with read(job):
        time.sleep(2 * ALONE)
        assert job.state == "running"
        task.gate.set()
        assert job.wait(10.0) and job.state == "done"
