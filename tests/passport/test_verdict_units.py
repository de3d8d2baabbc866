"""Verdicts, borders, requests and badges of kits, on reports and runs of a few numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldmref.errors import OutputError, UsageError
from ldmref.locate import DiffReport, Row
from ldmref.locate.law import NOISE
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.rows import REFERENCE_ALONE
from ldmref.models import preset
from ldmref.passport.badge import badge_files, badge_json, badge_svg, write_badge
from ldmref.passport.check import Verdict, _judge_runs, check_dump, wrong_inputs
from ldmref.passport.kit import Kit
from ldmref.passport.original import BATCH
from ldmref.passport.request import other_request
from ldmref.trace.model import Trace, build_trace

CALL = "unet.000"
RIGHT = Row(CALL, "conv_in")


def verdict_of(*rows, missing=(), gaps=()):
    return Verdict("sd15 2.0 (0f3a)", "0f3a", DiffReport(rows, gaps=gaps), 3, 4, missing)


# -- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "missing", "gaps", "expected"),
    [
        ([RIGHT], (), (), "passes"),
        ([RIGHT, replace(RIGHT, verdict="noisy")], (), (), "passes"),
        ([RIGHT], ("unet.001",), (), "incomplete"),
        ([RIGHT], (), ("a layer",), "incomplete"),
        ([RIGHT, replace(RIGHT, verdict="not judged")], (), (), "incomplete"),
        ([RIGHT, replace(RIGHT, verdict="differs")], (), (), "differs"),
        ([RIGHT, replace(RIGHT, verdict="differs")], ("unet.001",), (), "differs"),
        ([], (), (), "nothing compared"),
        ([], ("unet.001",), (), "nothing compared"),
    ],
)
def test_a_port_passes_only_if_all_is_there_and_equal(rows, missing, gaps, expected):
    verdict = verdict_of(*rows, missing=missing, gaps=gaps)
    assert verdict.verdict == expected and verdict.passed == (expected == "passes")
    assert verdict.message.startswith(expected) and "3 of 4" in verdict.message
    assert str(verdict).startswith(verdict.message)
    assert all(name in str(verdict) for name in missing) or expected != "incomplete"
    row = verdict.to_dict()
    assert row["report"] == verdict.report.to_dict()
    del row["report"]
    assert row == {
        "kit": "sd15 2.0 (0f3a)", "digest": "0f3a", "verdict": expected,
        "passed": verdict.passed, "seen": 3, "nodes": 4, "missing": [*missing],
    }  # fmt: skip
    json.dumps(row)


# -- the run of the kit ---------------------------------------------------------------------------

LAYERS = ("a", "b", "")  # the last one is the whole call


def judged(errors, *, floor=1e-3, dtype="float32", verdicts=(), inputs=(), call=CALL):
    """Return the rows of right layers whose outputs differ by these errors from a kit of ones."""
    ones = np.ones((1, 4))
    names = [f"{call}/{layer}/output" for layer in LAYERS[: len(errors)]]
    kit = build_trace(dict.fromkeys(names, ones))
    port = build_trace({n: ones * (1.0 + e) for n, e in zip(names, errors, strict=True)})
    rows = [Row(call, layer) for layer in LAYERS[: len(errors)]]
    for i, verdict in enumerate(verdicts):
        rows[i] = replace(rows[i], verdict=verdict)
    report = DiffReport(tuple(rows), dtype=dtype)
    floors = dict.fromkeys(names, floor)
    return _judge_runs(report, port, kit, floors, inputs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("floor", [1e-3, 0.0])
def test_a_run_may_inherit_sixteen_floors_and_no_more(dtype, floor):
    """A floor is at least half a unit of rounding of the port's format."""
    allowed = NOISE * max(floor, EPSILONS[dtype] / 2)
    for factor, kind in ((0.98, "own"), (1.02, "run")):
        [row] = judged([factor * allowed], floor=floor, dtype=dtype)
        assert row.kind == kind and row.verdict == ("differs" if kind == "run" else "equal")
        assert row.inherited == pytest.approx(factor * allowed)
        if kind == "run":
            assert (row.error, row.allowed) == (row.inherited, pytest.approx(allowed))


def test_of_another_run_the_first_layer_alone_is_named():
    rows = judged([0.0, 0.5, 0.7])
    assert [(row.layer, row.kind) for row in rows] == [("a", "own"), ("b", "run"), ("", "own")]
    assert judged([0.5, 0.6, 0.7])[0].kind == "run"


