"""The docstrings of public names: their sections, and the entries that a reader misses in them.

A complete docstring says

- in one sentence what is computed, with the formula where there is one, and its source;
- every parameter with its meaning, unit and range: an entry of "Args:" (or of "Attributes:" for the
  fields of a record); methods may name their parameters in a sentence;
- what None means for a parameter whose default is None;
- the shape of an array, for parameters and results: `(n, c, h, w)`, "shape of `x`", "any shape";
- what is returned ("Returns:" or "Yields:"; methods may say it in the first sentence);
- the errors of ldmref that the function itself raises ("Raises:"), by class;
- an example for doctest, short, and the same on every processor.

A constant has a docstring below its assignment.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ldmref
from ldmref import errors

ELSEWHERE = ("ldmref.math", "ldmref.check", "ldmref.backends.fast", "ldmref.datasets.emoji")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Examples?|Note):\s*$")
ENTRY = re.compile(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*): ?(.*)")
ARRAY = re.compile(r"(np\.ndarray|Array|float)( \| (np\.ndarray|Array|float|None))*")
SHAPE = re.compile(r"\(\)|\((\w+|\.\.\.|\d+)( [+*/-] \w+| \w)?,[^()]*\)|\b[Ss]hape\b")
RETURNS = re.compile(
    r"\b([Rr]eturns?|[Yy]ields?|->)\b|->|Whether|^Compute|^Convert|^Estimate|^Predict|^List"
)
SPECIAL = ("__call__",)


class PublicName(NamedTuple):
    """A name in `__all__`, with the package that exports it."""

    package: str
    name: str

    @property
    def value(self) -> Any:
        return getattr(importlib.import_module(self.package), self.name)

    @property
    def kind(self) -> str:
        if isinstance(self.value, type):
            return "class"
        if inspect.ismodule(self.value):
            return "module"
        return "function" if inspect.isfunction(_unwrap(self.value)) else "constant"

    def __str__(self) -> str:
        return f"{self.package}.{self.name}"


class Docstring(NamedTuple):
    """A docstring, with the text of each section and of each entry."""

    text: str
    sections: dict[str, str]
    entries: dict[str, str]  # of Args and Attributes, by parameter
    raises: dict[str, str]


def public_packages() -> list[str]:
    """Return every package with `__all__`, except for those with separate tests."""
    names = ["ldmref"]
    for module in pkgutil.walk_packages(ldmref.__path__, "ldmref."):
        elsewhere = any(f"{module.name}.".startswith(f"{part}.") for part in ELSEWHERE)
        if module.ispkg and not elsewhere:
            names.append(module.name)
    return [name for name in names if hasattr(importlib.import_module(name), "__all__")]


@cache
def public_names() -> list[PublicName]:
    """Return every public name once, with the first package that exports it."""
    names: dict[int, PublicName] = {}
    for package in public_packages():
        for name in importlib.import_module(package).__all__:
            if not name.startswith("__"):
                public = PublicName(package, name)
                names.setdefault(id(public.value), public)
    return list(names.values())


def parse(text: str) -> Docstring:
    """Return a docstring with its sections and entries."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        header = SECTION.match(line)
        if header:
            current = sections.setdefault(header[1], [])
        elif line and not line.startswith(" "):
            current = []
        else:
            current.append(line)
    entries = _read_entries(sections.get("Args", [])) | _read_entries(
        sections.get("Attributes", [])
    )
    joined = {name: "\n".join(lines).strip() for name, lines in sections.items()}
    return Docstring(text, joined, entries, _read_entries(sections.get("Raises", [])))


def _read_entries(lines: list[str]) -> dict[str, str]:
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        start = ENTRY.match(line)
        if start:
            names = [name.strip().lstrip("*") for name in start[1].split(",")]
            entries |= dict.fromkeys(names, start[2])
        else:
            for name in names:
                entries[name] += " " + line.strip()
    return entries


def find_gaps(public: PublicName) -> list[str]:
    """Return what the docstring of a public name lacks, one line each."""
    if public.kind == "constant":
        return [] if constant_docstring(public) else ["no docstring below its assignment"]
    value = public.value
    if public.kind == "module":
        return [] if value.__doc__ else ["no docstring"]
    if public.kind == "function":
        return _find_function_gaps(value)
    gaps = _find_class_gaps(value)
    for name, method in methods_of(value).items():
        gaps += [f".{name}: {gap}" for gap in _find_method_gaps(method)]
    return gaps


def _find_method_gaps(method: Any) -> Iterator[str]:
    """Yield what a method's docstring lacks; it may name parameters in a sentence."""
    text = inspect.getdoc(method) or ""
    parsed = parse(text)
    annotations = annotations_of(method)
    if not text:
        yield "no docstring"
    for name, parameter in parameters_of(method).items():
        entry = parsed.entries.get(name, text)
        if not re.search(rf"\b{name}\b", text):
            yield f"does not name {name}"
        elif parameter.default is None and not re.search(r"\bNone\b", entry):
            yield f"no meaning of None for {name}"
        elif is_array(annotations.get(name, "")) and not SHAPE.search(entry):
            yield f"no shape of {name}"
    returned = annotations.get("return", "None")
    if returned not in ("None", "NoReturn") and not RETURNS.search(text):
        yield "does not say what it returns"
    elif is_array(returned) and not SHAPE.search(text):
        yield "no shape of the result"
    yield from _find_raises_gaps(method, parsed)


