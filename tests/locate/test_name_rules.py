"""Names of layers and roles: which are tried, in which order, and what is read by them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate.names import (
    _possible_names,
    count_modulations,
    find_entry,
    find_layer,
    is_apart,
    latent_scale,
    layers_of,
    neighbours_of,
    parts_of,
    read_array,
    read_inputs,
    read_output,
    read_role,
)
from ldmref.trace import build_trace


def call_of(name="a.x", kind="block", inputs=None, parameters=None):
    return LayerCall(name, kind, inputs or {}, parameters or {}, {}, lambda x: x)


def port_of(**arrays):
    """Return a trace of one layer, whose arrays are named as given."""
    names = {role: f"unet.000/a/{role.replace('__', '.')}" for role in arrays}
    return build_trace({names[role]: np.asarray(x) for role, x in arrays.items()})


def entry_of(port):
    found = port.find("unet.000", "a")
    assert found is not None
    return found


# -- names of layers ------------------------------------------------------------------------------


TRIED = [
    ("conv_in", ["text_model.conv_in"]),
    ("unet.conv_in", ["text_model.unet.conv_in", "conv_in"]),
    ("vae.x", ["text_model.vae.x", "x"]),
    ("model.x", ["text_model.model.x", "x"]),
    ("text_model.x", ["x"]),
    ("act_mlp", ["gelu", "text_model.act_mlp"]),
    ("b.act", ["b.gelu", "text_model.b.act"]),
    (
        "b.layer_norm~1",
        ["b.norm2_context", "b.norm~1", "b.norm2~1", "b.norm_final~1", "text_model.b.layer_norm~1"],
    ),
    (
        "layer_norm~1",
        ["norm2_context", "norm~1", "norm2~1", "norm_final~1", "text_model.layer_norm~1"],
    ),
    ("layer_norm~2", ["norm~2", "norm2~2", "norm_final~2", "text_model.layer_norm~2"]),
    (
        "m.silu~1",
        [
            "m.nonlinearity~1",
            "m.act~1",
            "m.conv_act~1",
            "m.activation~1",
            "m.act_fn.silu~1",
            "m.mlp_act_fn.silu~1",
            "m.act.silu~1",
            "text_model.m.silu~1",
        ],
    ),
    ("text_model.gelu", ["text_model.activation_fn", "text_model.act_fn", "gelu"]),
]


def test_names_that_are_tried_in_their_order():
    for name, others in TRIED:
        headed = [] if name.startswith(("text_model.", "vae.", "unet.", "model.")) else ["model."]
        assert _possible_names(name) == [name, *others, *(prefix + name for prefix in headed)]


def test_the_first_name_that_was_recorded_is_found():
    names = ["m.silu", "m.nonlinearity", "m.act"]
    tensors = {f"unet.000/{name}/output": np.zeros(1) for name in names}
    while tensors:
        found = find_entry(build_trace(tensors), "unet.000", call_of("m.silu"))
        assert found is not None and found.layer == names.pop(0)
        tensors.pop(f"unet.000/{found.layer}/output")
    other = build_trace({"unet.001/m.silu/output": np.zeros(1)})
    assert find_entry(other, "unet.000", call_of("m.silu")) is None


def test_a_text_encoder_with_a_head_has_the_names_of_its_model():
    port = build_trace({"text_encoder.000/model.layers.0.mlp.up_proj/output": np.zeros(1)})
    assert find_entry(port, "text_encoder.000", call_of("layers.0.mlp.up_proj")) is not None
    assert find_entry(port, "text_encoder.000", call_of("layers.0.mlp.down_proj")) is None


# -- roles ----------------------------------------------------------------------------------------


def test_roles_are_tried_in_their_order():
    """ldmref's own, those of other programs, those of whole outputs, and the number."""
    tensors = {f"unet.000/a/input.{i}": np.full(1, float(i)) for i in range(4)}
    port = build_trace(tensors)
    names = [*tensors]

    def read(role, order=(), **roles):
        found = read_role(port, {k.strip("_"): names[i] for k, i in roles.items()}, role, order)
        return found if found is None else int(found[0])

    assert read("input", ["input"], _0=3, sample=2, hidden_states=1, input=0) == 0
    assert read("input", ["input"], _0=3, sample=2, hidden_states=1) == 1
    assert read("input", ["input"], _0=3, sample=2) == 2
    assert read("emb", ["input", "emb"], _1=3, conditioning_embedding=2, temb=1) == 1
    assert read("emb", ["input", "emb"], _1=3, _0=2) == 3
    assert read("emb", ["emb", "input"], _1=3, _0=2) == 2
    assert read("emb", ["input"], _1=3) is None
    assert read("emb", _0=3) is None
    assert read("pooled", text_embeds=1, pooled_projection=2) == 2
    assert read("output", sample=1, last_hidden_state=2) == 1
    assert read("output", last_hidden_state=2, _0=3) == 2
    assert read("k", k=1) == 1 and read("k") is None


