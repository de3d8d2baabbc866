"""Functions and modules of torch as operations: each computes what torch does of its arguments.

A row of the table names where each role of the operation is among the arguments of the call. The
operation then has the values of the call, gives its result, and, with another value of one role,
gives the result of torch with that value at its place.
"""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from ldmref.locate.modules.operations import describe_function, describe_module
from ldmref.trace.torch_names import ACTIVATIONS

T = torch.Tensor


def numbers(*shape):
    """Return numbers in no order, none of which is zero or equal to another."""
    n = int(np.prod(shape))
    order = torch.arange(n, dtype=torch.float64) * 7 % 101
    return (order * 0.04 - 1.53).reshape(shape)


X = numbers(2, 4, 6)
Y = X.flip(1) + 0.3
IMAGE = numbers(1, 3, 4, 4)
KERNEL = numbers(6, 3, 3, 3)
DEPTHWISE = numbers(3, 1, 3, 3)
ROW = numbers(6)
HEADS = numbers(1, 2, 3, 4)
MASK = X > 0.3
IDS = torch.tensor([[0, 2], [3, 1]])
TABLE = numbers(5, 6)
COMPLEX = torch.polar(Y.abs(), X)
SDPA = F.scaled_dot_product_attention


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of torch, and where the roles of its operation are: `place` or argument's name."""

    func: object
    args: tuple
    kind: str
    places: dict
    kwargs: dict = dataclasses.field(default_factory=dict)
    attributes: dict = dataclasses.field(default_factory=dict)  # expected beside those with a place


def call(func, *args, kind, attributes=None, places=None, **kwargs):
    return Call(func, args, kind, places or {"input": 0}, kwargs, attributes or {})


TWO = {"input": 0, "b": 1}
NUMBER = {"input": 0, "number": 1}
AFTER = {"number": 0, "input": 1}
WEIGHTS = {"input": 0, "weight": 1, "bias": 2}
NAMED = {"input": "input", "weight": "weight", "bias": "bias"}
NORM = {"input": 0, "weight": 2, "bias": 3, "eps": 4}
QKV = {"input": 0, "k": 1, "v": 2}

