"""Hostile requests, one line each: what is sent, and the status that it must get.

`HEADS` are wrong by their heads or by the way in which their bodies arrive: every interface refuses
them in the same way. `BODIES` have wrong JSON, or wrong values in JSON.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

MAX_BODY = 1_000_000  # of the server under test
EVIL = "http://evil.example"


class Interface(NamedTuple):
    """An interface of the server: the route that generates, and a body that it accepts."""

    path: str
    body: dict[str, Any]
    parameters: tuple[str, ...]  # where the parameters of an image are in the body

    def with_parameters(self, changes: Mapping[str, Any]) -> bytes:
        """Return the body with other parameters."""
        body = json.loads(json.dumps(self.body))
        inner = body
        for key in self.parameters:
            inner = inner[key]
        inner |= changes
        return json.dumps(body).encode()

    @property
    def plain(self) -> bytes:
        return json.dumps(self.body).encode()


SHORT = {"prompt": "cat", "steps": 1, "seed": 3}
INTERFACES = {
    "native": Interface("/v1/generate", {"parameters": SHORT}, ("parameters",)),
    "A1111": Interface("/sdapi/v1/txt2img", SHORT, ()),
    "OpenAI": Interface("/v1/images/generations", {"prompt": "cat", "size": "auto"}, ()),
    "MCP": Interface(
        "/mcp",
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "generate_image", "arguments": SHORT},
        },
        ("params", "arguments"),
    ),
}


class Hostile(NamedTuple):
    """A request that is wrong by its head; `None` as a header removes it."""

    title: str
    statuses: tuple[int, ...]
    headers: Mapping[str, str | None] = {}
    body: bytes | None = None  # instead of one that is accepted
    method: str = "POST"
    lines: tuple[str, ...] = ()  # further lines of the head, as they are
    target: str | None = None
    host: str | None = "localhost"
    is_http: bool = True  # otherwise uvicorn may refuse it, in plain text


def head(title: str, status: int | tuple[int, ...], **values: Any) -> Hostile:
    return Hostile(title, status if isinstance(status, tuple) else (status,), **values)


def not_http(title: str, status: int | tuple[int, ...], **values: Any) -> Hostile:
    return head(title, status, is_http=False, **values)


CHUNK = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
BOMB = gzip.compress(b" " * 50_000_000)
JSON_BOMB = zlib.compress(b"[" * 50_000_000)

HEADS = [
    # -- Host
    head("host of another server", 403, host="evil.example"),
    head("host of another server, our port", 403, host="evil.example:7860"),
    head("host that begins like ours", 403, host="localhost.evil.example"),
    head("address of another machine", 403, host="192.168.1.7"),
    head("host with a user", 400, host="localhost@evil.example"),
    head("two hosts in one header", 400, host="localhost, evil.example"),
    head("empty host", 400, host=""),
    head("forwarded host", 403, host="evil.example", headers={"X-Forwarded-Host": "localhost"}),
    # -- Origin
    head("origin of another page", 403, headers={"Origin": EVIL}),
    head("origin of another port", 403, headers={"Origin": "http://localhost:1"}),
    head("origin null", 403, headers={"Origin": "null"}),
    head("origin of a file", 403, headers={"Origin": "file://"}),
    head("origin that begins like ours", 403, headers={"Origin": "http://localhost.evil.example"}),
    head("two origins", 403, headers={"Origin": "http://localhost"}, lines=(f"Origin: {EVIL}",)),
    head("form of another page", 403, headers={"Sec-Fetch-Site": "cross-site"}),
    head("form of a page at another port", 403, headers={"Sec-Fetch-Site": "same-site"}),
    head("preflight of another page", 403, method="OPTIONS", body=b"",
         headers={"Origin": EVIL, "Access-Control-Request-Method": "POST"}),
    # -- type and coding
    head("form", 415, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    head("text, as a form can send it", 415, headers={"Content-Type": "text/plain"}),
    head("form with files", 415, headers={"Content-Type": "multipart/form-data; boundary=x"}),
    head("two types", 415, lines=("Content-Type: text/plain",)),
    head("gzip bomb", 415, headers={"Content-Encoding": "gzip"}, body=BOMB),
    head("deflate bomb", 415, headers={"Content-Encoding": "deflate"}, body=JSON_BOMB),
    head("unknown coding", 415, headers={"Content-Encoding": "br"}),
    # -- length
    head("100 MB announced", 413, headers={"Content-Length": "100000000"}, body=b"{"),
    not_http("10^30 bytes announced", (400, 413), headers={"Content-Length": "1" + "0" * 30}),
    head("one byte too long", 413, body=b" " * (MAX_BODY + 1)),
    head("chunks beyond the limit", 413, body=CHUNK * (MAX_BODY // 0x8000 + 1),
         headers={"Content-Length": None, "Transfer-Encoding": "chunked"}),
    head("chunks that stop", 408, body=b"5\r\n{}   \r\n",
         headers={"Content-Length": None, "Transfer-Encoding": "chunked"}),
    head("fewer bytes than announced", 408, headers={"Content-Length": "1000"}),
    not_http("negative length", 400, headers={"Content-Length": "-5"}),
    not_http("length of another base", 400, headers={"Content-Length": "0x10"}),
    not_http("two lengths", 400, lines=("Content-Length: 3",)),
    head("length and chunks (smuggling)", 400, headers={"Transfer-Encoding": "chunked"},
         body=b"0\r\n\r\nGET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    head("chunked in capitals, and a length", 400, headers={"Transfer-Encoding": "CHUNKED"}),
    not_http("chunked twice", (400, 501), headers={"Content-Length": None},
         lines=("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), body=b"0\r\n\r\n"),
    not_http("chunked, then something else", (400, 501), body=b"0\r\n\r\n",
         headers={"Content-Length": None, "Transfer-Encoding": "chunked, identity"}),
    not_http("chunk of a size that is not a number", 400, body=b"-1\r\nx\r\n0\r\n\r\n",
         headers={"Content-Length": None, "Transfer-Encoding": "chunked"}),
    # -- syntax
    not_http("space before the colon", 400, lines=("Content-Length : 5",)),
    not_http("folded line of another header", 400, headers={"Host": None},
         lines=("X: y", " Host: localhost"), host=None),
    not_http("line feed in a header", (400, 403), lines=("X: a\nHost: evil.example",)),
    not_http("null in a header", 400, lines=("X: a\x00b",)),
    head("header of 100 kB", 431, lines=("X: " + "a" * 100_000,)),
    head("10,000 headers", 431, lines=tuple(f"X{i}: y" for i in range(10_000))),
    # -- method and target
    head("method TRACE", 405, method="TRACE"),
    head("method PUT", 405, method="PUT"),
    head("method CONNECT", (400, 405), method="CONNECT"),
    head("method that does not exist", 405, method="HACK"),
    head("method in small letters", 405, method="post"),
    head("method override by header", (404, 405), method="GET", body=b"",
         headers={"X-HTTP-Method-Override": "POST", "X-Method-Override": "DELETE"}),
    head("target of another server", 400, target="http://evil.example/v1/jobs"),
    head("target without a slash", 400, target="v1/jobs"),
    head("upgrade to a WebSocket", (404, 405), method="GET", body=b"", headers={
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "eA==",
        "Sec-WebSocket-Version": "13"}),
]  # fmt: skip


# -- JSON -----------------------------------------------------------------------------------------


def png(width: int = 16, height: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def promised_png(width: int, height: int) -> bytes:
    """Return a PNG whose head promises a size, and whose data are a few bytes."""

    def part(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" * 1000)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", data) + part(b"IEND", b"")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


WRONG_JSON = {
    "empty": b"", "not JSON": b"prompt=cat", "half": b'{"parameters": {"prompt": "cat"',
    "array": b"[]", "text": b'"cat"', "null": b"null", "number": b"7",
    "nested 100,000 deep": b"[" * 100_000, "nested and closed": b"[" * 20_000 + b"]" * 20_000,
    "objects nested 50,000 deep": b'{"a":' * 50_000,
    "NaN": b'{"parameters": {"prompt": "cat", "cfg_scale": NaN}, "cfg_scale": NaN}',
    "infinity": b'{"parameters": {"cfg_scale": -Infinity}, "cfg_scale": -Infinity}',
    "1e999": b'{"parameters": {"cfg_scale": 1e999}, "cfg_scale": 1e999}',
    "number of 100,000 digits": b'{"seed": ' + b"9" * 100_000 + b"}",
    "repeated key": b'{"prompt": "cat", "prompt": "dog"}', "Latin-1": b'{"prompt": "\xe9"}',
    "UTF-16": '{"prompt": "cat"}'.encode("utf-16"), "null byte": b'{"prompt": "cat"}\x00',
    "900,000 commas": b"[" + b"0," * 450_000 + b"0]", "comment": b'{/* */"prompt": "cat"}',
}  # fmt: skip

# Values of parameters that every interface has.
WRONG_PROMPTS = {
    "number": 5,
    "list of numbers": [1, 2],
    "object": {"a": 1},
    "true": True,
    "500 kB": "cat " * 125_000,
    "lone surrogate": "cat \ud800",
}

# Values of parameters of the native interface.
WRONG_VALUES: list[tuple[str, dict[str, Any]]] = [
    (f"{name} {value!r:.40}", {name: value})
    for name, values in {
        "steps": [0, -1, 1.5, "5", True, [], {}, 10**9, 10**300],
        "seed": [-2, 2**64, 1.5, "x", [1, "2"], {}],
        "cfg_scale": ["7", [], {}, True, 10**300],
        "width": [0, -8, 7, 10**9, 1.5, "128", None, []],
        "count": [0, -1, 10**9, "1", 65],
        "sampler": ["os.system", "../euler", "", 5, [], {}, "euler\x00", "a" * 100_000],
        "schedule": ["http://evil.example", 5, []],
        "guidance": ["ldmref.errors:LdmrefError", 5, {"name": "x"}, {"__class__": "x"}],
        "callback": ["print", 5], "cancel": [True],
        "latents": ["/etc/passwd", 5, {}, [[]], [["a"]]],
        "prompt_embeds": ["/etc/passwd", encoded(b"\x80\x04\x95cos\nsystem\n")],
        "control": ["/etc/passwd", [{"model": "/etc/passwd"}], [{"net": "/etc/passwd"}]],
        "__class__": ["x"], "__init__": [{}], "self": [1], "model": ["/etc/passwd"],
        "output": ["/tmp/x.png"], "save": ["/tmp/x.png"], "": [1], "prompt_file": ["/etc/passwd"],
        "config": ["/etc/passwd"], "override_settings": [{"sd_model_checkpoint": "/etc/passwd"}],
    }.items()
    for value in values
    if not (name == "width" and value is None)
]  # fmt: skip

WRONG_BODIES = {
    "unknown model": {"model": "dreamshaper"}, "path as model": {"model": "/etc/passwd"},
    "relative path as model": {"model": "../../etc/passwd"},
    "model with a null": {"model": "t\x00"},
    "URL as model": {"model": "http://evil.example/m.safetensors"}, "model 5": {"model": 5},
    "model list": {"model": ["tiny"]}, "unknown mode": {"mode": "shell"},
    "mode with dots": {"mode": "../txt2img"}, "mode __class__": {"mode": "__class__"},
    "mode 5": {"mode": 5}, "mode list": {"mode": []}, "unknown kind": {"kind": "exec"},
    "kind 5": {"kind": 5}, "kind list": {"kind": []}, "parameters list": {"parameters": []},
    "parameters text": {"parameters": "x"}, "parameters null": {"parameters": None},
    "previews text": {"previews": "yes"}, "attended text": {"attended": "yes"},
    "unknown key": {"output": "/tmp/x.png"},
    "override_settings": {"override_settings": {"outdir_samples": "/tmp"}},
    "__proto__": {"__proto__": {"x": 1}},
}  # fmt: skip

# Texts and bytes in the place of an image; a path must not be opened, a URL must not be fetched.
# `{path}` is an image that exists, `{url}` is a server that counts its visitors.
WRONG_IMAGES: dict[str, Any] = {
    "path": "{path}", "file: URL": "file://{path}", "URL": "{url}", "URL without scheme": "//{url}",
    "data: URL of a URL": "data:text/uri-list,{url}",
    "data: URL without base64": "data:image/png,x",
    "path of a device": "/dev/zero", "path of this process": "/proc/self/environ",
    "pipe to a command": "| cat {path}", "home": "~/image.png", "5": 5, "list": [1, 2],
    "object": {"path": "{path}"}, "true": True, "empty": "", "not base64": "!!!!",
    "base64 of a text": encoded(b"hello" * 100), "base64 of a path": encoded(b"/etc/passwd"),
    "half a PNG": encoded(png(64, 64)[:60]), "head of a PNG": encoded(png()[:33]),
    "PNG of 60,000 x 60,000": encoded(promised_png(60_000, 60_000)),
    "PNG of 0 x 0": encoded(promised_png(0, 0)), "GIF": encoded(b"GIF89a" + b"\x01" * 50),
    "SVG": encoded(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>'),
    "EPS": encoded(b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n"),
    "pickle": encoded(b"\x80\x04cos\nsystem\n(S'id'\ntR."), "700 kB of A": "A" * 700_000,
}  # fmt: skip

PAYLOADS = [
    "..", "../", "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%252f..%252fetc%252fpasswd", "..%5c..%5cetc%5cpasswd",
    "..\\..\\etc\\passwd", "....//....//etc/passwd", "..;/..;/etc/passwd", "/etc/passwd",
    "//etc/passwd", "%2fetc%2fpasswd", "/%2fetc/passwd", "./index.html/../../settings.py",
    "../settings.py", "../__init__.py", "%2e%2e/settings.py", "..%c0%af..%c0%afetc/passwd",
    "..%ef%bc%8f..%ef%bc%8fetc/passwd", "%c0%ae%c0%ae/etc/passwd", "%uff0e%uff0e/etc/passwd",
    "index.html%00.js", "%00", "index.html%00", "index.html/", "index.html/..", "INDEX.HTML",
    "index.html::$DATA", "index.html.", "index.html%20", "C:/Windows/win.ini", "C:%5cboot.ini",
    "\\\\server\\share", "file:///etc/passwd", "http://evil.example/x.js", "//evil.example/x.js",
    "~/.ssh/id_rsa", "~root", "$HOME", "%24%7bHOME%7d", ".git/config", ".env", "CON", "nul",
    "%0d%0aSet-Cookie:%20x=1", "%1b%5b2J", "a" * 3000, "%f0%9f%92%80", "%ff%fe", ".", "%2e",
    "js/../../server/settings.py", "js/%2e%2e/%2e%2e/settings.py", "?file=/etc/passwd",
]  # fmt: skip
