"""Record modules of frameworks without hooks: the methods that call them are wrapped.

A method is wrapped in the class that has it, while the block runs. It acts on the modules that are
recorded; calls of other instances of the class are passed on. The numbers of the program do not
change: arrays are copied before and after each call, and the module's own method is called once.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.io.tensors.writer import KINDS
from ldmref.trace.files import require_call_name
from ldmref.trace.frameworks.framework import Framework, RecordedModules
from ldmref.trace.name_maps import Joined, NameMap, Renamer, make_renamer
from ldmref.trace.program_calls import ProgramTraceWriter
from ldmref.trace.recorder import CallRecord
from ldmref.trace.selection import Selection
from ldmref.trace.values import ArraySearch

CALL = "__call__"
ACTIVATION = ".activation"  # the end of the path of an activation within a layer


class CalledFramework(Framework):
    """A framework whose modules are seen by wrapping the methods that call them.

    Attributes:
        title: Its name for people.
        arrays: The classes of its arrays.
        plain: Its classes that are not arguments with arrays, such as modules.
    """

    title: str
    arrays: tuple[type, ...]
    plain: tuple[type, ...]

    @abstractmethod
    def list_modules(self, module: Any) -> Iterator[tuple[str, Any]]:
        """Yield a module and those in it that can be called, with their paths; its own is ""."""

    @abstractmethod
    def to_numpy(self, x: Any) -> Any:
        """Return a copy of the values of an array, in C order, of a type that NumPy has.

        Raises:
            TypeError: It has no values, as while the program is compiled.
        """

    @abstractmethod
    def describe(self, module: Any) -> Mapping[str, Any]:
        """Return `backend` and `dtype` of a module for the manifest."""

    @property
    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """The versions of its packages."""

    def require(self, name: str, module: Any) -> None:
        """Refuse a module that cannot be recorded as it is.

        Raises:
            UsageError: It is one.
        """
        return None

    def signature_of(self, module: Any) -> Any:
        """Return the function whose parameters after the first are the module's arguments."""
        return type(module).__call__

    def is_ready(self, module: Any) -> bool:
        """Return whether calls in a module's call count; not if they only make its weights."""
        return True

    def is_activated(self, module: Any) -> bool:
        """Return whether a layer of weights returns what an activation within it makes of them."""
        return False

    def record(
        self,
        program: RecordedModules,
        folder: str | Path,
        names: NameMap | None = None,
        selection: Selection | None = None,
        overwrite: bool = False,
    ) -> AbstractContextManager[Any]:
        """Return a context that records the calls of modules, as `Framework.record`."""
        return record_calls(self, program, folder, names, selection, overwrite)


@contextmanager
def record_calls(
    framework: CalledFramework,
    program: RecordedModules,
    folder: str | Path,
    names: NameMap | None = None,
    selection: Selection | None = None,
    overwrite: bool = False,
) -> Iterator[ProgramTraceWriter]:
    """Record each call of modules in a `with` block, as `Framework.record`."""
    rename = make_renamer(names)
    for call in program.calls:
        require_call_name(call)
    for name, module in program.modules.items():
        framework.require(name if len(program.modules) > 1 else "the module", module)
    networks = [*_find_networks(framework, program, rename)]
    about = framework.title, framework.versions
    writer = ProgramTraceWriter(folder, selection, overwrite, _Host(framework), about)
    writer.manifest |= framework.describe(next(iter(program.modules.values())))
    recorder = CallRecorder(framework, writer, networks)
    try:
        recorder.attach()
        yield writer
    finally:
        recorder.detach()
    recorder.close()
    writer.close()


@dataclass
class CalledNetwork:
    """A network whose calls are recorded.

    Attributes:
        name: The name of its calls, without a number.
        module: The module; None of a model that is a function, whose layers are known alone.
        layers: For the id of each module that may be called in it: its name. None: it has none, and
            is not recorded.
        modules: All modules, so that no id is used again.
        activations: For the id of each layer with an activation within: the name of that one.
    """

    name: str
    module: Any
    layers: dict[int, str | Joined | None] = field(default_factory=dict)
    modules: list[Any] = field(default_factory=list)
    activations: dict[int, str | Joined | None] = field(default_factory=dict)

    def add(self, module: Any, name: str | Joined | None) -> None:
        """Add a module; one that has a path already keeps it."""
        if id(module) not in self.layers:
            self.layers[id(module)] = name
            self.modules.append(module)

    def find_joined(self) -> dict[str, Joined]:
        """Return the joined layers by the name of the whole."""
        return {name.name: name for name in self.layers.values() if isinstance(name, Joined)}