def _find_class_gaps(value: type) -> list[str]:
    if not own_docstring(value):
        return ["no docstring"]
    parsed = parse(own_docstring(value))
    return [*_find_parameter_gaps(value, parsed), *_find_raises_gaps(value, parsed)]


def _find_function_gaps(value: Any) -> list[str]:
    text = inspect.getdoc(value) or ""
    if not text:
        return ["no docstring"]
    if text.startswith(("Return whether", "Whether")) and not parameters_of(value):
        return []
    parsed = parse(text)
    gaps = [*_find_parameter_gaps(value, parsed), *_find_raises_gaps(value, parsed)]
    returned = annotations_of(value).get("return", "None")
    section = parsed.sections.get("Returns", parsed.sections.get("Yields", ""))
    if returned not in ("None", "NoReturn") and not section and not isinstance(value, property):
        gaps.append("no Returns")
    elif is_array(returned) and not SHAPE.search(section):
        gaps.append("no shape in Returns")
    return gaps


def _find_parameter_gaps(value: Any, parsed: Docstring) -> Iterator[str]:
    annotations = annotations_of(value)
    for name, parameter in parameters_of(value).items():
        entry = parsed.entries.get(name)
        if entry is None:
            yield f"no entry of {name}"
            continue
        if parameter.default is None and not re.search(r"\bNone\b", entry):
            yield f"no meaning of None for {name}"
        if is_array(annotations.get(name, "")) and not SHAPE.search(entry):
            yield f"no shape of {name}"


def _find_raises_gaps(value: Any, parsed: Docstring) -> Iterator[str]:
    for name in sorted(raised_by(value) - set(parsed.raises)):
        yield f"no entry of {name} in Raises"
    for name in parsed.raises:
        if not hasattr(errors, name) and not hasattr(builtins, name) and name != "Invalid":
            yield f"{name} in Raises is not an error"


def raised_by(value: Any) -> set[str]:
    """Return the names of the errors of ldmref that a function or constructor itself raises."""
    function = value
    if isinstance(value, type):
        names = [n for n in ("__init__", "__post_init__", "__new__") if n in vars(value)]
        return {error for name in names for error in raised_by(vars(value)[name])}
    if isinstance(value, property):
        function = value.fget
    try:
        source = textwrap.dedent(inspect.getsource(_unwrap(function)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).rpartition(".")[2]
            if hasattr(errors, name):
                found.add(name)
    return found


def methods_of(value: type) -> dict[str, Any]:
    """Return the public methods of a class, except for those of public bases and other packages."""
    found = {}
    fields = getattr(value, "__dataclass_fields__", {})
    exported = {id(public.value) for public in public_names()} - {id(value)}
    own = [c for c in value.__mro__ if c.__module__.startswith("ldmref") and id(c) not in exported]
    for name, member in [item for cls in own for item in vars(cls).items()]:
        function = getattr(member, "__func__", member)
        public = not name.startswith("_") or name in SPECIAL
        if inspect.isfunction(function) and public and name not in fields:
            found[name] = getattr(value, name)
    return found


def own_docstring(value: type) -> str:
    """Return the docstring of a class, without the signature that dataclass writes for one."""
    text = vars(value).get("__doc__") or ""
    return "" if is_dataclass(value) and text.startswith(f"{value.__name__}(") else text


def parameters_of(value: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or constructor."""
    if isinstance(value, property) or getattr(value, "_is_protocol", False):
        return {}
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return {}
    return {n: p for n, p in parameters.items() if n not in ("self", "cls", "_")}


def annotations_of(value: Any) -> dict[str, str]:
    """Return the annotations of a function or constructor as text."""
    function: Any = value.__init__ if isinstance(value, type) else _unwrap(value)
    hints = dict(getattr(value, "__annotations__", {})) if isinstance(value, type) else {}
    hints |= getattr(function, "__annotations__", {})
    return {name: _text_of(hint) for name, hint in hints.items()}


def _text_of(hint: Any) -> str:
    if hint is None:
        return "None"
    return hint.strip("'\"") if isinstance(hint, str) else getattr(hint, "__name__", str(hint))


def is_array(annotation: str) -> bool:
    """Return whether an annotation is that of an array, possibly with None or a number."""
    parts = annotation.split(" | ")
    return ARRAY.fullmatch(annotation) is not None and {"Array", "np.ndarray"} & set(parts) != set()


def _unwrap(value: Any) -> Any:
    return inspect.unwrap(value) if callable(value) else value


def constant_docstring(public: PublicName) -> str:
    """Return the text below the assignment of a constant, in the module that assigns it."""
    for path in sorted(Path(ldmref.__file__).parent.rglob("*.py")):
        text = path.read_text("utf-8")
        if not re.search(rf"^{public.name}(:.*)? = ", text, re.MULTILINE):
            continue
        body = ast.parse(text).body
        for statement, following in pairwise(body):
            if public.name not in _assigned_names(statement):
                continue
            below = following.value if isinstance(following, ast.Expr) else None
            if isinstance(below, ast.Constant) and isinstance(below.value, str):
                return below.value
    return ""


def _assigned_names(statement: ast.stmt) -> set[str]:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def has_example(value: Any) -> bool:
    """Return whether the docstring of a function or class, or of one of its methods, has one."""
    members = [value, *vars(value).values()] if isinstance(value, type) else [value]
    return any(">>> " in (getattr(member, "__doc__", None) or "") for member in members)
