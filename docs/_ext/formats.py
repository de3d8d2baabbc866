"""Each page also as Markdown and, if it has Python blocks, as a notebook; llms.txt lists them."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from navigation import read_sections
from sphinx.application import Sphinx

SOURCE = re.compile(r"\]\(source:([^)#]+)(?:#[^)]*)?\)")
SIGNATURE = re.compile(r"^:::+\{py:\w+\}.*$", re.MULTILINE)  # its types are ~package.Name
TOCTREE = re.compile(r"\n```\{toctree\}\n.*?\n```\n", re.DOTALL)


def add_links(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put links to the other forms of a page below its title."""
    if doctree is None or "</h1>" not in context.get("body", ""):
        return
    name = PurePosixPath(pagename).name
    links = [f'<a href="{name}.md">Markdown</a>']
    if Path(app.srcdir, f"{pagename}.ipynb").is_file():
        links.append(f'<a href="{name}.ipynb" download>Notebook</a>')
    formats = f'<p class="formats">This page as {", ".join(links)}</p>'
    context["body"] = context["body"].replace("</h1>", f"</h1>\n{formats}", 1)


def plain_text(text: str, place: str) -> str:
    """Return the Markdown of a page for readers: links to files, no sidebar."""
    folder = PurePosixPath(place).parent

    def to_file(match: re.Match[str]) -> str:
        return f"]({os.path.relpath(PurePosixPath('source', match[1]), folder)})"

    text = SIGNATURE.sub(lambda m: re.sub(r"~[\w.]*?(\w+\b)(?![.\w])", r"\1", m[0]), text)
    return SOURCE.sub(to_file, TOCTREE.sub("", text))


def write_files(app: Sphinx, exception: Exception | None) -> None:
    """Write the Markdown and the notebook beside each page, and llms.txt."""
    if exception or app.builder.format != "html":
        return
    for docname in sorted(app.env.found_docs):
        place = f"{docname}.md"
        text = Path(app.srcdir, place).read_text("utf-8")
        target = Path(app.outdir, place)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(plain_text(text, place), "utf-8")
        notebook = Path(app.srcdir, f"{docname}.ipynb")
        if notebook.is_file():
            Path(app.outdir, f"{docname}.ipynb").write_bytes(notebook.read_bytes())
    index = Path(app.srcdir, "index.md").read_text("utf-8")
    Path(app.outdir, "llms.txt").write_text(llms_txt(index), "utf-8")


def llms_txt(index: str) -> str:
    """Return the list of all pages for programs that read it (https://llmstxt.org)."""
    lines = [
        "# ldmref",
        "",
        "> A readable reference implementation of latent diffusion on NumPy, CuPy and PyTorch, "
        "with a course, a test for every formula and a small embedded model.",
    ]
    for title, entries in read_sections(index).items():
        if entries:
            lines += ["", f"## {title}", ""]
            lines += [f"- [{e.title}]({e.place}): {e.summary}" for e in entries]
    return "\n".join(lines) + "\n"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", add_links)
    app.connect("build-finished", write_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
