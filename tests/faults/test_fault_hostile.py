"""Rows of the fault table about hostile values: on their way out, as numbers, in forms, as names.

Also: calls that are cancelled while they wait, and signals at any moment.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import threading
from pydoc import locate

import pytest
from fault_cases import COMMAND_LINE, HTTP, PYTHON, covers
from fault_server import connect, post, serving, status_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref.apps.cli.main import main
from ldmref.apps.mcp.protocol import Protocol, Tool
from ldmref.apps.mcp.stdio import serve_stdio

HALF = '"\\ud800"'
JSON = {"Content-Type": "application/json"}
SHORT = {"prompt": "cat", "steps": 1}
CALL = {"jsonrpc": "2.0", "method": "tools/call"}

# -- 139: half a surrogate pair -------------------------------------------------------------------

BRANCH = '{"kind": "branch", "trunk": {"parameters": {"prompt": "cat", "steps": 2}}, "step": 1, '
QUOTING = (
    ("/v1/generate", "{HALF: 1}", 400),
    ("/v1/generate", '{"model": HALF}', 404),
    ("/v1/generate", '{"kind": HALF}', 400),
    ("/v1/generate", '{"parameters": {HALF: 1}}', 422),
    ("/v1/generate", '{"parameters": {"prompt": "cat", "sampler": HALF}}', 422),
    ("/v1/jobs", BRANCH + '"changes": {"prompt": HALF}}', 202),
    ("/v1/jobs", BRANCH + '"changes": {HALF: 1}}', 422),
    ("/v1/images/generations", '{"prompt": "cat", "model": HALF}', 404),
    ("/v1/images/generations", '{"prompt": "cat", HALF: 1}', 400),
    ("/v1/images/generations", '{"prompt": "cat", "steps": 1, "user": HALF}', 200),
    ("/sdapi/v1/txt2img", '{"prompt": "cat", "steps": 1, "styles": [HALF]}', 200),
    ("/sdapi/v1/txt2img", '{"prompt": "cat", "steps": 1, HALF: 5}', 200),
    ("/sdapi/v1/txt2img", '{"prompt": "cat", "steps": 1, "override_settings": {HALF: 1}}', 200),
    ("/sdapi/v1/txt2img", '{"prompt": "cat", "sampler_name": HALF}', 404),
    ("/sdapi/v1/options", '{"sd_model_checkpoint": HALF}', 404),
    ("/mcp", '{"jsonrpc": "2.0", "id": HALF, "method": "ping"}', 200),
    ("/mcp", '{"jsonrpc": "2.0", "id": 1, "method": HALF}', 200),
    ("/mcp", '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": HALF}}', 200),
)


@covers(139, "18 requests that are quoted", HTTP)
def test_half_a_pair_is_quoted(client):
    for path, body, status in QUOTING:
        answer = client.post(path, content=body.replace("HALF", HALF), headers=JSON)
        assert answer.status_code == status, (body, answer.text)
        json.loads(answer.content.decode("utf-8"))
    jobs = client.get("/v1/jobs")
    assert jobs.status_code == 200 and client.get(jobs.json()["jobs"][0]["url"]).status_code == 200


@covers(139, "record of an image", HTTP)
def test_half_a_pair_in_an_image(client):
    info = PngInfo()
    info.add_text("ldmref", f'{{"mode": "txt2img", "prompt": {HALF}}}')
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    answer = client.post("/v1/inspect", content=file.getvalue())
    assert answer.status_code == 200 and answer.json()["recorded"]["prompt"] == "\ud800"
    sent = {"image": base64.b64encode(file.getvalue()).decode()}
    assert client.post("/sdapi/v1/png-info", json=sent).status_code == 200


# -- 140: forms -----------------------------------------------------------------------------------


def send_form(client, parts, kind="; boundary=x"):
    body = "".join(f"--x\r\n{head}\r\n\r\n{text}\r\n" for head, text in parts) + "--x--\r\n"
    headers = {"Content-Type": f"multipart/form-data{kind}"}
    return client.post("/v1/images/edits", content=body.encode(), headers=headers)


def field(name, more=""):
    return f'Content-Disposition: form-data; name="{name}"{more}'


@covers(140, "seven charsets, and no boundary", HTTP, code="E-FORM")
def test_charsets_of_forms(client):
    parts = [(field("prompt"), "a-" * 20_000)]
    for charset in ("punycode", "undefined", "idna", "utf-7", "rot13", "hex", "utf-16"):
        answer = send_form(client, parts, f"; boundary=x; charset={charset}")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "E-FORM"), charset
    for kind in ("; boundary=x; charset=UTF-8", '; charset="utf-8"; boundary=x'):
        assert "image" in send_form(client, parts, kind).json()["error"]["message"]
    assert send_form(client, parts, "").json()["error"]["code"] == "E-FORM"


@covers(140, "part without a name, 101 fields, unknown file", HTTP)
def test_damaged_forms(client):
    file = '; filename="a.png"'
    for parts, code in (
        ([("X: y", "z")], "E-FORM"),
        ([(field(f"n{i}"), "1") for i in range(101)], "E-FORM"),
        ([(field("other", file), "x"), (field("image", file), "x")], "unknown_parameter"),
        ([(field("image"), "x")], "invalid_value"),
        ([(field("prompt"), "x")], "missing_parameter"),
    ):
        answer = send_form(client, parts)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@covers(140, "JSON in a field that Python reads and the body's rules refuse", HTTP)
def test_numbers_of_forms(client):
    image = field("image", '; filename="a.png"')
    for text in ("NaN", "1e999", "-Infinity", "9" * 5000, "[" * 5000, '{"a": 1, "a": 2}'):
        parts = [(field("prompt"), "cat"), (field("cfg_scale"), text), (image, "x")]
        assert send_form(client, parts).status_code == 400, text[:20]


# -- 141: numbers outside of JSON -----------------------------------------------------------------

NOT_NUMBERS = ("--5", "-", "5-", "1_0", "٣", "0x5", "1e", "", "9" * 5000)


@covers(141, "nine texts in A1111's fields", HTTP)
def test_numbers_of_a1111(client):
    for name in ("steps", "width", "seed", "cfg_scale"):
        for text in NOT_NUMBERS:
            answer = client.post("/sdapi/v1/txt2img", json=SHORT | {name: text})
            assert answer.status_code == 422, (name, text[:20])
    for values in ({"steps": " 1 "}, {"steps": "1", "cfg_scale": "-1.5"}, {"seed": "-1"}):
        assert client.post("/sdapi/v1/txt2img", json=SHORT | values).status_code == 200


@covers(141, "paths, queries and headers", HTTP, code="E-IMAGE")
def test_numbers_of_paths(client):
    job = client.post("/v1/jobs", json={"parameters": SHORT}).json()["url"]
    for text in ("9" * 5000, "-1", "0x0", "٠", "1", "999999999"):
        answer = client.get(f"{job}/images/{text}.png")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "E-IMAGE")
    assert client.get(f"{job}/events").status_code == 200
    assert client.get(f"{job}/images/0.png").status_code == 200
    assert client.get(f"{job}/events", headers={"Last-Event-ID": "9" * 5000}).status_code == 200
    body = {"parameters": SHORT}
    assert client.post(f"/v1/generate?image={'9' * 5000}", json=body).status_code == 200


# -- 144: cancelled while it waits ----------------------------------------------------------------


class Input:
    """A standard input whose lines may wait for something."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def readline(self, most):
        if not self.lines:
            return b""
        line = self.lines.pop(0)
        if callable(line):
            line()
            return b"\n"
        return json.dumps(line).encode() + b"\n"


