"""The links by which the page names its scripts, and those that they import."""

from __future__ import annotations

from ldmref.apps.server import static_files
from ldmref.apps.server.module_graph import add_preloads, list_imports, list_needed

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
    links = [part.partition('"')[0] for part in page.split('href="/page/')[1:]]
    assert len(links) > 80
    assert set(links) <= files.keys()
