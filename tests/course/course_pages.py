"""The course as its tests read it: pages, exercises, solutions, mistakes."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ldmref.check import identities

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "docs" / "course"
MISTAKES = Path(__file__).parent / "mistakes"
EXERCISE = re.compile(r"^### Exercise (\d+)\b.*?$(.*?)(?=^#{1,3} |\Z)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (ldmref check .*--against answers\.py.*)$", re.MULTILINE)


class Exercise(NamedTuple):
    """An exercise of a page: its number, its text, its commands, what these give to `--only`."""

    number: int
    text: str
    commands: list[list[str]]
    marked: list[str]

    @property
    def printed(self) -> str:
        """The code with a mistake that the page prints, or ""."""
        blocks = re.findall(r"```(?:python|text)\n(.*?)```", self.text, re.DOTALL)
        return next((block for block in blocks if block.startswith("def ")), "")


def pages() -> list[Path]:
    """Return the chapters that exist, in their order."""
    return sorted(COURSE.glob("[0-9][0-9]-*.md"))


def planned() -> list[str]:
    """Return the file names of all chapters, from the table of the course."""
    text = (COURSE / "README.md").read_text("utf-8")
    return sorted({*re.findall(r"\]\((\d\d-[\w-]+\.md)\)", text)})


def exercises(page: Path) -> list[Exercise]:
    """Return the exercises of a page."""
    found = []
    for match in EXERCISE.finditer(page.read_text("utf-8")):
        commands = [shlex.split(command) for command in COMMAND.findall(match[2])]
        marked = [words[words.index("--only") + 1] for words in commands]
        found.append(Exercise(int(match[1]), match[2], commands, marked))
    return found


def solution(page: Path) -> Path:
    """Return the file with the answers to a page's exercises."""
    return COURSE / "solutions" / f"ch{page.name[:2]}.py"


def answers(page: Path) -> dict[str, Callable[..., object]]:
    """Return the functions of the solution that have a name of ldmref."""
    known = {name for i in identities() for name in (i.function, *i.uses)}
    return {name: value for name, value in vars(load(solution(page))).items() if name in known}


def mistakes() -> list[Path]:
    """Return the files of wrong answers that exist."""
    return sorted(MISTAKES.glob("ch[0-9][0-9].py"))


def load(path: Path) -> ModuleType:
    """Import a file under a unique name."""
    spec = importlib.util.spec_from_file_location(f"course_{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number_of(path: Path) -> str:
    """Return the two digits of a chapter, an answer or a mistake: the name of a test."""
    return re.findall(r"\d\d", path.name)[0]
