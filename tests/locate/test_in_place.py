"""Ports and originals that compute in place: recorded and judged as if they did not."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

import ldmref  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402


class Block(torch.nn.Module):
    """A layer of two linear layers with something in between."""

    def __init__(self, between, factor):
        super().__init__()
        self.between = between
        self.factor = factor
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.between(self, x)


class Net(torch.nn.Module):
    def __init__(self, between, factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.begin = torch.nn.Linear(8, 8)
        self.block = Block(between, factor)
        self.after = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.after(self.block(self.begin(x)))


def silu(block, x):
    return block.second(block.factor * F.silu(block.first(x)))


def silu_in_place(block, x):
    return block.second(F.silu(block.first(x), inplace=True).mul_(block.factor))


def silu_by_position(block, x):
    return block.second(block.factor * F.silu(block.first(x), True))


def silu_without_result(block, x):
    y = block.first(x)
    F.silu(y, inplace=True)
    y *= block.factor
    return block.second(y)


def silu_of_a_module(block, x):
    return block.second(block.factor * torch.nn.SiLU(inplace=True)(block.first(x)))


def residual(block, x):
    return block.second(block.factor * (block.first(x) + x))


def residual_in_place(block, x):
    y = block.first(x)
    y += x
    return block.second(y.mul_(block.factor))


def residual_into_the_input(block, x):
    y = block.first(x)
    x += y
    x *= block.factor
    return block.second(x)


def residual_into_an_output(block, x):
    y = block.first(x)
    torch.add(y, x, out=y)
    y *= block.factor
    return block.second(y)


def relu(block, x):
    return block.second(block.factor * F.relu(block.first(x)))


def relu_in_place(block, x):
    y = block.first(x)
    torch.relu_(y)
    return block.second(y.mul_(block.factor))


def changed_later(block, x):
    y = block.first(x)
    z = block.second(block.factor * F.relu(y))
    x.zero_()
    y.fill_(7.0)
    return z


SAME = {
    "silu": (silu, silu_in_place, silu_by_position, silu_without_result, silu_of_a_module),
    "residual": (residual, residual_in_place, residual_into_the_input, residual_into_an_output),
    "relu": (relu, relu_in_place, changed_later),
}
PAIRS = [pair for same in SAME.values() for pair in itertools.product(same, same)]
NAMES = [f"{port.__name__}-{original.__name__}" for port, original in PAIRS]


def recorded(port):
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), ldmref.recording(port, call="net") as run:
        port(x)
    return run.trace


@pytest.mark.parametrize(("port", "original"), PAIRS, ids=NAMES)
def test_right_ports_are_equal_wherever_they_write(port, original):
    report = diff_modules(recorded(Net(port)), Net(original))
    assert report.verdict == "equal", [(r.name, r.note, r.cause) for r in report.rows]


@pytest.mark.parametrize(("port", "original"), PAIRS, ids=NAMES)
def test_a_fault_is_found_where_it_is(port, original):
    report = diff_modules(recorded(Net(port, 1.5)), Net(original))
    assert [(row.layer, row.kind) for row in report.faults] == [("block.second", "wiring")]


class Writes(torch.nn.Module):
    """A layer that writes into its argument, and returns it or nothing that is read."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.inner = torch.nn.Linear(8, 8)

    def forward(self, x):
        x += self.factor * self.inner(x)
        return x


class Reads(torch.nn.Module):
    """A network that goes on with what a layer wrote into: its result, its argument, or both."""

    def __init__(self, read, factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.read = read
        self.begin = torch.nn.Linear(8, 8)
        self.writes = Writes(factor)
        self.after = torch.nn.Linear(8, 8)

    def forward(self, x):
        x = self.begin(x)
        y = self.writes(x)
        return self.after({"result": y, "argument": x, "both": x + y}[self.read])


@pytest.mark.parametrize("read", ["result", "argument", "both"])
def test_what_a_layer_wrote_into_its_argument_is_read_on(read):
    assert diff_modules(recorded(Reads(read)), Reads(read)).verdict == "equal"
    report = diff_modules(recorded(Reads(read, 2.0)), Reads(read))
    assert [(row.layer, row.kind) for row in report.faults] == [("writes", "own")]


class QuickGELUActivation(torch.nn.Module):
    """An activation of transformers by its name, which may work in place."""

    def __init__(self, inplace):
        super().__init__()
        self.inplace = inplace

    def forward(self, input):
        gate = torch.sigmoid(1.702 * input)
        return input.mul_(gate) if self.inplace else input * gate


class Activated(torch.nn.Module):
    def __init__(self, inplace, by_name=False):
        super().__init__()
        torch.manual_seed(0)
        self.begin, self.after = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.act = QuickGELUActivation(inplace)
        self.by_name = by_name

    def forward(self, x):
        x = self.begin(x)
        return self.after(self.act(input=x) if self.by_name else self.act(x))


@pytest.mark.parametrize("by_name", [False, True])
def test_an_activation_of_a_known_class_may_write_into_its_input(by_name):
    trace = recorded(Activated(True, by_name))
    assert trace.find("net.000", "quick_gelu") is not None
    assert diff_modules(trace, Activated(False)).verdict == "equal"
    assert diff_modules(recorded(Activated(False)), Activated(True)).verdict == "equal"


class ResnetBlock2D(torch.nn.Module):
    """A residual block of diffusers by its name."""

    def __init__(self, end):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.end = end

    def forward(self, input_tensor, temb):
        y = self.conv1(input_tensor) + temb[:, :, None, None]
        return self.end(input_tensor, y)


def new_sum(x, y):
    return (x + y) / 2.0


def sum_in_place(x, y):
    y += x
    y /= 2.0
    return y


def scaled_in_place(x, y):
    z = x + y
    y.zero_()
    return z.div_(2.0)


class Residual(torch.nn.Module):
    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.resnets = torch.nn.ModuleList([ResnetBlock2D(end)])

    def forward(self, x):
        return self.resnets[0](x, torch.ones(1, 4))


ENDS = (new_sum, sum_in_place, scaled_in_place)


@pytest.mark.parametrize(("port", "original"), [*itertools.product(ENDS, ENDS)])
def test_the_sum_of_a_residual_block_is_recorded_before_it_is_written_into(port, original):
    network = Residual(port)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), ldmref.recording(network, call="net") as run:
        y = network(x)
    found = run.trace.find("net.000", "resnets.0.add")
    assert (run.trace.tensors[found.outputs["output"]] == 2 * y.numpy()).all()
    assert (run.trace.tensors[found.inputs["input"]] != 0).all()
    assert diff_modules(run.trace, Residual(original)).verdict == "equal"
