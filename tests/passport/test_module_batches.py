"""Ports that run the calls of a kit of modules in one batch are judged row by row."""

import copy
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

import torch
import unknown_networks
from torch.nn.functional import pad, scaled_dot_product_attention

import ldmref
from ldmref.errors import UsageError
from ldmref.passport import check_dump, make_module_kit, modules, read_kit

ROWS = {"hidden": "tokens", "time": "rows", "mask": "mask"}
OF_PIXART = {
    "hidden_states": "rows",
    "timestep": "rows",
    "encoder_hidden_states": "tokens",
    "encoder_attention_mask": "mask",
}
PAGE = Path(__file__).parents[2] / "docs" / "passport.md"
LENGTHS = (5, 3)
WIDTH = 8


class Attention(torch.nn.Module):
    """Attention over tokens, with a mask that hides padding."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.scale = torch.nn.Linear(1, WIDTH)
        self.to_q = torch.nn.Linear(WIDTH, WIDTH)
        self.to_k = torch.nn.Linear(WIDTH, WIDTH)
        self.to_v = torch.nn.Linear(WIDTH, WIDTH)
        self.to_out = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden, time, mask, table):
        x = self.norm(hidden) * (1 + self.scale(time[:, None])[:, None]) + table
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        seen = mask[:, None, :] > 0
        return hidden + self.to_out(scaled_dot_product_attention(q, k, v, attn_mask=seen))


def make_net(name="attention"):
    if name == "pixart":
        return unknown_networks.make("pixart")
    torch.manual_seed(0)
    return Attention().requires_grad_(False)


def arguments(name, row):
    rand, length = unknown_networks.rand, LENGTHS[row]
    mask = torch.ones(1, length)
    time = torch.tensor([(0.75, 0.25)[row]])
    if name == "attention":
        hidden = rand(1, length, WIDTH, seed=1 + row)
        return {"hidden": hidden, "time": time, "mask": mask, "table": rand(1, 1, WIDTH, seed=7)}
    return {
        "hidden_states": rand(1, 4, 8, 8, seed=1 + row),
        "encoder_hidden_states": rand(1, length, 12, seed=9 + row),
        "timestep": 1000 * time,
        "encoder_attention_mask": mask,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def batch_of_rows(name, order=(0, 1), more=0):
    """Return the arguments of both rows in one batch, texts padded with other numbers than 0."""
    declared = ROWS if name == "attention" else OF_PIXART
    rows = [arguments(name, row) for row in order]
    made = dict(rows[0])
    for key, content in declared.items():
        parts = [row[key] for row in rows]
        if content != "rows":
            lengths = [max(LENGTHS) + more - part.shape[1] for part in parts]
            value = 0.0 if content == "mask" else 0.5
            sizes = [
                (0, n) if part.ndim == 2 else (0, 0, 0, n)
                for n, part in zip(lengths, parts, strict=True)
            ]
            parts = [pad(x, size, value=value) for x, size in zip(parts, sizes, strict=True)]
        made[key] = torch.cat(parts)
    return made


def port_of(name, given, change=None, dtype="float32"):
    form = getattr(torch, dtype)
    net = copy.deepcopy(make_net(name)).to(form)
    if change is not None:
        change(net)
    given = {k: x.to(form) if isinstance(x, torch.Tensor) else x for k, x in given.items()}
    with ldmref.recording(net, call="transformer") as run, torch.no_grad():
        net(**given)
    return run.trace


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "wrong_dumps", lambda trace, original: ([], {}))
        made = {}
        for name, rows in (("attention", ROWS), ("pixart", OF_PIXART)):
            calls = [arguments(name, row) for row in (0, 1)]
            make_module_kit(name, (make_net(name), calls, rows), folder / name)
            made[name] = read_kit(folder / name)
        calls = [arguments("attention", row) for row in (0, 1)]
        made["undeclared"] = make_module_kit("undeclared", (make_net(), calls), folder / "none")
        return made


def test_the_example_of_the_page_makes_a_kit_with_rows(tmp_path, monkeypatch):
    """Its port computes both texts in one batch, the shorter with two tokens of padding."""
    for name in ("my_model.py", "my_rows.py"):
        (block,) = re.findall(rf"```python\n(# {name}\n.*?)```", PAGE.read_text(), re.S)
        (tmp_path / name).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(modules, "wrong_dumps", lambda trace, original: ([], {}))
    made = importlib.import_module("my_rows").make()
    kit = make_module_kit("my_rows:make", made, tmp_path / "kit")
    net, (first, second), rows = made
    given = {**first, **{key: [first[key], second[key]] for key in rows}}
    for key in ("encoder_hidden_states", "encoder_attention_mask"):
        long, short = given[key]
        given[key] = [long, torch.cat([short, 0 * long[:, short.shape[1] :]], 1)]
    given |= {key: torch.cat(given[key]) for key in rows}
    with ldmref.recording(net, call="transformer") as run, torch.no_grad():
        net(**given)
    verdict = check_dump(run.trace, kit)
    assert verdict.passed, str(verdict)
    assert "2 tokens of padding in transformer.000 not compared" in verdict.report.notes


def check(kits, port, name="attention", by_module=True):
    return check_dump(port, kits[name], against=make_net(name) if by_module else None)


@pytest.mark.parametrize("by_module", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["attention", "pixart"])
def test_rows_in_one_batch_pass(kits, name, dtype, by_module):
    port = port_of(name, batch_of_rows(name), dtype=dtype)
    verdict = check(kits, port, name, by_module)
    assert verdict.passed, str(verdict)
    assert not verdict.report.faults and not verdict.report.gaps
    assert "2 tokens of padding in transformer.000 not compared" in verdict.report.notes


@pytest.mark.parametrize("by_module", [True, False])
@pytest.mark.parametrize(("order", "more"), [((1, 0), 0), ((0, 1), 3), ((1, 0), 3)])
def test_rows_in_any_order_with_more_padding_pass(kits, order, more, by_module):
    """Texts padded to 8 tokens are as long as the arrays are wide."""
    port = port_of("attention", batch_of_rows("attention", order, more))
    assert check(kits, port, by_module=by_module).passed


def test_calls_as_in_the_kit_pass(kits):
    net = make_net()
    with ldmref.recording(net, call="transformer") as run, torch.no_grad():
        for row in (0, 1):
            net(**arguments("attention", row))
    assert [*run.trace.calls] == ["transformer.000", "transformer.001"]
    assert check(kits, run.trace).passed and check(kits, run.trace, by_module=False).passed


def scaled_row(layer, row):
    """Return a change of a port: one row of a layer's output is 2 % too large."""

    def change(net):
        def hook(module, given, output):
            output = output.clone()
            output[row] *= 1.02
            return output

        net.get_submodule(layer).register_forward_hook(hook)

    return change


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("layer", ["norm", "to_q", "to_v", "to_out"])
def test_a_wrong_row_of_a_batch_is_named(kits, layer, row):
    port = port_of("attention", batch_of_rows("attention"), scaled_row(layer, row))
    verdict = check(kits, port)
    assert verdict.verdict == "differs"
    assert {(x.call, x.layer) for x in verdict.report.faults} == {(f"transformer.00{row}", layer)}
    assert f"row {row} of the port's transformer.000" in verdict.report.faults[0].note
    (alone,) = check(kits, port, by_module=False).report.faults
    assert (alone.call, alone.layer) == (f"transformer.00{row}", layer)
    assert f"row {row} of the port's transformer.000" in alone.note