def test_another_run_is_not_named_beside_a_fault():
    """Layers that follow a fault inherit it."""
    rows = judged([0.5, 0.6, 0.7], verdicts=("differs",))
    assert [row.kind for row in rows] == ["own"] * 3
    assert [row.verdict for row in rows] == ["differs", "equal", "equal"]


def test_padding_of_a_right_layer_has_no_effect_on_a_right_call():
    rows = judged([0.5, 0.0, 0.0])
    assert {row.kind for row in rows} == {"own"} and {row.verdict for row in rows} == {"equal"}
    for other in ("not judged", "noisy"):  # such a layer is not known to be right
        assert judged([0.5, 0.0, 0.0], verdicts=(other,))[0].kind == "run"


def test_rows_of_batches_and_without_a_floor_are_left_as_they_are():
    ones = np.ones((1, 4))
    kit, port = (build_trace({f"{CALL}/a/output": x}) for x in (ones, 2.0 * ones))
    report = DiffReport((Row(CALL, "a"),))
    assert [row.kind for row in _judge_runs(report, port, kit, {})] == ["own"]
    batch = DiffReport((Row(CALL, "a", BATCH),))
    assert [r.kind for r in _judge_runs(batch, port, kit, {f"{CALL}/a/output": 1e-3})] == [BATCH]


def test_what_the_kits_run_alone_can_judge_is_equal_within_its_floor():
    ones = np.ones((1, 4))
    floors = {f"{CALL}/a/output": 1e-3}
    for factor, verdict in ((1.01, "equal"), (1.02, "differs")):
        kit, port = (build_trace({f"{CALL}/a/output": x}) for x in (ones, factor * ones))
        [row] = _judge_runs(DiffReport(()), port, kit, floors)
        assert row.verdict == verdict and row.note != REFERENCE_ALONE
    other = DiffReport((Row(CALL, "a", verdict="not judged", note="its shape is not known"),))
    kit = build_trace({f"{CALL}/a/output": ones})
    assert _judge_runs(other, kit, kit, floors)[0].verdict == "not judged"


def test_wrong_inputs_come_before_the_output_of_their_layer():
    wrong = Row(CALL, "b", "wiring", 0.5, verdict="differs")
    rows = judged([0.0, 0.5, 0.7], inputs=[wrong])
    kinds = [(row.layer, row.kind) for row in rows]
    assert kinds == [("a", "own"), ("b", "wiring"), ("b", "own"), ("", "own")]
    rows = judged([0.5, 0.0, 0.7], inputs=[wrong])  # inherited from the layer before
    assert [(row.layer, row.kind) for row in rows] == [("a", "run"), ("b", "own"), ("", "own")]


# -- inputs of layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_input_may_differ_by_sixteen_floors(dtype):
    ones = np.ones((1, 4))
    name = f"{CALL}/a/input"
    kit = build_trace({name: ones})
    allowed = NOISE * max(1e-4, EPSILONS[dtype] / 2)
    for factor, wrong in ((0.98, False), (1.02, True)):
        port = build_trace({name: (1.0 + factor * allowed) * ones})
        rows = [*wrong_inputs(port, kit, {name: 1e-4}, dtype)]
        assert len(rows) == wrong
        assert all(row.allowed == pytest.approx(allowed) for row in rows)
        assert all((row.kind, row.verdict) == ("wiring", "differs") for row in rows)


def test_inputs_that_cannot_be_compared_are_no_wires():
    name, whole = f"{CALL}/a/input.emb", f"{CALL}//input.sample"
    ones, floors = np.ones((1, 4)), {name: 1e-6, whole: 1e-6}
    kit = build_trace({name: ones, whole: ones})
    [row] = wrong_inputs(build_trace({name: 2.0 * ones}), kit, floors, "float32")
    assert "emb" in row.note and row.inherited == row.error == 1.0
    for port in ({name: np.ones((1, 5))}, {whole: 2.0 * ones}, {f"{CALL}/b/input": 2.0 * ones}):
        assert [*wrong_inputs(build_trace(port), kit, floors, "float32")] == []
    assert [*wrong_inputs(build_trace({name: 2.0 * ones}), kit, {}, "float32")] == []


# -- requests -------------------------------------------------------------------------------------

