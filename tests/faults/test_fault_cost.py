"""Rows of the fault table about the cost of refusing, and about who is served meanwhile."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fault_cases import HTTP, PYTHON, covers
from fault_growth import growth
from fault_server import connect, post, serving, status_of
from hypothesis import given
from hypothesis import strategies as st

from ldmref.apps.a1111 import prompts, reading
from ldmref.apps.mcp.formulas import MAX_BROADCAST, check_formula
from ldmref.apps.server import bodies
from ldmref.apps.server.errors import BadRequest
from ldmref.errors import UsageError, short_repr
from ldmref.io.images import infotext

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX sockets")


# -- 136: requests that are expensive to refuse ---------------------------------------------------


class CountedName(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        CountedName.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@covers(136, "5,000 keys, the last of which is repeated", PYTHON, code="E-JSON")
def test_repeated_key():
    n = 5000
    names = [CountedName(f"name {i}") for i in range(n)] + [CountedName(f"name {n - 1}")]
    CountedName.compared = 0
    with pytest.raises(BadRequest, match=f"'name {n - 1}' is repeated"):
        bodies._read_object([(name, 0) for name in names])
    assert CountedName.compared < 2 * n


class CountedValue:
    """A value that counts how often it is shown."""

    shown = 0

    def __repr__(self):
        CountedValue.shown += 1
        return "1.5"


@covers(136, "100,000 numbers, nested ones, and texts that a message quotes", PYTHON)
def test_quoted_values():
    many = [CountedValue()] * 100_000
    for value in (many, [many], {"a": many}, {"a": [[many]], "b": many}):
        CountedValue.shown = 0
        assert len(short_repr(value)) == 80 and CountedValue.shown < 1000
    assert short_repr([1, "a", {"b": [None]}]) == "[1, 'a', {'b': [None]}]"
    assert short_repr("a" * 10**6) == f"'{'a' * 76}..."


@covers(136, "the body is a list", HTTP, code="E-JSON")
def test_body_that_is_a_list(client):
    text = json.dumps([0.5] * 10_000)
    for path in ("/v1/generate", "/v1/images/generations", "/sdapi/v1/txt2img"):
        answer = client.post(path, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and len(answer.text) < 400


# -- 137: who is served meanwhile -----------------------------------------------------------------

JSON_PATHS = """
    /v1/generate /v1/jobs /v1/images/generations /sdapi/v1/txt2img /sdapi/v1/img2img
    /sdapi/v1/options /sdapi/v1/png-info /mcp