CALLS = [
    call(F.linear, X, TABLE, ROW[:5], kind="linear", places=WEIGHTS),
    call(F.linear, X, TABLE, kind="linear", places={"input": 0, "weight": 1}),
    call(F.linear, kind="linear", places=NAMED, input=X, weight=TABLE, bias=ROW[:5]),
    call(F.layer_norm, X, (6,), ROW, 1 - ROW, 0.01, kind="layer_norm", places=NORM),
    call(F.layer_norm, X, [6], kind="layer_norm", attributes={"eps": 1e-5}),
    call(F.layer_norm, X, kind="layer_norm", normalized_shape=(6,), weight=ROW, eps=0.1,
         places={"input": 0, "weight": "weight", "eps": "eps"}),
    call(F.rms_norm, X, (6,), ROW, 0.01, kind="divide_by_rms",
         places={"input": 0, "weight": 2, "eps": 3}),
    call(torch.rms_norm, X, (6,), kind="divide_by_rms", eps=0.1,
         places={"input": 0, "eps": "eps"}),
    call(SDPA, HEADS, HEADS.flip(2), HEADS + 1, kind="attention", places=QKV),
    call(SDPA, HEADS, HEADS.flip(2), HEADS + 1, kind="attention", scale=0.7,
         places={**QKV, "scale": "scale"}),
    call(SDPA, HEADS, HEADS.flip(2), HEADS + 1, None, 0.0, True, kind="attention",
         places=QKV, attributes={"causal": True}),
    call(SDPA, HEADS[0], HEADS[0].flip(1), HEADS[0] + 1, kind="attention of one head", places=QKV),
    call(SDPA, HEADS, HEADS.flip(2), HEADS + 1, numbers(1, 2, 3, 3), kind="attention",
         places={**QKV, "bias": 3}),
    call(SDPA, kind="attention", query=HEADS, key=HEADS.flip(2), value=HEADS + 1,
         attn_mask=numbers(1, 2, 3, 3), scale=0.7,
         places={"input": "query", "k": "key", "v": "value", "bias": "attn_mask",
                 "scale": "scale"}),
    call(F.embedding, IDS, TABLE, kind="embedding", places={"input": 0, "table": 1}),
    call(F.embedding, kind="embedding", input=IDS, weight=TABLE,
         places={"input": "input", "table": "weight"}),
    call(F.conv2d, IMAGE, KERNEL, numbers(6), 2, 1, kind="grouped_conv2d", places=WEIGHTS),
    call(F.conv2d, IMAGE, DEPTHWISE, kind="grouped_conv2d", padding=1, groups=3,
         places={"input": 0, "weight": 1}),
    call(F.conv2d, kind="grouped_conv2d", places=NAMED, input=IMAGE, weight=KERNEL,
         bias=numbers(6), dilation=2, padding=2),
    call(F.conv1d, IMAGE[0], numbers(3, 4, 3), kind="convolution", padding=1,
         places={"input": 0, "weight": 1}),
    call(F.conv3d, IMAGE[:, :, None], KERNEL[:, :, None], kind="convolution",
         places={"input": 0, "weight": 1}),
    call(F.interpolate, IMAGE, None, 2.0, kind="upsample2x"),
    call(F.interpolate, IMAGE, kind="upsample2x", size=(8, 8), mode="nearest-exact"),
    call(F.interpolate, IMAGE, (8, 6), None, "nearest-exact", kind="upsample2x"),
    call(F.interpolate, kind="upsample2x", places={"input": "input"}, input=IMAGE,
         scale_factor=2.0),
    call(F.pad, IMAGE, (0, 1, 0, 1), kind="pad_bottom_right"),
    call(F.pad, IMAGE, (0, 1, 0, 1), "constant", 0.0, kind="pad_bottom_right"),
    call(F.pad, IMAGE, (0, 1, 0, 1), "replicate", kind="pad_bottom_right"),
    call(F.pad, kind="pad_bottom_right", places={"input": "input"}, input=IMAGE,
         pad=(0, 1, 0, 1)),
    call(F.pad, IMAGE, kind="pad_bottom_right", pad=[0, 1, 0, 1], mode="constant", value=0.0),
    call(F.silu, X, kind="silu"),
    call(F.silu, X, kind="silu", inplace=False),
    call(F.gelu, X, kind="gelu"),
    call(F.gelu, X, kind="gelu", approximate="none"),
    call(F.gelu, X, kind="tanh_gelu", approximate="tanh"),
    call(F.gelu, kind="tanh_gelu", places={"input": "input"}, input=X, approximate="tanh"),
    *(call(f, X, kind="relu") for f in (F.relu, torch.relu)),
    *(call(f, X, kind="tanh") for f in (torch.tanh, T.tanh, F.tanh)),
    *(call(f, X, kind="sigmoid") for f in (torch.sigmoid, T.sigmoid, F.sigmoid)),
    call(torch.polar, Y.abs(), X, kind="polar", places={"input": 1}),
    call(torch.polar, kind="polar", places={"input": "angle"}, abs=Y.abs(), angle=X),
    call(torch.view_as_complex, X.reshape(2, 4, 3, 2), kind="pair"),
    call(torch.view_as_real, COMPLEX, kind="unpair"),
    *(call(f, X, kind="cosine") for f in (torch.cos, T.cos)),
    *(call(f, X, kind="sine") for f in (torch.sin, T.sin)),
    *(call(f, X, kind="negate") for f in (torch.neg, T.neg, T.__neg__)),
    *(call(f, X, 1, kind="softmax", attributes={"axis": 1}) for f in (torch.softmax, T.softmax)),
    call(F.softmax, X, kind="softmax", places={"input": 0, "axis": "dim"}, dim=-1),
    *(call(f, X, MASK, -9.0, kind="masked", places={"input": 0, "mask": 1})
      for f in (torch.masked_fill, T.masked_fill)),
    *(call(f, X, 2, 1, kind="repeat_each", places={"input": 0, "count": 1, "axis": 2})
      for f in (torch.repeat_interleave, T.repeat_interleave)),
    call(T.repeat_interleave, X, 3, kind="repeat_each", dim=-1, attributes={"axis": 2},
         places={"input": 0, "count": 1}),
    *(call(f, X, (2, 0, 1), kind="axes") for f in (torch.permute, T.permute)),
    call(torch.einsum, "abc->cab", X, kind="axes", places={"input": 1}),
    *(call(f, 3.0, X, kind="power", places={"base": 0, "input": 1}) for f in (torch.pow,)),
    call(T.__rpow__, X, 10000, kind="power", places={"input": 0, "base": 1}),
    call(T.pow, torch.tensor(2.0), X, kind="power", attributes={"base": 2.0},
         places={"input": 1}),
    *(call(f, X, 2, -1, kind="split", attributes={"axis": 2, "unbound": False})
      for f in (torch.chunk, T.chunk, torch.split, T.split)),
    call(torch.split, X, [1, 3], kind="split", dim=1, attributes={"axis": 1, "unbound": False}),
    call(torch.chunk, X, 2, kind="split", attributes={"axis": 0, "unbound": False}),
    *(call(f, X, -1, kind="split", attributes={"axis": 2, "unbound": True})
      for f in (torch.unbind, T.unbind)),
    call(T.unbind, X, kind="split", attributes={"axis": 0, "unbound": True}),
    *(call(f, X, Y, kind="add", places=TWO)
      for f in (torch.add, T.add, T.__add__, T.__radd__)),
    *(call(f, X, 0.5, kind="add_number", places=NUMBER)
      for f in (torch.add, T.add, T.__add__, T.__radd__)),
    *(call(f, X, Y, kind="multiply", places=TWO)
      for f in (torch.mul, T.mul, T.__mul__, T.__rmul__)),
    call(torch.mul, COMPLEX, COMPLEX.flip(1), kind="multiply", places=TWO,
         attributes={"complex": True}),
    call(torch.mul, COMPLEX, X, kind="multiply", places=TWO),
    call(torch.mul, X, COMPLEX, kind="multiply", places=TWO),
    *(call(f, X, 3, kind="multiply_number", places=NUMBER)
      for f in (torch.mul, T.mul, T.__mul__, T.__rmul__)),
    call(torch.mul, 3, X, kind="multiply_number", places=AFTER),
    call(torch.add, 0.5, X, kind="add_number", places=AFTER),
    *(call(f, X, Y, kind="subtract", places=TWO) for f in (torch.sub, T.sub, T.__sub__)),
    call(T.sub, X, 0.5, kind="subtract_number", places=NUMBER),
    call(T.__rsub__, X, Y, kind="subtract", places={"input": 1, "b": 0}),
    *(call(f, X, Y, kind="divide", places=TWO) for f in (torch.div, T.div, T.__truediv__)),
    call(T.div, X, 4, kind="divide_number", places=NUMBER),
]  # fmt: skip


