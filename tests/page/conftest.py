"""A browser, and pages that are watched: errors, requests to other hosts, policy violations."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from small_models import save_map
from threaded_server import serve_in_thread

import ldmref
from ldmref.apps.server.jobs import JobReport
from ldmref.io.native import save_folder

NAMES = ("chromium", "chromium-browser", "google-chrome")  # of Chromium in distributions
VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`);
});
"""


@dataclass
class Watch:
    """Everything that must not happen in a page."""

    allowed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Expect problems that match a pattern, such as the message about a refused request."""
        self.allowed.append(pattern)

    def attach(self, page: Any) -> None:
        """Watch a page."""
        page.on("console", self.see_message)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self.see_request)

    def see_message(self, message: Any) -> None:
        """Note errors and warnings, except for advice on tests that read a canvas."""
        if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
            where = message.location.get("url", "")
            self.problems.append(f"console: {message.text} ({where})")

    def see_request(self, request: Any) -> None:
        """Note requests that leave this machine."""
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts.hostname != "127.0.0.1":
            self.problems.append(f"request to another host: {request.url}")

    def check(self) -> None:
        """Fail if something happened that nobody allowed."""
        left = [line for line in self.problems if not any(re.search(p, line) for p in self.allowed)]
        assert left == []


def find_chromium() -> str:
    """Return the path of Chromium, or "" if this machine does not have it."""
    return next(filter(None, map(shutil.which, NAMES)), "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: Debian's, because Playwright cannot download one here.

    Playwright's event loop runs until the end of the module; other tests start their own.
    """
    api = pytest.importorskip("playwright.sync_api")
    program = find_chromium()
    if not program:
        pytest.skip("the page: no chromium on this machine (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with images of 16 x 16, on disk, for the copied code."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny(folder)
    return folder


def write_tiny(folder: Path) -> None:
    """Write the tiny model with random weights as a folder that `ldmref.load` reads."""
    model = ldmref.random_model("tiny", backend="numpy")
    save_folder(folder, model.config, model.params, [model.tokenizer], np.float32)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """Return the model of `tiny_folder`."""
    return ldmref.load(tiny_folder, backend="numpy")


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Any:
    """Return a flow model: the networks of `tiny`, read as velocities, with its own steps."""
    folder = tmp_path_factory.mktemp("models") / "flow"
    of_flow = {"prediction_type": "flow", "sampler": "euler", "spacing": "flow"}
    scheduler = replace(tiny.config.scheduler, final_sigma="zero", shift=1.5, **of_flow)
    defaults = replace(tiny.config.defaults, steps=6)
    config = replace(tiny.config, name="tiny-flow", scheduler=scheduler, defaults=defaults)
    save_folder(folder, config, tiny.params, [tiny.tokenizer], np.float32)
    return ldmref.load(folder, backend="numpy")


@pytest.fixture(scope="session")
def tiny_map(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Any:
    """Return a flow map of `tiny`."""
    folder = tmp_path_factory.mktemp("models") / "tiny-map"
    save_map(folder, tiny)
    return ldmref.load(folder, backend="numpy")


@pytest.fixture
def serve_page() -> Iterator[Any]:
    """`serve_page(models, sources, **settings)` starts a server, which ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *models, **changes: stack.enter_context(serve_in_thread(*models, **changes))


@pytest.fixture(scope="module")
def emoji() -> Any:
    """Return the model in the package, which made the ready run of the explorer."""
    return ldmref.load("emoji", backend="numpy")


@pytest.fixture
def open_ready(serve_page: Any, new_context: Any, emoji: Any) -> Any:
    """`open_ready(link, **options)` opens the explorer of a server of the model in the package."""

    def make(link: str, **options: Any) -> Any:
        page = new_context(**options).new_page()
        page.server = serve_page({"emoji": emoji})
        page.goto(f"{page.server.url}/{link}")
        page.locator(".ex-strips canvas").first.wait_for()
        return page

    return make


@pytest.fixture
def server(serve_page: Any, tiny: Any, tiny_folder: Path) -> Any:
    """Return a server of the tiny model."""
    return serve_page({"tiny": tiny}, {"tiny": str(tiny_folder)})


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`hold(kind)` lets the next job of a kind wait after its first step.

    It waits until it is cancelled, or until the returned event is set. A test that stops a job, or
    looks at one that runs, then meets a running one on every machine, fast or slow.
    """
    expected: list[tuple[str, threading.Event]] = []
    held: dict[str, threading.Event] = {}
    publish = JobReport.progress

    def progress(report: JobReport, step: int, *arguments: Any, **options: Any) -> None:
        publish(report, step, *arguments, **options)
        job = report.job
        if step >= 1 and expected and expected[0][0] == job.kind:
            held[job.id] = expected.pop(0)[1]
        while job.id in held and not held[job.id].is_set() and not job.cancelled.wait(0.02):
            pass

    def hold_next(kind: str) -> threading.Event:
        go_on = threading.Event()
        expected.append((kind, go_on))
        return go_on

    monkeypatch.setattr(JobReport, "progress", progress)
    return hold_next


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Yield the watch over all pages of a test."""
    watch = Watch()
    yield watch
    watch.check()


@pytest.fixture
def new_context(browser: Any, watch: Watch, serve_page: Any) -> Iterator[Any]:
    """`new_context(**options)`: a new browser profile, whose pages are watched.

    It is closed before the servers are.
    """
    contexts = []

    def make(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(20_000)
        context.add_init_script(VIOLATIONS)
        context.on("page", watch.attach)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_context: Any, server: Any) -> Any:
    """The page of the tiny model."""
    page = new_context().new_page()
    page.goto(server.url)
    page.get_by_label("Prompt", exact=True).wait_for()
    return page
