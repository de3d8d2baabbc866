"""The guard's checks by the head of a request: Host, Origin, methods, types, token, headers."""

from __future__ import annotations

import base64
import json

import pytest
from guard_apps import HOST, call, guarded

from ldmref.errors import UsageError
from ldmref.support.addresses import split_authority
from ldmref.support.server_settings import ServerSettings

TOKEN = "correct-horse"
JSON = (b"content-type", b"application/json")


def header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode(), value.encode("latin-1")


# -- Host -----------------------------------------------------------------------------------------

LOCAL = """
    localhost LOCALHOST:1 localhost. 127.0.0.1 127.0.0.1:7860 127.8.9.1 [::1] [::1]:80
    [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] app.localhost:3 localhost:
""".split()
FOREIGN = """
    evil.example evil.example:7860 localhost.evil.example notlocalhost 192.168.1.5 [2001:db8::1]
    0.0.0.0 127.0.0.1.nip.io 2130706433 127.1 0x7f.1 xn--localhost-x
""".split()
INVALID = ["", "a b", "user@localhost", "localhost:80:80", "localhost:port", "localhost:99999",
           "[::1", "::1", "[localhost]", "[127.0.0.1]", "localhost/", "localhost,evil.example",
           "http://localhost", "löcalhost", "local\thost", "localhost:-1",
           "localhost:٣"]  # fmt: skip


@pytest.mark.parametrize("host", LOCAL)
def test_local_host_passes(host):
    assert call(guarded(), host=header("host", host)).status == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_host_is_refused(host):
    answer = call(guarded(), host=header("host", host))
    assert (answer.status, answer.code) == (403, "E-HOST")


@pytest.mark.parametrize("host", INVALID)
def test_invalid_host_is_refused(host):
    sent = (b"host", host.encode("utf-8"))
    answer = call(guarded(), host=sent)
    assert (answer.status, answer.code) == (400, "E-HOST")


def test_missing_and_duplicate_hosts_are_refused():
    assert call(guarded(), host=None).status == 400
    assert call(guarded(), headers=[HOST]).status == 400


def test_further_hosts_are_allowed_by_name():
    app = guarded(allow_host=("Host.Docker.Internal", "[2001:db8::1]", "10.0.0.7"))
    for host in ("host.docker.internal:7860", "HOST.DOCKER.INTERNAL", "[2001:db8:0::1]:1"):
        assert call(app, host=header("host", host)).status == 200
    for host in ("docker.internal", "x.host.docker.internal", "10.0.0.8"):
        assert call(app, host=header("host", host)).status == 403


def test_bound_address_is_allowed():
    app = guarded(host="192.168.1.5", token=TOKEN)
    assert call(app, host=header("host", "192.168.1.5:7860")).status == 200
    assert call(app, host=header("host", "192.168.1.6:7860")).status == 403
    assert call(app, host=header("host", "[::1]")).status == 200


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_every_address_but_no_name_reaches_a_server_on_all_interfaces(bound):
    app = guarded(host=bound, token=TOKEN)
    for host in ("192.168.1.5", "[fe80::1]:7860"):
        assert call(app, host=header("host", host)).status == 200
    assert call(app, host=header("host", "evil.example")).status == 403


@pytest.mark.parametrize("name", ["*", "http://a", "a:80", "", "a b", "*.example.org", "a/b"])
def test_option_allow_host_is_checked(name):
    with pytest.raises(UsageError, match="host") as info:
        guarded(allow_host=(name,))
    assert info.value.code == "E-HOST"


def test_authority_never_fails():
    for text in ("[", "]", "[]", ":", "::", "[]:", "[:]", ".", "..", "a" * 300, ":" * 300):
        split_authority(text)


# -- Origin ---------------------------------------------------------------------------------------

OWN = ["http://localhost:7860", "https://localhost:7860", "HTTP://LOCALHOST:7860"]
OTHERS = ["null", "http://evil.example", "http://localhost", "http://localhost:3000",
          "http://127.0.0.1:7860", "file://", "chrome-extension://abc", "", "*",
          "http://localhost:7860.evil.example", "http://localhost:7860@evil.example",
          "http://localhost:7860 http://evil.example", "localhost:7860",
          "ftp://localhost:7860"]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("origin", OTHERS)
