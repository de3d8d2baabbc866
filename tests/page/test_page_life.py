"""A page and its server: two tabs, a reload, a restart, a token, and no server at all."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ldmref.apps.server import streams
from ldmref.apps.server.backends import FASTEST, ONLY

COMMAND = Path(sys.executable).with_name("ldmref")


def fill(page, prompt, steps):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps", exact=True).fill(str(steps))


def start(page):
    page.get_by_role("button", name="Generate", exact=True).click()


def wait_for_step(page):
    page.get_by_text(re.compile("Step [1-9]")).first.wait_for()


def wait_for_result(page):
    page.get_by_role("button", name="Download", exact=True).wait_for()


def test_a_reload_goes_on_with_the_job(page, server, hold):
    go_on = hold("generate")
    fill(page, "a cat", 20)
    start(page)
    wait_for_step(page)
    page.reload()
    wait_for_step(page)
    go_on.set()
    wait_for_result(page)
    [job] = server.engine.jobs()
    assert f"Seed {job.images[0].seed}" in page.locator(".facts").inner_text()
    assert str(job.images[0].seed) in page.locator("pre").inner_text()


def test_a_reload_after_the_end_finds_the_result(page, server):
    fill(page, "a cat", 40)
    start(page)
    wait_for_step(page)
    page.goto("about:blank")
    [job] = server.engine.jobs()
    assert job.wait(30.0)
    page.go_back()
    wait_for_result(page)


def test_two_tabs_have_their_own_jobs_and_one_gallery(page, server):
    other = page.context.new_page()
    other.goto(server.url)
    fill(page, "a cat", 30)
    fill(other, "a dog", 2)
    start(page)
    start(other)
    wait_for_result(page)
    wait_for_result(other)
    assert "a-cat" in page.locator("pre").inner_text()
    assert "a-dog" in other.locator("pre").inner_text()
    for tab in (page, other):
        tab.get_by_role("button", name=re.compile("^a cat, seed")).wait_for()
        tab.get_by_role("button", name=re.compile("^a dog, seed")).wait_for()


def test_a_server_that_stops_says_so(page, server, watch, hold):
    watch.allow("ERR_")
    hold("generate")
    fill(page, "a cat", 20)
    start(page)
    wait_for_step(page)
    server.stop()
    page.get_by_text("The server has cancelled this request.").wait_for()
    page.get_by_text("The server does not answer").wait_for()
    server.start()
    page.get_by_text("numpy · float32").wait_for()
    fill(page, "a cat", 2)
    start(page)
    wait_for_result(page)


def test_a_killed_server_and_its_successor(new_context, tiny_folder, watch):
    """The process of `ldmref serve` dies without a word, and another one takes its port."""
    watch.allow("ERR_|404|410")
    command = [COMMAND, "serve", "--model", f"tiny={tiny_folder}", "--port"]
    with run_command([*command, "0"]) as (process, url):
        page = new_context().new_page()
        page.goto(url)
        fill(page, "a cat", 1000)
        title = page.locator("#connection").get_attribute("title")
        assert FASTEST in title or ONLY in title  # why it computes on its backend
        page.get_by_label("Images", exact=True).fill("16")
        start(page)
        wait_for_step(page)
        process.kill()
        page.get_by_text("The connection is lost").wait_for()
    with run_command([*command, url.rpartition(":")[2]]):
        page.get_by_text("The server was restarted and has forgotten this request.").wait_for()
        fill(page, "a cat", 2)
        page.get_by_role("button", name="Generate again").click()
        wait_for_step(page)
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.", exact=True).wait_for()
        start(page)
        wait_for_result(page)
        page.close()


@contextlib.contextmanager
def run_command(command):
    """Run `ldmref serve` until the block ends; yield the process and the address that it prints."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            yield process, re.search(r"http://[\d.:]+", line)[0]
        finally:
            process.kill()


def test_without_a_server_the_page_says_so(page, server, watch):
    watch.allow("ERR_")
    fill(page, "a cat", 2)
    server.stop()
    start(page)
    page.get_by_text("The server does not answer.").wait_for()
    server.start()
    page.get_by_role("button", name="Try again").click()
    wait_for_result(page)


