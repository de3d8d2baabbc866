"""What a framework of neural networks declares so that its modules are recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldmref.errors import UsageError, short_repr
from ldmref.support.plugins import find_declared, list_plugins
from ldmref.trace.name_maps import NameMap
from ldmref.trace.selection import Selection

CODE = "E-TRACE"
GROUP = "ldmref.frameworks"
BUILT_IN = {
    "torch": "ldmref.trace.frameworks.torch:TORCH",
    "mlx": "ldmref.trace.frameworks.mlx:MLX",
    "keras": "ldmref.trace.frameworks.keras:KERAS",
    "flax": "ldmref.trace.frameworks.flax:FLAX",
}


@dataclass(frozen=True)
class RecordedModules:
    """Modules of one framework that are recorded.

    Attributes:
        modules: The modules by name. They are networks, whose names are those of their calls
            (`transformer.000`), or, with `call`, the layers of one model that is a function.
        call: The name of the calls of the model that is a function. None: modules are networks.
    """

    modules: Mapping[str, Any]
    call: str | None = None

    @property
    def calls(self) -> Iterable[str]:
        """The names of its calls, without numbers."""
        return self.modules if self.call is None else (self.call,)


class Framework(ABC):
    """A framework whose modules are recorded.

    Attributes:
        name: The package of the class that all its modules are, and the name of the entry point.
    """

    name: str

    @abstractmethod
    def accepts(self, module: object) -> bool:
        """Return whether an object is a module that is recorded."""

    @abstractmethod
    def record(
        self,
        program: RecordedModules,
        folder: str | Path,
        names: NameMap | None = None,
        selection: Selection | None = None,
        overwrite: bool = False,
    ) -> AbstractContextManager[Any]:
        """Return a context that records the calls of modules in its block.

        Args:
            program: The modules, which it accepts.
            folder: The folder of the trace.
            names: The layer of ldmref for each path (`ldmref.trace.name_maps.make_renamer`).
            selection: Calls and layers to record. None: all.
            overwrite: Whether an existing trace is replaced.

        Raises:
            UsageError: A pattern of `names` or a name is not valid, or a module cannot be recorded.
            OutputError: The folder has a trace (unless `overwrite`), or cannot be written.
        """


def find_framework(module: object) -> Framework | None:
    """Return the framework of a module; None if it is a module of none.

    It is found by the packages of the classes that the module is, the nearest first. Nothing is
    imported for any other object.

    Raises:
        UsageError: The plug-in of the framework cannot be used.

    >>> find_framework("a text") is None
    True
    """
    packages = dict.fromkeys(kind.__module__.partition(".")[0] for kind in type(module).__mro__)
    offered = {*BUILT_IN, *list_plugins(GROUP)}
    for package in packages:
        if package in offered:
            found = find_declared(GROUP, BUILT_IN, package, Framework, "framework", CODE)
            if found.accepts(module):
                return found
    return None


def list_frameworks() -> list[str]:
    """List the frameworks whose modules are recorded.

    >>> {"torch", "mlx", "keras", "flax"} <= {*list_frameworks()}
    True
    """
    return [*BUILT_IN, *sorted({*list_plugins(GROUP)} - {*BUILT_IN})]


def find_program(program: object, call: str | None) -> tuple[Framework, RecordedModules] | None:
    """Return the framework of a module or of a mapping of modules; None if it is neither.

    Args:
        program: The module, or the modules by name.
        call: The name of the calls of a module, `unet` by default; of a mapping, the name of the
            calls of the function whose layers it has. None: a mapping has networks.

    Raises:
        UsageError: A mapping is empty or has something else, or modules of two frameworks.
    """
    if not isinstance(program, Mapping) or find_framework(program) is not None:
        found = find_framework(program)
        modules = RecordedModules({"unet" if call is None else call: program})
        return None if found is None else (found, modules)
    if not program or not all(isinstance(name, str) and name for name in program):
        message = "a mapping that is recorded has modules by name, at least one"
        raise UsageError(message, code=CODE)
    found = {name: find_framework(module) for name, module in program.items()}
    other = next((name for name, framework in found.items() if framework is None), None)
    if other is not None:
        message = f"{short_repr(other)} is a {type(program[other]).__name__}, which is no module"
        raise UsageError(message, code=CODE, hint=f"modules are those of {_listed()}")
    frameworks = {framework.name: framework for framework in found.values() if framework}
    if len(frameworks) > 1:
        message = f"modules of {' and '.join(sorted(frameworks))} are recorded one after the other"
        raise UsageError(message, code=CODE, hint="use one `recording` for each framework")
    return next(iter(frameworks.values())), RecordedModules(dict(program), call)


def _listed() -> str:
    return ", ".join(list_frameworks())
