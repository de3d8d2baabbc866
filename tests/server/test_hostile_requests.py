"""Hostile requests are refused with the right status and form; a normal one works after each."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from hostile_server import (
    Reply,
    Watch,
    assert_no_leak,
    assert_refused,
    assert_shape,
    assert_works,
    available,
    build,
    read_reply,
    send,
    serving_models,
)
from hostile_table import (
    HEADS,
    INTERFACES,
    MAX_BODY,
    PAYLOADS,
    WRONG_BODIES,
    WRONG_IMAGES,
    WRONG_JSON,
    WRONG_PROMPTS,
    WRONG_VALUES,
    encoded,
    png,
)

NATIVE = INTERFACES["native"]
REFUSED = (400, 413, 422)
NAMES = pytest.mark.parametrize("name", INTERFACES)
WATCH = Watch()


@pytest.fixture(scope="module")
def served(tiny):
    with serving_models({"tiny": tiny}, max_body=MAX_BODY, body_timeout=1.0) as (port, engine):
        yield port, available(engine)


@pytest.fixture
def port(served):
    """Yield the port; afterwards a normal request must still get its image."""
    yield served[0]
    assert_works(served[0])


@pytest.fixture
def interface(served, name):
    if name not in served[1]:
        pytest.skip(f"{name}: this version does not have the interface")
    return INTERFACES[name]


@NAMES
def test_accepted_body_is_accepted(port, name, interface):
    reply = send(port, build(interface))
    assert reply.status == 200, reply


BY_UVICORN = b"Invalid HTTP request received."


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row.title)
@NAMES
def test_head(port, name, row):
    """The guard comes before all interfaces, also those that this version lacks."""
    data = build(
        INTERFACES[name], method=row.method, target=row.target, host=row.host, lines=row.lines,
        headers=row.headers, body=row.body,
    )  # fmt: skip
    reply = send(port, data)
    if not row.is_http and BY_UVICORN in reply.body:
        assert reply.status == 400 and 400 in row.statuses
        return
    if row.target:  # a wrong target has no interface
        name = "native"
    if reply.status in (404, 405) and b"E-PATH" in reply.body:
        assert reply.status in row.statuses
        return
    assert_refused(reply, row.statuses, name)


def test_a_length_that_stands_twice_in_a_list_is_one(port):
    """RFC 9110, section 8.6, allows it; two different lengths are refused."""
    n = len(NATIVE.plain)
    reply = send(port, build(NATIVE, headers={"Content-Length": f"{n}, {n}"}))
    assert reply.status == 200, reply
    for text in (f"{n}, {n - 1}", f"{n - 1}, {n}", f"{n},", f"{n} {n}"):
        reply = send(port, build(NATIVE, headers={"Content-Length": text}))
        assert reply.status == 400 and reply.body.strip() == BY_UVICORN, (text, reply)


def test_a_length_that_is_sent_twice_is_one(port):
    """RFC 9110, section 8.6, allows it; h11 makes one header of equal ones and refuses others."""
    n = len(NATIVE.plain)
    reply = send(port, build(NATIVE, lines=(f"Content-Length: {n}",)))
    assert reply.status == 200, reply
    for other in (f"{n - 1}", f"{n + 1}", f"0{n}", f"+{n}", ""):
        reply = send(port, build(NATIVE, lines=(f"Content-Length: {other}",)))
        assert reply.status == 400 and reply.body.strip() == BY_UVICORN, (other, reply)


def test_a_chunk_is_counted_as_it_arrives(port):
    """Whatever size it announces: h11 reads 20 digits, and answers 400 to more."""
    chunked = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    text = NATIVE.plain

    def status(size, body):
        return send(port, build(NATIVE, headers=chunked, body=size + b"\r\n" + body)).status

    assert status(b"%017x" % len(text), text + b"\r\n0\r\n\r\n") == 200
    assert status(b"%021x" % len(text), b"") == 400
    for size in (b"1" + b"0" * 16, b"f" * 17, b"f" * 20):
        assert status(size, text) == 408
        assert status(size, b" " * (MAX_BODY + 1)) == 413


@pytest.mark.parametrize("title", WRONG_JSON)
@NAMES
def test_wrong_json(port, name, interface, title):
    reply = send(port, build(interface, body=WRONG_JSON[title]))
    if name == "MCP":
        assert reply.status in (200, *REFUSED), reply
        assert_no_leak(reply)
        return assert_shape(reply, name)
    assert_refused(reply, REFUSED, name)


@pytest.mark.parametrize("title", WRONG_PROMPTS)
@NAMES
def test_wrong_prompt(port, name, interface, title):
    reply = send(
        port, build(interface, body=interface.with_parameters({"prompt": WRONG_PROMPTS[title]}))
    )
    if name == "MCP":
        assert_tool_error(reply)
    else:
        assert_refused(reply, REFUSED, name)


def assert_tool_error(reply: Reply) -> None:
    """MCP reports the failure of a tool as a result, for the model to read."""
    assert reply.status in (200, *REFUSED), reply
    assert_no_leak(reply)
    body = reply.json
    assert "error" in body or body["result"]["isError"] is True, body


@pytest.mark.parametrize(
    ("title", "values"), WRONG_VALUES, ids=[title for title, _ in WRONG_VALUES]
)
def test_wrong_value(port, title, values):
    reply = send(port, build(NATIVE, body=NATIVE.with_parameters(values)))
    assert_refused(reply, REFUSED, "native")


@pytest.mark.parametrize("title", WRONG_BODIES)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/jobs"])
def test_wrong_body(port, path, title):
    body = json.dumps(NATIVE.body | WRONG_BODIES[title]).encode()
    reply = send(port, build(NATIVE, target=path, body=body))
    assert_refused(reply, (404,) if "model" in title else REFUSED, "native")


# -- images: no path is opened, no URL is fetched -------------------------------------------------


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    """Yield an image that exists, and a server that counts its visitors."""
    path = tmp_path_factory.mktemp("bait") / "bait.png"
    path.write_bytes(png())
    visitors = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                visitors.append(1)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield str(path), f"http://127.0.0.1:{listener.getsockname()[1]}/x.png", visitors
        listener.shutdown(socket.SHUT_RDWR)


def filled(value, path, url):
    text = json.dumps(value).replace("{path}", path).replace("//{url}", url[5:])
    return json.loads(text.replace("{url}", url))


def image_body(name: str, value, mask: bool):
    """Return a request of an interface with an image, or with a mask."""
    good = encoded(png())
    image, other = (good, value) if mask else (value, good)
    if name == "native":
        parameters = {"prompt": "cat", "steps": 1, "seed": 1, "image": image, "mask": other}
        return "/v1/generate", {"mode": "inpaint", "parameters": parameters}
    shared = {"prompt": "cat", "steps": 2, "seed": 1}
    return "/sdapi/v1/img2img", shared | {"init_images": [image], "mask": other}


@pytest.mark.parametrize("mask", [False, True], ids=["image", "mask"])
@pytest.mark.parametrize("title", WRONG_IMAGES)
@pytest.mark.parametrize("name", ["native", "A1111"])
def test_wrong_image(port, name, interface, title, mask, bait):
    path, url, visitors = bait
    target, body = image_body(name, filled(WRONG_IMAGES[title], path, url), mask)
    WATCH.opened.clear()
    WATCH.on = True
    try:
        reply = send(port, build(interface, target=target, body=json.dumps(body).encode()))
    finally:
        WATCH.on = False
    if name == "A1111" and mask and title == "empty":
        assert reply.status in (200, 422)  # an empty mask is none
    else:
        assert_refused(reply, REFUSED, name)
    # Only libraries that are imported late may be opened.
    suspicious = [
        name for name in WATCH.opened if "bait" in name or name.startswith(("/dev", "/etc"))
    ]
    assert not suspicious and not visitors


@pytest.mark.parametrize("mask", [False, True], ids=["image", "mask"])
@pytest.mark.parametrize("name", ["native", "A1111"])
def test_right_image(port, name, interface, mask):
    target, body = image_body(name, encoded(png()), mask)
    reply = send(port, build(interface, target=target, body=json.dumps(body).encode()))
    assert reply.status == 200, reply


@pytest.mark.parametrize(
    "title", [t for t, value in WRONG_IMAGES.items() if isinstance(value, str)]
)
def test_wrong_file_is_not_inspected(port, title, bait):
    """`/v1/inspect` takes the bytes of a file."""
    import base64

    text = filled(WRONG_IMAGES[title], *bait[:2])
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = text.encode()
    reply = send(port, build(NATIVE, target="/v1/inspect", body=data))
    if title == "half a PNG" or title == "head of a PNG" or title.startswith("PNG"):
        assert reply.status in (200, 400, 422)  # its head can be read
        assert_no_leak(reply)
    else:
        assert_refused(reply, REFUSED, "native")


# -- A1111's settings -----------------------------------------------------------------------------

ATTEMPTS = {
    "a path as checkpoint": {"sd_model_checkpoint": "/etc/passwd"},
    "a URL as checkpoint": {"sd_model_checkpoint": "http://evil.example/x.safetensors"},
    "a checkpoint list": {"sd_model_checkpoint": ["tiny"]},
}
PATHS = {"outdir_samples": "/tmp/x", "outdir_txt2img_samples": "/tmp/x", "ckpt_dir": "/etc",
         "sd_vae": "/etc/passwd", "api_enable_requests": True, "save_to_dirs": True}  # fmt: skip


@pytest.mark.parametrize("title", ATTEMPTS)
@pytest.mark.parametrize("name", ["A1111"])
def test_settings_load_no_file(port, name, interface, title):
    body = json.dumps(ATTEMPTS[title]).encode()
    reply = send(port, build(interface, target="/sdapi/v1/options", body=body))
    assert_refused(reply, (404, 422), name)
    body = interface.with_parameters({"override_settings": ATTEMPTS[title]})
    assert_refused(send(port, build(interface, body=body)), (404, 422), name)


@pytest.mark.parametrize("name", ["A1111"])
def test_settings_change_no_path_and_no_permission(port, name, interface):
    def options():
        reply = send(port, build(interface, method="GET", target="/sdapi/v1/options", body=b""))
        assert reply.status == 200
        return reply.json

    before = options()
    reply = send(
        port, build(interface, target="/sdapi/v1/options", body=json.dumps(PATHS).encode())
    )
    assert reply.status in (200, 422)
    assert options() == before
    body = interface.with_parameters({"override_settings": PATHS})
    reply = send(port, build(interface, body=body))
    assert reply.status in (200, 422)
    assert b"/tmp/x" not in reply.body or reply.status == 200
    assert options() == before


# -- paths ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(served):
    reply = send(served[0], build(NATIVE, target="/v1/jobs"))
    assert reply.status == 202
    return reply.json["url"]


@pytest.mark.parametrize("place", ["/page/", "/v1/jobs/", "/files/", "/images/"])
@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: repr(p[:40]))
def test_no_path_leaves_its_folder(served, job, payload, place):
    prefix = f"{job}{place}" if place in ("/files/", "/images/") else place
    reply = send(served[0], build(NATIVE, method="GET", target=prefix + payload, body=b""))
    if place == "/v1/jobs/" and payload in ("?file=/etc/passwd",):
        assert reply.status in (200, 307, 404)  # the list of jobs, or a redirect to it
    elif reply.status == 307:  # Starlette's redirect for a final slash
        assert "evil" not in reply.headers["location"].split("/")[2]
    else:
        assert reply.status in (400, 404, 414, 431), reply
        assert_shape(reply, "native")
    assert_no_leak(reply)
    assert b"root:" not in reply.body and "set-cookie" not in reply.headers


def test_server_works_after_the_paths(port):
    reply = send(port, build(NATIVE, method="GET", target="/", body=b""))
    assert reply.status == 200 and b"<html" in reply.body


# -- what is sent back ----------------------------------------------------------------------------

INJECTION = "zzqx\r\nX-Injected: 1\r\n\r\n<script>alert(1)</script>\x1b[2J"


def test_nothing_is_injected_into_headers(port):
    """A warning about an unknown word quotes the prompt in a header."""
    reply = send(port, build(NATIVE, body=NATIVE.with_parameters({"prompt": INJECTION * 30})))
    assert reply.status == 200 and reply.headers["content-type"] == "image/png"
    assert "x-injected" not in reply.headers
    assert all(value.isprintable() for value in reply.headers.values())


@pytest.mark.parametrize(
    "target",
    ["/%0d%0aX-Injected:%201", "/v1/jobs/%0aX:1", "//evil.example/%2f..", "/v1/jobs/", "/page"],
)
def test_nothing_is_injected_by_the_path(port, target):
    reply = send(port, build(NATIVE, method="GET", target=target, body=b""))
    assert "x-injected" not in reply.headers
    assert "evil.example" not in reply.headers.get("location", "")


@pytest.mark.parametrize("text", ["-1", "1e9", "9" * 100, "x", "\xb2", "1\x0b"])
def test_number_of_the_last_event_is_read_or_ignored(port, job, text):
    headers = {"Last-Event-ID": text}
    data = build(NATIVE, method="GET", target=f"{job}/events", body=b"", headers=headers)
    reply = send(port, data)
    assert reply.status in (200, 400)
    assert reply.status == 400 or b"event: done" in reply.body


def test_second_request_on_a_connection_is_its_own(port):
    """A request whose body holds another one gets one answer, and the connection goes on."""
    inner = b"GET /v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for _ in range(2):
            data = build(NATIVE, target="/v1/inspect", body=inner, headers={"Connection": None})
            connection.sendall(data)
            reply = read_reply(connection)
            assert reply.status == 422 and reply.body.count(b"HTTP/1.1 ") == 0
