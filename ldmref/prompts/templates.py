"""Styles and wildcards from files: parts of prompts, as other programs keep them.

A style is a row `name,prompt,negative_prompt` of A1111's `styles.csv`. A wildcard `__colour__` in a
prompt stands for a line of the file `colour.txt` (`__animals/cat__` for `animals/cat.txt`), as in
the extension sd-dynamic-prompts.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ldmref.errors import InputError, UsageError, did_you_mean, short_repr
from ldmref.prompts.text_checks import MAX_TEXT
from ldmref.support.files import check_input_path, read_file

MAX_BYTES = 16 * 2**20  # of a file
MAX_FILES = 10_000  # of a folder of wildcards
MAX_FOLDER = 64 * 2**20  # bytes of these
MAX_DRAWS = 1000  # in one prompt; a wildcard that names itself never ends
WILDCARD = re.compile(r"__((?:(?!__)[\w/.-])+)__")
COLUMNS = ("name", "prompt", "negative_prompt")


@dataclass(frozen=True)
class PromptStyle:
    """A style: texts to add to a prompt and to its negative prompt.

    Args:
        name: Its name.
        prompt, negative_prompt: The texts; `{prompt}` in them is the place of the prompt, and
            without it they follow the prompt after a comma.

    >>> from ldmref.prompts import PromptStyle
    >>> PromptStyle("ink", "{prompt}, ink on paper").prompt
    '{prompt}, ink on paper'
    """

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def read_styles(path: str | Path) -> list[PromptStyle]:
    r"""Read the styles of a file in the format of A1111's `styles.csv`.

    Args:
        path: The file, UTF-8, whose first row names its columns.

    Returns:
        The styles in the order of the file; rows without a name are left out.

    Raises:
        InputError: There is no such file, it is not such a table, or a name is there twice.

    >>> import pathlib, tempfile
    >>> from ldmref.prompts import read_styles
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "styles.csv"
    >>> rows = 'name,prompt,negative_prompt\nink,"{prompt}, ink",colour\n'
    >>> _ = path.write_text(rows)
    >>> read_styles(path)
    [PromptStyle(name='ink', prompt='{prompt}, ink', negative_prompt='colour')]
    """
    path = check_input_path(path, "the path of a table of styles", "E-STYLES")
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, "E-STYLES"), newline="")))
    except csv.Error as error:  # a field of more than 128 KiB, as an open quote makes it
        message = f"{path.name} is not a table of styles: {error}"
        raise InputError(message, code="E-STYLES", hint="is a quote not closed?") from error
    if rows and not {"name", "prompt"} <= {*rows[0]}:
        message = f"{path.name} is not a table of styles: it has no columns name and prompt"
        raise InputError(message, code="E-STYLES", hint=f"its first row is {','.join(COLUMNS)}")
    texts = [{key: (row.get(key) or "").strip() for key in COLUMNS} for row in rows]
    styles = [PromptStyle(**text) for text in texts if text["name"]]
    seen: set[str] = set()
    for style in styles:
        if style.name in seen:
            message = f"{path.name} has two styles {short_repr(style.name)}"
            raise InputError(message, code="E-STYLES")
        seen.add(style.name)
    return styles


@dataclass(frozen=True)
class Wildcards:
    """The lines for each wildcard, by name.

    Args:
        lines: The lines that a wildcard may stand for; at least one for each.

    >>> from ldmref.prompts import Wildcards
    >>> wildcards = Wildcards({"colour": ["red", "blue"], "thing": ["__colour__ heart"]})
    >>> wildcards.expand("a __thing__", seed=1) == wildcards.expand("a __thing__", seed=1)
    True
    """

    lines: Mapping[str, Sequence[str]] = field(repr=False, default_factory=dict)

    def expand(self, text: str, seed: int, start: int = 0) -> str:
        """Return a text whose wildcards are replaced by lines that depend on the seed alone.

        The first wildcard from the left is replaced until none is left, so lines may name others.
        Draw i takes line h mod n of the n lines, where h is the first 64 bits, big-endian, of the
        SHA-256 of the text `wildcard SEED i`; h mod n differs from a uniform draw by less than
        n / 2^64.

        Args:
            text: A prompt. Without wildcards in the table it is returned as it is.
            seed: The seed of the image, from 0 to 2^64 - 1.
            start: The number of the first draw; another one for the negative prompt.

        Raises:
            UsageError: A wildcard is not in the table or leads back to itself, or the text gets
                longer than a prompt may be.
        """
        if not self.has(text):
            return text
        for i in range(start, start + MAX_DRAWS):
            found = WILDCARD.search(text)
            if found is None:
                return text
            if len(text) > MAX_TEXT:
                message = f"the prompt gets longer than {MAX_TEXT:,} characters by its wildcards"
                raise UsageError(message, code="E-WILDCARD", hint="does one lead back to itself?")
            lines = self.find(found[1])
            digest = hashlib.sha256(f"wildcard {seed} {i}".encode()).digest()
            line = lines[int.from_bytes(digest[:8], "big") % len(lines)]
            text = text[: found.start()] + line + text[found.end() :]
        message = f"more than {MAX_DRAWS} wildcards in a prompt: one of them leads back to itself"
        raise UsageError(message, code="E-WILDCARD")

    def find(self, name: str) -> Sequence[str]:
        """Return the lines of a wildcard.

        Args:
            name: The wildcard, without the underscores around it.

        Returns:
            What it may stand for, at least one line.

        Raises:
            UsageError: It is not in the table.
        """
        if name not in self.lines:
            message = f"unknown wildcard __{name}__"
            raise UsageError(message, code="E-WILDCARD", hint=did_you_mean(name, self.lines))
        return self.lines[name]

    def has(self, text: str) -> bool:
        """Return whether a text has wildcards, and there is a table of them.

        A text that is longer than a prompt may be is not looked at: it is refused as a prompt.
        """
        return bool(self.lines) and len(text) <= MAX_TEXT and WILDCARD.search(text) is not None


def read_wildcards(folder: str | Path) -> Wildcards:
    r"""Read the wildcards of a folder: `NAME.txt` with a line for each value, also in subfolders.

    Args:
        folder: The folder. Blank lines and lines that begin with `#` are left out.

    Returns:
        The wildcards; the name is the path below the folder without its ending.

    Raises:
        InputError: It is not a folder, a file is not UTF-8, or a line is longer than a prompt.

    >>> import pathlib, tempfile
    >>> from ldmref.prompts import read_wildcards
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "colour.txt").write_text("# warm\nred\n\norange\n")
    >>> read_wildcards(folder).lines
    {'colour': ('red', 'orange')}
    """
    base = Path(folder)
    if not base.is_dir():
        message = f"{str(folder)!r} is not a folder of wildcards"
        raise InputError(message, code="E-WILDCARD", hint="it holds files NAME.txt")
    table = {}
    left = MAX_FOLDER
    for path in _list_files(base):
        text = read_text(path, "E-WILDCARD")
        left -= len(text)
        if left < 0:
            message = f"{str(folder)!r} holds more than {MAX_FOLDER:,} characters of wildcards"
            raise InputError(message, code="E-WILDCARD")
        lines = [line.strip() for line in text.splitlines()]
        kept = tuple(line for line in lines if line and not line.startswith("#"))
        longest = max(map(len, kept), default=0)
        if longest > MAX_TEXT:
            message = f"{path.name} has a line of {longest:,} characters"
            hint = f"a prompt has at most {MAX_TEXT:,}"
            raise InputError(message, code="E-WILDCARD", hint=hint)
        if kept:
            table[path.relative_to(base).with_suffix("").as_posix()] = kept
    return Wildcards(table)


def _list_files(base: Path) -> list[Path]:
    """Return the files of a folder of wildcards, also in subfolders, sorted."""
    files = sorted(islice(base.rglob("*.txt"), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        message = f"{str(base)!r} holds more than {MAX_FILES:,} files of wildcards"
        raise InputError(message, code="E-WILDCARD")
    return files


def read_text(path: Path, code: str) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        InputError: It cannot be read, or is something else.
    """
    try:
        return read_file(path, MAX_BYTES, code).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path.name} is not text in UTF-8"
        raise InputError(message, code=code, hint="save it as UTF-8") from error