@pytest.mark.parametrize("name", ["0", "1", "output.0", "output.1"])
def test_numbered_outputs_are_read_by_their_number_alone(name):
    x = np.arange(3.0)
    number = int(name[-1])
    port = build_trace({"unet.000/a/output": x, "unet.000/b/output": x + 1.0})
    outputs = {"output": "unet.000/a/output", name: "unet.000/b/output"}
    entry = SimpleNamespace(outputs=outputs)
    assert np.array_equal(read_output(port, entry, number), x + 1.0)
    assert read_output(port, entry, 1 - number) is None
    assert read_output(port, entry, 2) is None
    assert np.array_equal(read_output(port, entry), x + 1.0) == (number == 0)


def test_one_output_is_that_of_a_layer_which_returns_one():
    x = np.arange(3.0)
    port = port_of(output=x)
    entry = entry_of(port)
    for part in (0, 1):
        assert np.array_equal(read_output(port, entry, part), x)
        assert np.array_equal(read_output(port, entry, part, only=True), x)
        assert read_output(port, entry, part, only=False) is None
    both = port_of(output__0=x, output__1=x + 1.0)
    assert np.array_equal(read_output(both, entry_of(both), 1, only=False), x + 1.0)
    assert np.array_equal(read_output(both, entry_of(both)), x)


def test_inputs_are_read_by_the_order_of_the_arguments():
    x = np.arange(3.0)
    port = port_of(input__0=x, input__2=x + 2.0, input__temb=x + 1.0)
    layer = call_of(inputs={"input": x, "emb": x, "context": x, "k": x})
    found = read_inputs(port, entry_of(port), layer)
    assert list(found) == ["input", "emb", "context"]
    for role, added in (("input", 0.0), ("emb", 1.0), ("context", 2.0)):
        assert np.array_equal(found[role], x + added)


def test_layers_of_other_shapes_than_were_guessed():
    unknown = np.full((1, 4, 6), np.nan)
    partly = np.zeros((1, 4, 6))
    partly[0, 0, 1] = np.nan
    ids = np.zeros((1, 4), np.int64)

    def apart(recorded, assumed, second=None):
        port = port_of(input__input=recorded, input__emb=np.zeros((1, 5)))
        inputs = {"input": assumed} if second is None else {"input": assumed, "emb": second}
        return is_apart(port, entry_of(port), call_of(inputs=inputs))

    assert apart(np.zeros((1, 9, 6)), unknown)
    assert apart(np.zeros((1, 9, 6)), partly)
    assert not apart(np.zeros((1, 4, 6)), unknown)
    assert not apart(np.zeros((1, 6, 4)), unknown)  # another order in memory
    assert not apart(np.zeros((1, 9, 6)), np.zeros((1, 4, 6)))  # an error of the port
    assert not apart(np.zeros((1, 9)), ids)
    assert apart(np.zeros((1, 4, 6)), unknown, np.full((1, 7), np.nan))
    assert not apart(np.zeros((1, 4, 6)), unknown, np.full((1, 5), np.nan))
    port = port_of(output=np.zeros(3))
    assert not is_apart(port, entry_of(port), call_of(inputs={"input": unknown}))


