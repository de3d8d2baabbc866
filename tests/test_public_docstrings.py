"""Every public name outside ldmref.math and ldmref.check is documented, and its examples run.

Names, shapes and errors: `public_docstrings.py` reads them from the docstrings. ldmref.math has
stricter tests (tests/math/test_docs.py).
"""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from public_docstrings import ELSEWHERE, PublicName, find_gaps, has_example, public_names

import ldmref

PACKAGE = Path(ldmref.__file__).parent
NAMES = public_names()
PACKAGES = sorted({public.package for public in NAMES})


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = [
    module_of(path)
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^ +>>> ", path.read_text("utf-8"), re.MULTILINE)
    and not any(f"{module_of(path)}.".startswith(f"{part}.") for part in ELSEWHERE)
]


def names_of(package: str) -> list[PublicName]:
    return [public for public in NAMES if public.package == package]


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_are_complete(package):
    gaps = {public: find_gaps(public) for public in names_of(package)}
    wrong = [f"{public}: {'; '.join(found)}" for public, found in gaps.items() if found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_examples(package):
    computed = [public for public in names_of(package) if public.kind not in ("constant", "module")]
    wrong = [f"{public} has no example" for public in computed if not has_example(public.value)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def is_made_at_run_time(public: PublicName) -> bool:
    """Return whether doctest does not find a class in its module, as those of schedulers."""
    module = importlib.import_module(getattr(public.value, "__module__", "") or "ldmref")
    return public.kind == "class" and getattr(module, public.value.__name__, None) is None


@pytest.mark.parametrize("public", [*filter(is_made_at_run_time, NAMES)], ids=str)
def test_the_examples_of_made_classes_run(public):
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder(recurse=False).find(public.value, public.name):
        assert test.examples and not runner.run(test).failed


def test_all_packages_are_read():
    assert {"ldmref", "ldmref.modes", "ldmref.samplers"} <= {public.package for public in NAMES}
    assert "ldmref.loading" in MODULES


def flawed(
    x: "np.ndarray",  # type: ignore[name-defined]  # noqa: F821, UP037
    size: int | None = None,
) -> "np.ndarray":  # type: ignore[name-defined]  # noqa: F821, UP037
    """Return x.

    Args:
        x: The input.
        size: The size.
    """
    raise ldmref.errors.UsageError("no", code="E-NO")


def test_gaps_are_found(monkeypatch):
    """The rules of this file notice a docstring in which everything is missing."""
    monkeypatch.setattr(PublicName, "value", property(lambda self: flawed))
    assert find_gaps(PublicName("tests", "flawed")) == [
        "no shape of x",
        "no meaning of None for size",
        "no entry of UsageError in Raises",
        "no Returns",
    ]
