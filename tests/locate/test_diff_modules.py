"""`diff_modules` and `ldmref diff --against`: a PyTorch module judges the recording of a port."""

import copy
import json
import sys
import textwrap

import numpy as np
import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.errors import UsageError
from ldmref.locate import diff_modules
from ldmref.locate.against import record_reference
from ldmref.trace import Selection, build_trace

torch = pytest.importorskip("torch")


class Block(torch.nn.Module):
    """A block with a table that is no buffer, attention, and arguments that are not tensors."""

    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.to_q = torch.nn.Linear(width, width)
        self.to_k = torch.nn.Linear(width, width)
        self.to_v = torch.nn.Linear(width, width)
        self.out = torch.nn.Linear(width, width)
        angles = torch.outer(torch.arange(16.0), 100.0 ** -torch.arange(0.0, 1.0, 2.0 / width))
        self.tables = [torch.polar(torch.ones_like(angles), angles)]

    def forward(self, x, *, mask=None, scale=1.0, heads=2, order=(0, 1), names=None):
        y = self.norm(x)
        turned = [turn(f(y), self.tables[0][: x.shape[1]]) for f in (self.to_q, self.to_k)]
        q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (*turned, self.to_v(y)))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x + scale * self.out(y.transpose(1, 2).flatten(2)), order[0]


def turn(x, table):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).float().contiguous())
    return torch.view_as_real(pairs * table).flatten(-2).type_as(x)


class Inner(torch.nn.Module):
    """A layer that takes complex numbers, a mapping and a list."""

    def forward(self, phases, parts, more):
        return phases * phases.conj() + sum(parts), more["shift"] + phases.real


