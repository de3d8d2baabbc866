"""Checks before a diff in numbers: which arrays count, how many are needed, what is listed."""

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
    """Return why traces, or their arrays, are refused; "": they are not."""
    traces = [
        x if x is None or hasattr(x, "entries") else build_trace(x) for x in (port, reference)
    ]
    try:
        require_comparable(*traces, dtype)
    except UsageError as error:
        assert error.code == "E-TRACE-RUN"
        return str(error).splitlines()[0]
    return ""


# -- results --------------------------------------------------------------------------------------


FLAT = {f"unet.000/{x}/output": np.ones(3) for x in "ab"}


def test_outputs_of_several_numbers_are_counted():
    assert "all 2 outputs" in refused(FLAT | {"unet.000/c/output": np.zeros(1)})
    assert "all 3 outputs" in refused({"unet.000/c/output": np.zeros(2)} | FLAT)
    one = {"unet.000/a/output": np.ones(3)}
    assert not refused(one | {f"unet.000/{x}/output": np.zeros(1) for x in "bc"})
    assert refused(FLAT | {"unet.000/c/output": np.arange(4)})  # whole numbers are no results
    assert refused(FLAT | {"unet.000/c/input": np.arange(4.0)})
    assert refused(FLAT | {"sampler.000//output": np.arange(4.0)})
    assert not refused(FLAT | {"unet.000//output": np.array([1.0, 1.0, 2.0])})
    assert not refused(FLAT | {"unet.000//output": np.array([2.0, 1.0, 1.0])})
    assert not refused(FLAT | {"unet.000//output": np.array([2.0, 1.0])})
    assert refused(FLAT | {"unet.000//output": np.array([np.nan])})


def test_a_reference_has_results_too():
    port = {"unet.000/a/output": np.arange(3.0), "unet.000/b/output": np.arange(3.0)}
    assert refused(port, FLAT).startswith("the reference: all 2")
    assert refused(FLAT, port).startswith("the port's trace: all 2")


# -- the format -----------------------------------------------------------------------------------


WIDE = normal(0, 2048).astype(np.float32)
NARROW = np.asarray(round_to(WIDE, "bfloat16"), np.float32)


def layers_of(arrays, name="l{:02}"):
    return {f"unet.000/{name.format(i)}/output": x for i, x in enumerate(arrays)}


def test_sixteen_layers_from_the_first_to_the_last_are_looked_at():
    for count, seen in ((31, False), (32, True), (47, True)):
        arrays = [WIDE if i % 2 else NARROW for i in range(count)]
        assert bool(refused(layers_of(arrays), dtype="float32")) == seen, count
    arrays = [NARROW if i % 3 == 0 else WIDE for i in range(48)]
    assert refused(layers_of(arrays), dtype="float32")
    assert not refused(layers_of([*arrays[:45], WIDE, WIDE, WIDE]), dtype="float32")


def test_the_first_1024_values_are_looked_at():
    for count, seen in ((1023, False), (1024, True), (1025, True)):
        x = np.concatenate([NARROW[:count], WIDE[count:]]).reshape(64, 32)
        assert bool(refused(layers_of([x, x]), dtype="float32")) == seen


def test_the_narrowest_format_is_named_that_holds_the_numbers():
    both = np.arange(64, dtype=np.float32)
    assert "bfloat16" in refused(layers_of([both, both]), dtype="float32")
    half = np.asarray(round_to(WIDE, "float16"), np.float32)
    said = refused(layers_of([both, half]), dtype="float32")
    assert said.endswith(" float16") and "float32" in said
    assert not refused(layers_of([half, NARROW * 2.0**-40]), dtype="float32")
    assert not refused(layers_of([half, half]), dtype="float16")


def test_outputs_of_few_numbers_are_passed_over():
    flat = np.ones(64, np.float32)
    tensors = {}
    for layer in "ab":
        tensors[f"unet.000/{layer}/output.0"] = flat
        tensors[f"unet.000/{layer}/output.1"] = NARROW
    assert refused(tensors, dtype="float32")
    assert not refused(layers_of([flat, NARROW]), dtype="float32")
    assert refused(layers_of([NARROW, flat, NARROW]), dtype="float32")


TABLES = [
        ("embedding", True), ("a.shared", True), ("b.embed_tokens", True), ("a_embedding", True),
        ("embedding.proj", False), ("shared.x", False), ("embed_tokens.0", False), ("wte", False),
    ]  # fmt: skip


def test_rows_of_tables_do_not_tell_the_format():
    for name, looked_up in TABLES:
        tensors = {f"unet.00{i}/{name}/output": NARROW * 2.0**i for i in range(2)}
        assert bool(refused(tensors, dtype="float32")) == (not looked_up)


