"""A foreign page in a real browser tries everything that a page can do to a server on localhost."""

from __future__ import annotations

import http.server
import shutil
import threading

import pytest
from hostile_server import assert_works, serving_models

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RESOLVER = "--host-resolver-rules=MAP evil.example 127.0.0.1"

# Each attempt resolves to what the page could see or do; "" means nothing.
ATTEMPTS = {
    "read by fetch": "fetch(S + '/v1/jobs').then(r => r.text())",
    "read without CORS": "fetch(S + '/v1/jobs', {mode: 'no-cors'}).then(r => r.text())",
    "post JSON": "fetch(S + '/v1/jobs', {method: 'POST', body: J, headers: "
    "{'Content-Type': 'application/json'}}).then(r => r.text())",
    "post text without preflight": "fetch(S + '/v1/jobs', "
    "{method: 'POST', body: J, mode: 'no-cors'}).then(r => r.text())",
    "interrupt without a body": "fetch(S + '/sdapi/v1/interrupt', "
    "{method: 'POST', mode: 'no-cors'}).then(r => r.text())",
    "delete": "fetch(S + URL_OF_JOB, {method: 'DELETE'}).then(r => r.text())",
    "events": "new Promise(done => { const e = new EventSource(S + URL_OF_JOB + '/events');"
    "e.onmessage = e.onopen = () => done('open'); e.onerror = () => { e.close(); done(''); } })",
    "image": "new Promise(done => { const i = new Image(); i.onload = () => done('loaded');"
    "i.onerror = () => done(''); i.src = S + URL_OF_JOB + '/images/0.png' })",
    "script": "new Promise(done => { const s = document.createElement('script');"
    "s.onload = () => done('ran'); s.onerror = () => done(''); s.src = S + '/openapi.json';"
    "document.head.append(s) })",
    "frame": "new Promise(done => { const f = document.createElement('iframe'); f.src = S + '/';"
    "f.onload = () => { try { done(f.contentDocument ? f.contentDocument.title : '') }"
    "catch { done('') } }; document.body.append(f) })",
    "socket": "new Promise(done => { const w = new WebSocket(S.replace('http', 'ws') + '/');"
    "w.onopen = () => done('open'); w.onerror = () => done('') })",
    "beacon": "navigator.sendBeacon(S + '/v1/jobs', J) && ''",
}


class ForeignPage(http.server.BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def foreign():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium: not on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright: not installed")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", RESOLVER]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def victim(tiny):
    """Yield a server with one finished job: its port, its engine, and the path of the job."""
    from ldmref.apps.server.inputs import plan_task

    with serving_models({"tiny": tiny}) as (port, engine):
        job = engine.submit(plan_task(engine, "txt2img", {"prompt": "cat", "steps": 1}))
        assert job.wait(20)
        yield port, engine, job


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_foreign_page_can_do_nothing(browser, foreign, victim, address):
    port, engine, job = victim
    before = len(engine.jobs())
    page = browser.new_page()
    page.goto(foreign)
    setup = f"const S = 'http://{address}:{port}', URL_OF_JOB = '{job.url}', J = JSON.stringify("
    setup += "{parameters: {prompt: 'cat', steps: 1}});"
    for title, attempt in ATTEMPTS.items():
        seen = page.evaluate(
            f"async () => {{ {setup} try {{ return await {attempt} }} catch {{}} }}"
        )
        assert not seen, f"{title}: {seen!r:.200}"
    page.close()
    assert len(engine.jobs()) == before
    assert_works(port)


def test_form_of_a_foreign_page_is_refused(browser, foreign, victim):
    port, engine, _ = victim
    before = len(engine.jobs())
    page = browser.new_page()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        page.goto(foreign)
        page.set_content(
            f"<form method=post enctype='{kind}' action='http://127.0.0.1:{port}/v1/jobs'>"
            """<input name='{"parameters": {"prompt": "' value='cat"}}'><button>x</button></form>"""
        )
        with page.expect_navigation() as navigation:
            page.click("button")
        assert navigation.value.status == 403
    page.close()
    assert len(engine.jobs()) == before


def test_name_that_resolves_to_this_machine_is_refused(browser, victim):
    """DNS rebinding: evil.example is 127.0.0.1 in this browser."""
    page = browser.new_page()
    for path in ("/", "/v1/jobs", "/page/index.html"):
        answer = page.goto(f"http://evil.example:{victim[0]}{path}")
        assert answer.status == 403 and "E-HOST" in answer.text()
    page.close()


def test_link_of_a_foreign_page_opens_the_server(browser, foreign, victim):
    page = browser.new_page()
    page.goto(foreign)
    page.set_content(f"<a href='http://127.0.0.1:{victim[0]}/'>ldmref</a>")
    with page.expect_navigation() as navigation:
        page.click("a")
    assert navigation.value.status == 200
    assert page.evaluate("fetch('/v1/jobs').then(r => r.status)") == 200  # its own page may
    page.close()


def test_policy_stops_scripts_that_are_not_files_of_the_server(browser, victim):
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{victim[0]}/")
    blocked = page.evaluate(
        """async () => {
            const blocked = [];
            const note = event => blocked.push(event.effectiveDirective);
            document.addEventListener('securitypolicyviolation', note);
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.head.append(script);
            document.body.innerHTML += '<img src=x onerror="window.ran = true">';
            await fetch('http://localhost:1/').catch(() => {});
            const end = Date.now() + 10000;  // the image waits behind the page's own files
            while (new Set(blocked).size < 3 && Date.now() < end)
                await new Promise(done => setTimeout(done, 50));
            return [window.ran === undefined, [...new Set(blocked)].sort()];
        }"""
    )
    assert blocked[0] is True
    assert {"connect-src", "script-src-attr", "script-src-elem"} <= {*blocked[1]}
    page.close()
