"""The site, built once, and a browser that reads it from a plain file server."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "docs" / "_ext"), str(ROOT / "scripts")]
NAMES = ("chromium", "chromium-browser", "google-chrome")  # of Chromium in distributions


def build(out: Path, *flags: str) -> str:
    """Build the site; return what the command printed."""
    pytest.importorskip("sphinx")
    command = [sys.executable, ROOT / "scripts" / "build_site.py", out, "--jobs", "1", *flags]
    ran = subprocess.run(command, cwd=out.parent, env=os.environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return ran.stdout + ran.stderr


@pytest.fixture(scope="session")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page of each kind, built as the whole site is."""
    out = tmp_path_factory.mktemp("small") / "site"
    kinds = ("start.", "math/forward.", "api/ldmref.math/forward.", "api/ldmref.backends.md")
    build(out, "--only", *kinds, "configuration.", "reading.")
    return out


@pytest.fixture(scope="session")
def whole_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site that `make docs` builds."""
    out = tmp_path_factory.mktemp("whole") / "site"
    build(out)
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip("the site: no chromium on this machine (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


class Reader:
    """A browser that reads pages and records what goes wrong: requests, missing files, errors."""

    def __init__(self, browser: Any, address: str):
        self.address = address
        self.problems: list[str] = []
        self.page = browser.new_page()
        self.page.on("request", self._request)
        self.page.on("response", self._response)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def open(self, path: str) -> Any:
        """Open a page of the site, and return it."""
        self.page.goto(f"{self.address}/{path}")
        return self.page


@pytest.fixture
def read(browser: Any) -> Iterator[Any]:
    """`read(folder)` returns a reader of a site; the test fails if it noticed a problem."""
    with contextlib.ExitStack() as stack:
        readers = []

        def start(folder: Path) -> Reader:
            readers.append(Reader(browser, stack.enter_context(serve(folder))))
            return readers[-1]

        yield start
        assert [problem for reader in readers for problem in reader.problems] == []
