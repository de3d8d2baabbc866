"""The guard's limits of bodies, its event streams, its 500, and its log; in the process."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from guard_apps import HOST, call, echo, guarded

from ldmref.apps.server.guard import Limits, guard
from ldmref.support.server_settings import ServerSettings

QUICK = Limits(chunk=0.05, linger=0.05)


def size(answer) -> int:
    assert answer.status == 200, answer
    return json.loads(answer.body)["size"]


def header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode(), value.encode()


def test_bodies_up_to_the_limit_arrive_whole():
    app = guarded(max_body=10)
    assert size(call(app, "POST", "/x", body=b"0123456789")) == 10
    assert size(call(app, "POST", "/x", body=[b"01234", b"", b"56789"])) == 10
    assert size(call(app, "POST", "/x")) == 0


@pytest.mark.parametrize("body", [b"0123456789a", [b"01234567", b"89a"], [b"x"] * 11])
def test_larger_bodies_are_refused(body):
    answer = call(guarded(max_body=10, limits=QUICK), "POST", "/x", body=body)
    assert (answer.status, answer.code) == (413, "E-BODY")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("length", ["11", "9" * 18, "9" * 400])
def test_announced_length_is_refused_before_anything_is_read(length):
    app = guarded(max_body=10, limits=QUICK)
    answer = call(app, "POST", "/x", [header("content-length", length)])
    assert (answer.status, answer.code) == (413, "E-BODY")


def run(app, receive, path="/x", headers=((b"transfer-encoding", b"chunked"),)):
    """Call an application with its own `receive`; return what it sent."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [HOST, *headers],
        "http_version": "1.1",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    asyncio.run(app(scope, receive, send))
    return sent


def test_endless_chunks_end_at_the_limit():
    received = 0

    async def receive():
        nonlocal received
        received += 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    sent = run(guarded(max_body=10_000, limits=Limits(linger=0.05)), receive)
    assert sent[0]["status"] == 413


def test_rest_of_a_refused_body_is_read_to_let_the_client_end_it():
    messages = [{"type": "http.request", "body": b"x" * 8, "more_body": i < 9} for i in range(10)]

    async def receive():
        return messages.pop(0)

    sent = run(guarded(max_body=10), receive)
    assert sent[0]["status"] == 413 and not messages
    assert [message.get("more_body") for message in sent[1:]] == [True, False]


def test_body_that_stops_is_refused():
    async def receive():
        await asyncio.sleep(60)

    sent = run(guarded(limits=QUICK), receive)
    assert sent[0]["status"] == 408 and json.loads(sent[1]["body"])["error"]["code"] == "E-TIMEOUT"


def test_body_that_trickles_is_refused():
    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent = run(guarded(limits=QUICK, body_timeout=0.3), receive)
    assert sent[0]["status"] == 408


def test_client_that_leaves_gets_no_answer():
    messages = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    app = guarded()
    assert run(app, receive) == []
    assert app.bodies.held == 0


def test_bodies_of_all_requests_share_a_limit():
    """Eight clients send 10 bytes each and wait; there is room for four of them."""
    app = guarded(max_body=10, limits=Limits(chunk=5, linger=0.01))
    statuses = []

    async def one(released):
        messages = [{"type": "http.request", "body": b"0123456789", "more_body": True}]

        async def receive():
            if messages:
                return messages.pop()
            await released.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            if "status" in message:
                statuses.append(message["status"])
                if message["status"] == 503:
                    assert (b"retry-after", b"5") in message["headers"]

        scope = {"type": "http", "method": "POST", "path": "/x", "client": ("127.0.0.1", 1),
                 "http_version": "1.1", "query_string": b"",
                 "headers": [HOST, (b"transfer-encoding", b"chunked")]}  # fmt: skip
        await app(scope, receive, send)

    async def everybody():
        released = asyncio.Event()
        tasks = [asyncio.create_task(one(released)) for _ in range(8)]
        await asyncio.sleep(0.1)
        assert app.bodies.held == 40
        released.set()
        await asyncio.gather(*tasks)

    asyncio.run(everybody())
    assert sorted(statuses) == [200] * 4 + [503] * 4
    assert app.bodies.held == 0


