"""The API reference: a page for each public package, from `__all__` and the docstrings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from docstrings import summary, to_markdown
from sphinx.util.inspect import signature, stringify_signature

import ldmref

ROOT = Path(ldmref.__file__).parents[1]
MANY = 40  # names: a package with more of them has a page for each of its modules
# Packages whose names are exported for other packages of ldmref, not for users.
INTERNAL = {"ldmref.locate.faults"}
MADE = re.compile(r" = <.*?>+(?=[,)])")  # defaults without a literal: factories, functions
MODULES = (  # public modules, as docs/policy.md lists them
    "ldmref.backends.numpy",
    "ldmref.backends.torch",
    "ldmref.differences",
    "ldmref.errors",
    "ldmref.math.checked",
    "ldmref.models.layers",
    "ldmref.models.specs",
    "ldmref.modes.classifier",
    "ldmref.modes.record",
    "ldmref.samplers.rng_cuda",
)


def public_modules() -> list[ModuleType]:
    """Return the packages that export names, and the public modules."""
    names = ["ldmref", *MODULES]
    for found in pkgutil.walk_packages(ldmref.__path__, "ldmref."):
        if found.ispkg and not any(part.startswith("_") for part in found.name.split(".")):
            names.append(found.name)
    modules = [importlib.import_module(name) for name in sorted({*names} - INTERNAL)]
    exporting = [m for m in modules if hasattr(m, "__all__") or m.__name__ in MODULES]
    inner = [
        value
        for module in exporting
        for value in (getattr(module, name) for name in exported(module))
        if inspect.ismodule(value)
    ]
    # A package may export a module that is public by itself: `ldmref.families.layers`.
    return sorted({*exporting, *inner}, key=lambda module: module.__name__)


def exported(module: ModuleType) -> list[str]:
    """Return the public names of a package or module."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def make_pages() -> dict[str, str]:
    """Return the text of every page, by its place."""
    modules = public_modules()
    pages = {}
    rows = []
    for module in modules:
        name = module.__name__
        groups = by_module(module)
        rows.append(f"| [{name}]({name}.md) | {summary(module.__doc__)} |")
        head = f"# {name}\n\n{to_markdown(module.__doc__)}\n"
        if name == "ldmref.math.checked":  # it has the functions of ldmref.math
            pages[f"api/{name}.md"] = head
        elif sum(map(len, groups.values())) <= MANY:
            body = "\n".join(entry(module, n) for names in groups.values() for n in names)
            pages[f"api/{name}.md"] = f"{head}\n{body}"
        else:
            pages |= split_pages(module, head, groups)
    names = "\n".join(module.__name__ for module in modules)
    pages["api/index.md"] = (
        "# API\n\nThe names that `ldmref` and its packages export. They follow the [deprecation\n"
        "policy](../policy.md).\n\n| package | content |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )
    return pages


def by_module(module: ModuleType) -> dict[str, list[str]]:
    """Return the names of a package by the module that defines them, in their order there."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in exported(module):
        value = getattr(module, name)
        if inspect.ismodule(value):
            continue
        home = getattr(inspect.unwrap(value) if callable(value) else value, "__module__", "")
        inside = isinstance(home, str) and home.startswith("ldmref")
        groups[home if inside else module.__name__].append(name)
    for names in groups.values():
        names.sort(key=lambda name: _line(getattr(module, name)))
    return dict(sorted(groups.items()))


def split_pages(module: ModuleType, head: str, groups: dict[str, list[str]]) -> dict[str, str]:
    """Return a page for each module of a large package, and the page that lists them."""
    package = module.__name__
    pages = {}
    rows = []
    names = []
    ends = [home.rpartition(".")[2] for home in groups]
    for home, members in groups.items():
        short = home.rpartition(".")[2] if home != package else "tables"
        if ends.count(short) > 1:  # two packages have a module of this name
            short = "_".join(home.split(".")[-2:])
        doc = importlib.import_module(home).__doc__ if home != package else "Tables by name."
        body = "\n".join(entry(module, name) for name in members)
        pages[f"api/{package}/{short}.md"] = f"# {short}\n\n{to_markdown(doc)}\n{body}"
        rows.append(f"| [{short}]({package}/{short}.md) | {', '.join(f'`{n}`' for n in members)} |")
        names.append(f"{package}/{short}")
    tree = "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    table = "| module | names |\n|---|---|\n" + "\n".join(rows) + "\n"
    return {f"api/{package}.md": head + table + tree} | pages


def entry(module: ModuleType, name: str) -> str:
    """Return the entry of a public name."""
    value = getattr(module, name)
    full = f"{module.__name__}.{name}"
    if inspect.isclass(value):
        return class_entry(value, full)
    if callable(value) and not hasattr(value, "__origin__"):
        return directive("function", full + signature_of(value), to_markdown(_doc(value)), value)
    return directive("data", full, describe_value(value))


def class_entry(kind: type, full: str) -> str:
    """Return the entry of a class with its public methods and properties."""
    members = []
    seen = set()
    bases = [base for base in kind.__mro__ if base.__module__.startswith("ldmref")]
    for base in bases:
        for name, member in vars(base).items():
            if name in seen or (name.startswith("_") and name != "__call__"):
                continue
            seen.add(name)
            if text := member_entry(kind, name, member, full):
                members.append(text)
    exception = issubclass(kind, BaseException)
    head = full + ("" if exception else signature_of(kind))
    body = to_markdown(_doc(kind)) + "\n" + "\n".join(members)
    return directive("exception" if exception else "class", head, body, kind, colons=4)


def member_entry(kind: type, name: str, member: Any, full: str) -> str:
    """Return the entry of a method or property; "" for everything else."""
    if isinstance(member, property):
        if member.__doc__:
            return directive("property", f"{full}.{name}", to_markdown(member.__doc__))
        return ""
    function = getattr(member, "__func__", member)
    if not inspect.isfunction(function) or not inspect.getdoc(getattr(kind, name)):
        return ""
    bound = not isinstance(member, staticmethod)
    head = f"{full}.{name}{signature_of(function, bound)}"
    option = {classmethod: "classmethod", staticmethod: "staticmethod"}.get(type(member), "")
    return directive("method", head, to_markdown(_doc(getattr(kind, name))), function, option)


def directive(
    kind: str, head: str, body: str, value: Any = None, option: str = "", colons: int = 3
) -> str:
    """Return a directive of Sphinx's Python domain, with a link to the code."""
    fence = ":" * colons
    lines = [f"{fence}{{py:{kind}}} {head}", *([f":{option}:"] if option else []), "", body]
    if place := _place(value):
        file, line = place
        lines += [f"**Code:** [{file}](source:{file}#L{line})"]
    return "\n".join([*lines, fence, ""])


def signature_of(value: Any, bound: bool = False) -> str:
    """Return a signature as text; "" for values that have none."""
    try:
        found = signature(value, bound_method=bound)
    except (TypeError, ValueError):
        return "()" if inspect.isfunction(value) else ""
    # `Array` is Any: the docstrings say more about arrays.
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) if p.annotation is Any else p
        for p in found.parameters.values()
    ]
    returns = found.return_annotation
    if returns is Any or inspect.isclass(value):
        returns = inspect.Signature.empty
    found = found.replace(parameters=parameters, return_annotation=returns)
    return MADE.sub(" = ...", stringify_signature(found, unqualified_typehints=True))


def describe_value(value: Any) -> str:
    """Describe a constant: the keys of a mapping, or its value."""
    if isinstance(value, dict):
        return f"{len(value)} entries: " + ", ".join(f"`{key}`" for key in value) + ".\n"
    if isinstance(value, tuple | list):
        return ", ".join(f"`{item}`" for item in value) + ".\n"
    return f"`{value!r}`\n" if isinstance(value, str | int | float) else f"Alias of `{value}`.\n"


def _doc(value: Any) -> str | None:
    """Return a docstring, but none that Python makes for a dataclass without one."""
    doc = inspect.getdoc(value)
    made = inspect.isclass(value) and (doc or "").startswith(f"{value.__name__}(")
    return None if made else doc


def _place(value: Any) -> tuple[str, int] | None:
    """Return the file and the line that define a value."""
    try:
        target = inspect.unwrap(value)
        path = Path(inspect.getsourcefile(target) or "").resolve()
        return path.relative_to(ROOT).as_posix(), inspect.getsourcelines(target)[1]
    except (TypeError, OSError, ValueError):
        return None


def _line(value: Any) -> int:
    place = _place(value)
    return place[1] if place else 0
