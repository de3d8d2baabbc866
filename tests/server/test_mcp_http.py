"""The Model Context Protocol at /mcp."""

import asyncio
import base64
import io
import json
import threading
import time

import pytest
from PIL import Image

from ldmref import modes

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def call(server, tool, id=1, **arguments):
    params = {"name": tool, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
    return server.client.post("/mcp", json=message).json()["result"]


def test_the_image_is_the_image_of_python(server, tiny):
    result = call(server, "generate_image", prompt="a cat", seed=3, steps=2)
    data, params = result["content"][:2]
    image = Image.open(io.BytesIO(base64.b64decode(data["data"])))
    assert image.tobytes() == modes.txt2img(tiny, "a cat", seed=3, steps=2)[0].tobytes()
    assert json.loads(params["text"])["seed"] == 3


def test_the_official_client_speaks_with_it(server):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamable_http_client

    async def run():
        async with (
            streamable_http_client(server.url + "/mcp") as streams,
            mcp.ClientSession(*streams[:2]) as session,
        ):
            await session.initialize()
            listed = await session.list_tools()
            result = await session.call_tool("check_formula", {"name": "snr", "cases": 2})
            return [tool.name for tool in listed.tools], json.loads(result.content[0].text)

    names, answer = asyncio.run(run())
    assert len(names) == 5 and answer["holds"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, -32700),
        (b"[" * 5000 + b"]" * 5000, {}, 400, -32700),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "x", "params": NaN}', {}, 400, -32700),
        (b"[]", {}, 200, -32600),
        (json.dumps(PING).encode(), {"MCP-Protocol-Version": "1999"}, 400, -32600),
    ],
)
def test_wrong_messages_are_refused(server, body, headers, status, code):
    headers = {"Content-Type": "application/json"} | headers
    ran = server.client.post("/mcp", content=body, headers=headers)
    assert (ran.status_code, ran.json()["error"]["code"]) == (status, code)
    assert server.client.post("/mcp", json=PING).json()["result"] == {}


def test_notifications_are_accepted_and_streams_are_not_offered(server):
    message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    ran = server.client.post("/mcp", json=message)
    assert (ran.status_code, ran.content) == (202, b"")
    assert server.client.get("/mcp").status_code == 405


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("check_formula", {"name": "snr", "code": "print(1)"}, "unknown key code"),
        ("generate_image", {"prompt": "a", "control": [{"path": "/etc/passwd"}]}, "no argument"),
        ("generate_image", {"prompt": "a", "steps": 0}, "steps must be"),
        ("generate_image", {"prompt": "a", "count": 17}, "at most 16"),
    ],
)
def test_nothing_is_run_or_opened_for_a_client(server, tool, arguments, words):
    result = call(server, tool, **arguments)
    assert result["isError"] and words in result["content"][0]["text"]


def test_a_client_that_leaves_frees_its_place(server):
    def leave():
        arguments = {"prompt": "a", "steps": 1000, "count": 16}
        params = {"name": "generate_image", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        with pytest.raises(Exception, match="timed out"):
            server.client.post("/mcp", json=message, timeout=0.5)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    end = time.monotonic() + 20
    while time.monotonic() < end and not all(job.has_ended for job in server.engine.jobs()):
        time.sleep(0.05)
    assert [job.state for job in server.engine.jobs()] == ["cancelled"]