ASKED = {"prompt": ["red", "red heart"], "negative_prompt": "grey", "cfg_scale": 5.0, "steps": 2,
         "width": 48, "height": 32}  # fmt: skip
GIVEN = {"prompt": ["red", "red heart"], "negative_prompt": ["grey", "grey"], "width": 48,
         "height": 32, "num_inference_steps": 2}  # fmt: skip


def difference(request=(), params=(), scheduler=(), asked=ASKED):
    shifts = {"shift": 3.0, "use_dynamic_shifting": False} | dict(scheduler)
    manifest = {
        "request": GIVEN | dict(request),
        "params": {"guidance_scale": 5.0} | dict(params),
        "scheduler": {"config": shifts},
    }
    return other_request(Trace({}, (), manifest), asked, preset("sd3-medium"))


def test_a_request_that_is_the_kits_has_no_difference():
    assert difference() == ""
    assert other_request(Trace({}, ()), ASKED, preset("sd3-medium")) == ""
    empty = Trace({}, (), {"request": None, "params": None, "scheduler": None})
    assert other_request(empty, ASKED, preset("sd3-medium")) == ""
    for equal in ({"negative_prompt": "grey"}, {"negative_prompt": None}, {"prompt": None}):
        assert difference(request=equal) == ""
    assert difference(request={"prompt": ("red", "red heart")}) == ""
    assert (
        difference(
            asked={**ASKED, "prompt": "red"}, request={"prompt": "red", "negative_prompt": "grey"}
        )
        == ""
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"params": {"guidance_scale": 7.5}}, ("7.5", "5")),
        ({"params": {"guidance_scale": 0.0}}, ("0", "5")),
        ({"request": {"width": 64}}, ("width", "64", "48")),
        ({"request": {"height": 64}}, ("height", "64", "32")),
        ({"request": {"num_inference_steps": 3}}, ("steps", "3", "2")),
        ({"request": {"prompt": ["red heart", "red"]}}, ("prompts", "red heart")),
        ({"request": {"prompt": "red"}}, ("prompts",)),
        ({"request": {"negative_prompt": "blue"}}, ("negative", "blue", "grey")),
        ({"request": {"negative_prompt": ["grey", "blue"]}}, ("negative", "blue")),
        ({"scheduler": {"shift": 1.0}}, ("shift", "1.0", "3.0")),
        ({"scheduler": {"use_dynamic_shifting": True}}, ("use_dynamic_shifting", "True")),
    ],
)
def test_what_was_asked_for_instead_is_named(given, words):
    text = difference(**given)
    assert all(word in text for word in words) and ";" not in text
    assert text in difference(**given, asked={**ASKED, "steps": 9}) or "steps" in words


# -- badges ---------------------------------------------------------------------------------------


def test_badges_of_all_verdicts_have_their_own_colour_and_hold_the_message():
    differs = replace(RIGHT, verdict="differs")
    made = [
        verdict_of(RIGHT),
        verdict_of(RIGHT, missing=("unet.001",)),
        verdict_of(differs),
        verdict_of(),
    ]
    colours = [json.loads(badge_json(verdict))["color"] for verdict in made]
    assert len({*colours}) == 4
    for verdict, colour in zip(made, colours, strict=True):
        row, picture = json.loads(badge_json(verdict)), badge_svg(verdict)
        assert row["schemaVersion"] == 1 and row["message"] == verdict.message
        assert row["label"].endswith(verdict.kit) and colour in picture
        assert verdict.message in picture and verdict.digest in picture


def test_the_parts_of_a_picture_are_as_wide_as_their_texts():
    from xml.etree import ElementTree

    picture = ElementTree.fromstring(badge_svg(replace(verdict_of(RIGHT), kit="a<b & c")))
    name = "{http://www.w3.org/2000/svg}"
    left, right = (float(r.get("width", 0)) for r in picture.iter(f"{name}rect"))
    texts = [*picture.iter(f"{name}text")]
    assert float(picture.get("width", 0)) == left + right
    assert [float(t.get("x", 0)) for t in texts] == [left / 2, left + right / 2]
    for text, width in zip(texts, (left, right), strict=True):
        assert 6 * len(text.text or "") < width < 7 * len(text.text or "") + 14
    assert "a<b & c" in (texts[0].text or "")