def test_foreign_origin_is_refused(method, origin):
    answer = call(guarded(), method, "/x", [header("origin", origin)])
    assert (answer.status, answer.code) == (403, "E-ORIGIN")
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", ["/sdapi/v1/interrupt", "/sdapi/v1/skip"])
def test_interrupt_without_body_or_type_passes_but_not_from_another_page(path):
    assert call(guarded(), "POST", path).status == 200
    assert call(guarded(), "POST", path, [header("content-length", "0")]).status == 200
    answer = call(guarded(), "POST", path, [header("origin", "http://evil.example")])
    assert answer.status == 403
    assert {"error", "detail", "body", "errors"} == {*json.loads(answer.body)}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("origin", OWN)
def test_own_origin_passes_without_cors(method, origin):
    answer = call(guarded(), method, "/x", [header("origin", origin)])
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers and "vary" not in answer.headers


def test_own_origin_with_the_default_port():
    for origin in ("http://localhost", "https://localhost"):
        headers = [header("origin", origin)]
        assert call(guarded(), "POST", "/x", headers, host=(b"host", b"localhost")).status == 200


def test_two_origins_are_refused():
    own = header("origin", OWN[0])
    assert call(guarded(), "POST", "/x", [own, own]).status == 403


SITES = [
    ("same-origin", "cors", "empty", 200),
    ("none", "navigate", "document", 200),
    ("cross-site", "navigate", "document", 200),
    ("cross-site", "navigate", "iframe", 403),
    ("cross-site", "no-cors", "image", 403),
    ("cross-site", "no-cors", "script", 403),
    ("same-site", "no-cors", "image", 403),
    ("same-site", "navigate", "document", 200),
    ("cross-site", "cors", "empty", 403),
    ("odd", "", "", 403),
]


@pytest.mark.parametrize(("site", "mode", "dest", "status"), SITES)
def test_only_links_of_other_pages_are_followed(site, mode, dest, status):
    names = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
    headers = [header(*pair) for pair in zip(names, (site, mode, dest), strict=True)]
    assert call(guarded(), "GET", "/x", headers).status == status


def test_a_form_of_another_page_is_refused_without_origin():
    headers = [
        header("sec-fetch-site", "cross-site"),
        header("sec-fetch-mode", "navigate"),
        header("sec-fetch-dest", "document"),
    ]
    assert call(guarded(), "POST", "/sdapi/v1/interrupt", headers).status == 403


# -- CORS -----------------------------------------------------------------------------------------

PAGE = "http://app.example:3000"


def test_allowed_origin_is_echoed_and_no_other():
    app = guarded(allow_origin=(PAGE, "https://b.example/"))
    answer = call(app, "POST", "/x", [header("origin", PAGE)])
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers
    for origin in ("http://app.example", "https://app.example:3000", "null", PAGE + "0"):
        answer = call(app, "POST", "/x", [header("origin", origin)])
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
    assert call(app, "GET", "/x").headers["vary"] == "Origin"
    assert call(app, "GET", "/x", [header("origin", "https://b.example")]).status == 200


def test_preflight():
    app = guarded(allow_origin=(PAGE,), token=TOKEN)
    asked = header("access-control-request-method", "DELETE")
    private = header("access-control-request-private-network", "true")
    answer = call(app, "OPTIONS", "/v1/jobs/x", [header("origin", PAGE), asked, private])
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    answer = call(app, "OPTIONS", "/v1/jobs/x", [header("origin", "http://x.example"), asked])
    assert answer.status == 403


def test_refusals_of_an_allowed_page_can_be_read_by_it():
    app = guarded(allow_origin=(PAGE,), token=TOKEN)
    answer = call(app, "GET", "/v1/jobs", [header("origin", PAGE)])
    assert answer.status == 401 and answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("text", ["*", "null", "http://a/path", "a.example", "ftp://a", "http://",
                                  "http://*.example", "http://u@a"])  # fmt: skip