def is_silent(page):
    """Whether the page says nowhere that the server does not answer."""
    return page.get_by_text("does not answer").filter(visible=True).count() == 0


def test_what_said_that_the_server_does_not_answer_ends_when_it_answers(page, server, watch):
    watch.allow("ERR_")
    fill(page, "a cat", 2)
    page.get_by_role("link", name="Grids").click()
    page.get_by_role("button", name="Generate the grid").wait_for()
    server.stop()
    page.get_by_role("button", name="Generate the grid").click()
    page.locator("#messages").get_by_text("The server does not answer.").wait_for()
    page.get_by_role("link", name="Generate").click()
    start(page)
    page.locator(".stage").get_by_text("The server does not answer.").wait_for()
    server.start()
    page.get_by_text("The server answers again.").wait_for()
    assert page.locator("#connection").inner_text() == "tiny · numpy · float32"
    assert is_silent(page)
    page.get_by_role("button", name="Try again").click()
    wait_for_result(page)


def test_explorer_goes_on_when_the_server_answers(page, server, watch):
    watch.allow("ERR_")
    page.goto(f"{server.url}/#view=explore&p.prompt=a+cat&p.steps=2&p.seed=1&step=1")
    page.reload()
    page.locator(".ex-strips canvas").first.wait_for()
    server.stop()
    page.get_by_role("button", name="Compute the truth line of run A").click()
    page.locator(".ex-truth").get_by_text("The server does not answer.").wait_for()
    page.locator(".ex-branching").get_by_label("Guidance scale").fill("4")
    page.get_by_role("button", name="Branch here, at step 1").click()
    page.locator(".ex-strips").get_by_text("The server does not answer.").wait_for()
    server.start()
    page.locator(".ex-truth").get_by_text("A: solved with").wait_for()
    page.locator(".ex-strips").get_by_text("from step 1: guidance scale 4").wait_for()
    assert is_silent(page)


@pytest.mark.parametrize("kind", ["record", "truth"])
def test_a_closed_tab_ends_its_computation(page, server, hold, monkeypatch, kind):
    monkeypatch.setattr(streams, "ALONE_SECONDS", 0.1)
    hold(kind)
    tab = page.context.new_page()
    tab.goto(f"{server.url}/#view=explore&p.prompt=a+cat&p.steps=9&p.seed=1&step=1&truth=1")
    while not [job for job in server.engine.jobs() if job.kind == kind and job.progress]:
        tab.wait_for_timeout(20)
    job = next(job for job in server.engine.jobs() if job.kind == kind)
    tab.close()
    assert job.wait(10.0) and job.state == "cancelled"


def test_a_token_is_asked_for_and_kept_in_this_tab(serve_page, tiny, new_context, watch):
    pytest.importorskip("ldmref.apps.server.guard")
    watch.allow("401")
    server = serve_page({"tiny": tiny}, token="secret-token-of-a-test")
    page = new_context().new_page()
    page.goto(server.url)
    dialog = page.get_by_role("dialog", name="This server needs a token")
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    dialog = page.get_by_role("dialog", name="Wrong token")
    dialog.get_by_label("Token").fill("secret-token-of-a-test")
    page.keyboard.press("Enter")
    fill(page, "a cat", 2)
    start(page)
    wait_for_result(page)
    page.get_by_role("radio", name="curl").check(force=True)
    assert "$LDMREF_TOKEN" in page.locator("pre").inner_text()
    assert "secret" not in page.content() + page.url
    page.reload()
    page.get_by_label("Prompt", exact=True).wait_for()
    assert page.get_by_role("dialog").count() == 0


def test_several_models_can_be_chosen(serve_page, tiny, new_context):
    server = serve_page({"first": tiny, "second": tiny})
    page = new_context().new_page()
    page.goto(server.url)
    page.get_by_label("Model", exact=True).select_option("second")
    fill(page, "a cat", 2)
    start(page)
    wait_for_result(page)
    assert [job.model for job in server.engine.jobs()] == ["second"]
    page.reload()
    page.get_by_label("Prompt", exact=True).wait_for()
    assert page.get_by_label("Model", exact=True).input_value() == "second"
