"""Kits of modules that ldmref does not know: their ports pass, and wrong ones are named."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("diffusers")

import torch
import unknown_faults
import unknown_networks

import ldmref
from ldmref.apps.cli.main import main
from ldmref.errors import UsageError
from ldmref.passport import check_dump, make_module_kit, modules, read_kit
from ldmref.trace import load_trace

NETWORKS = ("pixart", "sana")
FAULTS = [name for name in unknown_faults.SINGLE if name.partition(":")[0] in NETWORKS]


class Block(torch.nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, eps=1e-5)
        self.up = torch.nn.Linear(width, 2 * width)
        self.act = torch.nn.GELU()
        self.down = torch.nn.Linear(2 * width, width)

    def forward(self, hidden, scale=1.0):
        return hidden + scale * self.down(self.act(self.up(self.norm(hidden))))


def make_block(seed=0):
    torch.manual_seed(seed)
    return Block().requires_grad_(False)


def made_block():
    return make_block(), {"hidden": unknown_networks.rand(2, 5, 12), "scale": 0.5}


def block_port(change=None, seed=0):
    net = make_block(seed)
    if change is not None:
        change(net)
    with ldmref.recording(net, call="transformer") as run:
        net(**made_block()[1])
    return run.trace


@pytest.fixture(scope="module")
def block_kit(tmp_path_factory):
    return make_module_kit("block", made_block(), tmp_path_factory.mktemp("kit") / "block")


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """Return kits of two networks without wrong dumps, each of which takes a minute to find."""
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "wrong_dumps", lambda trace, original: ([], {}))
        return {
            name: make_module_kit(
                name, (unknown_networks.make(name), unknown_networks.inputs(name)), folder / name
            )
            for name in NETWORKS
        }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("judged", ["by the module", "by the kit"])
def test_a_right_port_passes(kits, name, dtype, judged):
    against = unknown_networks.make(name) if judged == "by the module" else None
    verdict = check_dump(unknown_networks.port_of(name, dtype=dtype), kits[name], against=against)
    assert verdict.passed, str(verdict)
    assert verdict.seen == verdict.nodes and verdict.report.dtype == dtype


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_port_is_named(kits, fault):
    case = unknown_faults.SINGLE[fault]
    kit = kits[case.family]
    port = unknown_networks.port_of(case.family, case)
    verdict = check_dump(port, kit, against=unknown_networks.make(case.family))
    assert verdict.verdict == "differs"
    assert {row.layer for row in verdict.report.faults} == {*case.layers}
    alone = check_dump(port, kit)  # the first output that is not the kit's
    assert alone.verdict == "differs" and len(alone.report.faults) == 1
    row = alone.report.faults[0]
    first = min(case.layers, key=lambda layer: list(kit.trace.by_name).index((row.call, layer)))
    assert not row.cause and (row.layer == first or row.layer.startswith(first + "."))


def test_two_kits_have_the_same_bytes(block_kit, tmp_path):
    again = make_module_kit("block", made_block(), tmp_path / "block")
    files = [
        {x.relative_to(kit.folder): x.read_bytes() for x in kit.folder.rglob("*") if x.is_file()}
        for kit in (block_kit, again)
    ]
    assert files[0] == files[1]
    assert read_kit(again.folder).networks == ("transformer",)


def test_wrong_dumps_fail_with_their_cause(block_kit):
    assert len(block_kit.wrong) >= 8
    for dump in block_kit.wrong:
        port = load_trace(block_kit.folder / dump.path)
        verdict = check_dump(port, block_kit, against=make_block())
        causes = {row.name: row.cause for row in verdict.report.faults}
        assert verdict.verdict == "differs", dump.name
        assert causes.get(dump.node, "").startswith(dump.fault), dump.name
        (alone,) = check_dump(port, block_kit).report.faults
        assert alone.name == dump.node, dump.name


def test_a_wrong_input_alone_is_named(block_kit):
    """The port computes right outputs, and recorded an input that is not the kit's."""
    port = block_port()
    name = port.find("transformer.000", "up").inputs["input"]
    wrong = {**port.tensors, "wrong": 1.01 * np.asarray(port.tensors[name])}
    entries = [
        replace(e, inputs={"input": "wrong"}) if e.layer == "up" else e for e in port.entries
    ]
    verdict = check_dump(replace(port, tensors=wrong, entries=tuple(entries)), block_kit)
    (row,) = verdict.report.faults
    assert (verdict.verdict, row.layer, row.kind) == ("differs", "up", "wiring")
    assert "its input is not the kit's" in row.note


