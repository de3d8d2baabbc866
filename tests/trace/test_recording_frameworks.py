"""Modules of any framework are recorded through one seam; shown with one that a plug-in adds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import toy_framework as toy

import ldmref
from ldmref.errors import InputError, UsageError
from ldmref.trace import Selection, load_trace
from ldmref.trace.frameworks.framework import list_frameworks
from ldmref.trace.left_out import LEFT_OUT
from ldmref.trace.name_maps import make_renamer

POINTS = "[ldmref.frameworks]\ntoy_framework = toy_framework:TOY\n"
X = np.arange(6, dtype=np.float32).reshape(2, 3)
Q, K, V = (np.full((3, 3), k, np.float32) for k in (1, 2, 3))


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    info = tmp_path / "site" / "theirs-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def make():
    return toy.Chain(toy.Linear(Q), toy.Chain(toy.Linear(K, X[0])), toy.Linear(V))


@pytest.mark.usefixtures("silent")
def test_layers_are_recorded_by_path_and_the_classes_are_as_before():
    network = make()
    methods = {kind: vars(kind)["__call__"] for kind in (toy.Linear, toy.Chain)}
    expected = network(X)
    with ldmref.recording(network) as run:
        found = [network(X), network(2 * X)]
        toy.Linear(Q)(X)  # another program's
    assert np.array_equal(found[0], expected)
    assert methods == {kind: vars(kind)["__call__"] for kind in methods}
    trace = run.trace
    assert trace.calls == ["unet.000", "unet.001"]
    layers = [entry.layer for entry in trace.of_call("unet.000")]
    assert layers == ["", "layers.0", "layers.1", "layers.1.layers.0", "layers.2"]
    assert np.array_equal(trace.tensors["unet.000/layers.1/input"], X @ Q.T)
    assert np.array_equal(trace.tensors["unet.001//input"], 2 * X)
    assert np.array_equal(trace.tensors["unet.000//output"], expected)
    assert trace.manifest["program"] == "Toy" and trace.manifest["dtype"] == "float32"
    assert "toy_framework" in list_frameworks()


@pytest.mark.usefixtures("silent")
def test_an_array_that_is_changed_in_place_is_recorded_before_and_after():
    network = toy.Chain(toy.InPlace(), toy.Linear(Q))
    with ldmref.recording(network) as run:
        network(X.copy())
    assert np.array_equal(run.trace.tensors["unet.000/layers.0/input"], X)
    assert np.array_equal(run.trace.tensors["unet.000//input"], X)
    assert np.array_equal(run.trace.tensors["unet.000/layers.0/output"], X + 1)


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "a NoneType holds no array"),
        (3.0, "a float holds no array"),
        (iter([X]), "no array is found in a list_iterator"),
        (np.array([object()]), "object"),
    ],
)
def test_a_result_that_cannot_be_read_is_named(value, reason):
    network = toy.Chain(toy.Returns(value), toy.Linear(Q))
    with pytest.warns(UserWarning, match="not recorded: unet.000/layers.0/output"):
        with ldmref.recording(network) as run:
            network(X)
    assert reason in str(run.trace.manifest[LEFT_OUT])
    assert run.trace.find("unet.000", "layers.0").outputs == {}


def test_nothing_is_recorded_in_silence():
    network = make()
    with pytest.warns(UserWarning, match="nothing was recorded"), ldmref.recording(network):
        pass
    with pytest.warns(UserWarning, match="outside of a call of its network"):
        with ldmref.recording(network):
            network.layers[0](X)
    with pytest.warns(UserWarning, match="Chain .another one than the recorded was called"):
        with ldmref.recording(network):
            make()(X)
    with pytest.warns(UserWarning, match="`names` has no name for any of its modules"):
        with ldmref.recording(network, names={"conv_in": "conv_in"}):
            network(X)
    network.layers = [toy.Chain()]
    with pytest.warns(UserWarning, match="unet.000 .no layer of it was called"):
        with ldmref.recording(network):
            network.layers.clear()
            network(X)


def test_a_call_that_ends_in_an_error_is_not_recorded():
    network = make()
    with pytest.warns(UserWarning, match="unet.000 .ValueError"), ldmref.recording(network) as run:
        with pytest.raises(ValueError):
            network(X.T)
        network(X)
    assert run.trace.calls == ["unet.001"]


@pytest.mark.usefixtures("silent")
def test_networks_by_name():
    first, second = make(), toy.Chain(toy.Linear(V))
    with ldmref.recording({"text_encoder": first, "transformer": second}) as run:
        second(first(X))
        second(X)
    assert run.trace.calls == ["text_encoder.000", "transformer.000", "transformer.001"]
    assert np.array_equal(run.trace.tensors["transformer.000/layers.0/input"], first(X))


@pytest.mark.usefixtures("silent")
def test_the_layers_of_a_function_by_name():
    layers = {"conv_in": toy.Linear(Q), "blocks.0": toy.Chain(toy.Linear(K))}

    def model(x):
        x = layers["conv_in"](x)
        return layers["blocks.0"](layers["blocks.0"](x))

    with ldmref.recording(layers, call="transformer") as run:
        model(X)
        model(X + 1)
    assert run.trace.calls == ["transformer.000", "transformer.001"]
    assert [entry.layer for entry in run.trace.of_call("transformer.001")] == [
        "conv_in",
        "blocks.0",
        "blocks.0.layers.0",
        "blocks.0~1",
        "blocks.0.layers.0~1",
    ]
    assert np.array_equal(run.trace.tensors["transformer.001/conv_in/input"], X + 1)


def test_the_layers_of_a_function_of_torch():
    torch = pytest.importorskip("torch")
    layers = {"conv_in": torch.nn.Linear(3, 3), "blocks.0": torch.nn.Sequential(torch.nn.Tanh())}
    x = torch.ones(2, 3)
    with ldmref.recording(layers, call="net") as run:
        for _ in range(2):
            layers["blocks.0"](layers["conv_in"](x))
    assert run.trace.calls == ["net.000", "net.001"]
    assert "conv_in" in [entry.layer for entry in run.trace.of_call("net.001")]
    networks = {"text_encoder": layers["conv_in"], "transformer": torch.nn.Linear(3, 3)}
    with ldmref.recording(networks) as run:
        networks["transformer"](networks["text_encoder"](x))
    assert run.trace.calls == ["text_encoder.000", "transformer.000"]


@pytest.mark.parametrize(
    "program, message",
    [
        ({}, "at least one"),
        ({"a": toy.Linear(Q), "b": 3}, "'b' is a int, which is no module"),
        ({1: toy.Linear(Q)}, "modules by name"),
        (object(), "a object cannot be recorded"),
    ],
)
def test_other_programs_are_refused(program, message):
    with pytest.raises(UsageError, match=message), ldmref.recording(program):
        raise AssertionError("the block is not entered")


def test_modules_of_two_frameworks_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match="modules of torch and toy_framework"):
        with ldmref.recording({"a": toy.Linear(Q), "b": torch.nn.Linear(2, 2)}):
            raise AssertionError("the block is not entered")


# -- joined layers


@pytest.mark.usefixtures("silent")
def test_a_joined_layer_is_recorded_as_its_parts():
    network = toy.Chain(toy.Linear(np.concatenate([Q, K, V])))
    with ldmref.recording(network, names={"*.0": ["to_q", "to_k", "to_v"]}) as run:
        network(X)
    tensors = run.trace.tensors
    for name, weight in (("to_q", Q), ("to_k", K), ("to_v", V)):
        assert np.array_equal(tensors[f"unet.000/layers.{name}/input"], X)
        assert np.array_equal(tensors[f"unet.000/layers.{name}/output"], X @ weight.T)
    names = {"layers.0": [["q", 1], ["kv", 2]]}
    only = Selection(layers=("layers.kv",))
    with ldmref.recording(network, names=names, selection=only) as run:
        network(X)
    assert np.array_equal(
        run.trace.tensors["unet.000/layers.kv/output"],
        np.tile(X @ K.T, 2)[:, :6] * [1, 1, 1, 1.5, 1.5, 1.5],
    )
    assert [entry.layer for entry in run.trace.entries] == ["", "layers.kv"]


def test_a_joined_layer_of_another_size_is_named():
    network = toy.Chain(toy.Linear(Q))
    with pytest.warns(UserWarning, match="last axis of 3 cannot be divided in parts 1:1"):
        with ldmref.recording(network, names={"layers.0": ["a", "b"]}) as run:
            network(X)
    assert run.trace.find("unet.000", "layers.a").outputs == {}


def test_a_joined_layer_of_torch():
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(3, 9))
    with ldmref.recording(network, names={"0": ["attn.to_q", "attn.to_k", "attn.to_v"]}) as run:
        y = network(torch.ones(2, 3)).detach().numpy()
    assert np.array_equal(run.trace.tensors["unet.000/attn.to_k/output"], y[:, 3:6])
    assert np.array_equal(run.trace.tensors["unet.000/attn.to_v/input"], np.ones((2, 3)))


FILES = {
    "by tensors": {"*/a.qkv/*": ["*/a.to_q/*", "*/a.to_k/*", "*/a.to_v/*"]},
    "by siblings": {"unet.0/a.qkv/*": ["to_q", "to_k", "to_v"]},
    "by layers": {"*.qkv": ["to_q", "to_k", "to_v"]},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_joined_layer_of_a_file(kind, tmp_path):
    whole = np.concatenate([X @ w.T for w in (Q, K, V)], 1)
    np.savez(tmp_path / "a.npz", **{"unet.0/a.qkv/input": X, "unet.0/a.qkv/output": whole})
    trace = load_trace(tmp_path / "a.npz", FILES[kind])
    assert [entry.layer for entry in trace.entries] == ["a.to_q", "a.to_k", "a.to_v"]
    assert np.array_equal(trace.tensors["unet.000/a.to_k/output"], X @ K.T)
    assert np.array_equal(trace.tensors["unet.000/a.to_v/input"], X)


def test_a_map_in_a_file_has_joined_layers(tmp_path):
    (tmp_path / "names.toml").write_text('"*.qkv" = [["to_q", 2], ["to_k", 1]]')
    np.savez(tmp_path / "a.npz", **{"unet.0/a.qkv/output": X})
    trace = load_trace(tmp_path / "a.npz", tmp_path / "names.toml")
    assert np.array_equal(trace.tensors["unet.000/a.to_q/output"], X[:, :2])
    np.savez(tmp_path / "b.npz", **{"unet.0/a.qkv/output": X[:, :2]})
    with pytest.raises(InputError, match="last axis of 2 cannot be divided in parts 2:1"):
        load_trace(tmp_path / "b.npz", tmp_path / "names.toml").tensors["unet.000/a.to_q/output"]


@pytest.mark.parametrize("new", [[], ["a"], ["a", 3], [["a", 0], "b"], [["a", True], "b"], [["a"]]])
def test_wrong_parts_are_refused(new):
    with pytest.raises(UsageError, match="a list of parts") as caught:
        make_renamer({"a": new})
    assert "to_q" in caught.value.hint