@pytest.mark.parametrize(
    ("name", "key"), [("attention", "mask"), ("pixart", "encoder_attention_mask")]
)
def test_a_mask_that_is_ignored_is_named(kits, name, key):
    given = batch_of_rows(name)
    given[key] = torch.ones_like(given[key])
    port = port_of(name, given)
    verdict = check(kits, port, name)
    assert verdict.verdict == "differs"
    assert {(x.call, x.kind) for x in verdict.report.faults} == {("transformer.001", "batch")}
    assert all("attention" in x.layer or not x.layer for x in verdict.report.faults)
    (alone,) = check(kits, port, name, by_module=False).report.faults
    assert alone.call == "transformer.001" and "row 1" in alone.note


def test_other_rows_and_missing_ones_are_said(kits):
    given = batch_of_rows("attention")
    given = {k: torch.cat([x, x[:1] + 9.0]) if k in ROWS else x for k, x in given.items()}
    verdict = check(kits, port_of("attention", given))
    assert verdict.verdict == "incomplete"
    assert "1 row not of the kit's run: transformer.000 row 2" in verdict.report.gaps
    half = {k: x[1:] if k in ROWS else x for k, x in batch_of_rows("attention").items()}
    verdict = check(kits, port_of("attention", half))
    assert (verdict.verdict, verdict.missing) == ("incomplete", ("transformer.000",))


def test_batches_of_a_kit_that_declares_no_rows_are_not_judged(kits):
    verdict = check(kits, port_of("attention", batch_of_rows("attention")), "undeclared")
    assert verdict.verdict == "incomplete"
    assert any("does not declare which arguments have rows" in gap for gap in verdict.report.gaps)


def test_layers_of_unknown_sizes_are_not_judged(kits):
    port = port_of("attention", batch_of_rows("attention"))
    name = port.find("transformer.000", "to_k").outputs["output"]
    tensors = {**port.tensors, name: np.asarray(port.tensors[name])[:, :4]}
    verdict = check(kits, ldmref.trace.build_trace(tensors))
    assert verdict.verdict == "incomplete"
    assert any("do not tell which numbers are a row" in gap for gap in verdict.report.gaps)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "rows of transformer are no"),
        ({"hidden": "batch"}, "rows of transformer are no"),
        ({"time": "rows", "mask": "mask"}, "a mask of no tokens"),
        (
            {"hidden": "tokens", "other": "rows"},
            "transformer has no argument other",
        ),
        (
            {"hidden": "tokens", "time": "tokens"},
            r"shape \(1,\); as 'tokens' it must have \(1, l, ...\)",
        ),
        ({"hidden": "tokens", "table": "tokens"}, r"have \[1, 5\] tokens in one call"),
    ],
)
def test_wrong_declarations_are_refused(rows, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        make_module_kit("x", (make_net(), arguments("attention", 0), rows), tmp_path / "kit")


def test_calls_of_several_rows_or_padding_are_refused(tmp_path):
    several = batch_of_rows("attention")
    padded = {k: x[1:] if k in ROWS else x for k, x in several.items()}
    for given, words in (
        (several, r"as 'tokens' it must have \(1, l, ...\)"),
        (padded, "hides tokens"),
    ):
        with pytest.raises(UsageError, match=words):
            make_module_kit("x", (make_net(), [given], ROWS), tmp_path / "kit")