def _find_networks(
    framework: CalledFramework, program: RecordedModules, rename: Renamer
) -> Iterator[CalledNetwork]:
    """Yield the networks of a program, with the names of their layers."""
    whole = None if program.call is None else CalledNetwork(program.call, None)
    for name, module in program.modules.items():
        network = whole or CalledNetwork(name, module)
        for path, part in framework.list_modules(module):
            if whole is not None:
                path = f"{name}.{path}" if path else name
            network.add(part, rename(path) if path else None)
            if path and framework.is_activated(part):
                network.activations.setdefault(id(part), rename(path + ACTIVATION))
        if whole is None:
            yield network
    if whole is not None:
        yield whole


class _Host:
    """Copies arrays of a framework, of NumPy and numbers to the host."""

    def __init__(self, framework: CalledFramework):
        self.framework = framework

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return a copy of an array's values, in a type that files have."""
        on_host = isinstance(x, np.ndarray | np.generic | bool | int | float | complex)
        return storable(np.array(x) if on_host else self.framework.to_numpy(x))


@dataclass
class _Running:
    """A call of a network that runs.

    Attributes:
        network: The network.
        record: What is recorded of it.
        first: The module of a model that is a function which was called first.
        layers: How many calls of layers were seen.
    """

    network: CalledNetwork
    record: CallRecord
    first: Any = None
    layers: int = 0