def test_option_allow_origin_is_checked(text):
    with pytest.raises(UsageError) as info:
        guarded(allow_origin=(text,))
    assert info.value.code == "E-ORIGIN"


# -- target, method, framing, type ----------------------------------------------------------------


@pytest.mark.parametrize("path", ["http://evil.example/", "*", "", "evil.example:443"])
def test_target_that_is_not_a_path_is_refused(path):
    assert call(guarded(), "GET", path).status == 400


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "PATCH", "TRACK", "DEBUG", "get"])
def test_other_methods_are_refused(method):
    answer = call(guarded(), method, "/v1/jobs")
    assert (answer.status, answer.code) == (405, "E-METHOD") and "POST" in answer.headers["allow"]


FRAMES = [
    [("content-length", "3"), ("content-length", "3")],
    [("content-length", "3, 3")],
    [("content-length", "-1")],
    [("content-length", "+3")],
    [("content-length", "0x3")],
    [("content-length", "٣")],
    [("content-length", "")],
    [("content-length", "3"), ("transfer-encoding", "chunked")],
    [("transfer-encoding", "gzip, chunked")],
    [("transfer-encoding", "identity")],
    [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
    [("transfer-encoding", "xchunked")],
]


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_ambiguous_length_is_refused(frame):
    headers = [(name.encode(), value.encode()) for name, value in frame]
    answer = call(guarded(), "POST", "/x", headers)
    assert (answer.status, answer.code) == (400, "E-LENGTH")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x"])
def test_coded_body_is_refused(coding):
    answer = call(guarded(), "POST", "/x", [header("content-encoding", coding)], b"x")
    assert (answer.status, answer.code) == (415, "E-ENCODING")


TYPES = [
    ("/v1/jobs", "text/plain", 415), ("/v1/jobs", "", 415), ("/v1/jobs/", "text/plain", 415),
    ("/v1/generate", "multipart/form-data", 415),
    ("/v1/generate", "application/x-www-form-urlencoded", 415),
    ("/v1/generate", "application/jsonp", 415), ("/mcp", "text/plain", 415),
    ("/v1/images/generations", "text/plain", 415), ("/sdapi/v1/txt2img", "text/plain", 415),
    ("/sdapi/v1/options", "multipart/form-data; boundary=x", 415),
    ("/v1/jobs", "application/json; charset=utf-8", 200), ("/v1/jobs", "Application/JSON", 200),
    ("/sdapi/v1/txt2img", "application/json", 200), ("/sdapi/v1/txt2img", "", 200),
    ("/v1/images/edits", "multipart/form-data; boundary=x", 200),
    ("/v1/inspect", "image/png", 200), ("/v1/inspect", "", 200),
]  # fmt: skip


@pytest.mark.parametrize(("path", "kind", "status"), TYPES)
def test_json_is_required_where_json_is_read(path, kind, status):
    headers = [header("content-type", kind)] if kind else []
    assert call(guarded(), "POST", path, headers, b"{}").status == status


def test_two_types_are_refused():
    headers = [JSON, header("content-type", "text/plain")]
    assert call(guarded(), "POST", "/v1/jobs", headers, b"{}").status == 415


# -- token ----------------------------------------------------------------------------------------


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


GOOD = [f"Bearer {TOKEN}", f"bearer   {TOKEN}", basic(f"user:{TOKEN}"), basic(f":{TOKEN}")]
BAD = ["", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "Bearer ", TOKEN, f"Token {TOKEN}",
       basic(TOKEN), basic(f"{TOKEN}:"), basic(f"{TOKEN}:x"), "Basic !!!", "Basic /w==",
       "Basic Zg", "Bearer \xff", f"Bearer {TOKEN} {TOKEN}", "Negotiate abc"]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_token_opens(text):
    app = guarded(token=TOKEN)
    assert call(app, "GET", "/v1/jobs", [header("authorization", text)]).status == 200
    empty = header("authorization", "")
    assert call(app, "GET", "/v1/jobs", [empty, header("authorization", text)]).status == 200


@pytest.mark.parametrize("text", BAD)
def test_wrong_token_is_refused(text):
    answer = call(guarded(token=TOKEN), "GET", "/v1/jobs", [header("authorization", text)])
    assert (answer.status, answer.code) == (401, "E-TOKEN")
    assert answer.headers["www-authenticate"] == 'Bearer realm="ldmref"'
    assert TOKEN not in answer.body.decode()


def test_tokens_are_compared_in_constant_time(monkeypatch):
    """`hmac.compare_digest` decides, and sees the whole token that was sent."""
    compared = []

    def compare(sent, expected):
        compared.append((sent, expected))
        return sent == b"wrong"

    monkeypatch.setattr("ldmref.apps.server.guard.tokens.hmac.compare_digest", compare)
    app = guarded(token=TOKEN)
    for text, status in ((TOKEN, 401), ("wrong", 200), ("", 401), (TOKEN[:-1], 401)):
        sent = [header("authorization", f"Bearer {text}")]
        assert call(app, "GET", "/v1/jobs", sent).status == status, text
    assert compared[:2] == [(TOKEN.encode(), TOKEN.encode()), (b"wrong", TOKEN.encode())]


def test_two_tokens_are_refused():
    headers = [header("authorization", GOOD[0])] * 2
    assert call(guarded(token=TOKEN), "GET", "/v1/jobs", headers).status == 401


def test_authorization_is_ignored_without_a_token():
    assert call(guarded(), "GET", "/v1/jobs", [header("authorization", "Bearer x")]).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/page/app.js", 200), ("GET", "/healthz", 200),
     ("POST", "/", 401), ("DELETE", "/page/app.js", 401), ("GET", "/page", 401),
     ("GET", "/pages/x", 401), ("GET", "/v1/capabilities", 401), ("GET", "/openapi.json", 401),
     ("GET", "/sdapi/v1/options", 401), ("POST", "/mcp", 401), ("GET", "/v1/models", 401),
     ("GET", "//v1/jobs", 401)],
)  # fmt: skip
def test_only_the_files_of_the_page_are_public(method, path, status):
    headers = [JSON] if method == "POST" else []
    assert call(guarded(token=TOKEN), method, path, headers).status == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "machine.example", ""])
