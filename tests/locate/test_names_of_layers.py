"""Names of layers and of their arrays: those of other programs, and what is read by them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate.recorded.names import (
    count_modulations,
    find_entry,
    find_layer,
    is_apart,
    latent_scale,
    layers_of,
    neighbours_of,
    read_array,
    read_inputs,
    read_output,
    read_role,
)
from ldmref.trace import build_trace

CALL = "unet.000"
X = np.arange(3.0)


def call_of(name="a.x", kind="block", inputs=None, parameters=None):
    return LayerCall(name, kind, inputs or {}, parameters or {}, {}, lambda x: x)


def entry_of(**arrays):
    """Return a trace of one layer, whose arrays are named as given ("output__0"), and its entry."""
    names = {role: f"{CALL}/a/{role.replace('__', '.')}" for role in arrays}
    port = build_trace({names[role]: np.asarray(x) for role, x in arrays.items()})
    return port, port.find(CALL, "a")


# -- names of layers ------------------------------------------------------------------------------

TRIED = {  # a name of ldmref: those that are looked for, in their order
    "conv_in": ["text_model.conv_in", "model.conv_in"],
    "unet.conv_in": ["text_model.unet.conv_in", "conv_in"],
    "vae.x": ["text_model.vae.x", "x"],
    "text_model.x": ["x"],
    "act_mlp": ["gelu", "text_model.act_mlp", "model.act_mlp"],
    "a.shared": ["a.encoder.embed_tokens"],
    "b.layer_norm~1": ["b.norm2_context", "b.norm~1", "b.norm2~1", "b.norm_final~1"],
    "layer_norm~2": ["norm~2", "norm2~2", "norm_final~2", "text_model.layer_norm~2"],
    "m.silu~1": ["m.nonlinearity~1", "m.act~1", "m.conv_act~1", "m.activation~1", "m.act.silu~1"],
    "text_model.gelu": ["text_model.activation_fn", "text_model.act_fn", "gelu"],
    "layers.0.mlp.up_proj": ["model.layers.0.mlp.up_proj"],
}


@pytest.mark.parametrize("name", TRIED)
def test_the_first_name_that_was_recorded_is_found(name):
    names = [name, *TRIED[name]]
    tensors = {f"{CALL}/{one}/output": X for one in names}
    while names:
        found = find_entry(build_trace(tensors), CALL, call_of(name))
        assert found is not None and found.layer == names.pop(0)
        del tensors[f"{CALL}/{found.layer}/output"]
    for other in (f"{CALL}/a.norm/output", f"unet.001/{name}/output"):
        assert find_entry(build_trace({other: X}), CALL, call_of(name)) is None


@pytest.mark.parametrize(("channels", "found"), [(8, True), (4, False)])
def test_a_module_that_also_multiplies_by_a_gate_is_no_activation(channels, found):
    arrays = {"input": np.ones((1, 2, 8)), "output": np.ones((1, 2, channels))}
    trace = build_trace({f"{CALL}/ff.act/{role}": x for role, x in arrays.items()})
    assert (find_layer(trace, CALL, "ff.silu") is not None) == found


# -- roles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "order", "names"),
    [
        ("input", ["input"], ["input", "hidden_states", "sample", "latent", "x", "timestep", "0"]),
        ("emb", ["input", "emb"], ["emb", "temb", "conditioning_embedding", "1"]),
        ("emb", ["emb", "input"], ["emb", "temb", "0"]),
        ("pooled", [], ["pooled", "pooled_projection", "text_embeds"]),
        ("context", [], ["context", "encoder_hidden_states"]),
        ("modulation", [], ["modulation", "temb_mod"]),
        ("text_modulation", [], ["text_modulation", "temb_mod_context"]),
        ("ids", [], ["ids", "input_ids"]),
        ("output", [], ["output", "sample", "last_hidden_state", "0"]),
        ("k", ["input", "k"], ["k", "1"]),
    ],
)
def test_roles_of_other_programs_in_their_order(role, order, names):
    port = build_trace({f"{CALL}/a/input.{i}": np.full(1, float(i)) for i in range(len(names) + 1)})
    roles = {name: f"{CALL}/a/input.{i}" for i, name in enumerate(names)}
    roles["none"] = f"{CALL}/a/input.{len(names)}"
    for i, name in enumerate(names):
        assert read_role(port, roles, role, order) == float(i)
        del roles[name]
    assert read_role(port, roles, role, order) is None


@pytest.mark.parametrize("name", ["0", "1", "output.0", "output.1"])
def test_numbered_outputs_are_read_by_their_number_alone(name):
    number = int(name[-1])
    port = build_trace({f"{CALL}/a/output": X, f"{CALL}/b/output": X + 1.0})
    entry = SimpleNamespace(outputs={"output": f"{CALL}/a/output", name: f"{CALL}/b/output"})
    assert np.array_equal(read_output(port, entry, number), X + 1.0)
    assert read_output(port, entry, 1 - number) is read_output(port, entry, 2) is None
    alone, one = entry_of(output=X)
    assert np.array_equal(read_output(alone, one, number), X)
    assert read_output(alone, one, number, only=False) is None


def test_inputs_are_read_by_the_order_of_the_arguments():
    port, entry = entry_of(input__0=X, input__2=X + 2.0, input__temb=X + 1.0)
    found = read_inputs(port, entry, call_of(inputs={"input": X, "emb": X, "context": X, "k": X}))
    assert list(found) == ["input", "emb", "context"]
    assert [x[0] for x in found.values()] == [0.0, 1.0, 2.0]


UNKNOWN = np.full((1, 4, 6), np.nan)


@pytest.mark.parametrize(
    ("shape", "assumed", "apart"),
    [
        ((1, 9, 6), UNKNOWN, True),
        ((1, 4, 6), UNKNOWN, False),
        ((1, 6, 4), UNKNOWN, False),  # another order in memory
        ((1, 9, 6), np.zeros((1, 4, 6)), False),  # an error of the port
        ((1, 9), np.zeros((1, 4), int), False),
    ],
)
def test_layers_of_other_shapes_than_were_guessed(shape, assumed, apart):
    port, entry = entry_of(input__input=np.zeros(shape))
    assert is_apart(port, entry, call_of(inputs={"input": assumed})) == apart


# -- arrays ---------------------------------------------------------------------------------------

SELECTING = """
    x//input.id x//input.ids x//input.input_ids x//input.indices x//input.labels x//input.mask
    x//input.position x//input.bucket tokens//output x//input.timestep x/a.embedding/input
    x/embed_tokens/input x/shared/input x/wte/input x/wpe/input x/relative_attention_bias/input
