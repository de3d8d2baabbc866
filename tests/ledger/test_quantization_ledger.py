"""The ledger: what its numbers are, on models of a few layers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.named import LayerCall
from ldmref.errors import InputError, UsageError
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.quantizing import QuantizationRule, quantize_model, select_denoiser
from ldmref.ledger import LedgerSettings, make_ledger, make_ledgers, to_lines, to_summary
from ldmref.ledger.images import exchange
from ldmref.ledger.outputs import OutputBackend
from ldmref.ledger.rows import LedgerRow
from ldmref.ledger.weights import ChangedWeights, perturb, relative, squared
from ldmref.models.params import flatten, unflatten
from ldmref.support.columns import align_columns

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FEW = LedgerSettings(prompts=("a red cat",), steps=2, seed=1, controls=2, layers="mid_block.*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model in a folder, and a copy of it with one changed layer."""
    path = tmp_path_factory.mktemp("models")
    tiny = ldmref.random_model("tiny", seed=5)
    ldmref.io.save_folder(path / "tiny", tiny.config, tiny.params, [tiny.tokenizer], np.float32)
    flat = flatten(tiny.params)
    name = f"unet.{LAYER}.weight"
    stream = np.random.default_rng(0)
    change = 0.05 * stream.standard_normal(flat[name].shape).astype(np.float32)
    tree = unflatten(flat | {name: flat[name] + change})
    ldmref.io.save_folder(path / "other", tiny.config, tree, [tiny.tokenizer], np.float32)
    return path


@pytest.fixture(scope="module")
def one_layer(folder):
    return make_ledger(folder / "tiny", folder / "other", FEW)


@pytest.fixture(scope="module")
def quantised(folder):
    return make_ledger(folder / "tiny", QuantizationRule("Q4_0"), FEW)


# -- the control ----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.floats(1e-6, 1e3), st.integers(0, 5))
def test_a_control_is_as_far_as_the_other_weights(seed, scale, control):
    stream = np.random.default_rng(seed)
    first = stream.standard_normal((5, 7))
    second = first + scale * stream.standard_normal((5, 7))
    other = perturb(first, second, "layer", control)
    want = np.linalg.norm(second - first)
    assert np.linalg.norm(other - first) == pytest.approx(want, rel=1e-9)
    assert not np.allclose(other, second)
    assert np.array_equal(other, perturb(first, second, "layer", control))
    assert not np.allclose(other, perturb(first, second, "layer", control + 1))
    assert not np.allclose(other, perturb(first, second, "another", control))


def test_relative_errors():
    assert relative(0.0, 0.0) == 0.0 and relative(4.0, 16.0) == 0.5
    assert relative(1.0, 0.0) == np.inf and squared(np.float32([3, 4])) == 25.0


# -- what differs ---------------------------------------------------------------------------------


def test_one_changed_layer_is_the_only_row(one_layer, folder):
    (row,) = one_layer.rows
    assert row.layer == LAYER and one_layer.other == "other" and one_layer.bits is None
    first = select_denoiser(open_checkpoint(folder / "tiny"))
    second = select_denoiser(open_checkpoint(folder / "other"))
    name = f"{LAYER}.weight"
    want = np.linalg.norm(second[name] - first[name]) / np.linalg.norm(first[name])
    assert row.weights == pytest.approx(want, rel=1e-6)
    assert one_layer.weights == pytest.approx(row.weights, rel=1e-12)
    assert one_layer.whole == len(first) - 1 and row.numbers == first[name].size


def test_one_layer_alone_is_all_layers_at_once(one_layer):
    (row,) = one_layer.rows
    assert row.image == one_layer.image > 0
    assert row.image_control == one_layer.image_control
    assert one_layer.shares == {LAYER: 1.0} and one_layer.independent == row.image


def test_an_equal_model_has_no_error(folder):
    ledger = make_ledger(folder / "tiny", folder / "tiny", FEW)
    assert ledger.rows == () and ledger.weights == ledger.image == 0.0
    assert ledger.image_control == (0.0, 0.0) and ledger.shares == {}
    assert 0 < ledger.image_floor < 1e-2
    assert any("0 layers differ" in line for line in to_lines(ledger))


