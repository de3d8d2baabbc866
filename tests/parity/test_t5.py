"""T5's encoder against transformers' T5EncoderModel, in float64, and its folders."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError
from ldmref.io.diffusers.config import convert_t5_config
from ldmref.io.diffusers.folder import diffusers_table, open_network
from ldmref.io.key_table import to_native
from ldmref.models.params import count, flatten, tree_map, unflatten
from ldmref.models.t5 import T5, find_buckets, t5
from ldmref.models.text import text_encoder, text_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.numpy import load_file, save_file  # noqa: E402
from transformers.models.t5 import modeling_t5  # noqa: E402

SMALL = dict(
    vocab_size=40, d_model=24, d_kv=10, d_ff=32, num_layers=3, num_heads=2,
    relative_attention_num_buckets=8, relative_attention_max_distance=20,
    feed_forward_proj="gated-gelu",
)  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    config = transformers.T5Config(**SMALL)
    config._attn_implementation = "eager"
    model = transformers.T5EncoderModel(config).eval()
    for parameter in model.parameters():  # their initial scores are tiny
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("text_encoder_2")
    theirs.save_pretrained(path)
    return path


def read(folder, theirs):
    """Configuration and parameters of a folder."""
    config = convert_t5_config(theirs.config.to_dict(), 30)
    table = diffusers_table(text_spec(config))
    tensors = open_network(folder, "text_encoder_2", table, "x", rename=T5.rename)
    return config, unflatten(to_native(tensors, table))


@pytest.fixture
def in_double(theirs, monkeypatch):
    """Return their model in float64, in which the norm's mean is taken, too."""

    def norm(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x * scale

    monkeypatch.setattr(modeling_t5.T5LayerNorm, "forward", norm)
    yield theirs.double()
    theirs.float()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("masked", [False, True])
def test_hidden_states_are_those_of_transformers(in_double, folder, backend, masked):
    config, params = read(folder, in_double)
    ops = get_backend(backend, dtype="float64")
    params = tree_map(ops.asarray, params)
    ids = np.random.default_rng(0).integers(0, 40, (2, 30))
    mask = np.arange(30)[None, :] < np.array([[30], [17]])
    with torch.no_grad():
        given = torch.tensor(mask) if masked else None
        want = in_double(torch.tensor(ids), attention_mask=given).last_hidden_state.numpy()
    ours = ops.asarray(mask.astype(np.int64)) if masked else None
    got = ops.to_numpy(t5(ops, params, config, ops.asarray(ids), mask=ours))
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_mask_in_a_graph(in_double, folder, name):
    """The bias of positions survives: a runtime may reorder sums of constants, not `where`."""
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[name])
    config, params = read(folder, in_double)
    ids = np.random.default_rng(0).integers(0, 40, (2, 30))
    mask = (np.arange(30)[None, :] < np.array([[30], [17]])).astype(np.int64)
    exact = get_backend("numpy", dtype="float64")
    wide = tree_map(exact.asarray, params)
    want = exact.to_numpy(t5(exact, wide, config, exact.asarray(ids), mask=exact.asarray(mask)))
    ops = get_backend(name)
    params = tree_map(ops.weight, params)

    def network(ops, p, ids, mask):
        return t5(ops, p, config, ids, mask=mask)

    got = ops.to_numpy(ops.compile(network, params)(ids, mask))
    seen = mask.astype(bool)
    assert np.abs(got - want)[seen].max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("skip", [1, 2])
def test_final_layers_are_left_out(in_double, folder, skip):
    config, params = read(folder, in_double)
    ops = get_backend("numpy", dtype="float64")
    ids = np.random.default_rng(0).integers(0, 40, (1, 9))
    with torch.no_grad():
        every = in_double(torch.tensor(ids), output_hidden_states=True).hidden_states
        want = in_double.encoder.final_layer_norm(every[-1 - skip]).numpy()
    got = text_encoder(ops, tree_map(ops.asarray, params), config, ids, skip)
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("buckets,distance", [(32, 128), (8, 20), (64, 100)])
def test_buckets_are_those_of_transformers(buckets, distance):
    distances = np.arange(-700, 701)
    bucket = modeling_t5.T5Attention._relative_position_bucket
    want = bucket(torch.tensor(distances), True, buckets, distance)
    assert (find_buckets(distances, buckets, distance) == want.numpy()).all()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_graphs_compute_the_same(theirs, folder, backend):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    config, params = read(folder, theirs)
    ids = np.random.default_rng(0).integers(0, 40, (2, 30))
    found = {}
    for name in ("numpy", backend):
        ops = get_backend(name)
        encode = ops.compile(text_encoder, tree_map(ops.weight, params))
        found[name] = ops.to_numpy(encode(config, ops.asarray(ids)))
    assert np.abs(found[backend] - found["numpy"]).max() < 1e-4 * np.abs(found["numpy"]).max()


@pytest.mark.parametrize("names", [("shared",), ("encoder.embed_tokens",), None])
def test_files_hold_the_table_of_tokens_once_or_twice(theirs, folder, tmp_path, names):
    tensors = load_file(folder / "model.safetensors")
    table = tensors.pop("shared.weight")
    for name in names or ("shared", "encoder.embed_tokens"):
        tensors[f"{name}.weight"] = table
    save_file(tensors, tmp_path / "model.safetensors")
    _, params = read(tmp_path, theirs)
    assert (params.shared.weight == table).all()
    assert flatten(params).keys() == flatten(read(folder, theirs)[1]).keys()


def test_configurations():
    config = convert_t5_config(SMALL, 256)
    assert (config.head_dim, config.layer_norm_eps, config.max_position_embeddings) == (
        10,
        1e-6,
        256,
    )
    for change in ({"feed_forward_proj": "relu"}, {"is_decoder": True}):
        with pytest.raises(CorruptModelError, match="which is not supported"):
            convert_t5_config(SMALL | change, 256)
    with pytest.raises(CorruptModelError, match="relu"):
        convert_t5_config({}, 256)  # the first version


ACTIVATIONS = [
    {},
    {"feed_forward_proj": "gated-gelu"},
    {"dense_act_fn": "gelu_new", "is_gated_act": True},
    {"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu"},
    {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"},
    {"feed_forward_proj": "gated-gelu", "is_gated_act": False},
    {"dense_act_fn": "gelu_new"},
    {"feed_forward_proj": "gated-silu"},
]


@pytest.mark.parametrize("fields", ACTIVATIONS, ids=str)
def test_the_activation_is_the_one_that_transformers_reads(fields):
    """`dense_act_fn` and `is_gated_act`, where they are, win over `feed_forward_proj`."""
    theirs = transformers.T5Config(**fields)
    same = (theirs.dense_act_fn, theirs.is_gated_act) == ("gelu_new", True)
    bare = {name: value for name, value in SMALL.items() if name != "feed_forward_proj"}
    if same:
        assert convert_t5_config(bare | fields, 256) == convert_t5_config(SMALL, 256)
    else:
        with pytest.raises(CorruptModelError, match=r"dense_act_fn|is_gated_act"):
            convert_t5_config(bare | fields, 256)


def test_the_published_size():
    """T5 1.1 XXL's encoder has 4.76 billion parameters."""
    xxl = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    config = convert_t5_config(xxl | {"feed_forward_proj": "gated-gelu"}, 512)
    assert count(text_spec(config)) == 4_762_310_656
