"""Small modules of PyTorch, their recordings, and an observer that notes the points of a replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

import ldmref  # noqa: E402
from ldmref.locate.modules.repeated import NetworkCopies, RepeatedModule  # noqa: E402
from ldmref.locate.modules.replay import ModuleReplay  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

CALL = "net.000"
X = torch.tensor([[0.5, -1.0], [0.25, 2.0]])


class Part(torch.nn.Module):
    """sin(W (by x)) by"""

    def __init__(self, by):
        super().__init__()
        self.by = by
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x):
        return torch.sin(self.inner(x * self.by)) * self.by


class Net(torch.nn.Module):
    """tanh(5 second(cos(first(x))))"""

    def __init__(self):
        super().__init__()
        self.first, self.second = Part(2.0), Part(3.0)

    def forward(self, x):
        return torch.tanh(self.second(torch.cos(self.first(x))) * 5.0)


class Noted:
    """Notes points, and continues with what `use` returns of one; None: what was recorded."""

    def __init__(self, use=None):
        self.use = use or (lambda point: None)
        self.points = []
        self.skipped = []

    def observe(self, replay, point):
        self.points.append(point)
        used = self.use(point)
        return point.recorded if used is None else used

    def skip(self, call, why):
        self.skipped.append((call.name, why))

    def refuse(self, call, inputs, why):
        raise AssertionError(why)

    def find(self, name, role=""):
        """Return the only point of a layer and role."""
        (found,) = [p for p in self.points if (p.call.name, p.role) == (name, role)]
        return found


def made(kind, *args, seed=0):
    torch.manual_seed(seed)
    return kind(*args).eval()


def recorded(network, *layers, arrays=None, **arguments):
    """Return the trace of a call: these layers ("" is the whole call), or all without any.

    Args:
        network: The module.
        *layers: The layers.
        arrays: Other arrays by name than those that were recorded.
        **arguments: The arguments of the call.
    """
    with ldmref.recording(network, call="net") as run, torch.no_grad():
        network(**arguments)
    trace = run.trace
    kept = [e for e in trace.entries if not layers or e.layer in layers]
    names = {name for e in kept for name in (*e.inputs.values(), *e.outputs.values())}
    tensors = {name: np.asarray(trace.tensors[name]) for name in names} | (arrays or {})
    return build_trace(tensors, {**trace.manifest, "entries": [vars(e) for e in kept]})


def replayed(network, trace, observer=None, dtype="float32"):
    """Return the replay of a call that was not run yet, and its observer."""
    observer = observer or Noted()
    return ModuleReplay(NetworkCopies(network, dtype), trace, CALL, observer), observer


def followed(network, trace, observer=None, dtype="float32", method="", read=None, **arguments):
    """Return the replay of a call from arguments, after its run, and its observer."""
    replay, observer = replayed(network, trace, observer, dtype)
    replay.run(method, {name: wide(x) for name, x in arguments.items()}, read)
    return replay, observer


def wide(x):
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def bare_run(dtype="float64"):
    """Return a run of a module without layers, of which nothing was recorded."""
    copies = NetworkCopies(torch.nn.Identity(), dtype)
    return RepeatedModule(copies, build_trace({}), "net", Noted())