class CallRecorder:
    """Sees the calls of the modules of networks, and records them.

    Args:
        framework: The framework of the modules.
        writer: Where calls are written.
        networks: The networks.
    """

    def __init__(
        self, framework: CalledFramework, writer: ProgramTraceWriter, networks: list[CalledNetwork]
    ):
        self.framework = framework
        self.writer = writer
        self.networks = networks
        self.search = ArraySearch((*framework.arrays, np.ndarray), framework.plain)
        self._roots = {id(n.module): n for n in networks if n.module is not None}
        self._followed = {key: n for n in networks for key in n.layers}
        self._running: list[_Running] = []
        self._modules: list[Any] = []  # that are being called, the innermost last
        self._wrapped: dict[type, Any] = {}
        self._others: set[str] = set()  # the classes of other modules that were called

    def attach(self) -> None:
        """Wrap the methods that call the modules, each in the class that has it."""
        for network in self.networks:
            for module in network.modules:
                for kind in type(module).__mro__:
                    if CALL in vars(kind):
                        if kind not in self._wrapped:
                            self._wrapped[kind] = vars(kind)[CALL]
                            setattr(kind, CALL, self._make_seen(vars(kind)[CALL]))
                        break

    def detach(self) -> None:
        """Undo what `attach` has done."""
        self.writer.left_out.ended = True
        for kind, method in self._wrapped.items():
            setattr(kind, CALL, method)
        self._wrapped.clear()

    def close(self) -> None:
        """End the call of a model that is a function, and note what was not called."""
        while self._running:
            self._end(self._running.pop())
        if self.writer.last is None:
            kinds = {type(n.module).__name__ for n in self.networks} & self._others
            for kind in sorted(kinds):
                reason = "another one than the recorded was called, such as a copy made by `jit`"
                self.writer.left_out.note(kind, reason)

    def _make_seen(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(module: Any, *args: Any, **kwargs: Any) -> Any:
            if self.writer.left_out.ended or not self._is_seen(module):
                return method(module, *args, **kwargs)
            return self._see(method, module, args, kwargs)

        return run

    def _is_seen(self, module: Any) -> bool:
        """Return whether a call of a module is one that is recorded."""
        if id(module) not in self._followed:
            if not self._modules:
                self._others.add(type(module).__name__)
            return False
        if self._modules and self._modules[-1] is module:
            return False  # the method of a base class
        return all(self.framework.is_ready(around) for around in self._modules)

    def _see(
        self, method: Callable[..., Any], module: Any, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """Call a module, and record its call; what cannot be recorded is left out."""
        left_out = self.writer.left_out
        kind = type(module).__name__
        scope = ""
        running = None
        with left_out.guard(f"a call of {kind}"):
            running = self._begin(module)
            scope = self._enter(module)
            if running is not None or scope:  # a network that is called is not a layer
                self._record_arrays(self._running[-1], scope, self._name(module, args, kwargs))
        self._modules.append(module)
        try:
            result = method(module, *args, **kwargs)
        except BaseException as error:
            if running is not None:
                left_out.note(running.record.name, error)
                del self._running[self._running.index(running) :]
                running.record.store.close()
            raise
        finally:
            self._modules.pop()
        with left_out.guard(scope or f"the result of a call of {kind}"):
            self._leave(running, self._find_last(module, scope), result)
        return result

    # -- calls of networks

    def _begin(self, module: Any) -> _Running | None:
        """Begin a call of a network; None if a module is called that is only a layer."""
        root = self._roots.get(id(module))
        last = self._running[-1] if self._running else None
        if root is not None and (last is None or id(module) not in last.network.layers):
            return self._start(root)
        followed = self._followed[id(module)]
        again = last is not None and last.first is module and not self._modules
        if followed.module is None and (last is None or again):
            if last is not None:
                self._end(self._running.pop())
            self._start(followed).first = module
        return None

    def _start(self, network: CalledNetwork) -> _Running:
        record = self.writer.begin(network.name, True, network)
        record.joined = network.find_joined()
        running = _Running(network, record)
        self._running.append(running)
        return running

    def _end(self, running: _Running) -> None:
        """End a call of a network, and note if no layer of it was seen."""
        names = [name for name in running.network.layers.values() if name]
        if not running.layers:
            reason = "no layer of it was called"
            if not names:
                alone = len(running.network.modules) == 1
                reason = "" if alone else "`names` has no name for any of its modules"
            if reason:
                self.writer.left_out.note(running.record.name, reason)
        self.writer.end(running.record)

    # -- layers

    def _enter(self, module: Any) -> str:
        """Begin a layer in the call that runs; return its name there, "" if it has none."""
        if not self._running:
            kind = type(module).__name__
            reason = "it was called outside of a call of its network"
            self.writer.left_out.note(f"a call of {kind}", reason)
            return ""
        running = self._running[-1]
        name = running.network.layers.get(id(module))
        if not name:
            return ""
        running.layers += 1
        layer = name.name if isinstance(name, Joined) else name.replace("/", ".")
        return running.record.unique(layer)

    def _find_last(self, module: Any, layer: str) -> str:
        """Return the layer that computed what a module returns: it, or an activation within it."""
        if not layer or id(module) not in self._running[-1].network.activations:
            return layer
        name = self._running[-1].network.activations[id(module)]
        return self._running[-1].record.unique(name) if isinstance(name, str) and name else ""

    def _leave(self, running: _Running | None, layer: str, result: object) -> None:
        if layer:
            self._record_arrays(self._running[-1], layer, result=result)
        if running is not None:
            self._record_arrays(running, "", result=result)
            self._running.remove(running)
            self._end(running)

    def _name(self, module: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name; `input.N` for others by position."""
        parameters = [*inspect.signature(self.framework.signature_of(module)).parameters.values()]
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in parameters[1:] if p.kind in by_position]
        named = dict(zip(names, args, strict=False))
        return (
            named
            | {f"input.{i}": x for i, x in enumerate(args[len(names) :], len(names))}
            | dict(kwargs)
        )

    def _find(self, value: object, side: str, name: str) -> dict[str, Any]:
        """Return the arrays in arguments or a result by role; those of NumPy as files have them."""
        found = dict(self.search.find(value, "" if side == "input" else side))
        for role, x in [*found.items()]:
            if isinstance(x, np.ndarray):
                try:
                    found[role] = storable(x)
                except (TypeError, ValueError):
                    self.writer.left_out.note(name, f"an array of {x.dtype} holds no numbers")
                    del found[role]
        return found

    def _record_arrays(
        self,
        running: _Running,
        layer: str,
        inputs: Mapping[str, Any] | None = None,
        result: object = None,
    ) -> None:
        """Record the arguments or the result of a layer, and note what could not be read.

        The only array among the arguments, and the first one of a layer, is the role "input".
        """
        record = running.record
        if not record.takes(layer):
            record.add(layer)
            return
        side = "output" if inputs is None else "input"
        name = f"{record.name}/{layer}/{side}"
        value = result if inputs is None else dict(inputs)
        found = self._find(value, side, name)
        unread = [*self.search.find_unread(value, name)]
        for path, kind in unread:
            self.writer.left_out.note(path, f"no array is found in a {kind}")
        if side == "output" and not found and not unread:  # the first reason of a name is kept
            self.writer.left_out.note(name, f"a {type(value).__name__} holds no array")
        if side == "output":
            outputs = {side: next(iter(found.values()))} if len(found) == 1 else found
            record.add(layer, outputs=outputs)
            return
        first = next(iter(found), None)
        if first is not None and (layer or len(found) == 1):
            found = {"input": found.pop(first)} | found
        record.add(layer, inputs=found)


def storable(x: np.ndarray) -> np.ndarray:
    """Return an array in C order of a type that safetensors files of ldmref have.

    Other types, such as bfloat16 and those of eight bits, become float32; complex numbers of other
    sizes become complex64.

    Args:
        x: An array of any shape and type.

    >>> storable(np.ones((2, 3), np.uint16).T).dtype
    dtype('float32')
    """
    if np.issubdtype(x.dtype, np.complexfloating):
        kept = x.dtype in (np.complex64, np.complex128)
        return np.ascontiguousarray(x if kept else x.astype(np.complex64)).reshape(x.shape)
    kept = x.dtype.newbyteorder("<") in KINDS
    return np.ascontiguousarray(x if kept else x.astype(np.float32)).reshape(x.shape)
