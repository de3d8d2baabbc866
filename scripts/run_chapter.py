"""Run the Python blocks of a page, or of one section, in one folder, as a reader would.

    python scripts/run_chapter.py docs/course/controlnet.md --folder runs/chapter
    python scripts/run_chapter.py docs/training.md --section "Train it yourself" --write

The output of each block and its processor time are printed. With --write the outputs are written
into the page, as the block of text below each block, and its images are replaced. Trainings stay in
the folder: a second run does not repeat them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
IMAGE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)]+\.png)\)")


def split(text: str, section: str = "") -> tuple[str, str, str]:
    """Return what precedes a section of a page, the section, and what follows it.

    Args:
        text: The text of the page.
        section: The title of a section. "": the whole page.

    Raises:
        ValueError: There is no such section.
    """
    if not section:
        return "", text, ""
    start = text.index(f"\n## {section}\n")
    end = text.find("\n## ", start + 1)
    end = len(text) if end < 0 else end
    return text[:start], text[start:end], text[end:]


def run(
    page: Path,
    folder: Path,
    report: Callable[[int, float, str], None] = lambda i, s, output: None,
    section: str = "",
) -> list[str]:
    """Run the blocks of a page or of its section in the folder; return the output of each.

    `report` is called with the number of each block, its processor time in seconds, and its output.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    outputs = []
    with contextlib.chdir(folder):
        for i, block in enumerate(BLOCK.finditer(split(page.read_text(), section)[1])):
            start = time.process_time()
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block["code"], f"{page.name}, block {i}", "exec"), names)
            outputs.append(printed.getvalue())
            report(i, time.process_time() - start, outputs[-1])
    return outputs


def with_outputs(text: str, outputs: list[str]) -> str:
    """Return the page with these outputs in its blocks of text."""
    remaining = iter(outputs)

    def filled(block: re.Match[str]) -> str:
        output = next(remaining)
        if block["output"] is None:
            return block[0]
        return f"```python\n{block['code']}```\n\n```text\n{output}```\n"

    return BLOCK.sub(filled, text)


def hide_numbers(output: str) -> str:
    """Return an output with `#` for each number, because a short run prints others."""
    numbers = re.sub(r"[-+]?\d[\d,]*(\.\d*)?(e[-+]?\d+)?|nan|-?inf", "#", output)
    return re.sub(r"\s+", " ", numbers).strip()


def images(page: Path, section: str = "") -> list[Path]:
    """Return the files of the images on the page, or in its section."""
    text = split(page.read_text(), section)[1]
    return [page.parent / match["path"] for match in IMAGE.finditer(text)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/chapter"))
    parser.add_argument("--section", default="", help="the title of one section")
    parser.add_argument("--write", action="store_true", help="outputs and images into the page")
    args = parser.parse_args()
    page = args.page.resolve()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    def report(i: int, seconds: float, output: str) -> None:
        os.write(1, f"block {i}: {seconds:.0f} s of processor time\n{output}\n".encode())

    outputs = run(page, folder, report, args.section)
    if args.write:
        for path in images(page, args.section):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path.name, path)
        before, text, after = split(page.read_text(), args.section)
        page.write_text(before + with_outputs(text, outputs) + after)


if __name__ == "__main__":
    main()
