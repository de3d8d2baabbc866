"""The course as its tests read it: pages, exercises, solutions, mistakes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "docs" / "course"
MISTAKES = Path(__file__).parent / "mistakes"
EXERCISE = re.compile(r"^### Exercise (\d+)\b.*?$(.*?)(?=^#{1,3} |\Z)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (ldmref check .*--against answers\.py.*)$", re.MULTILINE)
ONLY = re.compile(r'--only "(\w+): ?"')


class Exercise(NamedTuple):
    """An exercise of a page: its number, its text, the functions that its commands mark."""

    number: int
    text: str
    functions: list[str]


def pages() -> list[Path]:
    """The chapters that exist, in their order."""
    return sorted(COURSE.glob("[0-9][0-9]-*.md"))


def planned() -> list[str]:
    """The file names of all chapters, from the table of the course."""
    text = (COURSE / "README.md").read_text("utf-8")
    return sorted({*re.findall(r"\]\((\d\d-[\w-]+\.md)\)", text)})


def exercises(page: Path) -> list[Exercise]:
    """The exercises of a page."""
    found = []
    for match in EXERCISE.finditer(page.read_text("utf-8")):
        functions = [
            name for command in COMMAND.findall(match[2]) for name in ONLY.findall(command)
        ]
        found.append(Exercise(int(match[1]), match[2], list(dict.fromkeys(functions))))
    return found


def solution(page: Path) -> Path:
    """The file with the answers to a page's exercises."""
    return COURSE / "solutions" / f"ch{page.name[:2]}.py"


def mistakes() -> list[Path]:
    """The files of wrong answers that exist."""
    return sorted(MISTAKES.glob("ch[0-9][0-9].py"))


def load(path: Path) -> ModuleType:
    """Import a file under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"course_{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number_of(path: Path) -> str:
    """The two digits of a chapter, an answer or a mistake: the name of a test."""
    return re.findall(r"\d\d", path.name)[0]
