"""The modules of a port's calls, each of which judges the calls of its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch

from ldmref.backends.named import AGAIN
from ldmref.errors import UsageError, abbreviated
from ldmref.locate.findings import DIFFERS, UNKNOWN, WIRING, Row
from ldmref.locate.judging import Judge
from ldmref.locate.modules.arrays import read_recorded, to_tensor
from ldmref.locate.modules.repeated import NetworkCopies
from ldmref.locate.modules.replay import ModuleReplay, ReadResult
from ldmref.locate.modules.watched import WatchedLayer
from ldmref.locate.modules.whole_calls import ConvertedLayers, in_terms_of_module
from ldmref.locate.pipeline.coverage import KIND, Coverage
from ldmref.locate.recorded.unfit import UNFIT, first_line
from ldmref.locate.recorded.unnamed import ComputedArrays
from ldmref.locate.replay.points import PointObserver
from ldmref.locate.replay.repeating import numbered
from ldmref.locate.replay.unvisited import RunReads
from ldmref.models.family import family_of_pipeline
from ldmref.ports.port import port_of
from ldmref.trace import torch_names as known
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry
from ldmref.trace.torch_arguments import UnknownArgument, restore_arguments
from ldmref.trace.torch_methods import read_distribution

CODE = "E-AGAINST"
MAX_LISTED = 5
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})
FAILURES = (*UNFIT, RuntimeError, KeyError, AttributeError, AssertionError, NotImplementedError)
ENCODE = ".encode"  # the method of autoencoders that returns a distribution
OF_IMAGES = (ENCODE, ".decode")  # methods of which layers and arrays may have an axis of frames
TIME = "temb"  # what residual blocks read of the time, unless their projection of it is None
TIME_PROJECTION = "time_emb_proj"
HOST = "no module computes it"
SKIP = "clip_skip"  # an attribute of text encoders of known pipelines
HIDDEN_STATES = "hidden_states"  # whether the result had those of all layers
CONVERTED = "its inputs were recorded as those of ldmref's layer, which the module does not read"
OWN_ROLES = {"sample", "timestep", "encoder_hidden_states"}  # in ldmref's traces of a denoiser
OWN_NAMES = (
    "; the dump has ldmref's names of arguments: `ldmref diff DUMP --model MODEL` judges it, where "
    "MODEL may be a kit"
)
LEFT_OUT = "it is another one; {} may have been given {}, which was not recorded"
UNUSED = "no argument or result of the module has this name"


@dataclass(frozen=True)
class WholeCall:
    """What is known of a whole call in addition to the arrays that were recorded.

    Attributes:
        more: Other arguments by name.
        read: Returns of the network's result what was recorded of it. None: it was recorded.
        hooks: What runs after layers, by their paths.
        settings: The arguments of layers that are not tensors, by their paths.
        converted: Whether the inputs of a layer were recorded in another unit or layout.
    """

    more: Mapping[str, Any] = field(default_factory=dict)
    read: ReadResult | None = None
    hooks: tuple[tuple[str, Callable[..., Any]], ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    converted: Callable[[str, TraceEntry], bool] = lambda layer, entry: False

    @contextmanager
    def hooked(self, copies: NetworkCopies) -> Iterator[None]:
        """Let the hooks run in the copies of a network that a replay uses."""
        networks = [copies.exact, copies.narrow(copies.dtype)] if self.hooks else []
        with ExitStack() as stack:
            for made in networks:
                for path, hook in self.hooks:
                    handle = made.network.get_submodule(path).register_forward_hook(hook)
                    stack.callback(handle.remove)
            yield


class ModuleOriginal:
    """Networks of PyTorch by name, with which the calls of a port are compared.

    Args:
        networks: Modules by the names of calls, such as "transformer"; "" for a module that is the
            network of all calls.
        pipe: The pipeline that they are the parts of. None: there is none.

    Attributes:
        alone: The layers that were judged from their recorded inputs, which nothing computed.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module], pipe: Any = None):
        self.networks = networks
        self.pipe = pipe
        self.alone: list[TraceEntry] = []
        self._copies: dict[tuple[str, str], NetworkCopies] = {}
        self._only_whole = False
        self._converted: ConvertedLayers | None = None

    @property
    def family(self) -> str:
        """The family of the model: ldmref knows none."""
        return ""

    @property
    def controlnets(self) -> int:
        """Number of ControlNets that share a name: none."""
        return 0

    def judge_call(self, port: Trace, call: TraceCall, dtype: str, gaps: list[str]) -> list[Row]:
        """Return the rows of one call; of a network that was not given, one "not judged".

        Args:
            port: The trace.
            call: The call.
            dtype: The number format by which the port is judged.
            gaps: What was not judged is added here.
        """
        if call.is_host:
            return []
        name, _ = self._find(call)
        if name not in self.networks:
            return [Row(call, "", verdict=UNKNOWN, note="no module of this name was given")]
        recorded = port
        if self._converted is None or self._converted.port is not port:
            self._converted = ConvertedLayers(port)
        of_images = call.kind.endswith(OF_IMAGES)
        self._only_whole = of_images  # layers alone would be judged in a shape that may be wrong
        port, judge, replay, problem = self._judge_whole(recorded, call, dtype, False)
        if problem and of_images:
            again = self._judge_whole(recorded, call, dtype, True)
            self._only_whole = False
            again = again if not again[-1] else self._judge_whole(recorded, call, dtype, False)
            port, judge, replay, problem = again
        self._only_whole = False
        if problem and port is not recorded and _has_own_names(recorded, call):
            # the layers of such a call have ldmref's units and layouts, too
            note = f"cannot be replayed: {problem}{OWN_NAMES}"
            return [Row(call, "", verdict=UNKNOWN, note=note)]
        rows = [*judge.rows, *_rest(replay, port, call)]
        layers = {entry.layer for entry in port.of_call(call) if entry.layer}
        around = set() if problem else _find_around(port, call, replay.visited, dtype)
        unknown = sorted(layers - replay.visited - around)
        if unknown:
            listed = abbreviated(unknown, MAX_LISTED)
            kind = type(replay.copies.module).__name__
            text = f"{len(unknown)} layers are not in the run of {kind}: {listed}"
            gaps.append(f"{len(unknown)} layers were not judged: {listed}" if problem else text)
        if problem:
            rows.append(Row(call, "", verdict=UNKNOWN, note=f"cannot be replayed: {problem}"))
        elif not rows:
            rows.append(Row(call, "", verdict=UNKNOWN, note="nothing of it was recorded"))
        return rows

    def _judge_whole(
        self, port: Trace, call: TraceCall, dtype: str, frames: bool
    ) -> tuple[Trace, Judge, ModuleReplay, str]:
        """Return a port in terms of the module of a call, and what became of judging the call."""
        whole = port.find(call)
        if whole is not None:
            name, method = self._find(call)
            network = self.networks[name]
            function = getattr(network, method) if method else network.forward
            port = in_terms_of_module(port, whole, function, frames)
        judge = Judge(call, dtype)
        return port, judge, *self.follow(port, call, dtype, judge)

    def follow(
        self, port: Trace, call: TraceCall, dtype: str, observer: PointObserver
    ) -> tuple[ModuleReplay, str]:
        """Run the network of a call in float64, and show an observer every recorded array.

        Args:
            port: The trace.
            call: The call, of a network that was given.
            dtype: The number format of the port.
            observer: The judge.

        Returns:
            The run, and why it could not be completed; "": it was.
        """
        name, method = self._find(call)
        replay = ModuleReplay(self.copies(name, dtype), port, call, observer)
        alone: list[TraceEntry] = []
        whole = self.whole_call(port, call, dtype)
        if self._converted is not None:
            whole = replace(whole, converted=self._converted.holds)
            replay.convert = partial(self._converted.as_recorded, call)
        with whole.hooked(replay.copies):
            layers = not self._only_whole
            problem = _replay(replay, port, call, method, whole, alone, layers)
        self.alone += [entry for entry in alone if entry not in self.alone]
        return replay, problem

    def copies(self, name: str, dtype: str) -> NetworkCopies:
        """Return the copies of a network, which are made once."""
        copies = self._copies.get((name, dtype))
        if copies is None:
            copies = self._copies[name, dtype] = NetworkCopies(self.networks[name], dtype)
        return copies

    def whole_call(self, port: Trace, call: TraceCall, dtype: str) -> WholeCall:
        """Return what is known of a whole call in addition to the recorded arrays.

        Args:
            port: The trace.
            call: The call.
            dtype: The number format of the port.
        """
        entry = port.find(call)
        more: dict[str, Any] = {}
        if entry is not None and entry.attributes.get(HIDDEN_STATES):
            more["output_hidden_states"] = True
        return WholeCall(more, self._reader(port, call))

    def _reader(self, port: Trace, call: TraceCall) -> ReadResult | None:
        """Return what a recording has of an encoder's result. None: it has the result.

        Of a text encoder of a known pipeline that is the states which the family reads, and the
        pooled ones; of an autoencoder of diffusers the mean and the variance.
        """
        entry = port.find(call)
        if entry is not None and call.kind.endswith(ENCODE) and "mean" in entry.outputs:
            return read_distribution
        kind = port.manifest.get("pipeline")
        family = family_of_pipeline(kind) if isinstance(kind, str) else None
        if family is None or entry is None or not {SKIP, HIDDEN_STATES} <= {*entry.attributes}:
            return None
        pipe = SimpleNamespace(**self.networks) if self.pipe is None else self.pipe
        skip = int(entry.attributes[SKIP])
        return lambda result: port_of(family).read_encoded(result, skip, pipe)

    def judge_host(self, port: Trace, dtype: str, notes: list[str]) -> list[Row]:
        """Return a row for each call between the networks, which no module computes."""
        return [
            Row(call, "", KIND, verdict=UNKNOWN, note=HOST) for call in port.calls if call.is_host
        ]

    def _find(self, call: TraceCall) -> tuple[str, str]:
        """Return the name of the network of a call, and its method; "" for its own call."""
        if "" in self.networks:
            return "", ""
        name, _, method = call.kind.rpartition(".")
        own = name in self.networks and callable(getattr(self.networks[name], method, None))
        return (name, method) if own and call.kind not in self.networks else (call.kind, "")