# -- buffers --------------------------------------------------------------------------------------


def run_of(*calls, network="unet"):
    """Return the arrays of calls, each as a list of (layer, side, number)."""
    return {
        f"{network}.{i:03}/{layer}/{side}": np.arange(3.0) + number
        for i, call in enumerate(calls)
        for layer, side, number in call
    }


BEFORE = [("x", "output", 1), ("y", "output", 2), ("x", "input", 3), ("y", "input", 4)]


def changed(**numbers):
    return [(x, side, numbers.get(f"{x}_{side}", n)) for x, side, n in BEFORE]


def test_all_outputs_are_the_same_and_one_input_is_not():
    for name in ("x_input", "y_input"):
        assert "unet.000 and unet.001" in refused(run_of(BEFORE, changed(**{name: 9})))
    assert not refused(run_of(BEFORE, BEFORE))
    for name in ("x_output", "y_output"):
        assert not refused(run_of(BEFORE, changed(**{name: 9}, x_input=9, y_input=9)))
    two = [("z", "input", 1), *BEFORE[:2]]
    assert refused(run_of(two, [("z", "input", 2), *BEFORE[:2]]))
    assert refused(run_of(two, [*BEFORE[:2], ("z", "input", 2)]))
    assert not refused(run_of(two[:2], [("z", "input", 2), BEFORE[0]]))  # one layer proves nothing
    assert not refused(run_of(BEFORE, [*changed(x_input=9), ("w", "output", 1)]))
    assert refused(run_of([*BEFORE, ("w", "output", 1)], changed(x_input=9)))


def test_arrays_of_other_roles_are_not_the_same():
    def outputs(*roles, **numbers):
        call = [("x", role, 1) for role in roles] + [("y", "output", 1)]
        return [*call, ("x", "input", numbers.get("read", 0))]

    pair = [outputs("output.0", "output.1"), outputs("output.0", "output.1", read=5)]
    assert refused(run_of(*pair))
    assert not refused(run_of(pair[0], outputs("output.0", "output.2", read=5)))
    moved = [(x, s, 7 if s == "output.1" else n) for x, s, n in pair[1]]
    assert not refused(run_of(pair[0], moved))


def test_a_call_is_compared_with_the_last_one_of_its_network():
    same = changed(x_input=9)
    other = changed(x_output=5, x_input=7)
    assert not refused(run_of(BEFORE, other, same))
    assert "unet.001 and unet.002" in refused(run_of(other, BEFORE, same))
    between = run_of([("", "output", 1)], network="guidance")
    first, second = (
        run_of(BEFORE),
        {name.replace("000", "001"): x for name, x in run_of(same).items()},
    )
    assert "unet.000 and unet.001" in refused(first | between | second)
    elsewhere = {name.replace("unet", "vae.decode"): x for name, x in second.items()}
    assert not refused(first | elsewhere)
    assert not refused(run_of(BEFORE, same, network="sampler"))


# -- references -----------------------------------------------------------------------------------


PORT = {"unet.000/a/output": normal(0, 8), "unet.000//output": normal(1, 8)}


def test_images_of_one_colour():
    for name, x, said in (
        ("vae.decode.000//output", np.ones(2), "one colour"),
        ("vae.decode.000//output", np.ones(1), ""),
        ("vae.decode.000//output", np.arange(2.0), ""),
        ("vae.decode.000/a/output", np.ones(2), ""),
        ("vae.encode.000//output", np.ones(2), ""),
        ("vae.decode.000//output", np.array([np.nan]), "NaN"),
    ):
        found = refused(PORT, PORT | {name: x})
        assert said in found and bool(found) == bool(said)


def test_checks_of_a_reference_go_on_after_its_layers():
    bad = {"sampler.000//output": np.ones(2)} | PORT | {"unet.001//output": np.array([np.inf])}
    assert "unet.001" in refused(PORT, bad)


@pytest.mark.parametrize("name", ["sampler", "schedule", "scheduler"])
def test_references_of_other_programs(name):
    def trace(value):
        if name == "scheduler":
            return build_trace(PORT, {"scheduler": {"class": value}, "params": None})
        return build_trace(PORT, {"params": {name: value}, "scheduler": None})

    said = refused(trace("x"), trace("y"))
    assert f"{name} 'y'" in said and said.index("'y'") < said.index("'x'")
    assert not refused(trace("x"), trace("x"))
    assert not refused(trace(None), trace("y")) and not refused(trace("x"), trace(None))
    assert not refused(build_trace(PORT), trace("y")) and not refused(trace("x"), build_trace(PORT))