def cancelling(id):
    params = {"requestId": id}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


@covers(144, "second call over standard input, while the first runs", PYTHON)
def test_waiting_call():
    ran = []
    begun, go_on = threading.Event(), threading.Event()

    def work(arguments, call):
        ran.append(arguments["name"])
        begun.set()
        assert go_on.wait(20)
        return []

    protocol = Protocol([Tool("work", "Works.", {}, work)])
    calls = [
        CALL | {"id": name, "params": {"name": "work", "arguments": {"name": name}}}
        for name in ("first", "second", "third")
    ]
    answers = io.BytesIO()
    lines = Input(*calls, begun.wait, cancelling("second"), cancelling("none"), go_on.set)
    serve_stdio(protocol, lines, answers)  # type: ignore[arg-type]
    assert ran == ["first", "third"]
    results = {
        m["id"]: m["result"]["isError"] for m in map(json.loads, answers.getvalue().splitlines())
    }
    assert results == {"first": False, "second": True, "third": False}
    assert not protocol._running


@covers(144, "call over HTTP whose client leaves before it begins", PYTHON)
def test_call_of_a_client_that_left():
    ran = []
    protocol = Protocol([Tool("work", "Works.", {}, lambda arguments, call: ran.append(1) or [])])
    call = CALL | {"id": 1, "params": {"name": "work"}}
    protocol.accept(call)
    protocol.cancel_all()
    assert protocol.answer(call)["result"]["isError"] and not ran
    assert not protocol.answer(call)["result"]["isError"] and ran  # the next one is not cancelled


