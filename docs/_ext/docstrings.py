"""A docstring as Markdown.

The docstrings are plain text with `code`, sections such as "Args:", formulas after `.. math::` and
examples after `>>>`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

LISTS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Class attributes": "Class attributes",
    "Raises": "Raises",
}
TEXTS = {
    "Returns": "Returns",
    "Yields": "Yields",
    "Example": "Example",
    "Examples": "Examples",
    "Accuracy": "Accuracy",
    "Source": "Source",
    "Derived": "Derived",
    "Note": "Note",
}
SECTION = re.compile(rf"(?P<name>{'|'.join([*LISTS, *TEXTS])}):(?: +(?P<rest>.*))?$")
ENTRY = re.compile(r"(?P<name>[*\w][\w., *`]*): +(?P<text>.*)$", re.DOTALL)
MATH = re.compile(r"\.\. math::(?P<rest>.*)$")
CITATION = re.compile(r"arXiv:((?:[a-z-]+/)?\d[\d.]*\d)")
CODE = re.compile(r"(`+[^`]*`+|\[[^\]]*\]\([^)]*\))")


def to_markdown(docstring: str | None) -> str:
    """Return a docstring as Markdown.

    >>> print(to_markdown("Return x.\\n\\nArgs:\\n    x: A number,\\n        any."))
    Return x.
    <BLANKLINE>
    **Arguments**
    <BLANKLINE>
    - `x`: A number,
      any.
    <BLANKLINE>
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_blocks(lines))).strip("\n") + "\n"


def summary(docstring: str | None) -> str:
    """Return the first sentence of a docstring as Markdown, without a full stop."""
    first = " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
    return _plain(re.split(r"(?<=[^.]{2})\.(?: |$)", first)[0].rstrip("."))


def _blocks(lines: list[str]) -> list[str]:
    """Convert line by line; a block is a section, a formula, an example or an indented text."""
    out: list[str] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if section := SECTION.match(line):
            body, i = _indented(lines, i + 1)
            rest = section["rest"]
            out += _section(section["name"], [*([rest] if rest else []), *body])
        elif formula := MATH.match(line):
            body, i = _indented(lines, i + 1)
            tex = [text.strip() for text in (formula["rest"], *body) if text.strip()]
            out += ["", "```math", *tex, "```", ""]
        elif line.startswith(">>>"):
            end = next((j for j in range(i, len(lines)) if not lines[j].strip()), len(lines))
            out += ["", "```pycon", *lines[i:end], "```", ""]
            i = end
        elif line.startswith("    ") and (not out or not out[-1].strip()):
            body, i = _indented(lines, i)
            out += ["", *_literal(body), ""]
        elif (not out or not out[-1].strip()) and (verbatim := _verbatim(lines[i:])):
            out += ["", *verbatim, ""]
            i += len(verbatim) - 2
        else:
            follows = bool(out and out[-1].strip())
            out.append(_plain(line, follows))
            i += 1
    return out


def _indented(lines: list[str], i: int) -> tuple[list[str], int]:
    """Return the indented lines from i on, without their indentation, and the next line."""
    end = i
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
        end += 1
    return textwrap.dedent("\n".join(lines[i:end])).strip("\n").splitlines(), end


def _section(name: str, body: list[str]) -> list[str]:
    if name in TEXTS:
        label = f"**{TEXTS[name]}:** "
        blocks = _blocks(body)
        if blocks and blocks[0].strip():
            return ["", label + blocks[0], *blocks[1:], ""]
        return ["", label, *blocks, ""]
    out = ["", f"**{LISTS[name]}**", ""]
    for entry in _entries(body):
        match = ENTRY.match(entry)
        text = f"`{match['name'].replace('`', '')}`: {match['text']}" if match else entry
        # A formula or an example may follow in an entry.
        first, *rest = "\n".join(_blocks(text.splitlines())).splitlines() or [""]
        out += [f"- {first}", *(f"  {line}" if line else "" for line in rest)]
    return [*out, ""]


def _entries(body: list[str]) -> list[str]:
    """Split a section into its entries; a continued line is indented."""
    entries: list[list[str]] = []
    for line in body:
        if line.startswith(" ") or not line.strip():
            if entries:
                entries[-1].append(line.strip())
        else:
            entries.append([line])
    return ["\n".join(entry).rstrip() for entry in entries]


def _verbatim(lines: list[str]) -> list[str]:
    """Return a first paragraph that is code or aligned in columns as a block; [] for text."""
    end = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    body = lines[:end]
    if end > 1 and all(re.search(r"\S {2,}\S", line) for line in body):
        return ["```text", *body, "```"]
    try:
        tree = ast.parse("\n".join(body))
    except SyntaxError:
        return []
    code = any(isinstance(n, ast.Import | ast.ImportFrom | ast.Assign) for n in tree.body)
    code = code and len(tree.body) > 1  # "f = 0." is a sentence
    return ["```python", *body, "```"] if code else []


def _literal(body: list[str]) -> list[str]:
    text = "\n".join(body)
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "text"
    return [f"```{language}", text, "```"]


def _plain(line: str, follows: bool = False) -> str:
    """Escape in a line what Markdown would take for markup, and link citations."""
    parts = CODE.split(line)
    for i in range(0, len(parts), 2):
        text = re.sub(r"([$*\\]|<(?=\w)|__)", r"\\\1", parts[i])
        parts[i] = CITATION.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    line = "".join(parts)
    return re.sub(r"^([-+#>]|\d+[.)]) ", r"\\\1 ", line) if follows else line