def test_bytes_are_returned_after_every_answer():
    app = guarded(max_body=10, limits=QUICK)
    for path, body in (("/x", b"12345"), ("/fail", b"12345"), ("/x", [b"12345678", b"9012"])):
        call(app, "POST", path, body=body)
        assert app.bodies.held == 0


# -- event streams --------------------------------------------------------------------------------


def test_streams_of_an_address_are_limited_and_returned():
    """Three streams of one address, where two are allowed; another address has its own two."""
    app = guarded(max_streams=2)
    statuses = []

    async def one(client, gone):
        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if "status" in message:
                statuses.append((client, message["status"]))

        scope = {"type": "http", "method": "GET", "path": "/stream", "client": (client, 1),
                 "headers": [HOST], "http_version": "1.1", "query_string": b""}  # fmt: skip
        await app(scope, receive, send)

    async def everybody():
        for _ in range(2):  # the places are free again in the second round
            gone = asyncio.Event()
            tasks = [asyncio.create_task(one("127.0.0.1", gone)) for _ in range(3)]
            tasks.append(asyncio.create_task(one("127.0.0.2", gone)))
            await asyncio.sleep(0.05)
            gone.set()
            await asyncio.gather(*tasks)

    asyncio.run(everybody())
    assert sorted(statuses) == sorted(
        [("127.0.0.1", 200)] * 4 + [("127.0.0.1", 429)] * 2 + [("127.0.0.2", 200)] * 2
    )
    assert not app.streams


# -- failures and the log -------------------------------------------------------------------------


def test_failure_has_an_id_that_the_log_has(caplog):
    caplog.set_level(logging.INFO, "ldmref.server")
    answer = call(guarded(), "GET", "/fail")
    assert (answer.status, answer.code) == (500, "E-INTERNAL")
    number = json.loads(answer.body)["error"]["hint"].split()[-1]
    line = next(r.getMessage() for r in caplog.records if r.levelname == "ERROR")
    assert number in line and "KeyError" in line and "guard_apps.py" in line
    for text in (answer.body.decode(), caplog.text):
        assert "heart" not in text and "secret" not in text and "\x1b" not in text
    assert b"Traceback" not in answer.body and b".py" not in answer.body


def test_failure_after_the_start_ends_the_answer(caplog):
    async def half(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("red heart")

    answer = call(guarded(half))
    assert (answer.status, answer.body) == (200, b"")
    assert "ValueError" in caplog.text and "heart" not in caplog.text


def test_log_lines_are_escaped_and_have_no_query_no_token_and_no_body(caplog):
    caplog.set_level(logging.INFO, "ldmref.server")
    token = "correct-horse"
    headers = [header("authorization", f"Bearer {token}"), header("content-type", "text/a\x1b[2J")]
    call(guarded(token=token), "POST", "/a\nb\x1b[2J\r\u2028" + "c" * 500, headers, b"a red heart")
    call(guarded(token=token), "GET\nx", "/", [header("authorization", "Bearer wrong-token")])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert "\\n" in lines[0] and "\\x1b" in lines[0] and " 200 " in lines[0]
    for word in ("heart", token, "wrong-token"):
        assert word not in caplog.text


def test_chained_errors_are_described_without_their_messages(caplog):
    async def chained(scope, receive, send):
        try:
            raise KeyError("red")
        except KeyError as error:
            raise ValueError("heart") from error

    call(guarded(chained))
    assert "ValueError" in caplog.text and "KeyError" in caplog.text
    assert "red" not in caplog.text.replace("described", "") and "heart" not in caplog.text


def test_start_and_end_of_the_server_are_passed_on():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(guard(app, ServerSettings())({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


def test_echo_is_the_dummy_that_the_tests_mean():
    assert call(echo, "POST", "/x", body=b"123").status == 200