@covers(144, "signal while tools run over standard input", PYTHON)
def test_input_that_is_interrupted():
    begun = threading.Event()

    def work(arguments, call):
        begun.set()
        assert call.cancel.wait(20)
        return []

    def interrupt():
        assert begun.wait(20)
        raise KeyboardInterrupt

    call = CALL | {"id": 1, "params": {"name": "work"}}
    protocol = Protocol([Tool("work", "Works.", {}, work)])
    with pytest.raises(KeyboardInterrupt):
        serve_stdio(protocol, Input(call, interrupt), io.BytesIO())  # type: ignore[arg-type]


# -- 145, 146: signals ----------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="POSIX sockets")
@covers(145, "half a body, half a form, and a job that is awaited", HTTP, code="E-STOPPING")
def test_stop_during_an_upload(tiny, caplog):
    long = json.dumps({"parameters": {"prompt": "cat", "steps": 1000, "count": 8}}).encode()
    with serving(tiny, body_timeout=60) as port:
        uploads = [connect(port) for _ in range(3)]
        uploads[0].sendall(post(length=1000) + b'{"parameters"')
        uploads[1].sendall(post(path="/v1/images/edits", length=1000) + b"--x")
        uploads[2].sendall(post(length=len(long)) + long)
        with connect(port) as other:  # so the others have arrived
            other.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(other) == 200
    assert {status_of(upload) for upload in uploads} <= {503, 409}
    for upload in uploads:
        upload.close()
    assert not [record for record in caplog.records if record.exc_info]
    assert "Exception in ASGI" not in caplog.text and "without" not in caplog.text


def interrupting(function):
    """Return a function that gets SIGTERM before it is called."""

    def wrapped(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    return wrapped


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@covers(146, "export, cases make and record", COMMAND_LINE, code="E-CANCELLED")
def test_sigterm_at_any_moment(stage, monkeypatch):
    pytest.importorskip("onnx")
    folder = str(stage.model_folder)
    commands = {
        "ldmref.export.folder._write_tokenizers": ["export", "onnx", folder, "-o", "out"],
        "ldmref.cases.make._write_values": ["cases", "make", "--part", "schedules", "-o", "out"],
        "ldmref.explore.record.record_prepared": ["record", "cat", "-m", folder, "--steps", "2"],
    }
    for name, argv in commands.items():
        before = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(name, interrupting(locate(name)))
            code = main(argv)
        _, err = stage.capfd.readouterr()
        assert code == 143 and "E-CANCELLED" in err and "Traceback" not in err, (name, code, err)
        assert not stage.files().keys() - {str(p) for p in stage.inputs.rglob("*")}, name
        assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_of_the_caller_are_kept():
    from ldmref.apps.cli.progress import ending

    def own(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with ending():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
