"""Connections that stay open for several requests."""

from __future__ import annotations

import http.client
import socket

from threaded_server import serve_in_thread


def test_an_answer_is_sent_at_once(tiny):
    """Else each answer on an open connection waits 40 ms for the client's acknowledgement."""
    with serve_in_thread({"tiny": tiny}) as running:
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=20)
        for _ in range(2):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        [protocol] = running.server.server_state.connections
        found = protocol.transport.get_extra_info("socket")
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()