""".split()
OTHERS = "x/conv/input x//input.ids_of x/tokens/input x/wte/output x/shared_x/input".split()


@pytest.mark.parametrize("name", [*SELECTING, *OTHERS])
def test_whole_numbers_are_kept_where_they_select(name):
    for kind in (np.int16, np.uint8, np.bool_):
        found = read_array(build_trace({name: np.array([1, 0, 1], kind)}), name)
        assert found.dtype == (np.int64 if name in SELECTING else np.float64)
        assert found.tolist() == [1, 0, 1]


def test_floats_are_read_in_float64_and_complex_numbers_are_refused():
    assert read_array(build_trace({"x": np.float16([0.5])}), "x").dtype == np.float64
    with pytest.raises(ValueError, match="complex"):
        read_array(build_trace({"c": np.array([1j])}), "c")


# -- layers of networks ---------------------------------------------------------------------------

SCALES = {  # of four levels
    "conv_in": 1.0,
    "down_blocks.1.resnets.0": 2.0,
    "down_blocks.10.resnets.0": 1024.0,
    "mid_block.attentions.0": 8.0,
    "up_blocks.0.resnets.0": 8.0,
    "up_blocks.1.upsamplers.0": 4.0,
    "up_blocks.1.upsamplers.10.conv": 2.0,
    "encoder.conv_in": 0.125,
    "encoder.conv_norm_out": 1.0,
    "encoder.down_blocks.1.resnets.0": 0.25,
    "encoder.mid_block.x": 1.0,
    "decoder.conv_in": 1.0,
    "decoder.conv_norm_out": 0.125,
    "decoder.mid_block.x": 1.0,
    "decoder.up_blocks.1.resnets.0": 0.5,
    "decoder.up_blocks.1.upsamplers.0.conv": 0.25,
    "time_proj": None,
    "add_x": None,
    "class_x": None,
    "text_x": None,
    "x.time_emb_proj.y": None,
}


@pytest.mark.parametrize("layer", SCALES)
def test_how_many_latent_pixels_a_pixel_spans(layer):
    assert latent_scale(layer, 4) == SCALES[layer]


def test_layers_of_a_tree_are_read_from_the_outside_to_the_inside():
    tree = {"b": {"x": {"weight": 1}, "bias": 2, "y": {}}, "weight": 3}
    layers = [("m", {"weight": 3}), ("m.b", {"bias": 2}), ("m.b.x", {"weight": 1})]
    assert list(layers_of(tree, "m")) == layers
    assert [name for name, _ in layers_of(tree, "")] == ["", "b", "b.x"]


@pytest.mark.parametrize(
    ("name", "kind", "times", "parts"),
    [
        *[("b.norm1.linear", "linear", n, n if n in (1, 2, 3, 4, 6, 9) else 0) for n in range(12)],
        ("norm.linear", "linear", 2, 2),
        ("a.b.norm_out.linear", "linear", 2, 2),
        ("b.adaLN_modulation.0", "linear", 2, 2),
        ("double_stream_modulation_img.linear", "linear", 2, 2),
        ("norm.linear", "conv2d", 2, 0),
        ("norm.linear.x", "linear", 2, 0),
        ("xnorm.linear", "linear", 2, 0),
        ("a.linear", "linear", 2, 0),
    ],
)
def test_linear_layers_of_modulations(name, kind, times, parts):
    call = call_of(name, kind, parameters={"weight": np.zeros((4 * times, 4))})
    assert count_modulations(call) == count_modulations(call, 4) == parts
    assert count_modulations(call, 1000) == 0


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("b.1.attn.to_out.0", "b.1.attn.to_q b.1.attn.to_k b.1.attn.to_out.1"),
        ("b.1.attn.to_q", "b.1.attn.to_k b.1.attn.to_out.0 b.1.attn.to_out.1"),
        ("b.1.x", "b.1.attn.to_q b.1.attn.to_k b.1.attn.to_out.0 b.1.attn.to_out.1 b.2.to_q"),
        ("d.e", ""),
    ],
)
def test_neighbours_have_the_same_shapes(name, beside):
    weights = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}
    names = "b.1.attn.to_q b.1.attn.to_k b.1.attn.to_out.0 b.1.attn.to_out.1 b.2.to_q c"
    layers = [(other, weights) for other in names.split()]
    layers.append(("b.1.attn.narrow", {"weight": np.zeros((2, 2)), "bias": np.zeros(2)}))
    layers.append(("b.1.attn.without", {"weight": np.zeros((2, 3))}))
    found = [*neighbours_of(call_of(name, "linear", parameters=weights), layers)]
    assert [other for other, _ in found] == beside.split()
    assert not [*neighbours_of(call_of(name, "silu"), [("b.empty", {})])]
