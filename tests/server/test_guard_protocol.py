"""The guard against connections, by raw sockets: what never becomes a request, and slow clients."""

from __future__ import annotations

import json
import socket
import time

import pytest
from guard_apps import exchange, read_all, request, serving, status_of

from ldmref.apps.server.guard import Limits, uvicorn_options
from ldmref.apps.server.guard.limits import connections_allowed
from ldmref.support.server_settings import ServerSettings

QUICK = Limits(chunk=0.4, write=0.5, linger=0.5, keep_alive=0.5)


@pytest.fixture(scope="module")
def port():
    with serving(limits=QUICK, max_body=100_000, body_timeout=1.5) as port:
        yield port
        assert status_of(exchange(port, request())) == 200


def connect(port: int, timeout: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout)


NOT_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x00: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    b"GET /\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("data", NOT_HTTP, ids=range(len(NOT_HTTP)))
def test_what_is_not_http_is_refused(port, data):
    assert status_of(exchange(port, data)) == 400


@pytest.mark.parametrize(
    "line",
    ["X: " + "a" * 100_000, "\r\n".join(f"X{i}: y" for i in range(20_000))],
    ids=["one", "many"],
)
def test_head_that_is_too_large_is_refused(port, line):
    answer = exchange(port, request("GET", "/", line))
    assert status_of(answer) == 431 and b"E-HEAD" in answer


SIZES = {"below uvicorn's limit": 100_000, "above": 300_000, "far above": 1_000_000}
LARGE = {  # what is large -> (head of a request with n letters of it, status)
    "path": (lambda n: request("GET", "/v1/" + "a" * n), 414),
    "query": (lambda n: request("GET", "/v1/words?start=" + "a" * n), 414),
    "header": (lambda n: request("GET", "/v1/words", "X: " + "a" * n), 431),
    "headers": (
        lambda n: request("GET", "/v1/words", "\r\n".join(f"X{i}: {i}" for i in range(n // 12))),
        431,
    ),
    "other interface": (lambda n: request("GET", "/sdapi/v1/options?a=" + "a" * n), 414),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LARGE)
def test_large_heads_are_answered_and_not_reset(name, size, port):
    """A client that sends everything before it reads still gets the whole answer."""
    make, status = LARGE[name]
    answer = exchange(port, make(SIZES[size]))
    assert status_of(answer) == status, answer[:200]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"E-HEAD" in body or name == "other interface"
    assert json.loads(body) and f"content-length: {len(body)}".encode() in head.lower()


def test_version_that_does_not_exist_is_refused(port):
    data = request().replace(b"HTTP/1.1", b"HTTP/9.9")
    assert status_of(exchange(port, data)) == 505


def test_head_without_end_is_refused(port):
    with connect(port) as connection:
        try:
            while True:
                connection.sendall(b"X: " + b"a" * 65_536)
        except OSError:
            pass  # closed
    assert status_of(exchange(port, request())) == 200


def test_idle_connection_ends(port):
    with connect(port) as connection:
        connection.sendall(request().replace(b"Connection: close\r\n", b""))
        assert status_of(read_all(connection)) == 200


def test_body_that_stops_or_trickles_is_refused(port):
    head = request("POST", "/x", "Content-Length: 1000")
    assert status_of(exchange(port, head + b"abc")) == 408
    with connect(port) as connection:
        connection.sendall(head)
        connection.settimeout(0.2)
        answer = b""
        for _ in range(100):
            try:
                connection.sendall(b"x")
                answer = connection.recv(65_536)
                break
            except TimeoutError:
                continue
        assert status_of(answer) == 408


def test_body_longer_than_announced_is_not_part_of_the_request(port):
    data = request("POST", "/x", "Content-Length: 3") + b"abcGET /fail HTTP/1.1\r\n\r\n"
    answer = exchange(port, data)
    assert answer.count(b"HTTP/1.1 ") == 1 and b'"size": 3' in answer


def test_large_body_is_refused_and_the_client_can_read_why(port):
    with connect(port) as connection:
        connection.sendall(request("POST", "/x", f"Content-Length: {10**8}"))
        connection.settimeout(20)
        try:
            connection.sendall(b"x" * 10**7)
        except OSError:
            pass  # closed after `linger`
        assert status_of(connection.recv(65_536)) == 413


def test_endless_chunks_are_refused(port):
    with connect(port) as connection:
        connection.sendall(request("POST", "/x", "Transfer-Encoding: chunked"))
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        ended = time.monotonic() + 20
        try:
            while time.monotonic() < ended:
                connection.sendall(chunk)
        except OSError:
            pass
        else:
            pytest.fail("the connection is still open")
    assert status_of(exchange(port, request())) == 200


def test_endless_line_of_a_chunk_is_refused(port):
    with connect(port) as connection:
        connection.sendall(
            request("POST", "/x", "Transfer-Encoding: chunked") + b"5;" + b"a" * 400_000
        )
        assert status_of(connection.recv(65_536)) == 400


def test_nothing_is_read_of_a_refused_request_that_expects_100(port):
    lines = ("Expect: 100-continue", "Content-Length: 200000")
    assert status_of(exchange(port, request("POST", "/x", *lines))) == 413
    with connect(port) as connection:
        connection.sendall(request("POST", "/x", "Expect: 100-continue", "Content-Length: 3"))
        assert status_of(connection.recv(1000)) == 100
        connection.sendall(b"abc")
        assert status_of(read_all(connection)) == 200


def test_upgrades_are_not_made(port):
    for lines in (
        ("Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"),
        ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
    ):
        data = request("GET", "/", *lines).replace(b"Connection: close", b"Connection: Upgrade")
        assert status_of(exchange(port, data)) == 200  # answered as what it is without the upgrade


async def big(scope, receive, send):
    """An answer of 40 MB, which no buffer of the system holds."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * BIG, "more_body": True})
    ENDED.append(scope["path"])
    await send({"type": "http.response.body", "body": b""})


BIG = 40_000_000
ENDED = []


def test_client_that_does_not_read_is_dropped_and_a_slow_one_is_not():
    with serving(big, limits=QUICK) as port:
        with connect(port, 20) as idle, connect(port, 20) as slow:
            idle.sendall(request("GET", "/idle"))
            slow.sendall(request("GET", "/slow"))
            received = 0
            for _ in range(8):  # two seconds, four times the limit
                time.sleep(0.25)
                received += len(slow.recv(2**19, socket.MSG_WAITALL))
            received += len(read_all(slow))
            assert received > BIG
            assert len(read_all(idle)) < BIG
    assert ENDED == ["/slow"]


def test_connections_are_limited_and_their_places_returned():
    with serving(limits=QUICK, max_connections=3) as port:
        for _ in range(2):
            held = [connect(port) for _ in range(3)]
            time.sleep(0.1)
            assert status_of(exchange(port, request())) == 503
            held.pop().close()
            time.sleep(0.1)
            assert status_of(exchange(port, request())) == 200
            for connection in held:
                connection.close()
            time.sleep(0.1)
            assert status_of(exchange(port, request())) == 200


def test_connections_leave_room_for_files():
    assert connections_allowed(10) == 10
    assert connections_allowed(10**9) < 10**9


def test_headers_of_proxies_are_not_believed():
    options = uvicorn_options(ServerSettings())
    assert options["proxy_headers"] is False and options["server_header"] is False
    assert options["access_log"] is False and options["ws"] == "none"
