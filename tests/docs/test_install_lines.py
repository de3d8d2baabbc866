"""Instructions install ldmref from a clone: it is on no index, and another's package might be.

A hint such as `pip install 'ldmref[torch]'` that ldmref itself prints is another matter: pip takes
the ldmref that is installed, and asks the index for the packages of the extra alone.
"""

from __future__ import annotations

import re

import pytest
from blocks import ROOT, pages

FROM_INDEX = re.compile(r"pip3? install\b[^`\n]*?(?<![\w./-])ldmref(?![\w./-])[^`\n]*")
CODE = ("examples/**/*.py", "scripts/*.py", "scripts/**/*.py", "benchmarks/*.py", ".github/**/*")


def from_index(text):
    """Return the commands of a text that ask an index for ldmref."""
    return [match[0] for match in FROM_INDEX.finditer(text.replace("\\\n", " "))]


def test_no_page_takes_ldmref_from_an_index():
    found = {page: from_index((ROOT / page).read_text("utf-8")) for page in pages()}
    assert {page: lines for page, lines in found.items() if lines} == {}


@pytest.mark.parametrize("pattern", CODE)
def test_no_example_or_workflow_does(pattern):
    files = [path for path in ROOT.glob(pattern) if path.is_file()]
    assert {path.name: lines for path in files if (lines := from_index(path.read_text()))} == {}


def test_no_hint_replaces_the_installed_package():
    for path in (ROOT / "ldmref").rglob("*.py"):
        lines = from_index(path.read_text("utf-8"))
        assert not [line for line in lines if "-U" in line or "--upgrade" in line], path


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("pip install 'ldmref[server]'", 1),
        ("- run: pip install --quiet ldmref openai", 1),
        ("pip install openai \\\n  ldmref[gguf]", 1),
        ("pip install ldmref==1.0", 1),
        ("pip install '.[server]'", 0),
        ("pip install './ldmref[server]' openai", 0),
        ("pip install -e ./ldmref-mine", 0),
        ("`pip install '.[server]'` installs ldmref", 0),
        ("pip install ldmref-jax", 0),
    ],
)
def test_what_asks_an_index(text, count):
    assert len(from_index(text)) == count
