"""Which sums of a block of PyTorch have names: residual ones, whatever shapes agree by chance."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import ldmref  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402

WIDTH = 4


def usual(table, time):
    return table[None] + time


def other_order(table, time):
    return time + table[None]


def in_place(table, time):
    shifts = time.clone()
    shifts += table[None]
    return shifts


def narrow(table, time):  # the table in the format of the time, as programs of bfloat16 have it
    return table[None].to(torch.float64).to(time.dtype) + time


def of_a_part(table, time):
    return torch.cat([table[None, :3] + time[:, :3], table[None, 3:] + time[:, 3:]], dim=1)


SHIFTS = (usual, other_order, in_place, narrow, of_a_part)


class BasicTransformerBlock(torch.nn.Module):
    """A block of diffusers by its name, with a table of shifts as PixArt's have it."""

    def __init__(self, shifts, residual_first=False):
        super().__init__()
        self.scale_shift_table = torch.nn.Parameter(torch.randn(6, WIDTH))
        self.attn1, self.ff = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.shifts, self.residual_first = shifts, residual_first

    def forward(self, hidden_states, timestep):
        time = timestep.reshape(len(hidden_states), 6, WIDTH)
        shift, scale, gate, *more = self.shifts(self.scale_shift_table, time).chunk(6, dim=1)
        for layer, (move, grow, weigh) in (
            (self.attn1, (shift, scale, gate)),
            (self.ff, more),
        ):
            y = weigh * layer(hidden_states * (1 + grow) + move)
            terms = (hidden_states, y) if self.residual_first else (y, hidden_states)
            hidden_states = terms[0] + terms[1]
        return hidden_states


class Network(torch.nn.Module):
    def __init__(self, *settings):
        super().__init__()
        torch.manual_seed(0)
        self.transformer_blocks = torch.nn.ModuleList(
            [BasicTransformerBlock(*settings) for _ in range(2)]
        )

    def forward(self, x, timestep):
        for block in self.transformer_blocks:
            x = block(x, timestep)
        return x


def record(network, batch, tokens):
    x, time = torch.randn(batch, tokens, WIDTH), torch.randn(batch, 6 * WIDTH)
    with torch.no_grad(), ldmref.recording(network, call="net") as run:
        network(x, time)
    return run.trace


SUMS = [f"transformer_blocks.{i}.add{again}" for i in range(2) for again in ("", "~1")]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("tokens", [5, 6, 7])
@pytest.mark.parametrize("shifts", SHIFTS, ids=lambda shifts: shifts.__name__)
def test_only_residual_sums_have_names(shifts, tokens, batch):
    trace = record(Network(shifts), batch, tokens)
    found = [x for x in trace.entries if x.kind == "add"]
    assert [x.layer for x in found] == SUMS
    first = trace.find("net.000", "")
    stream = trace.tensors[first.inputs["x"]]
    assert (trace.tensors[found[0].inputs["input"]] == stream).all()


@pytest.mark.parametrize("residual_first", [False, True])
@pytest.mark.parametrize("shifts", SHIFTS, ids=lambda shifts: shifts.__name__)
def test_a_right_port_is_equal_in_every_order(shifts, residual_first):
    trace = record(Network(shifts, residual_first), 1, 6)
    for original in (Network(usual), Network(usual, True)):
        report = diff_modules(trace, original)
        assert report.verdict == "equal", [(row.name, row.cause, row.note) for row in report.rows]


@pytest.mark.parametrize("residual_first", [False, True])
def test_a_wrong_term_is_named_in_every_order(residual_first):
    network = Network(usual, residual_first)
    with torch.no_grad():
        network.transformer_blocks[1].ff.weight *= 1.5
    report = diff_modules(record(network, 1, 5), Network(usual))
    assert {row.layer for row in report.faults} == {"transformer_blocks.1.ff"}