def test_other_machines_need_a_token(host):
    with pytest.raises(UsageError) as info:
        guarded(host=host)
    assert info.value.code == "E-TOKEN" and "token" in info.value.hint
    guarded(host=host, token=TOKEN)
    guarded(host=host, insecure_no_token=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_this_machine_needs_none(host):
    guarded(host=host)


@pytest.mark.parametrize(
    "token", ["", "short", "with space in it", "zwölf-zeichen", "line\nbreak1"]
)
def test_token_that_no_header_can_hold_is_refused(token):
    with pytest.raises(UsageError) as info:
        guarded(token=token)
    assert info.value.code == "E-TOKEN" and (not token or token not in str(info.value))


def test_settings_do_not_show_the_token():
    assert TOKEN not in repr(ServerSettings(token=TOKEN))


# -- headers --------------------------------------------------------------------------------------

ANSWERS = [("GET", "/", 200), ("GET", "/v1/jobs", 401), ("PUT", "/", 405), ("GET", "/fail", 401)]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_the_headers(method, path, status):
    answer = call(guarded(token=TOKEN), method, path)
    assert answer.status == status
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cache-control"] == ("no-cache" if path == "/" else "no-store")


def test_websockets_are_closed():
    import asyncio

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [HOST]}
    asyncio.run(guarded()(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# -- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/jobs", {"code", "message", "hint", "parameter"}),
        ("/v1/images/generations", {"message", "type", "param", "code"}),
        ("/v1/models", {"message", "type", "param", "code"}),
        ("/mcp", {"code", "message", "data"}),
    ],
)
def test_shape_of_the_interface(path, keys):
    answer = call(guarded(), "GET", path, host=header("host", "evil.example"))
    assert answer.status == 403 and {*json.loads(answer.body)["error"]} == keys
    assert answer.headers["content-type"].startswith("application/json")
