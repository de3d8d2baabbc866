"""The names that packages build on: each at its address, and under its former one for a while."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import tomllib
import warnings
from pkgutil import resolve_name

import pytest
from blocks import ROOT, blocks

import ldmref
from ldmref import declare, samplers
from ldmref.support import lazy, renames
from ldmref.support.renames import RENAMES, Rename, find_former_name

TABLE = tomllib.loads((ROOT / "docs" / "stable_names.toml").read_text("utf-8"))["names"]
NAMES = {f"{group['address']}.{name}" for group in TABLE for name in group["names"]}
PAGES = {  # page -> the addresses that its readers import from
    "docs/add-a-family.md": ("ldmref.families", "ldmref.testing"),
    "docs/write-a-sampler.md": (
        "ldmref.samplers",
        "ldmref.declare",
        "ldmref.math",
        "ldmref.testing",
    ),
    "docs/write-a-backend.md": (
        "ldmref.backends",
        "ldmref.models",
        "ldmref.math",
        "ldmref.testing",
        "ldmref.errors",
    ),
    "docs/add-a-formula.md": ("ldmref.math", "ldmref.testing"),
}
SOURCES = sorted((ROOT / "examples" / "plugins").glob("*/src/**/*.py"))
# Words in backticks that are no names of the package, although it has such a name.
WORDS = {"ldmref.samplers.lcm", "ldmref.samplers.tcd", "ldmref.math.snr", "ldmref.testing.cases"}


def imported(code: str) -> set[str]:
    """Return the addresses of all names of ldmref that code imports."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ldmref.")
        for alias in node.names
    }


def python_of(page: str) -> str:
    """Return the Python of a page that is a whole program or a part of one."""
    found = []
    for block in blocks(page):
        try:
            ast.parse(block.text)
        except SyntaxError:
            continue
        found += [block.text] if block.language == "python" else []
    return "\n".join(found)


def missing(addresses: set[str]) -> list[str]:
    """Return what the table lacks: neither a name nor an attribute, nor a module with names."""
    modules = {name.rpartition(".")[0] for name in NAMES}
    known = NAMES | modules
    return sorted(x for x in addresses - known if x.rpartition(".")[0] not in NAMES)


def test_each_name_is_at_its_address():
    """A name that was renamed stays in the table until its row in `RENAMES` is due."""
    for address in sorted(NAMES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if address in RENAMES else "error", DeprecationWarning)
            assert resolve_name(address) is not None


@pytest.mark.parametrize("page", PAGES)
def test_the_names_of_a_page_are_stable(page):
    """Those that its code imports, and those in its text that an address of the page exports."""
    assert missing(imported(python_of(page))) == []
    words = set(re.findall(r"`@?([A-Za-z_]\w*(?:\.\w+)?)", (ROOT / page).read_text("utf-8")))
    for address in PAGES[page]:
        exported = set(getattr(importlib.import_module(address), "__all__", ()))
        named = {f"{address}.{word}" for word in words if word.partition(".")[0] in exported}
        assert missing(named - WORDS) == []


def former_arguments(call: ast.Call) -> list[str]:
    """Return the arguments of a call that its class takes for a while, and warns of."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    for address in ("ldmref.ports", "ldmref.cases", "ldmref.training", "ldmref.families"):
        kind = getattr(importlib.import_module(address), name, None) if name else None
        if dataclasses.is_dataclass(kind):
            held = {field.name for field in dataclasses.fields(kind)}
            taken = {*inspect.signature(kind).parameters} - held
            return [f"{name}({k.arg}=)" for k in call.keywords if k.arg in taken]
    return []


def test_the_page_of_families_gives_no_former_argument():
    """Nobody who follows it sees a warning."""
    code = ast.walk(ast.parse(python_of("docs/add-a-family.md")))
    calls = [node for node in code if isinstance(node, ast.Call)]
    assert [name for call in calls for name in former_arguments(call)] == []
    assert calls
    (former,) = ast.parse("NetworkInput('x', 'sample', shape, also=())").body
    assert isinstance(former, ast.Expr) and isinstance(former.value, ast.Call)
    assert former_arguments(former.value) == ["NetworkInput(also=)"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_example_imports_stable_names(path):
    assert missing(imported(path.read_text("utf-8"))) == []


def test_all_that_a_family_needs_is_in_the_table():
    """`ldmref.families` is for packages alone, so all of it is stable."""
    exported = {
        f"ldmref.families.{name}" for name in importlib.import_module("ldmref.families").__all__
    }
    assert missing(exported) == []


def test_the_page_is_what_its_script_writes():
    path = ROOT / "scripts" / "make_stable_names.py"
    spec = importlib.util.spec_from_file_location("make_stable_names", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs" / "stable-names.md").read_text("utf-8") == script.make_page()
    shown = script.make_page({"ldmref.samplers.Old": Rename("ldmref.samplers.Sampler", "0.2.0")})
    assert "| `ldmref.samplers.Old` | `ldmref.samplers.Sampler` | 0.2.0 | 0.3 |" in shown


# -- renames --------------------------------------------------------------------------------------


@pytest.fixture
def renamed(monkeypatch):
    """Rename a name of each kind of package, as a release would."""
    packages = ("families", "samplers", "backends", "declare", "testing", "models")
    new = {"testing": "ldmref.testing.three_modes", "samplers": "ldmref.samplers.Sampler"}
    for package in packages:
        to = Rename(new.get(package, "ldmref.families.Family"), "0.2.0")
        monkeypatch.setitem(RENAMES, f"ldmref.{package}.Former", to)
    return packages


def test_a_former_name_is_imported_with_a_warning_that_says_the_new_one(renamed):
    for package in renamed:
        with pytest.warns(DeprecationWarning) as caught:
            exec(f"from ldmref.{package} import Former", found := {})
        new = RENAMES[f"ldmref.{package}.Former"].name
        assert found["Former"] is resolve_name(new)
        assert str(caught[0].message) == (
            f"ldmref.{package}.Former is {new} since ldmref 0.2.0; the old name goes in 0.3"
        )
        assert {warning.filename for warning in caught} == {"<string>"}  # whose code imports it
    with pytest.warns(DeprecationWarning):
        assert samplers.Former is samplers.Sampler


def test_other_names_are_refused_as_before(renamed):
    for package in renamed:
        with pytest.raises(ImportError, match="cannot import name 'Formerly_'"):
            exec(f"from ldmref.{package} import Formerly_")
    with pytest.raises(AttributeError, match=r"^module 'ldmref.samplers' has no attribute 'Old'$"):
        find_former_name("ldmref.samplers", "Old", {})
    assert declare.Range and lazy and renames


def test_no_rename_is_due():
    """A former name whose minor version is over goes, and its row of docs/stable_names.toml."""
    version = tuple(int(part) for part in ldmref.__version__.split(".")[:2])
    ends = {name: tuple(map(int, rename.end.split("."))) for name, rename in RENAMES.items()}
    assert [name for name, end in ends.items() if end <= version] == []
    for rename in RENAMES.values():
        assert resolve_name(rename.name) is not None