""".split()
FORM = "Content-Type: multipart/form-data; boundary=x"


class Waiting:
    """A parser that does not return before somebody else was answered."""

    def __init__(self):
        self.begun = threading.Event()
        self.served = threading.Event()

    def __call__(self, *arguments):
        self.begun.set()
        assert self.served.wait(20)
        raise BadRequest("waited", code="E-JSON")


def answer_meanwhile(port, head, body, waiting):
    """Send a request; while it is parsed, ask for /healthz. Return the status of both."""
    with connect(port) as slow, socket.create_connection(("127.0.0.1", port), 5) as other:
        slow.sendall(head + body)
        assert waiting.begun.wait(20)
        try:
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            healthy = status_of(other)
        except TimeoutError:
            healthy = 0
        waiting.served.set()
        return status_of(slow), healthy


@posix
@covers(137, "JSON of eight routes", HTTP)
def test_others_are_served_while_json_is_parsed(tiny, monkeypatch):
    with serving(tiny) as port:
        for path in JSON_PATHS:
            waiting = Waiting()
            monkeypatch.setattr(bodies, "read_json", waiting)
            head = post(path=path, length=2)
            assert answer_meanwhile(port, head, b"{}", waiting) == (400, 200), path


@posix
@covers(137, "form, and image to inspect", HTTP)
def test_others_are_served_while_a_form_or_an_image_is_read(tiny, monkeypatch):
    waiting = Waiting()
    with serving(tiny) as port:
        monkeypatch.setattr("ldmref.apps.server.openai.fields.parse_form", waiting)
        head = post(FORM, path="/v1/images/edits", length=2)
        head = head.replace(b"Content-Type: application/json\r\n", b"")
        assert answer_meanwhile(port, head, b"{}", waiting) == (400, 200)
        waiting = Waiting()
        monkeypatch.setattr("ldmref.apps.server.native.inspect_image", waiting)
        head = post(path="/v1/inspect", length=2)
        assert answer_meanwhile(port, head, b"{}", waiting) == (400, 200)


def test_no_route_parses_json_by_itself():
    from pathlib import Path

    import ldmref.apps.server

    folder = Path(ldmref.apps.server.__file__).parent
    for path in folder.rglob("*.py"):
        text = path.read_text("utf-8")
        if path.name != "bodies.py":
            assert not re.search(r"await request\.(json|form)\(|read_json\(await", text), path
        if path.name != "responses.py":
            assert "starlette.responses import JSONResponse" not in text, path


# -- 138: A1111's text ----------------------------------------------------------------------------

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # A1111's own
LETTERS = st.text('aé1 \t-/:,"\\[|]', max_size=40)
PAIRS = "Steps: 20, Seed: 1, Size: 64x64, Sampler: Euler a"
GROWING = {
    "letters": lambda n: "a" * n,
    "words": lambda n: "a cat " * (n // 6),
    "hyphens": lambda n: "-" * n + ":",
    "short names": lambda n: "a:" * (n // 2),
    "open quotes": lambda n: 'ab: "' * (n // 5),
    "escaped quotes": lambda n: 'ab:"' + '\\"' * (n // 2),
    "colons in an open bracket": lambda n: "[" + ":" * n + "\n" + PAIRS,
    "open brackets": lambda n: "[(" * (n // 2) + "\n" + PAIRS,
    "open tags": lambda n: "<lora:" * (n // 6) + "\n" + PAIRS,
    "lines": lambda n: "Negative prompt:\n" * (n // 16) + PAIRS,
    "pairs": lambda n: "Hires ab: 1, " * (n // 13) + PAIRS,
}


@covers(138, "eleven texts, eight times as long", PYTHON)
def test_texts_of_a1111_take_linear_time():
    slow = {
        title: ratio
        for title, make in GROWING.items()
        if (ratio := growth(reading.replay_parameters, make, 2000)) > 3.0
    }
    assert not slow


@given(LETTERS)
def test_pairs_are_those_of_a1111s_expression(line):
    assert [*infotext._find_pairs(line)] == PAIR.findall(line)


@given(LETTERS)
def test_prompt_editing_is_found_as_before(line):
    before = re.compile(r"\[[^\[\]]*[:|][^\[\]]*\]|\bAND\b")
    assert bool(prompts._PROMPT_EDITING.search(line)) == bool(before.search(line))


# -- 142, 143: arrays -----------------------------------------------------------------------------

HEADERS = (b"[" * 9000, b"[" * 60, b"{'descr': [", b"'''", b"\0" * 20, b"{}", b"x" * 60_000,
           b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 10**9)}")  # fmt: skip


def npy(header):
    """Return base64 of a .npy file with a header."""
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return base64.b64encode(content).decode()


@covers(142, "eight headers", HTTP, code="E-LATENTS")
def test_headers_of_arrays(client):
    for header in HEADERS:
        values = {"prompt": "cat", "steps": 1, "latents": npy(header)}
        answer = client.post("/v1/generate", json={"parameters": values})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "E-LATENTS"), header[:20]


def test_an_array_of_many_numbers_is_still_read(client):
    file = io.BytesIO()
    np.save(file, np.zeros((1, 4, 8, 8), np.float32))
    latents = base64.b64encode(file.getvalue()).decode()
    values = {"prompt": "cat", "steps": 1, "latents": latents}
    assert client.post("/v1/generate", json={"parameters": values}).status_code == 200


def column(size, axis, axes=3):
    """Return nested lists of ones with one long axis."""
    return np.ones([size if i == axis else 1 for i in range(axes)]).tolist()


MULTIPLYING = {
    "two axes": ("x0_from_v", {"xt": column(1100, 0), "v": column(1100, 1), "alpha_bar": 0.5}),
    "four axes": (
        "squared_error",
        {"x": column(40, 0, 4), "y": np.ones((1, 40, 40, 40)).tolist()},
    ),
    "distances": ("kernel_distance", {"x": column(4000, 0, 2), "y": column(4000, 0, 2)}),
    "covariances": ("principal_components", {"x": column(5000, 1, 2)}),
    "enlarged": ("upsample_nearest", {"x": np.ones((1, 1, 4, 4)).tolist(), "factor": 9000}),
    "rows": ("timestep_embedding", {"t": column(1000, 0, 1), "dim": 5000}),
}


@covers(143, "six formulas", PYTHON, code="E-LIMIT")
def test_arrays_that_multiply(monkeypatch):
    def computed(**values):
        raise AssertionError("computed")

    for title, (name, arguments) in MULTIPLYING.items():
        monkeypatch.setattr("ldmref.check.identity.public", lambda name: computed)
        with pytest.raises(UsageError) as caught:
            check_formula(name, arguments=arguments, cases=1)
        assert caught.value.code == "E-LIMIT", title
    assert MAX_BROADCAST == 1_000_000


@covers(143, "a value of many numbers", PYTHON, code="E-LIMIT")
def test_value_of_many_numbers():
    arguments = {"xt": column(110, 0), "v": column(110, 1), "alpha_bar": 0.5}
    with pytest.raises(UsageError, match="the value has more than 10000 numbers"):
        check_formula("x0_from_v", arguments=arguments, cases=1)
    arguments = {"xt": column(90, 0), "v": column(90, 1), "alpha_bar": 0.5}
    answer = check_formula("x0_from_v", arguments=arguments, cases=1)
    assert np.shape(answer["value"]) == (90, 90, 1)


# -- several at once ------------------------------------------------------------------------------


def test_repeated_keys_are_refused_for_many_clients(client):
    body = json.dumps({f"k{i}": i for i in range(3000)})[:-1] + ', "k2999": 0}'
    headers = {"Content-Type": "application/json"}
    paths = [path for path in JSON_PATHS if path != "/mcp"]
    with ThreadPoolExecutor(4) as pool:
        sent = pool.map(lambda path: client.post(path, content=body, headers=headers), paths)
        assert {answer.status_code for answer in sent} == {400}
