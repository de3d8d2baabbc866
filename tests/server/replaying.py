"""Recorded requests of clients, sent again as they were."""

import base64
import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from PIL import Image

import ldmref
from ldmref.models.model import LatentDiffusion

RECORDED = Path(__file__).parent / "recorded"
CLIENTS = ("webuiapi", "sillytavern", "open_webui", "openai")


@cache
def load_recorded(client):
    """Return the requests of a client by name."""
    return json.loads((RECORDED / f"{client}.json").read_text())["requests"]


def recorded(client, name, **changes):
    """One recorded request; `changes` replace entries of its JSON."""
    request = load_recorded(client)[name]
    return request | {"json": request["json"] | changes} if changes else request


def replay(server, request):
    """Send a recorded request with its own headers; the Host is that of the server."""
    headers = {name: value for name, value in request["headers"].items() if name != "host"}
    arguments = {}
    if "base64" in request:
        arguments["content"] = base64.b64decode(request["base64"])
    elif "json" in request:
        arguments["content"] = json.dumps(request["json"])
    elif "form" in request:
        png = encode(Image.new("RGB", (16, 16), "red"))
        arguments["data"] = request["form"]
        files = request["files"].items()
        arguments["files"] = {name: ("image.png", png, media_type) for name, media_type in files}
    return server.client.request(request["method"], request["path"], headers=headers, **arguments)


def encode(image):
    """Return the bytes of an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def to_base64(image):
    return base64.b64encode(encode(image)).decode()


def from_base64(text):
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


ODD_VALUES = (
    None, True, False, 0, 1, -1, 2.5, -0.0, 1e300, 10**30, "", "1", "x" * 300, "\x00", "🐶", [], {},
    [[]], ["a", 1], {"a": {}}, [None],
)  # fmt: skip


@cache
def model_of_one_size():
    """Return the tiny model, declared to know its own size only, as the embedded model."""
    tiny = ldmref.random_model("tiny", backend="numpy")
    defaults = replace(tiny.config.defaults, one_size=True)
    config = replace(tiny.config, defaults=defaults)
    return LatentDiffusion(tiny.backend, config, tiny.params, tiny.tokenizer)