class Net(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = torch.nn.Linear(width, width)
        self.blocks = torch.nn.ModuleList(Block(width) for _ in range(2))
        self.inner = Inner()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, ids=None, sizes=(1, 1), mode="usual", gates=None):
        x = self.first(x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x, _ = block(x, mask=mask, scale=sizes[0] * 0.5 + sizes[1])
        phases = torch.polar(torch.ones_like(x, dtype=torch.float32), x.float())
        y, z = self.inner(phases, [x, x * gates["a"]], {"shift": x})
        return (y.real + z + (ids[..., None] if mode == "ids" else 0)).to(x.dtype)


def make(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


def arguments(dtype=torch.float32):
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    ids = torch.arange(10).reshape(2, 5)
    gate = torch.full((8,), 0.25, dtype=dtype)
    return {"x": x, "ids": ids, "sizes": (2, 3), "mode": "ids", "gates": {"a": gate, "b": None}}


def record(network, dtype=torch.float32, call="net", **options):
    with ldmref.recording(network, call=call, **options) as run, torch.no_grad():
        network(**arguments(dtype))
    return run.trace


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_a_right_run_of_each_format_is_equal(dtype):
    form = getattr(torch, dtype)
    port = record(make().to(form), form)
    report = diff_modules(port, make())
    assert report.verdict == "equal", report.to_dict()
    judged = {row.layer for row in report.rows}
    assert {"", "first", "blocks.1.norm", "blocks.1.attention", "inner"} <= judged


def test_arguments_that_are_no_tensors_are_recorded_and_used():
    entry = record(make()).find("net.000")
    described = dict(entry.attributes["arguments"])
    assert described["sizes"] == {"tuple": [2, 3]} and described["mode"] == "ids"
    assert described["gates"] == {"mapping": {"a": {"tensor": "a"}, "b": None}}


def test_complex_arrays_are_judged_with_both_parts():
    port = record(make())
    array = port.tensors["net.000/inner/input.phases"]
    assert array.dtype.kind == "c"
    tensors = {**port.tensors, "net.000/inner/input.phases": array.conj()}
    wrong = build_trace(tensors, {**port.manifest, "entries": [vars(e) for e in port.entries]})
    rows = diff_modules(wrong, make()).faults
    assert [(row.layer, row.kind) for row in rows] == [("inner", "wiring")]
    assert rows[0].cause == "the rotation has the other direction in polar"


def test_a_table_that_is_no_buffer_is_that_of_the_port():
    port = make()
    port.blocks[1].tables[0] = port.blocks[1].tables[0].conj()
    rows = diff_modules(record(port), make()).faults
    assert {(row.layer, row.kind) for row in rows} == {("blocks.1.attention", "wiring")}
    assert all("other direction" in row.cause for row in rows)


def test_several_faults_in_one_run_are_named_each():
    port = make()
    port.blocks[0].norm.eps = 1e-2
    port.blocks[1].to_v.bias = None
    rows = diff_modules(record(port), make()).faults
    found = {row.layer: row.cause for row in rows}
    assert found == {
        "blocks.0.norm": "eps 0.01 instead of 1e-05",
        "blocks.1.to_v": "bias is missing",
    }


def test_a_small_fault_after_a_large_one_is_not_hidden_by_it():
    """What follows a wrong output is judged from the recorded one."""
    port = make()
    port.blocks[0].norm.eps = 1.0
    port.blocks[0].to_k.register_forward_pre_hook(lambda module, args: (1.01 * args[0],))
    rows = diff_modules(record(port), make()).faults
    assert [(row.layer, row.kind) for row in rows] == [
        ("blocks.0.norm", "own"),
        ("blocks.0.to_k", "wiring"),
    ]
    assert rows[1].cause == "scaled by 1.01"


def test_layers_alone_are_judged():
    """A port that records one layer, without what is around it."""
    net = make()
    x = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    with torch.no_grad():
        y = net.blocks[1].to_k(torch.from_numpy(x)).numpy()
        z = torch.nn.functional.layer_norm(torch.from_numpy(x), (8,), eps=1e-2).numpy()
    port = build_trace(
        {
            "net.000/blocks.1.to_k/input": x,
            "net.000/blocks.1.to_k/output": y,
            "net.000/blocks.0.norm/input": x,
            "net.000/blocks.0.norm/output": z,
        }
    )
    report = diff_modules(port, net)
    assert [(row.layer, row.verdict, row.cause) for row in report.rows] == [
        ("blocks.0.norm", "differs", "eps 0.01 instead of 1e-05"),
        ("blocks.1.to_k", "equal", ""),
    ]
    block = build_trace({"net.000/blocks.0/input": x, "net.000/blocks.0/output.0": x})
    assert [row.verdict for row in diff_modules(block, net).rows] == ["differs"]


def test_what_is_recorded_and_not_compared_is_said():
    port = record(make())
    entries = [vars(entry) for entry in port.entries]
    more = {
        "net.000/first/input.other": np.ones(3),
        "net.000/blocks.7.norm/output": np.ones(3),
        "sampler.000//input.x": np.ones(3),
        "other.000/first/input": np.ones(3),
    }
    tensors = {**port.tensors, **more}
    report = diff_modules(
        build_trace(tensors, {**port.manifest, "entries": entries}), {"net": make()}
    )
    assert report.verdict == "incomplete"
    notes = {(row.call, row.layer): row.note for row in report.rows if row.verdict == "not judged"}
    assert "input.other" in notes["net.000", "first"]
    assert "no module" in notes["sampler.000", ""] and "no module" in notes["other.000", ""]
    assert any("blocks.7.norm" in gap for gap in report.gaps)


def test_layers_may_be_recorded_in_part():
    """Of a block its output alone, of the next nothing: the cause is found all the same."""
    wrong = make()
    wrong.blocks[0].norm.eps = 1e-2
    causes = []
    for network in (make(), wrong):
        port = record(network)
        block = port.find("net.000", "blocks.0")
        kept = [e for e in port.entries if not e.layer.startswith("blocks.")]
        entries, tensors = [], {}
        for entry in (*map(vars, kept), {**vars(block), "inputs": {}}):
            sides = {}
            for side in ("inputs", "outputs"):
                sides[side] = {role: f"{len(entries)} {side} {role}" for role in entry[side]}
                tensors |= {sides[side][r]: port.tensors[x] for r, x in entry[side].items()}
            entries.append({**entry, **sides})
        report = diff_modules(build_trace(tensors, {**port.manifest, "entries": entries}), make())
        judged = {row.layer for row in report.rows if row.verdict != "not judged"}
        assert judged == {"", "first", "blocks.0", "inner"}
        causes.append({row.layer: row.cause for row in report.faults})
    assert causes == [{}, {"blocks.0": "eps 0.01 instead of 1e-05 in blocks.0.norm"}]


def test_a_run_that_cannot_be_repeated_is_not_equal():
    """An argument that is an object is not recorded; layers are then judged alone."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 4)

        def forward(self, x, settings):
            return self.inner(x) * settings.factor

    class Settings:
        factor = 2.0

    net = Odd()
    with ldmref.recording(net, call="net") as run, torch.no_grad():
        net(torch.ones(1, 4), Settings())
    report = diff_modules(run.trace, net)
    assert report.verdict == "incomplete"
    assert [row.layer for row in report.rows if row.verdict == "equal"] == ["inner"]
    why = "cannot be replayed: its argument 'settings' is a Settings, which is not recorded"
    assert why in [row.note for row in report.rows]


def test_operations_that_the_port_leaves_out_or_adds_do_not_shift_the_others():
    class Twice(torch.nn.Module):
        def __init__(self, left_out=()):
            super().__init__()
            self.parts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
            self.left_out = left_out

        def forward(self, x):
            for i, part in enumerate(self.parts):
                x = part(x)
                for _ in range({i: 0}.get(self.left_out, 1)):
                    x = torch.nn.functional.silu(x)
            return x

    torch.manual_seed(0)
    right = Twice()
    port = copy.deepcopy(right)
    port.left_out = 0
    with ldmref.recording(port, call="net") as run, torch.no_grad():
        port(torch.randn(3, 8))
    rows = diff_modules(run.trace, right).faults
    assert [(row.layer, row.cause) for row in rows] == [
        ("parts.1", "silu is skipped: its output is its input")
    ]


def test_calls_of_several_networks_need_names():
    port = record(make())
    entries = [vars(entry) for entry in port.entries]
    tensors = {**port.tensors, "other.000/first/input": np.ones(3)}
    both = build_trace(tensors, {**port.manifest, "entries": entries})
    with pytest.raises(UsageError, match="several networks"):
        diff_modules(both, make())
    assert diff_modules(port, {"net": make(), "more": torch.nn.Linear(2, 2)}).verdict == "equal"


@pytest.mark.parametrize("original", [3, {}, {"net": 3}, object()])
def test_an_original_that_is_no_module_is_refused(original):
    with pytest.raises(UsageError):
        diff_modules(record(make()), original)


def test_the_module_is_left_as_it_was():
    net = make()
    before = copy.deepcopy(net.state_dict())
    table = net.blocks[0].tables[0]
    diff_modules(record(make()), net)
    after = net.state_dict()
    assert all(
        torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before
    )
    assert net.blocks[0].tables[0] is table and "forward" not in vars(net.first)


def test_a_method_of_a_network_is_a_call():
    class Coder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 4)

        def decode(self, z):
            return self.inner(z) + 1.0

    coder = Coder()
    z = torch.ones(1, 4)
    with torch.no_grad():
        inner = coder.inner(z)
    arrays = {
        "vae.decode//input.z": z,
        "vae.decode/inner/input": z,
        "vae.decode/inner/output": inner,
        "vae.decode//output": inner + 1.0,
    }
    port = build_trace({name: x.detach().numpy() for name, x in arrays.items()})
    assert diff_modules(port, {"vae": coder}).verdict == "equal"
    arrays["vae.decode//output"] = inner
    port = build_trace({name: x.detach().numpy() for name, x in arrays.items()})
    (row,) = diff_modules(port, {"vae": coder}).faults
    assert (row.call, row.layer) == ("vae.decode", "")


def test_a_reference_in_float64_is_exact():
    """Casts to float32 in the module's code, and tables, are float64 in the reference."""
    inputs = arguments()
    exact = record_reference(make(), inputs, "float64", call="net")
    low = record_reference(make(), inputs, "float32", call="net")
    again = record_reference(make().double(), inputs, "float64", call="net")
    y, z = (trace.tensors["net.000//output"] for trace in (exact, low))
    assert y.dtype == np.float64 and 0 < np.abs(y - z).max() < 1e-5
    assert np.array_equal(y, again.tensors["net.000//output"])
    angles = exact.tensors["net.000/blocks.0.attention/input"]
    assert not np.array_equal(angles, angles.astype(np.float32))
    assert diff_modules(exact, make()).verdict == "equal"
    with pytest.raises(UsageError, match="not a number format"):
        record_reference(make(), inputs, "float8")
    few = record_reference(
        make(), inputs, "float32", call="net", selection=Selection(layers=("first",))
    )
    assert {entry.layer for entry in few.entries} == {"", "first"}


# -- the command ----------------------------------------------------------------------------------

SOURCE = """
    import torch

    def make(eps=1e-5):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8, eps))

    def fail():
        raise ValueError("no weights here")

    def number():
        return 3

    value = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"original_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    yield tmp_path, name
    sys.modules.pop(name, None)


def record_sequence(folder, eps):
    torch.manual_seed(0)
    port = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8, eps))
    path = folder / f"port-{eps}"
    with ldmref.recording(port, path, call="net"), torch.no_grad():
        port(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    return str(path)


def test_the_command_names_the_fault(folder, capsys):
    path, name = folder
    right, wrong = record_sequence(path, 1e-5), record_sequence(path, 1e-3)
    assert main(["diff", right, "--against", f"{name}:make"]) == 0
    assert "agree within the rounding of float32" in capsys.readouterr().out
    assert main(["diff", wrong, "--against", f"{name}:make"]) == 4
    assert "eps 0.001 instead of 1e-05" in capsys.readouterr().out
    assert main(["diff", wrong, "--against", f"{name}:make", "--json"]) == 4
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [row["layer"] for row in found["rows"] if row["verdict"] == "differs"] == ["1"]
    assert main(["diff", right, wrong, "--against", f"{name}:make"]) == 4
    assert "inherited" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("{}", "names no function"),
        ("{}:", "names no function"),
        ("../x:make", "names no function"),
        ("{}:missing", "has no function 'missing'"),
        ("{}:value", "has no function 'value'"),
        ("no_such_module_at_all:make", "cannot be imported"),
        ("{}:fail", "raised ValueError: no weights here"),
        ("{}:number", "a int is no torch.nn.Module"),
    ],
)
def test_what_makes_no_module_is_refused_in_a_line(folder, capsys, against, said):
    path, name = folder
    port = record_sequence(path, 1e-5)
    assert main(["diff", port, "--against", against.format(name)]) == 2
    assert said in capsys.readouterr().err


def test_options_of_a_model_are_refused_beside_it(folder, capsys):
    path, name = folder
    port = record_sequence(path, 1e-5)
    assert main(["diff", port, "--against", f"{name}:make", "-m", "emoji"]) == 2
    assert "--model belongs to a model of ldmref" in capsys.readouterr().err


def test_a_selection_of_layers_is_judged(folder):
    port = make()
    port.blocks[1].norm.eps = 1e-2
    trace = record(port, selection=Selection(layers=("blocks.1*",)))
    rows = diff_modules(trace, make()).faults
    assert [row.layer for row in rows] == ["blocks.1.norm"]
