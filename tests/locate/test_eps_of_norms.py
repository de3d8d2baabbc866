"""Another eps in all norms of an attention is named, whether the norms were recorded or not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy_ports import layers_of, make_model, run_port

from ldmref.backends.named import LayerCall
from ldmref.locate import diff_traces
from ldmref.locate.faults.norms import USUAL, eps_of_all, eps_of_norm, other_eps
from ldmref.trace import build_trace

# Model, the norms that have another eps, it, the right one, and in whose norms it is.
FAMILIES = {
    "flux": ("flux-tiny", r"transformer_blocks\.0\.attn\.norm_\w+", 1e-5, 1e-6),
    "sd3": ("sd3-tiny", r"transformer_blocks\.0\.attn\.norm_\w+", 1e-5, 1e-6),
    "z-image": ("z-image-tiny", r"layers\.0\.attention\.norm_[qk]", 1e-6, 1e-5),
}
RECORDED = {
    "norms": r".*\.norm_\w+",
    "projections": r".*(to_[qkv]|add_\w_proj|to_out\.0|to_add_out)",
    "blocks": r"(transformer_blocks|layers)\.\d",
}
GIVEN = {"mask": np.ones((2, 5), np.int64)}


@pytest.mark.parametrize("recorded", RECORDED)
@pytest.mark.parametrize("family", FAMILIES)
def test_another_eps_has_the_same_words_whatever_is_recorded(family, recorded):
    name, norms, eps, right = FAMILIES[family]
    model = make_model(name)
    found = [x for x in layers_of(model, "transformer") if re.fullmatch(norms, x)]
    wrong = {x: lambda call, given: call.compute({**given, "eps": eps}) for x in found}
    tensors = {
        key: x
        for key, x in run_port(model, wrong, "transformer", given=GIVEN).items()
        if key.count("//") or re.fullmatch(RECORDED[recorded], key.split("/")[1])
    }
    report = diff_traces(build_trace(tensors), model)
    assert report.faults and len(found) > 1
    words = f"eps {eps:g} instead of {right:g}"
    assert all(row.cause.startswith(words) for row in report.faults), report.faults
    if recorded != "norms":
        assert all(" in all " in row.cause for row in report.faults), report.faults


def test_numbers_that_rounding_hides_are_told_apart_by_the_mean_error():
    """The largest difference is that of one unlucky number, for an eps of 1e-6 and of 1.2e-7."""
    model = make_model("z-image-tiny")
    norms = [x for x in layers_of(model, "transformer") if re.search(r"\.norm_[qk]", x)]
    wrong = {x: lambda call, given: call.compute({**given, "eps": 2.0**-23}) for x in norms}
    tensors = run_port(model, wrong, "transformer", given=GIVEN)
    rng = np.random.default_rng(0)
    port = {}
    for key, x in tensors.items():
        if re.search(r"attention\.(to_[qkv]/|to_out\.0/input)|//", key):
            unlucky = key.endswith("to_out.0/input")
            port[key] = x + unlucky * 6e-7 * np.max(np.abs(x)) * rng.uniform(-1.0, 1.0, x.shape)
    faults = diff_traces(build_trace(port), model, dtype="float32").faults
    assert faults
    assert all(row.cause.startswith("eps 1.19209e-07 instead") for row in faults), faults


torch = pytest.importorskip("torch")

from module_runs import made  # noqa: E402

import ldmref  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402
from ldmref.trace import Selection  # noqa: E402


class Attention(torch.nn.Module):
    """Attention whose queries and keys have norms of an eps; None: that of the format."""

    def __init__(self, eps):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(8, 8, False) for _ in range(3))
        self.norm_q, self.norm_k = (torch.nn.RMSNorm(8, eps=eps) for _ in range(2))

    def forward(self, x):
        q, k = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(x))
        return torch.nn.functional.scaled_dot_product_attention(q, k, self.to_v(x))


class Around(torch.nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.attn = Attention(eps)

    def forward(self, x):
        return 2.0 * self.attn(0.05 * x)


@pytest.mark.parametrize("layers", [(), ("attn",), ("attn.to_?",)])
@pytest.mark.parametrize(
    ("eps", "words"), [(1e-5, "1e-05"), (None, "1.19209e-07"), (1e-8, "1e-08")]
)
def test_another_eps_of_a_module_is_named(layers, eps, words):
    selection = Selection(layers=layers or ("*norm_?",))
    port = made(Around, eps)
    with ldmref.recording(port, call="net", selection=selection) as run, torch.no_grad():
        port(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)))
    faults = diff_modules(run.trace, made(Around, 1e-6)).faults
    assert faults
    assert all(row.cause.startswith(f"eps {words} instead of 1e-06") for row in faults), faults


def norm(name, kind="divide_by_rms", **attributes):
    return LayerCall(name, kind, {}, {}, attributes, lambda x: x)


def test_norms_are_changed_together_by_module_by_kind_and_all():
    calls = [
        norm("a.attn.norm_q", eps=1e-6), norm("a.attn.norm_k", eps=1e-6),
        norm("a.norm1.layer_norm", "layer_norm", eps=1e-6), norm("a.other", eps=1e-3),
        norm("a.linear", "linear"), norm("a.attn.silu", "silu"),
    ]  # fmt: skip
    found: dict[str, set] = {}
    for text, changes in eps_of_all(calls):
        words, _, where = text.partition(" in all ")
        assert re.fullmatch(r"eps \S+ instead of 1e-06", words)
        found.setdefault(where, set()).add(frozenset(changes))
    attention = frozenset({"a.attn.norm_q", "a.attn.norm_k"})
    every = attention | {"a.norm1.layer_norm"}
    assert found == {"norms of a.attn": {attention}, "norms": {every}}


def test_norms_by_their_operations_share_an_eps():
    calls = [norm(f"a.norm_{x}.add_number", "add_number", number=1e-6) for x in "qk"]
    ((_, changes), *_) = eps_of_all(calls)
    assert {*changes} == {call.name for call in calls}
    texts = [text for text, _ in eps_of_all(calls)]
    assert len(texts) == len(USUAL) - 1 and texts[0].endswith(" in all norms of a")
    computed = norm("a", "add_number", number=1e-6)
    assert changes[calls[0].name](computed, {"input": 1.0}) == {"input": 1.0, "number": 1e-5}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (norm("a", eps=1e-6), ("eps", 1e-6)), (norm("a", "layer_norm", eps=0.0), ("eps", 0.0)),
        (norm("a", "add_number", number=1e-6), ("number", 1e-6)),
        (norm("a", "add_number", number=1.0), None), (norm("a", "add_number", number=-1e-6), None),
        (norm("a", "linear"), None), (norm("a", "silu", eps=1e-6), None), (norm("a"), None),
    ],
)  # fmt: skip
def test_the_eps_of_a_norm_is_found(call, expected):
    assert eps_of_norm(call) == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_eps_of_a_format_is_named(dtype):
    eps = float(np.finfo(dtype).eps)
    assert f"eps {eps:g} instead of 1e-06" in [x.text for x in other_eps(norm("a", eps=1e-6))]
