"""Each check before a diff: what is refused, and what is nearly it and is not."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.errors import UsageError
from ldmref.locate.precision import round_to
from ldmref.locate.preflight import find_gaps, missing_layers, require_comparable, with_request
from ldmref.trace import build_trace


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def refused(port, reference=None, dtype="float64"):
    try:
        require_comparable(build_trace(port), reference and build_trace(*reference), dtype)
    except UsageError as error:
        return str(error).splitlines()[0]
    return ""


def test_traces_without_results_are_refused():
    flat = {f"unet.000/{x}/output": np.full(3, 2.0) for x in "ab"}
    assert "all 2 outputs are constant" in refused(flat)
    assert not refused(flat | {"unet.000/c/output": np.arange(3.0)})
    assert not refused({"unet.000/a/output": np.zeros(3)})
    assert not refused({name: x[:1] for name, x in flat.items()})
    assert not refused({f"other.000/{x}/output": np.zeros(3) for x in "ab"})


def test_formats_that_are_narrower_than_the_name_are_refused():
    wide = {f"unet.000/{x}/output": normal(i, 64).astype(np.float32) for i, x in enumerate("ab")}
    narrow = {name: round_to(x, "bfloat16") for name, x in wide.items()}
    assert "hold numbers of bfloat16" in refused(narrow, dtype="float32")
    half = {name: round_to(x, "float16") for name, x in wide.items()}
    assert "hold numbers of float16" in refused(half, dtype="float32")
    assert not refused(narrow) and not refused(wide, dtype="float32")
    assert not refused(narrow | {"unet.000/c/output": wide["unet.000/a/output"]}, dtype="float32")
    assert not refused({"unet.000/a/output": narrow["unet.000/a/output"]}, dtype="float32")
    values = [*narrow.values()]
    tables = {
        f"unet.000/{x}/output": y for x, y in zip(("embedding", "a.shared"), values, strict=True)
    }
    assert not refused(tables, dtype="float32")  # their format is that of the checkpoint
    host = {f"sampler.00{i}//output": x for i, x in enumerate(values)}
    assert not refused(host, dtype="float32")  # as the network may be given it
    few = {name: x[:31] for name, x in narrow.items()}
    assert not refused(few, dtype="float32")
    assert refused({name: x[:32] for name, x in narrow.items()}, dtype="float32")


def test_buffers_that_were_used_again_are_refused():
    def run(second, inputs):
        tensors = {}
        for i, outputs in enumerate(("ab", second)):
            for layer, value in zip("xy", outputs, strict=False):
                tensors[f"unet.00{i}/{layer}/output"] = np.arange(3.0) + ord(value)
                tensors[f"unet.00{i}/{layer}/input"] = np.arange(3.0) + inputs[i]
        return refused(tensors)

    assert "hold the same numbers in all layers" in run("ab", (0, 1))
    assert not run("ab", (0, 0)) and not run("ac", (0, 1)) and not run("a", (0, 1))


def test_references_that_prove_nothing_are_refused():
    port = {"unet.000/a/output": np.arange(3.0), "unet.000/b/output": np.arange(4.0)}
    assert not refused(port, (port,))
    nan = {**port, "unet.000//output": np.array([1.0, np.nan])}
    assert "NaN at [1]" in refused(port, (nan,))
    flat = {**port, "vae.decode.000//output": np.ones(4)}
    assert "is one colour" in refused(port, (flat,))
    assert not refused(port, ({**port, "unet.000//output": np.ones(4)},))
    other = {"unet.000/a/output": np.arange(5.0), "unet.000/b/output": np.arange(6.0)}
    assert "no output of the port has the shape" in refused(port, (other,))
    assert not refused(port, ({**other, "unet.000/b/output": np.arange(4.0)},))
    for name in ("sampler", "schedule"):
        ours = build_trace(port, {"params": {name: "x"}})
        require_comparable(ours, build_trace(port, {"params": {name: "x"}}))
        with pytest.raises(UsageError, match=name):
            require_comparable(ours, build_trace(port, {"params": {name: "y"}}))
        require_comparable(ours, build_trace(port))


def test_of_a_reference_only_what_networks_return_must_be_finite():
    """Layers and the host may hold infinities, such as those of a mask."""
    port = {"unet.000/a/output": normal(0, 8)}
    right = {"unet.000/a/output": normal(1, 8), "unet.000//output": normal(2, 8)}
    bad = np.array([1.0, np.inf, 2.0])
    assert not refused(port, (right,))
    for name in ("unet.000/b/output", "guidance.000//output", "schedule//output.sigmas"):
        assert not refused(port, (right | {name: bad},)), name
    for name in ("unet.001//output", "vae.decode//output", "text_encoder//output"):
        assert name.partition("/")[0] in refused(port, (right | {name: bad},))


def test_layers_that_later_calls_lack():
    tensors = {f"unet.000/{x}/output": np.zeros(1) for x in "abc"}
    tensors |= {"unet.001/a/output": np.zeros(1), "unet.001/b/output": np.zeros(1)}
    assert [*missing_layers(build_trace(tensors))] == [
        "unet.001 lacks 1 layer that unet.000 has: c"
    ]
    more = {
        "unet.000/a/output": np.zeros(1),
        "unet.001/b/output": np.zeros(1),
        "unet.001/a/output": np.zeros(1),
    }
    assert [*missing_layers(build_trace(more))] == []
    port = build_trace(tensors, {"complete": False})
    assert find_gaps(port)[0] == "the recorded run was stopped before its end"
    assert (
        len(find_gaps(port)) == 2 and len(find_gaps(build_trace(tensors, {"complete": True}))) == 1
    )


def test_a_port_takes_the_request_of_its_reference():
    asked = build_trace({}, {"params": {"seed": 1}})
    assert with_request(build_trace({}), asked).manifest["params"] == {"seed": 1}
    for manifest in ({"params": {}}, {"scheduler": {"class": "x"}}):
        port = build_trace({}, manifest)
        assert with_request(port, asked) is port
    port = build_trace({})
    assert with_request(port, None) is port and with_request(port, port) is port


def test_each_thing_that_a_recording_lacks_is_a_gap():
    whole = {"unet.000/a/output": np.zeros(3)}
    assert not find_gaps(build_trace(whole))
    for manifest, said in (
        ({"complete": False}, "stopped"),
        ({"missing_tensors": ["first", "second"]}, "2 tensors"),
        ({"left_out": {"vae.decode": "too large"}}, "vae.decode (too large)"),
        ({"unknown_names": ["third"]}, "third"),
    ):
        (gap,) = find_gaps(build_trace(whole, manifest))
        assert said in gap