# -- arrays ---------------------------------------------------------------------------------------


SELECTING = """
    x//input.id x//input.ids x//input.input_ids x//input.indices x//input.label x//input.labels
    x//input.mask x//input.position x//input.bucket tokens//output x//input.timestep
    x/a.embedding/input x/embeddings/input x/embed_tokens/input x/shared/input x/wte/input
    x/wpe/input x/relative_attention_bias/input
""".split()
OTHERS = """
    x/conv/input x//input.ids_of x/tokens/input x//input.labels_of x/wte/output x/shared_x/input
""".split()


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.bool_])
def test_whole_numbers_are_kept_where_they_select(kind):
    x = np.array([1, 0, 1], kind)
    for name in SELECTING:
        found = read_array(build_trace({name: x}), name)
        assert found.dtype == np.int64 and found.tolist() == [1, 0, 1], name
    for name in OTHERS:
        found = read_array(build_trace({name: x}), name)
        assert found.dtype == np.float64 and found.tolist() == [1.0, 0.0, 1.0], name


def test_arrays_of_other_kinds():
    texts = np.array(["a", "b"])
    half = np.array([0.5], np.float16)
    port = SimpleNamespace(tensors={"ids": texts, "x": half, "c": np.array([1j])})
    assert read_array(port, "ids") is texts
    assert read_array(port, "x").dtype == np.float64 and read_array(port, "x")[0] == 0.5
    with pytest.raises(ValueError, match="complex"):
        read_array(port, "c")


# -- sizes ----------------------------------------------------------------------------------------


SCALES = [
    ("conv_in", 1.0),
    ("down_blocks.1.resnets.0", 2.0),
    ("down_blocks.10.resnets.0", 1024.0),
    ("down_blocks.1.upsamplers.0", 2.0),
    ("mid_block", 8.0),
    ("mid_block.attentions.0", 8.0),
    ("up_blocks.0.resnets.0", 8.0),
    ("up_blocks.1.resnets.0", 4.0),
    ("up_blocks.1.upsamplers.0", 4.0),
    ("up_blocks.1.upsamplers.10.conv", 2.0),
    ("encoder.conv_in", 0.125),
    ("encoder.conv_norm_out", 1.0),
    ("encoder.down_blocks.1.resnets.0", 0.25),
    ("encoder.mid_block.x", 1.0),
    ("decoder.conv_norm_out", 0.125),
    ("decoder.mid_block.x", 1.0),
    ("decoder.up_blocks.1.resnets.0", 0.5),
    ("decoder.up_blocks.1.upsamplers.0.conv", 0.25),
    ("time_proj", None),
    ("add_x", None),
    ("class_x", None),
    ("text_x", None),
    ("x.time_emb_proj.y", None),
    ("x.time_", 1.0),
]


def test_pixels_of_four_levels():
    for layer, scale in SCALES:
        assert latent_scale(layer, 4) == scale


# -- parameters -----------------------------------------------------------------------------------


def test_trees_are_read_from_the_outside_to_the_inside():
    tree = {"b": {"x": {"weight": 1}, "bias": 2, "y": {}}, "weight": 3}
    assert list(layers_of(tree, "m")) == [
        ("m", {"weight": 3}),
        ("m.b", {"bias": 2}),
        ("m.b.x", {"weight": 1}),
    ]
    assert [name for name, _ in layers_of(tree, "")] == ["", "b", "b.x"]


def test_parts_of_a_modulation():
    for times in range(1, 12):
        call = call_of("b.norm1.linear", "linear", parameters={"weight": np.zeros((4 * times, 4))})
        found = count_modulations(call, 4)
        assert found == (times if times in (1, 2, 3, 4, 6, 9) else 0) and isinstance(found, int)


MODULATIONS = [
    ("norm.linear", "linear", True),
    ("a.b.norm_out.linear", "linear", True),
    ("norm.linear", "conv2d", False),
    ("b.adaLN_modulation.0", "linear", True),
    ("double_stream_modulation_img.linear", "linear", True),
    ("modulation.1", "linear", True),
    ("norm.linear.x", "linear", False),
    ("xnorm.linear", "linear", False),
    ("a.norm.x", "linear", False),
    ("a.linear", "linear", False),
]