def test_outputs_are_the_products_with_the_changed_weights(one_layer, folder):
    """By hand: the inputs of the layer in the first model's run, times the change."""
    from ldmref.backends.named import NamedBackend

    seen = []

    class Inputs(NamedBackend):
        def visit(self, call):
            if call.name == LAYER:
                seen.append((call.inputs["input"], call.parameters))
            return call.compute(call.inputs)

    model = ldmref.load(folder / "tiny")
    watched = model.with_backend(Inputs(model.backend))
    arguments = {"prompt": "a red cat", "seed": 1, "steps": 2}
    ldmref.modes.plan("txt2img", model, **arguments).run(watched)
    name = f"{LAYER}.weight"
    other = select_denoiser(open_checkpoint(folder / "other"))[name].astype(np.float64)
    error = size = 0.0
    for x, parameters in seen:
        weight = parameters["weight"].astype(np.float64)
        bias = parameters.get("bias", np.float64(0))
        y = x.astype(np.float64) @ weight.T + bias
        error += np.sum((x.astype(np.float64) @ (other - weight).T) ** 2)
        size += np.sum(y**2)
    (row,) = one_layer.rows
    assert seen and row.outputs == pytest.approx(np.sqrt(error / size), rel=1e-4)
    assert 0 < row.outputs_floor < 2.0**-20 and len(row.outputs_control) == 2


# -- types ----------------------------------------------------------------------------------------


def test_the_rows_of_a_type_are_the_layers_that_it_changes(quantised, folder):
    assert quantised.other == "Q4_0" and len(quantised.rows) > 10
    alone = [row for row in quantised.rows if row.image is not None]
    assert {row.layer for row in alone} == {
        row.layer for row in quantised.rows if row.layer.startswith("mid_block.")
    }
    total = sum(row.image**2 for row in alone)
    want = {row.layer: row.image**2 / total for row in alone}
    assert quantised.shares == pytest.approx(want)
    assert quantised.independent == pytest.approx(np.sqrt(total))
    for row in quantised.rows:
        assert 0.01 < row.weights < 0.2 and row.outputs_floor < 1e-5 < row.outputs, row
    assert quantised.image_floor < 1e-3 * quantised.image


def test_better_types_have_smaller_errors(folder):
    rules = [QuantizationRule(name) for name in ("Q4_0", "Q5_0", "Q8_0")]
    made = make_ledgers(folder / "tiny", rules, replace(FEW, layers=""))
    for worse, better in pairwise(made):
        assert better.weights < worse.weights and better.bits > worse.bits
        assert better.image < worse.image
    assert all(row.image is None for one in made for row in one.rows)
    lines = to_summary(made)
    assert [line.split()[0] for line in lines[2:5]] == ["Q4_0", "Q5_0", "Q8_0"]


def test_a_quantised_file_gives_the_ledger_of_its_type(folder, quantised):
    path = folder / "tiny.gguf"
    quantize_model(folder / "tiny", "Q4_0", path, overwrite=True)
    read = make_ledger(folder / "tiny", path, FEW)
    assert read.other == "tiny.gguf" and read.rows == quantised.rows
    assert read.image == quantised.image and read.image_control == quantised.image_control


def test_the_floor_of_a_coarser_format_is_higher(folder):
    pytest.importorskip("torch")
    rule = QuantizationRule("Q8_0")
    run = replace(FEW, layers="", controls=1)
    fine = make_ledger(folder / "tiny", rule, run, backend="torch")
    coarse = make_ledger(folder / "tiny", rule, replace(run, floor="bfloat16"), backend="torch")
    assert coarse.image_floor > 1000 * fine.image_floor
    for a, b in zip(fine.rows, coarse.rows, strict=True):
        assert b.outputs_floor > 1000 * a.outputs_floor and a.outputs == b.outputs
        assert 2.0**-11 < b.outputs_floor < 2.0**-5


def test_only_the_exchanged_layer_changes(folder):
    model = ldmref.load(folder / "tiny")
    before = flatten(model.params["unet"])
    name = f"{LAYER}.weight"
    other = flatten(exchange(model, "unet", {name: np.zeros(before[name].shape)}).params["unet"])
    assert not other[name].any() and before[name].any()
    assert all(other[key] is before[key] for key in before if key != name)


