"""The files of the page: links to its scripts, what these import, and how long all are kept."""

from __future__ import annotations

import re

from ldmref.apps.server import static_files
from ldmref.apps.server.static_files import add_preloads, list_imports, list_needed

SOURCE = """
// import { gone } from "./comment.js";
import "./effect.js";
import * as api from "./api.js";
import {
  long,
  list,
} from "../lists.js";
import one, { two } from './quoted.js';
export { three } from "./deep/three.js";
export * from "./four.js";
export function load() {
  return import("./later.js");
}
"""
FOUND = ["js/effect.js", "js/api.js", "lists.js", "js/quoted.js", "js/deep/three.js", "js/four.js"]


def test_imports_of_every_form():
    assert list_imports("js/main.js", SOURCE) == FOUND


def test_needed_scripts_in_a_circle():
    scripts = {
        "a.js": 'import "./b.js";\nimport "./c.js";',
        "b.js": 'import "./c.js";',
        "c.js": 'import "./a.js";',
        "d.js": "",
    }
    assert list_needed("a.js", scripts) == ["a.js", "b.js", "c.js"]
    page = '<p>\n  <link rel="modulepreload" href="/page/b.js">\n</p>\n'
    links = "".join(
        f'  <link rel="modulepreload" href="/page/{name}.js">\n' for name in ("b", "c", "a")
    )
    assert add_preloads(page, scripts) == f"<p>\n{links}</p>\n"


def test_every_link_of_the_page_is_a_file():
    files = static_files.read_files()
    page = files["index.html"].content.decode()
    links = re.findall(r'(?:href|src)="/page/v-[0-9a-f]{16}/(.*?)"', page)
    assert len(links) > 80
    assert set(links) <= files.keys()
    assert page.count("/page/") == len(links)


def test_files_of_this_version_may_be_kept(server):
    page = server.client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    [version] = set(re.findall(r"/page/(v-.*?)/", page.text))
    for folder, caching in (
        (f"/page/{version}", "public, max-age=31536000, immutable"),
        ("/page", "no-cache"),
        (f"/page/v-{'0' * 16}", "no-cache"),  # of a page that was opened before an update
    ):
        answer = server.client.get(f"{folder}/js/main.js")
        assert answer.status_code == 200 and answer.headers["cache-control"] == caching, folder
        assert "start();" in answer.text
    for path in (
        f"/page/{version}/v-{'0' * 16}/js/main.js",
        f"/page/{version}/",
        "/page/v-1/js/main.js",
    ):
        assert server.client.get(path).status_code == 404, path


def test_a_changed_file_is_another_version(monkeypatch):
    read = static_files.read_folder
    before = static_files.read_files()["index.html"].content

    def changed(*arguments):
        for name, content in read(*arguments):
            yield name, content + b"\n" if name == "js/dom.js" else content

    monkeypatch.setattr(static_files, "read_folder", changed)
    after = static_files.read_files()["index.html"].content
    assert before != after and len(before) == len(after)
