"""The client of the official `mcp` package against `ldmref mcp`."""

import asyncio
import base64
import io
import json
import sys

import pytest
from PIL import Image

import ldmref
from ldmref import modes

mcp = pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters  # noqa: E402
from mcp.client.stdio import stdio_client  # noqa: E402

COMMAND = StdioServerParameters(command=sys.executable, args=["-m", "ldmref", "mcp"])


def talk(conversation):
    """Run `conversation(client)` with its own server; they agree on a version by themselves."""

    async def run():
        async with Client(stdio_client(COMMAND)) as client:
            return await conversation(client)

    return asyncio.run(run())


def test_the_official_client_lists_and_calls_every_tool():
    async def conversation(client):
        listed = await client.list_tools()
        formula = await client.call_tool("check_formula", {"name": "x0_from_v", "cases": 3})
        rows = await client.call_tool("where_implementations_differ", {"sampler": "DPM++ 2M"})
        known = await client.call_tool("find_pitfalls", {"words": ["Z-Image", "padding"]})
        named = await client.call_tool("flow_schedule", {"numbers": "1.0 0.9 0.75 0.5"})
        made = await client.call_tool("flow_schedule", {"family": "SD3", "steps": 4})
        return listed.tools, formula, rows, known, named, made

    tools, formula, rows, known, named, made = talk(conversation)
    assert [tool.name for tool in tools] == [
        "generate_image",
        "check_formula",
        "where_implementations_differ",
        "find_pitfalls",
        "flow_schedule",
    ]
    (pitfall,) = json.loads(known.content[0].text)["pitfalls"]
    assert pitfall["reasonable"] and pitfall["links"][0].startswith("https://github.com/")
    assert "Z-Image, constant shift 3" in json.loads(named.content[0].text)["same"][0]
    stability = next(
        row for row in json.loads(made.content[0].text) if row["program"] == "Stability"
    )
    assert stability["made"][1] == pytest.approx(0.857692, abs=1e-6)
    assert json.loads(formula.content[0].text)["holds"]
    assert all("dpmpp_2m" in row["samplers"] for row in json.loads(rows.content[0].text))


def test_its_image_is_the_image_of_python_and_progress_is_reported():
    seen = []

    async def conversation(client):
        async def progress(step, total, message):
            seen.append((step, total))

        arguments = {"prompt": "red heart", "seed": 1, "steps": 2}
        return await client.call_tool("generate_image", arguments, progress_callback=progress)

    result = talk(conversation)
    data, params = result.content[:2]
    image = Image.open(io.BytesIO(base64.b64decode(data.data)))
    expected = modes.txt2img(ldmref.load(), "red heart", seed=1, steps=2)
    assert image.tobytes() == expected[0].tobytes()
    assert json.loads(params.text)["seed"] == 1
    assert seen == [(1, 2), (2, 2)]