def test_one_output_of_the_same_size_is_enough():
    def arrays(**sizes):
        return {f"unet.000/{x}/output": normal(i, n) for i, (x, n) in enumerate(sizes.items())}

    said = refused(arrays(a=5, b=6), arrays(a=7, b=8))
    assert "(5,) and (7,) in unet.000/a" in said
    assert not refused(arrays(a=5, b=6), arrays(a=7, b=6))
    assert not refused(arrays(a=5, b=6), arrays(a=5, b=8))
    assert not refused(arrays(a=5), arrays(b=6))  # nothing to compare
    assert refused(arrays(x=4, a=5), arrays(a=6))
    host = {"sampler.000//output": normal(0, 4)}
    assert not refused(host, {"sampler.000//output": normal(0, 5)})
    assert "in unet.000/a" in refused(host | arrays(a=5), host | arrays(a=6))


# -- gaps -----------------------------------------------------------------------------------------


def gaps_of(**manifest):
    return find_gaps(build_trace({}, manifest))


def test_five_names_are_listed_with_80_characters():
    names = [letter * 90 for letter in "abcdef"]
    (found,) = gaps_of(unknown_names=names)
    assert found.startswith("6 names ") and found.endswith(f"{'e' * 80} and 1 more")
    assert "e" * 81 not in found and "f" * 80 not in found
    (found,) = gaps_of(missing_tensors=names)
    assert found.startswith("6 tensors ") and found.endswith(f"{names[4]} and 1 more")
    (found,) = gaps_of(left_out=dict.fromkeys(names, "x"))
    assert found.startswith("6 parts ") and found.endswith(f"{'e' * 80} and 1 more")
    assert "e" * 81 not in found
    (found,) = gaps_of(unknown_names=[7])
    assert found.startswith("1 name ") and found.endswith(": 7")


def test_gaps_are_in_order_and_only_where_something_lacks():
    found = gaps_of(complete=False, missing_tensors=["m"], left_out={"l": "x"}, unknown_names=["u"])
    assert len(found) == 4
    assert [x[-5:] for x in found[1:]] == ["ng: m", "l (x)", "wn: u"]
    for empty in (
        {"complete": True}, {"complete": None}, {"missing_tensors": []}, {"left_out": {}},
        {"left_out": None}, {"left_out": ["x"]}, {"unknown_names": []},
    ):  # fmt: skip
        assert gaps_of(**empty) == []


def calls_of(**layers):
    return build_trace(
        {
            f"{call.replace('_', '.')}/{layer}/output": np.zeros(1)
            for call, names in layers.items()
            for layer in names
        }
    )


def test_later_calls_have_the_layers_of_the_first():
    found = [*missing_layers(calls_of(unet_000="bacde", sampler_000="x", unet_001="a"))]
    assert found == ["unet.001 lacks 4 layers that unet.000 has: b, c, d and 1 more"]
    found = [*missing_layers(calls_of(sampler_000="xy", sampler_001="x"))]
    assert found == []
    found = [*missing_layers(calls_of(unet_000="a", unet_001="ab", unet_002="a"))]
    assert found == []
    found = [*missing_layers(calls_of(unet_000="ab", unet_001="a", unet_002="b"))]
    assert [x.partition(" ")[0] for x in found] == ["unet.001", "unet.002"]


@pytest.mark.parametrize(("controlnets", "lacking"), [(0, [1, 2]), (1, [1, 2]), (2, [2]), (3, [])])
def test_each_controlnet_has_its_own_layers(controlnets, lacking):
    port = calls_of(controlnet_000="ab", controlnet_001="b", controlnet_002="b")
    gaps = find_gaps(port, controlnets)
    assert gaps == [*missing_layers(port, controlnets)]
    assert [int(gap[len("controlnet.") :].partition(" ")[0]) for gap in gaps] == lacking
    assert find_gaps(port) == find_gaps(port, 0)
    assert [*missing_layers(port)] == [*missing_layers(port, 0)]


def test_networks_of_a_run_are_not_those_of_several_controlnets():
    port = calls_of(unet_000="ab", unet_001="b", unet_002="b")
    assert len(find_gaps(port, 2)) == 2


def test_a_request_is_added_to_the_manifest():
    port = build_trace(PORT, {"dtype": "float16"})
    found = with_request(port, build_trace({}, {"params": {"seed": 1}, "dtype": "x"}))
    assert found.manifest == {"dtype": "float16", "params": {"seed": 1}}
    assert found.entries == port.entries and "params" not in port.manifest
    assert with_request(port, build_trace({}, {"scheduler": {}})) is port