def require_one_network(port: Trace) -> None:
    """Require that all calls of a port are of one network, as a single module was given.

    Raises:
        UsageError: They are of several.
    """
    kinds = sorted({call.kind for call in port.calls if not call.is_host})
    if len(kinds) > 1:
        listed = abbreviated(kinds, MAX_LISTED)
        message = f"the port ran several networks ({listed}), and one module was given"
        raise UsageError(message, code=CODE, hint="return {NAME: module} with these names")


def _replay(
    replay: ModuleReplay,
    port: Trace,
    call: TraceCall,
    method: str,
    whole: WholeCall,
    alone: list[TraceEntry],
    layers: bool = True,
) -> str:
    """Follow a call; layers alone where the whole was not recorded. Return why it failed, or "".

    Args:
        replay: The run.
        port: The trace.
        call: The call.
        method: The method of the network; "" for its call.
        whole: What is known of the call in addition to the recorded arrays.
        alone: Layers that are judged alone are added here.
        layers: Whether layers are judged alone.
    """
    entry = port.find(call)
    if entry is not None and entry.inputs:
        network = replay.copies.exact.network
        function = getattr(network, method) if method else network.forward
        try:
            arguments = _arguments(replay, port, entry, function)
            with replay.attempt():
                replay.run(method, {**whole.more, **arguments}, whole.read)
            return ""
        except (UnknownArgument, *FAILURES) as error:
            problem = first_line(error)
    else:
        problem = ""
    failed = []
    for layer, entry in _left(replay, port) if layers or not problem else ():
        failed.append(_replay_alone(replay, port, layer, entry, whole))
        alone.append(entry)
    return problem or next(filter(None, failed), "")


