"""Files of the repository that pages link to: a page with numbered lines, and the file itself.

A link `source:ldmref/math/forward.py#L12` leads to the page. Both are below source/ on the site, so
nothing leads to another host.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
SCHEME = "source:"
LIST = "source-files.txt"  # the files that pages link to, beside the pages
IGNORED = {"__pycache__"}


def linked_files(text: str) -> set[str]:
    """Return the files that a page links to."""
    return {*re.findall(r"\]\(source:([^)#\s]+)", text)}


def place_of(file: str) -> str:
    """Return the name of a file's or folder's page, without its suffix."""
    return f"source/{file}/index" if (ROOT / file).is_dir() else f"source/{file}"


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn `source:` links into links to the pages of the files."""
    for node in doctree.findall(nodes.reference):
        uri = node.get("refuri", "")
        if uri.startswith(SCHEME):
            file, hash_, anchor = uri.removeprefix(SCHEME).partition("#")
            node["refuri"] = app.builder.get_relative_uri(docname, place_of(file)) + hash_ + anchor


def make_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Return the page of each file and of each folder that is linked."""
    used = {*Path(app.srcdir, LIST).read_text("utf-8").split()}
    folders = {file for file in used if (ROOT / file).is_dir()}
    files = used - folders | {str(c) for folder in folders for c in children(folder)}
    for file in sorted(files):
        if not (ROOT / file).is_dir():
            yield place_of(file), {"title": file, "body": show_file(file)}, "page.html"
            target = Path(app.outdir, "source", file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, target)
    for folder in sorted(folders):
        yield place_of(folder), {"title": folder, "body": show_folder(folder)}, "page.html"


def children(folder: str) -> list[PurePosixPath]:
    """Return the readable files in a folder, and the files of its folders."""
    return [
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".toml", ".md", ".c") and not IGNORED & {*path.parts}
    ]


def show_file(file: str) -> str:
    """Return a file as HTML with an anchor for each line."""
    text = (ROOT / file).read_text("utf-8")
    try:
        lexer = get_lexer_for_filename(file)
    except ClassNotFound:
        lexer = TextLexer()
    # Anchors are called L12, as on GitHub.
    formatter = HtmlFormatter(linenos="inline", linespans="line", wrapcode=True)
    code = highlight(text, lexer, formatter).replace('id="line-', 'id="L')
    return f"<h1>{html.escape(file)}</h1>\n{code}"


def show_folder(folder: str) -> str:
    """Return the list of the files in a folder."""
    rows = [
        f'<li><a href="{path.relative_to(folder)}.html">{path.relative_to(folder)}</a></li>'
        for path in children(folder)
    ]
    return f"<h1>{html.escape(folder)}</h1>\n<ul>\n" + "\n".join(rows) + "\n</ul>\n"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-collect-pages", make_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