def test_a_badge_is_two_files_beside_each_other(tmp_path):
    for name in ("badge", "badge.svg", "badge.json"):
        names = [file.name for file in badge_files(tmp_path / name)]
        assert names == ["badge.json", "badge.svg"]
    assert badge_files(Path("sd1.5"))[0].name == "sd1.5.json"
    verdict = verdict_of(RIGHT)
    files = write_badge(verdict, tmp_path / "badge")
    assert files == badge_files(tmp_path / "badge")
    assert [file.read_text() for file in files] == [badge_json(verdict), badge_svg(verdict)]
    with pytest.raises(OutputError):
        write_badge(verdict, tmp_path / "badge")
    assert write_badge(verdict_of(), tmp_path / "badge", overwrite=True) == files
    assert "nothing" in files[0].read_text()


# -- dumps ----------------------------------------------------------------------------------------

NODES = {
    "net/a/input": 1.0,
    "net/a/output": 2.0,
    "net/b/output": 3.0,
    "net//output": 4.0,
    "net~1//output": 5.0,
}


def module_kit():
    """Return a kit of a module, whose run has two calls; nothing is read from files."""
    kit = Kit(Path("kit"), "mine", "2.0", {}, (), {}, ("net",))
    run = build_trace({name: np.full((1, 4), x) for name, x in NODES.items()}, {"complete": True})
    floors = {dtype: dict.fromkeys(NODES, 1e-6) for dtype in ("float32", "bfloat16")}
    kit.__dict__.update(trace=run, floors=floors)
    return kit


def dump(manifest=None, **changes):
    """Return a port's dump: the kit's, with other values, or without those that are None."""
    values = {name: np.full((1, 4), x, np.float32) for name, x in NODES.items()}
    values |= {name.replace("__", "/"): x for name, x in changes.items()}
    return build_trace({name: x for name, x in values.items() if x is not None}, manifest)


def test_a_dump_of_all_that_a_kit_has_passes():
    verdict = check_dump(dump(), module_kit())
    assert verdict.passed and (verdict.seen, verdict.nodes) == (4, 4)
    assert verdict.report.dtype == "float32" and not verdict.report.gaps
    assert verdict.kit == module_kit().label and verdict.digest == module_kit().digest


def test_each_node_is_compared():
    for name in NODES:
        wrong = {name.replace("/", "__"): np.full((1, 4), 9.0, np.float32)}
        verdict = check_dump(dump(**wrong), module_kit())
        [row] = verdict.report.faults
        assert verdict.verdict == "differs" and name.startswith(row.name)
        assert row.kind == ("wiring" if "input" in name else "run")


def test_a_call_that_is_missing_is_named_and_a_layer_is_not_needed():
    verdict = check_dump(dump(**{"net~1____output": None}), module_kit())
    assert (verdict.verdict, verdict.missing, verdict.seen) == ("incomplete", ("net~1",), 3)
    verdict = check_dump(dump(net__a__output=None), module_kit())
    assert (verdict.verdict, verdict.missing, verdict.seen) == ("passes", (), 3)


def test_what_the_kit_does_not_have_is_a_gap():
    ones = np.ones((1, 4), np.float32)
    verdict = check_dump(dump(net__own__output=ones), module_kit())
    assert verdict.verdict == "incomplete" and "net/own" in "; ".join(verdict.report.gaps)
    verdict = check_dump(dump(net__a__output=np.ones((1, 5), np.float32)), module_kit())
    assert verdict.verdict == "incomplete" and verdict.seen == 3
    [gap] = verdict.report.gaps
    assert "net/a" in gap and "1 layer of other sizes" in gap


def test_floors_are_those_of_the_ports_format():
    off = {"net____output": np.full((1, 4), 4.0 * (1 + 2.0**-7), np.float32)}
    assert check_dump(dump(**off), module_kit()).verdict == "differs"
    assert check_dump(dump(**off), module_kit(), dtype="bfloat16").passed
    # a format without floors has those of float32
    kit = module_kit()
    assert check_dump(dump(), kit, dtype="float64").passed


def test_dumps_and_modules_that_are_not_the_kits_are_refused():
    other = build_trace({"unet.000//output": np.ones((1, 4))})
    for port, kit, against in (
        (other, module_kit(), None),
        (dump(), replace(module_kit(), networks=()), object()),
    ):
        kit.__dict__.update(module_kit().__dict__ | {"networks": kit.networks})
        with pytest.raises(UsageError) as caught:
            check_dump(port, kit, against=against)
        assert caught.value.code == "E-PASSPORT" and caught.value.hint