def test_names_of_modulations():
    for name, kind, counts in MODULATIONS:
        weight = np.zeros((13, 6))
        assert count_modulations(call_of(name, kind, parameters={"weight": weight}), 6) == 0
        call = call_of(name, kind, parameters={"weight": weight[:12]})
        assert count_modulations(call, 6) == (2 if counts else 0)


NEIGHBOURS = [
    ("b.1.attn.to_out.0", ["b.1.attn.to_q", "b.1.attn.to_k", "b.1.attn.to_out.1"]),
    (
        "b.1.attn.to_out.0.x",
        ["b.1.attn.to_q", "b.1.attn.to_k", "b.1.attn.to_out.0", "b.1.attn.to_out.1"],
    ),
    ("b.1.attn.to_q", ["b.1.attn.to_k", "b.1.attn.to_out.0", "b.1.attn.to_out.1"]),
    (
        "b.1.x",
        ["b.1.attn.to_q", "b.1.attn.to_k", "b.1.attn.to_out.0", "b.1.attn.to_out.1", "b.2.to_q"],
    ),
    (
        "b.1.2.x",
        ["b.1.attn.to_q", "b.1.attn.to_k", "b.1.attn.to_out.0", "b.1.attn.to_out.1", "b.2.to_q"],
    ),
    ("c", ["b.1.attn.to_q", "b.1.attn.to_k", "b.1.attn.to_out.0", "b.1.attn.to_out.1", "b.2.to_q"]),
    (
        "0.c",
        [
            "b.1.attn.to_q",
            "b.1.attn.to_k",
            "b.1.attn.to_out.0",
            "b.1.attn.to_out.1",
            "b.2.to_q",
            "c",
        ],
    ),
    (
        "to_out.c",
        [
            "b.1.attn.to_q",
            "b.1.attn.to_k",
            "b.1.attn.to_out.0",
            "b.1.attn.to_out.1",
            "b.2.to_q",
            "c",
        ],
    ),
    ("d.e", []),
]


def test_neighbours_of_layers():
    for name, beside in NEIGHBOURS:
        weights = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}
        names = (
            "b.1.attn.to_q",
            "b.1.attn.to_k",
            "b.1.attn.to_out.0",
            "b.1.attn.to_out.1",
            "b.2.to_q",
            "c",
        )
        layers = [(other, weights) for other in names]
        layers.append(("b.1.attn.narrow", {"weight": np.zeros((2, 2)), "bias": np.zeros(2)}))
        layers.append(("b.1.attn.without", {"weight": np.zeros((2, 3))}))
        found = [*neighbours_of(call_of(name, "linear", parameters=weights), layers)]
        assert [other for other, _ in found] == beside
        assert all(leaves is weights for _, leaves in found)
        layers.append(("b.1.attn.empty", {}))
        assert [*neighbours_of(call_of(name, "silu"), layers)] == []


def test_neighbours_of_what_attention_returns_are_its_own_layers():
    weights = {"weight": np.zeros((2, 2))}
    layers = [(name, weights) for name in ("b.attn.to_q", "b.ff", "b.attn.to_out.0")]
    call = call_of("b.attn.to_out.0", "linear", parameters=weights)
    assert [name for name, _ in neighbours_of(call, layers)] == ["b.attn.to_q"]


def test_results_are_one_array_or_several():
    x = np.zeros(1)
    assert parts_of(x) == (x,) and parts_of((x, None)) == (x, None)


@pytest.mark.parametrize(("channels", "found"), [(8, True), (4, False)])
def test_a_module_that_also_multiplies_by_a_gate_is_no_activation(channels, found):
    arrays = {"input": np.ones((1, 2, 8)), "output": np.ones((1, 2, channels))}
    trace = build_trace({f"transformer.000/ff.act/{role}": x for role, x in arrays.items()})
    assert (find_layer(trace, "transformer.000", "ff.silu") is not None) == found