def test_other_networks_with_the_same_layers_are_not_measured():
    """Layers of a text encoder may be named as those of the denoiser."""
    model = ldmref.random_model("tiny")
    changed = ChangedWeights({"a.weight": np.ones((2, 2))}, {"a.weight": np.zeros((2, 2))})
    ops = OutputBackend(model.backend, model.config, changed, (0,), get_backend("numpy"))
    x = np.ones((1, 2), np.float32)
    parameters = {"weight": np.ones((2, 2), np.float32)}
    call = LayerCall("a", "linear", {"input": x}, parameters, {}, lambda arrays: x, layer="a")
    for network, arrays in (("text_encoder", {"config": model.config.text_encoder}), ("unet", {})):
        assert not ops.results()
        ops.begin(network, arrays)
        assert ops.visit(call) is x
        ops.end(network, x)
    assert ops.results()["a.weight"].other == 1.0  # zeros in the place of x


def test_a_change_of_the_image_is_in_steps_of_8_bits(folder, quantised):
    """Rounding moves each of two pixels by at most half a step, so the difference by one."""
    quantize_model(folder / "tiny", "Q4_0", folder / "steps.gguf", overwrite=True)
    images = []
    for model in (
        ldmref.load(folder / "tiny"),
        ldmref.load(folder / "steps.gguf", config=folder / "tiny"),
    ):
        made = ldmref.modes.txt2img(model, "a red cat", seed=1, steps=2)
        images.append(np.asarray(made.images[0], np.float64))
    rounded = np.sqrt(np.mean((images[1] - images[0]) ** 2))
    assert quantised.image > 2 and abs(rounded - quantised.image) <= 1


# -- text and JSON --------------------------------------------------------------------------------


def test_a_table_sorts_layers_by_share(quantised):
    lines = to_lines(quantised)
    shown = [line.split()[0] for line in lines[2 : 2 + len(quantised.shares)]]
    shares = [quantised.shares[name] for name in shown]
    assert shares == sorted(shares, reverse=True) and len(shares) > 5
    assert f"{len(quantised.rows)} layers differ" in lines[0] and "control" in lines[-2]


def test_json_has_every_number(quantised):
    data = json.loads(json.dumps(quantised.to_dict()))
    assert len(data["rows"]) == len(quantised.rows) and data["settings"]["steps"] == 2
    row = next(row for row in data["rows"] if row["share"] is not None)
    assert row["share"] == quantised.shares[row["layer"]] and len(row["image_control"]) == 2


def test_missing_numbers_are_dashes():
    row = LedgerRow("a", 1, 0.5, None, (), None)
    assert row.control is None
    assert align_columns([("a", "bb"), ("ccc", "d")], right=True) == ["a    bb", "ccc   d"]


# -- refusals -------------------------------------------------------------------------------------


def test_other_models_are_refused(folder):
    with pytest.raises(UsageError, match="cannot be compared") as caught:
        make_ledger(folder / "tiny", "emoji", FEW)
    assert caught.value.code == "E-LEDGER" and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="only the second has 'b'"):
        ChangedWeights({"a": np.ones(1)}, {"b": np.ones(1)})
    with pytest.raises(InputError):
        make_ledger(folder / "tiny", folder / "nobody.gguf", FEW)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"controls": 0}, "controls must be at least 1"),
        ({"prompts": ()}, "a prompt is needed"),
        ({"floor": "float32"}, "needs another format"),
        ({"floor": "float31"}, "float31"),
        ({"steps": 0}, "steps"),
    ],
)
def test_settings_are_checked_before_weights_are_read(folder, change, word, monkeypatch):
    from ldmref.ledger import making

    def read(*arguments):
        raise AssertionError("weights were read")

    monkeypatch.setattr(making, "load_checkpoint", read)
    with pytest.raises((UsageError, InputError), match=word):
        make_ledger(folder / "tiny", QuantizationRule("Q8_0"), replace(FEW, **change))
