"""Operations and points built by hand, and what known faults make of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ldmref.backends.named import LayerCall

TOLERANCE = 1e-12  # of sums of at most a hundred float64 products in another order


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def call_of(kind, compute, inputs, parameters=None, name="layer", **attributes):
    """Return a call whose arguments may be replaced by those that a fault gives to `compute`."""
    return LayerCall(
        name,
        kind,
        inputs,
        parameters or {},
        attributes,
        lambda x: compute(**{**attributes, **x}),
    )


def faulty(fault, call):
    """Return what each variant of a fault computes, by its words."""
    given = {**call.inputs, **call.parameters}
    return {variant.text: variant.change(call, given) for variant in fault(call)}


def assert_same(found, expected):
    """Compare dictionaries of arrays: the same names, and the same numbers up to rounding."""
    assert found.keys() == expected.keys()
    for text, right in expected.items():
        np.testing.assert_allclose(
            found[text], right, rtol=TOLERANCE, atol=TOLERANCE, err_msg=text, strict=False
        )
        assert np.shape(found[text]) == np.shape(right), text


def point_of(
    name="", role="input", computed=None, recorded=None, kind="linear", frame=None, **more
):
    """Return a point as faults read it; `frame` are the arguments of the layer around it."""
    values = {"suspects": (), "inputs": {}, "part": 0} | more
    call = SimpleNamespace(name=name, kind=kind, inputs={}, composite=False)
    around = SimpleNamespace(name=values.pop("within", ""), inputs=frame or {})
    return SimpleNamespace(
        call=call, role=role, computed=computed, recorded=recorded, frame=around, **values
    )


def replay_of(**values):
    """Return a replay that has only what faults read."""
    tables = values.pop("tables", {})
    given = {
        "recent": [],
        "streams": [],
        "skips": {},
        "ids": None,
        "config": None,
        "arguments": {},
        "modulations": {},
        "parameters_of": lambda *names: next((tables[n] for n in names if n in tables), None),
        "parameters": lambda call: call.parameters,
        "graph_of": lambda point: None,
    }
    return SimpleNamespace(**given | values)


def linear(input, weight, bias=None):
    y = np.einsum("...i,oi->...o", input, weight)
    return y if bias is None else y + bias


def convolve(input, weight, bias=None, stride=1, padding=0):
    x = np.pad(input, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    y = np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight)
    return y if bias is None else y + bias[:, None, None]


def layer_norm(input, weight, bias, eps):
    mean = input.mean(axis=-1, keepdims=True)
    return (input - mean) / np.sqrt(input.var(axis=-1, keepdims=True) + eps) * weight + bias


def group_norm(input, weight, bias, groups, eps):
    y = np.empty_like(input)
    width = input.shape[1] // groups
    for n, image in enumerate(input):
        for start in range(0, input.shape[1], width):
            part = image[start : start + width]
            y[n, start : start + width] = (part - part.mean()) / np.sqrt(part.var() + eps)
    return y * weight[:, None, None] + bias[:, None, None]


def divide_by_rms(input, weight, eps, base=0.0):
    return input / np.sqrt(np.square(input).mean(axis=-1, keepdims=True) + eps) * (base + weight)


def attention(input, k, v, scale=None, causal=False, bias=None):
    """Attend query by query, head by head."""
    q = input
    scale = 1.0 / np.sqrt(q.shape[-1]) if scale is None else scale
    bias = np.zeros((1, 1, 1, 1)) if bias is None else bias
    bias = np.broadcast_to(bias, (*q.shape[:3], k.shape[2]))
    y = np.empty((*q.shape[:3], v.shape[-1]))
    for n, h, i in np.ndindex(*q.shape[:3]):
        keys = i + 1 if causal else k.shape[2]
        scores = k[n, h, :keys] @ q[n, h, i] * scale + bias[n, h, i, :keys]
        weights = np.exp(scores - scores.max())
        y[n, h, i] = weights @ v[n, h, :keys] / weights.sum()
    return y
