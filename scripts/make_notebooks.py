"""Make notebooks from pages that have Python blocks, with the outputs that the pages show.

    python scripts/make_notebooks.py docs/training.md -o training.ipynb

The site has a link to the notebook of each such page. The outputs are those that
`scripts/run_chapter.py --write` has written into the page, and images are inside the file.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from run_chapter import BLOCK

ROOT = Path(__file__).resolve().parents[1]
# Pages whose blocks are parts of files: they do not run one after the other.
FRAGMENTS = {f"docs/{name}.md" for name in ("add-a-formula", "write-a-backend", "write-a-sampler")}
MATH = re.compile(r"^( *)```math\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"\$`([^`]+)`\$")
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
IMAGE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<path>[^)\s:]+\.(?:png|webp|svg))\)")


def make_notebook(text: str, folder: Path) -> Any:
    """Return the notebook of a page.

    Args:
        text: The page, as Markdown.
        folder: Where its images are.
    """
    cells = []
    position = 0
    for block in BLOCK.finditer(text):
        cells += markdown_cells(text[position : block.start()], folder)
        output = block["output"]
        outputs = [new_output("stream", name="stdout", text=output)] if output else []
        cells.append(new_code_cell(block["code"].rstrip("\n"), outputs=outputs))
        position = block.end()
    cells += markdown_cells(text[position:], folder)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # the same page gives the same file
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(notebook)
    return notebook


def markdown_cells(text: str, folder: Path) -> list[Any]:
    """Return the cell of a text between two blocks, with its images attached; none if empty."""
    text = COMMENT.sub("", text)
    text = MATH.sub(r"\1$$\n\2\1$$", text)
    text = INLINE.sub(r"$\1$", text).strip("\n")
    attachments = {}

    def attach(match: re.Match[str]) -> str:
        path = folder / match["path"]
        if not path.is_file():
            return match[0]
        data = base64.b64encode(path.read_bytes()).decode()
        if path.suffix == ".svg":  # Jupyter displays no attachments of this kind
            text = html.escape(match["text"])
            return f'<img alt="{text}" src="data:image/svg+xml;base64,{data}">'
        attachments[path.name] = {f"image/{path.suffix.removeprefix('.')}": data}
        return f"![{match['text']}](attachment:{path.name})"

    text = IMAGE.sub(attach, text)
    if not text:
        return []
    return [new_markdown_cell(text, **({"attachments": attachments} if attachments else {}))]


def make_notebooks(places: dict[str, str], texts: dict[str, str]) -> dict[str, str]:
    """Return the notebook of each page that has Python blocks, by its place on the site."""
    return {
        str(PurePosixPath(place).with_suffix(".ipynb")): to_json(texts[place], (ROOT / page).parent)
        for page, place in places.items()
        if page.startswith("docs/") and page not in FRAGMENTS and BLOCK.search(texts.get(place, ""))
    }


def to_json(text: str, folder: Path) -> str:
    """Return the file of a page's notebook."""
    return nbformat.writes(make_notebook(text, folder)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="the notebook (default: beside the page)")
    args = parser.parse_args()
    if not BLOCK.search(args.page.read_text("utf-8")):
        sys.exit(f"{args.page} has no Python blocks")
    output = args.output or args.page.with_suffix(".ipynb")
    output.write_text(to_json(args.page.read_text("utf-8"), args.page.parent), "utf-8")


if __name__ == "__main__":
    main()