def _replay_alone(
    replay: ModuleReplay,
    port: Trace,
    layer: WatchedLayer,
    entry: TraceEntry,
    whole: WholeCall,
) -> str:
    """Judge a layer from its recorded inputs alone, and return why that failed, or ""."""
    unread = {TIME} if getattr(layer.module, TIME_PROJECTION, layer) is None else set()
    if whole.converted(layer.name, entry):
        return f"{layer.name}: {CONVERTED}"
    settings = whole.settings.get(layer.path, {})
    try:
        function = layer.module.forward
        arguments = _arguments(replay, port, entry, function, layer.kind, unread, settings)
        rows = replay.observer.rows if isinstance(replay.observer, Judge) else []
        judged = len(rows)
        with replay.attempt():
            replay.run_alone(layer, arguments)
        left_out = _left_out(function, arguments)
        if left_out:
            inner = {x.name for x in replay.copies.exact.layers.values()} - {layer.name}
            _doubt(rows, judged, layer.name, inner, left_out)
    except (UnknownArgument, *FAILURES) as error:
        return f"{layer.name}: {first_line(error)}"
    return ""


def _left_out(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Return an argument of a layer that is None because nothing of it was recorded; "": none."""
    parameters = inspect.signature(function).parameters.values()
    optional = (p.name for p in parameters if p.default is None)
    return next((name for name in optional if arguments.get(name) is None), "")


def _doubt(rows: list[Row], begin: int, name: str, inner: Collection[str], argument: str) -> None:
    """Let rows of a layer alone be "not judged" if it may have read what was not recorded.

    A difference that a cause explains is none of those, nor is one of a layer that was computed
    from its own recorded inputs.

    Args:
        rows: All rows.
        begin: The number of those before the layer's.
        name: The name of the layer.
        inner: The names of the other layers.
        argument: Its argument that was not recorded.
    """
    for i in range(begin, len(rows)):
        row = rows[i]
        own = row.kind != WIRING and row.layer.partition(AGAIN)[0] in inner
        if row.verdict == DIFFERS and not row.cause and not own:
            rows[i] = replace(row, verdict=UNKNOWN, note=LEFT_OUT.format(name, argument))


def _left(replay: ModuleReplay, port: Trace) -> Iterator[tuple[WatchedLayer, TraceEntry]]:
    """Yield the recorded calls of layers that were not computed, the outermost first.

    What is yielded is computed before the next one is looked for. The layers in one that cannot be
    computed are then still left: each is judged from its own recorded inputs.
    """
    for layer in replay.copies.exact.layers.values():
        for name in map(partial(numbered, layer.name), count()) if layer.name else ():
            entry = port.find(replay.call, name)
            if entry is None:
                break
            if entry.inputs and name not in replay.visited:
                replay.expect(name)
                yield layer, entry


def _arguments(
    replay: ModuleReplay,
    port: Trace,
    entry: TraceEntry,
    function: Callable[..., Any],
    kind: str = "",
    unread: Collection[str] = (),
    settings: Mapping[str, Any] = NO_SETTINGS,
) -> dict[str, Any]:
    """Return the recorded arguments of a call by name, as tensors of float64.

    Args:
        replay: The run.
        port: The trace.
        entry: The network or layer.
        function: What is called.
        kind: The kind of the layer.
        unread: Arguments that it does not read, which are None if they were not recorded.
        settings: What the original gives it that is no tensor, by name.

    Raises:
        UnknownArgument: An argument was not recorded.
    """

    def read(role: str) -> torch.Tensor | None:
        if role not in entry.inputs and "input" not in entry.inputs:
            return None
        name = entry.inputs.get(role, entry.inputs.get("input", ""))
        array = read_recorded(port, name)
        is_complex = port.tensors[name].dtype.kind == "c"
        if is_complex:
            return to_tensor(array, torch.zeros(0, dtype=torch.complex128))
        whole = torch.bool if port.tensors[name].dtype.kind == "b" else torch.int64
        form = torch.float64 if array.dtype.kind == "f" else whole
        return to_tensor(array, torch.zeros(0, dtype=form))

    described = entry.attributes.get("arguments")
    if described is not None:
        classes = getattr(inspect.unwrap(function), "__globals__", {})
        return restore_arguments(described, read, classes)
    return _by_role(entry, read, function, kind, unread, settings)


def _by_role(
    entry: TraceEntry,
    read: Callable[[str], torch.Tensor | None],
    function: Callable[..., Any],
    kind: str,
    unread: Collection[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return arguments by their roles alone: `x.0`, `x.1` are a list."""
    parameters = list(inspect.signature(function).parameters.values())
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    renamed = {role: name for name, role in known.ROLES.items() if name in names}
    found: dict[str, Any] = {}
    lists: dict[str, dict[int, torch.Tensor | None]] = {}
    for role in entry.inputs:
        if role == "context" and entry.inputs[role] == entry.inputs.get("input"):
            continue  # attention to its own input
        name = renamed.get(role, role) if kind else role
        base, dot, number = name.rpartition(".")
        if dot and number.isdecimal():
            lists.setdefault(base, {})[int(number)] = read(role)
        elif name == "input" and name not in names and names:
            found[names[0]] = read(role)
        else:
            found[name] = read(role)
    found |= {name: [x for _, x in sorted(parts.items())] for name, parts in lists.items()}
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    others = {**{name: None for name in needed if name in unread}, **settings}
    found |= {name: x for name, x in others.items() if name not in found}
    missing = [name for name in needed if name not in found]
    if missing:
        raise UnknownArgument(f"its argument {missing[0]!r} was not recorded")
    return found


def _has_own_names(port: Trace, call: TraceCall) -> bool:
    """Return whether a dump has a denoiser's call with ldmref's names of its arguments.

    The recorder of a pipeline writes the call so, and the layers as their modules have them.
    """
    whole = port.find(call)
    return whole is not None and {*whole.inputs} >= OWN_ROLES and "pipeline" not in port.manifest


def _rest(replay: ModuleReplay, port: Trace, call: TraceCall) -> Iterator[Row]:
    """Yield a row for what was recorded of the layers that ran, and was not compared."""
    coverage: Coverage = replay.coverage
    for entry in port.of_call(call):
        if entry.layer in replay.visited or not entry.layer:
            for _, roles, why in coverage.rest([entry]):
                note = f"{', '.join(roles)} not compared: {why or UNUSED}"
                yield Row(call, entry.layer, KIND, verdict=UNKNOWN, note=note)


def _find_around(port: Trace, call: TraceCall, visited: Collection[str], dtype: str) -> set[str]:
    """Return layers that were not visited, and read and return what others do that were judged."""
    entries = [entry for entry in port.of_call(call) if entry.inputs and entry.layer]
    found = ComputedArrays(port, (e for e in entries if e.layer not in visited), dtype)
    found.note_entries(e for e in entries if e.layer in visited)
    return found.find_right(RunReads())