def test_the_kits_parameters_are_judged_whatever_the_module_has(block_kit):
    assert check_dump(block_port(), block_kit, against=make_block(seed=1)).passed
    verdict = check_dump(block_port(seed=1), block_kit, against=make_block(seed=1))
    assert verdict.verdict == "differs"


def test_floors_are_of_every_output(block_kit):
    outputs = {name for e in block_kit.trace.entries for name in e.outputs.values()}
    for dtype, unit in (("float32", 2.0**-24), ("bfloat16", 2.0**-8), ("float16", 2.0**-11)):
        floors = block_kit.floors[dtype]
        assert floors.keys() >= outputs
        assert unit / 8 < max(floors.values()) < 8 * unit


def test_outputs_of_other_sizes_and_layers_are_named(block_kit):
    port = block_port()
    tensors = {name: np.asarray(x) for name, x in port.tensors.items()}
    tensors["transformer.000/up/output"] = tensors["transformer.000/up/output"][:, :2]
    tensors["transformer.000/more/output"] = tensors["transformer.000/up/output"]
    verdict = check_dump(ldmref.trace.build_trace(tensors), block_kit)
    assert verdict.verdict == "incomplete"
    gaps = "; ".join(verdict.report.gaps)
    assert "1 layer not in the kit's run: transformer.000/more" in gaps
    assert "1 layer of other sizes than the kit's: transformer.000/up" in gaps


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (torch.nn.Linear(2, 2), "a kit of a module needs its inputs, and Linear has none"),
        ((torch.nn.Linear(2, 2), {"input": torch.ones(1, 3)}), "cannot run in float64"),
        (({}, {}), "without a torch.nn.Module"),
    ],
)
def test_what_makes_no_kit_is_refused(made, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        make_module_kit("wrong", made, tmp_path / "kit")
    assert not (tmp_path / "kit").exists()


def test_other_modules_and_calls_are_refused(block_kit, kit):
    with pytest.raises(UsageError, match="other parameters than the kit"):
        check_dump(block_port(), block_kit, against=torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="has the networks transformer, and not vae"):
        check_dump(block_port(), block_kit, against={"vae": make_block()})
    net = make_block()
    with ldmref.recording(net, call="net") as run:
        net(**made_block()[1])
    with pytest.raises(UsageError, match=r"has the calls net\.000, and the kit transformer\.000"):
        check_dump(run.trace, block_kit)
    with pytest.raises(UsageError, match="is a model of ldmref"):
        check_dump(kit.trace, kit, against=make_block())
    with pytest.raises(UsageError, match="parameters alone"):
        block_kit.model()


def test_the_command_makes_and_judges_a_kit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_kit_model.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))\n"
        "    return net, {'input': torch.arange(12.0).reshape(3, 4)}\n"
    )
    assert main(["passport", "make", "my_kit_model:make", "-o", "kit"]) == 0
    assert "wrote the kit my_kit_model:make 1.2" in capsys.readouterr().out
    kit = read_kit("kit")
    wrong = next(dump for dump in kit.wrong if dump.name == "group_norm.other_eps")
    check = ["passport", "check", f"kit/{wrong.path}", "--kit", "kit"]
    assert main(check) == 4
    assert "--against my_kit_model:make, would judge" in "".join(capsys.readouterr())
    assert main([*check, "--against", "my_kit_model:make"]) == 4
    assert wrong.cause in capsys.readouterr().out
    assert main(["passport", "check", "kit/trace", "--kit", "kit"]) == 0
