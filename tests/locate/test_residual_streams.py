"""One wrong gate or residual is one row, where the inputs of norms were recorded."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy_ports import layers_of, make_model, run_port

from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.replay.definition import NetworkReplay
from ldmref.locate.replay.networks import open_network
from ldmref.trace import build_trace

torch = pytest.importorskip("torch")

from module_runs import made  # noqa: E402

import ldmref  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402
from ldmref.trace import Selection  # noqa: E402

# The last layer of the first attention, whose output is added to the stream with a gate.
ATTENTIONS = re.compile(
    r".*\b(to_out\.0|attention\.out|attn\.out|o_proj|out_proj|proj_out|SelfAttention\.o)"
)
NETWORKS = [
    ("tiny", "unet"),
    ("tiny", "text_encoder"),
    ("sd3-tiny", "transformer"),
    ("flux-tiny", "transformer"),
    ("sd3-tiny", "text_encoder_3"),
    ("z-image-tiny", "transformer"),
    ("krea-2-tiny", "transformer"),
    ("qwen-image-2.1-tiny", "transformer"),
]
GIVEN = {"mask": np.ones((2, 5), np.int64)}


class Errors:
    """Notes what is wrong by more than rounding, and goes on with what was recorded."""

    def __init__(self):
        self.norms = 0
        self.wrong = []

    def observe(self, replay, point):
        self.norms += bool(point.role)
        if relative_error(point.recorded, point.computed) > 1e-3:
            self.wrong.append(f"{point.call.name} {point.role}")
        return point.recorded

    def skip(self, call, why):
        raise AssertionError((call.name, why))

    def refuse(self, call, inputs, why):
        raise AssertionError((call.name, why))


def scale(call, x):
    return 3.0 * call.compute(x)


@pytest.mark.parametrize("outputs", [True, False], ids=["norms", "inputs of norms"])
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_a_wrong_residual_is_wrong_at_one_norm(name, network, outputs):
    model = make_model(name)
    layers = layers_of(model, network)
    assert wrong_points(model, network, layers, {}, True) == []
    layer = next(x for x in layers if ATTENTIONS.fullmatch(x))
    inputs = wrong_points(model, network, layers, {layer: scale}, outputs)
    assert len(inputs) == 1, inputs


def wrong_points(model, network, layers, wrong, outputs):
    """Return the inputs of norms at which a port is wrong that recorded norms alone."""
    norms = [x for x in layers if "norm" in x.rpartition(".")[2] or "norm" in layers[x].kind]
    tensors = {
        key: x
        for key, x in run_port(model, wrong, network, given=GIVEN).items()
        if key.count("//") or (key.split("/")[1] in norms and (outputs or "/output" not in key))
    }
    port = build_trace(tensors)
    (call,) = port.calls
    errors = Errors()
    opened = open_network(model, port, call)
    assert NetworkReplay(port, call, "float32").follow(opened, errors) == ""
    assert errors.norms > 3
    return [x for x in errors.wrong if x.rpartition(" ")[2]]


class Block(torch.nn.Module):
    """x + gate W norm(x)"""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.linear = torch.nn.Linear(8, 8)
        self.gate = torch.nn.Parameter(torch.ones(8))

    def forward(self, x):
        return x + self.gate * self.linear(self.norm(x))


class Blocks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(4))
        self.norm_out = torch.nn.LayerNorm(8)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.norm_out(x)


RECORDED = {
    "norms": Selection(layers=("*norm*",)),
    "inputs of norms": Selection(layers=("*norm*",), without=("*norm*/output",)),
    "layers": Selection(layers=("*norm*", "*linear")),
    "everything": None,
}
FAULTS = {
    "half a gate": lambda block: block.gate.data.mul_(0.5),
    "no gate": lambda block: block.gate.data.zero_(),
    "other weights": lambda block: block.linear.weight.data.mul_(1.5),
}


def judge(change, selection):
    """Return the faults of a port whose second block is changed."""
    original, port = made(Blocks), made(Blocks)
    change(port.blocks[1])
    with ldmref.recording(port, call="net", selection=selection) as run, torch.no_grad():
        port(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)))
    return diff_modules(run.trace, original).faults


@pytest.mark.parametrize("selection", RECORDED.values(), ids=RECORDED)
@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS)
def test_a_wrong_block_of_a_module_has_one_row(change, selection):
    assert len(judge(change, selection)) == 1


def test_a_right_module_has_none():
    for selection in RECORDED.values():
        assert not judge(lambda block: None, selection)


def read_another(block):
    """Let the norm read another array, and the sum behind it the right one."""
    block.norm.register_forward_pre_hook(lambda module, args: (args[0] ** 2,))


@pytest.mark.parametrize("name", ["norms", "layers", "everything"])
def test_a_norm_that_reads_another_array_does_not_change_the_stream(name):
    faults = judge(read_another, RECORDED[name])
    assert len(faults) == 1 and faults[0].layer == "blocks.1.norm" and faults[0].kind == "wiring"
    assert np.isfinite(faults[0].error)