def name_of(row):
    return f"{getattr(row.func, '__name__', row.func)} {row.kind}"


def arguments_with(row, place, value):
    """Return the arguments of a call with another one at a place."""
    args, kwargs = list(row.args), dict(row.kwargs)
    if isinstance(place, str):
        kwargs[place] = value
    else:
        args[place] = value
    return tuple(args), kwargs


def other(x):
    """Return another value that a call allows at the same place."""
    if not isinstance(x, torch.Tensor):
        return {-1: 0}.get(x, x) if isinstance(x, int) and x < 0 else x + 1
    if x.dtype == torch.bool:
        return ~x
    return x.flip(0) if x.dtype == torch.int64 else 0.5 * x + 0.25


def parts(result):
    return result if isinstance(result, tuple | list) else (result,)


def assert_same(got, wanted):
    for x, y in zip(parts(got), parts(wanted), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("row", CALLS, ids=name_of)
def test_an_operation_computes_what_the_call_does(row):
    operation = describe_function(row.func, row.args, row.kwargs)
    assert operation.kind == row.kind
    values = {**operation.inputs, **operation.parameters, **operation.attributes}
    assert next(iter(operation.inputs)) == "input"
    plain = {k: v for k, v in operation.attributes.items() if k not in row.places}
    assert plain == row.attributes
    assert_same(operation.compute(values), row.func(*row.args, **row.kwargs))
    for role, place in row.places.items():
        value = row.kwargs[place] if isinstance(place, str) else row.args[place]
        if isinstance(value, torch.Tensor):
            assert torch.equal(values[role], value)
        else:
            assert values[role] == value
        if role in ("axis", "count"):
            continue  # the shape of what follows is that of the call
        changed = other(value)
        args, kwargs = arguments_with(row, place, changed)
        assert_same(operation.compute({**values, role: changed}), row.func(*args, **kwargs))


@pytest.mark.parametrize("func", [torch.cat, torch.concat, torch.stack], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_joined_arrays_are_inputs_in_their_order(func, axis):
    named = {} if axis is None else {"dim": axis}
    operation = describe_function(func, ([X, Y, X + Y],), named)
    assert operation.kind == "join" and list(operation.inputs) == ["input", "part 1", "part 2"]
    assert operation.attributes == {"axis": axis or 0, "stacked": func is torch.stack}
    values = dict(operation.inputs)
    assert_same(operation.compute(values), func([X, Y, X + Y], **named))
    assert_same(
        operation.compute({**values, "input": Y, "part 1": X}), func([Y, X, X + Y], **named)
    )


MASKS = {
    "truth": (numbers(3, 3) > -0.5, None),
    "truth of one row": (torch.tensor([[True, False, True]]), None),
    "truth of each head": (numbers(1, 2, 3, 3) > -0.5, None),
    "numbers": (numbers(3, 3), numbers(1, 1, 3, 3)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_a_bias_of_the_scores(name):
    mask, bias = MASKS[name]
    args = (HEADS, HEADS.flip(2), HEADS + 1)
    operation = describe_function(SDPA, args, {"attn_mask": mask})
    found = operation.inputs["bias"]
    assert found.ndim == HEADS.ndim
    if bias is None:  # 0 where a key is seen, and no weight where it is not
        seen = mask.expand(found.shape)
        bias = torch.zeros(found.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    assert torch.equal(found, bias)
    values = {**operation.inputs, **operation.attributes}
    assert_same(operation.compute(values), SDPA(*args, attn_mask=mask))
    later = torch.ones(3, 3, dtype=torch.bool).tril()
    both = SDPA(*args, attn_mask=bias.masked_fill(~later, -torch.inf))
    assert_same(operation.compute({**values, "causal": True}), both)


def test_a_mask_and_the_order_of_the_text_hide_keys_of_one_head_also():
    q, k, v = HEADS[0], numbers(2, 5, 4).flip(1), numbers(2, 5, 4) + 1
    bias = numbers(3, 5)
    operation = describe_function(SDPA, (q, k, v, bias), {})
    values = {**operation.inputs, **operation.attributes, "causal": True}
    later = ~torch.ones(3, 5, dtype=torch.bool).tril()
    assert_same(operation.compute(values), SDPA(q, k, v, bias.masked_fill(later, -torch.inf)))


@pytest.mark.parametrize("func", [F.silu, F.relu])
def test_an_activation_in_place_is_computed_beside_its_input(func):
    operation = describe_function(func, (X,), {"inplace": True})
    x = X.clone()
    assert_same(operation.compute({"input": x}), func(X))
    assert torch.equal(x, X)


def test_a_head_of_keys_serves_several_of_queries():
    q, k, v = numbers(1, 6, 3, 4), numbers(1, 2, 3, 4), numbers(1, 2, 3, 4) + 1
    operation = describe_function(SDPA, (q, k, v), {"enable_gqa": True})
    values = {**operation.inputs, **operation.attributes}
    assert operation.inputs["k"].shape == q.shape
    assert_same(operation.compute(values), SDPA(q, k, v, enable_gqa=True))


OTHERS = [  # calls that are no operation of which faults are known
    (F.layer_norm, (X, (4, 6)), {}),
    (F.rms_norm, (X, (6,), ROW), {}),
    (F.rms_norm, (X, (4, 6), None, 0.1), {}),
    (F.interpolate, (IMAGE, None, 2.0, "bilinear"), {}),
    (F.interpolate, (X, None, 2.0), {}),
    (F.pad, (IMAGE, (1, 0, 1, 0)), {}),
    (F.pad, (IMAGE, (0, 1, 0, 1), "constant", 2.0), {}),
    (F.pad, (X, (0, 1, 0, 1)), {}),
    (torch.add, (X, Y), {"alpha": 2}),
    (torch.div, (X, Y), {"rounding_mode": "floor"}),
    (torch.add, (X, True), {}),
    (torch.add, (X,), {"other": Y}),
    (torch.sub, (1.0, X), {}),
    (torch.div, (1.0, X), {}),
    (T.__rsub__, (X, 1.0), {}),
    (torch.pow, (X, 2.0), {}),
    (torch.pow, (X, Y), {}),
    (torch.pow, (True, X), {}),
    (torch.pow, (3.0,), {"exponent": X}),
    (torch.pow, (torch.tensor(2.0, requires_grad=True), X), {}),
    (torch.softmax, (X,), {"dim": None}),
    (torch.masked_fill, (X, MASK), {"value": 1.0}),
    (torch.masked_fill, (X, MASK.double(), 1.0), {}),
    (torch.repeat_interleave, (X, torch.tensor([1, 2]), 0), {}),
    (torch.repeat_interleave, (X, 2), {}),
    (torch.cat, ([],), {}),
    (torch.cat, ([X, 3],), {}),
    (torch.cos, (3.0,), {}),
    (torch.cos, (), {"input": X}),
    (torch.einsum, ("ab,bc->ac", ROW[None], TABLE.T), {}),
    (torch.exp, (X,), {}),
]


@pytest.mark.parametrize("case", OTHERS, ids=lambda x: getattr(x[0], "__name__", ""))
def test_calls_without_known_faults_are_none(case):
    assert describe_function(*case) is None


# -- modules --------------------------------------------------------------------------------------


def scaled(module):
    """Return a module in float64 whose weight and bias are not ones and zeros."""
    module = module.double()
    for i, p in enumerate(module.parameters()):
        p.data = numbers(*p.shape) + i
    return module


PLAIN = {"stride": 1, "padding": 0}
MODULES = [  # module, input, kind, its arguments
    (torch.nn.Linear(6, 3), X, "linear", {}),
    (torch.nn.Linear(6, 3, bias=False), X, "linear", {}),
    (torch.nn.Conv2d(3, 5, 3), IMAGE, "conv2d", PLAIN),
    (torch.nn.Conv2d(3, 5, 3, 2, 1, bias=False), IMAGE, "conv2d", {"stride": 2, "padding": 1}),
    (torch.nn.GroupNorm(2, 4, eps=0.1), numbers(2, 4, 3, 3), "group_norm",
     {"groups": 2, "eps": 0.1}),
    (torch.nn.GroupNorm(2, 4, affine=False), numbers(2, 4, 3, 3), "group_norm",
     {"groups": 2, "eps": 1e-5}),
    (torch.nn.LayerNorm(6, eps=0.1), X, "layer_norm", {"eps": 0.1}),
    (torch.nn.LayerNorm(6, elementwise_affine=False), X, "layer_norm", {"eps": 1e-5}),
    (torch.nn.Embedding(4, 6), IDS, "embedding", {}),
]  # fmt: skip


@pytest.mark.parametrize("case", MODULES, ids=lambda x: x[2])
def test_a_module_of_one_operation_computes_its_result(case):
    module, x, kind, attributes = case
    module = scaled(module)
    operation = describe_module(module, kind, x)
    assert (operation.kind, list(operation.inputs)) == (kind, ["input"])
    assert operation.attributes == attributes and operation.inputs["input"] is x
    values = {**operation.inputs, **operation.parameters, **operation.attributes}
    assert_same(operation.compute(values), module(x))
    own = {{"table": "weight"}.get(name, name): name for name in operation.parameters}
    assert set(dict(module.named_parameters())) <= set(own)
    for name, parameter in module.named_parameters():
        changed = other(parameter.data)
        with torch.no_grad():
            parameter.copy_(changed)
        assert_same(operation.compute({**values, own[name]: changed}), module(x))
        with torch.no_grad():
            parameter.copy_(values[own[name]])
    if "eps" in attributes:
        module.eps = 0.5
        assert_same(operation.compute({**values, "eps": 0.5}), module(x))


class Timesteps(torch.nn.Module):
    """An embedding of timesteps with the attributes of that of diffusers."""

    def __init__(self, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1):
        super().__init__()
        self.num_channels = 8
        self.flip_sin_to_cos = flip_sin_to_cos
        self.downscale_freq_shift = downscale_freq_shift
        self.scale = scale

    def forward(self, t):
        return t[:, None] * torch.ones(8)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Conv2d(3, 6, 3, groups=3),
        torch.nn.Conv2d(3, 6, 3, padding=2, dilation=2),
        torch.nn.Conv2d(3, 6, 3, padding="same"),
        torch.nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(3, 6, 3, padding=(1, 0)),
        torch.nn.Conv2d(3, 6, 3, stride=(1, 2)),
    ],
)
def test_convolutions_of_another_kind_have_no_known_faults(module):
    assert describe_module(module, "conv2d", IMAGE) is None


def test_modules_without_known_faults_are_none():
    assert describe_module(torch.nn.LayerNorm((4, 6)), "layer_norm", X) is None
    assert describe_module(torch.nn.Embedding(4, 6, max_norm=1.0), "embedding", IDS) is None
    assert describe_module(torch.nn.Identity(), "", X) is None

    class Own(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert describe_module(Own(6, 3), "linear", X) is None


def test_embeddings_of_timesteps_are_those_of_the_table():
    usual = Timesteps()
    operation = describe_module(usual, "timestep_embedding", ROW)
    assert operation.kind == "timestep_embedding" and operation.attributes == {"dim": 8}
    assert_same(operation.compute({"input": Y[0, 0]}), usual(Y[0, 0]))
    others = [{"flip_sin_to_cos": False}, {"downscale_freq_shift": 1}, {"scale": 1000}]
    for changed in others:
        assert describe_module(Timesteps(**changed), "timestep_embedding", ROW) is None
    for name in ("flip_sin_to_cos", "downscale_freq_shift"):
        unknown = Timesteps()
        delattr(unknown, name)
        assert describe_module(unknown, "timestep_embedding", ROW) is None
    without = Timesteps()
    del without.scale
    assert describe_module(without, "timestep_embedding", ROW) is not None


@pytest.mark.parametrize("kind", sorted(set(ACTIVATIONS.values())))
def test_activations_that_are_modules_compute_their_result(kind):
    module = torch.nn.ELU()
    operation = describe_module(module, kind, X)
    assert operation.kind == kind and operation.inputs["input"] is X
    assert_same(operation.compute({"input": Y}), module(Y))
