"""Write ldmref/modes/__init__.pyi: the modes with their parameters, as static tools read them.

    python scripts/make_mode_stubs.py

The functions of the modes get their parameters when they are imported, which an editor does not
do. Names, types and defaults come from `inspect.signature`, that is, from the declarations of the
requests; `tests/modes/test_mode_stubs.py` compares.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldmref import modes
from ldmref.modes.registry import MODES

STUB = Path(modes.__file__).with_suffix(".pyi")
HEAD = '"""What static tools see of the modes; written by scripts/make_mode_stubs.py."""\n'


class Names:
    """The expressions of types in the stub, and the modules that they import."""

    def __init__(self) -> None:
        self.modules: set[str] = {"typing"}

    def express(self, kind: Any) -> str:
        """Return the expression of a type.

        Raises:
            TypeError: The stub has no expression for it.
        """
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return " | ".join(self.express(x) for x in arguments)
        if origin is Literal:
            return f"typing.Literal[{', '.join(map(repr, arguments))}]"
        if origin is Callable:
            taken, returned = arguments
            inside = ", ".join(self.express(x) for x in taken)
            return f"{self.name(origin)}[[{inside}], {self.express(returned)}]"
        if origin is not None:
            return f"{self.name(origin)}[{', '.join(self.express(x) for x in arguments)}]"
        if kind in (None, types.NoneType):
            return "None"
        return self.name(kind)

    def name(self, kind: Any) -> str:
        """Return the name of a class, with its module unless it is built in."""
        if kind is Any:
            return "typing.Any"
        if not isinstance(kind, type):
            raise TypeError(f"the stub cannot express the type {kind!r}")
        if kind.__module__ == "builtins":
            return kind.__qualname__
        self.modules.add(kind.__module__)
        return f"{kind.__module__}.{kind.__qualname__}"


def write_mode(name: str, names: Names) -> str:
    """Return the stub of a mode."""
    signature = inspect.signature(getattr(modes, name))
    lines = []
    keywords = False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            lines.append("*")
        required = parameter.default is inspect.Parameter.empty
        default = "" if required else f" = {parameter.default!r}"
        lines.append(f"{parameter.name}: {names.express(parameter.annotation)}{default}")
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            lines.append("/")
    inside = "".join(f"    {line},\n" for line in lines)
    return f"def {name}(\n{inside}) -> {names.express(signature.return_annotation)}: ...\n"


def write_exports() -> list[str]:
    """Return the imports of the other names of the package, which the stub exports again."""
    imports = [
        (node.module, alias.name)
        for node in ast.parse(Path(modes.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name not in MODES
    ]
    return [f"from {module} import {name} as {name}\n" for module, name in imports]


def make_stub() -> str:
    """Return the stub, before it is formatted."""
    names = Names()
    functions = [write_mode(name, names) for name in modes.__all__ if name in MODES]
    modules = [f"import {module}\n" for module in sorted(names.modules)]
    exports = f"__all__ = {modes.__all__!r}\n"
    return "\n".join([HEAD, *modules, *write_exports(), exports, *functions])


def main() -> None:
    STUB.write_text(make_stub(), encoding="utf-8")
    for command in (["check", "--fix", "--select", "I"], ["format"]):
        subprocess.run(["ruff", *command, "--quiet", str(STUB)], check=True)
    print(f"wrote {STUB}: {len(MODES)} modes")


if __name__ == "__main__":
    main()
