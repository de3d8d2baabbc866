"""`ldmref cases make` and `ldmref cases run`."""

import json
import sys

import pytest

from ldmref.apps.cli import cases as command
from ldmref.apps.cli.main import cli
from ldmref.cases.model import PARTS
from ldmref.cases.runtimes import RUNTIMES
from ldmref.cases.suite_run import TIMEOUT


@pytest.fixture
def suite(ldm, work):
    ran = ldm("cases", "make", "-o", "suite", "--part", "guidance", "--part", "tokenizers")
    assert ran.code == 0, ran.err
    assert "wrote ldmref-cases 2.0 to suite: 64 cases" in ran.out
    return work / "suite"


def test_names_are_those_of_the_package():
    assert command.PART_NAMES == PARTS
    assert command.RUNTIME_NAMES == (*RUNTIMES, "ldmref")
    run = cli.commands["cases"].commands["run"]
    assert next(p.default for p in run.params if p.name == "timeout") == TIMEOUT


def test_run_prints_the_verdict(ldm, suite):
    ran = ldm("cases", "run", "suite", "--backend", "numpy")
    assert ran.code == 0, ran.err
    verdict, worst = ran.out.splitlines()
    assert verdict.endswith("passes ldmref-cases 2.0, 64 of 64 (guidance, tokenizers)")
    assert worst.startswith("  largest error: 0 % of the tolerance")
    ran = ldm("cases", "run", "suite", "--match", "tokenizers.clip.*", "--all")
    assert len(ran.out.splitlines()) == 14 and "ok     tokenizers.clip.0" in ran.out


def test_json_has_a_row_per_case_and_a_summary(ldm, suite):
    ran = ldm("cases", "run", "suite", "--match", "guidance.cfg.*", "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row.get("case") for row in rows] == ["guidance.cfg.1", "guidance.cfg.7.5", None]
    assert rows[0]["passed"] and rows[0]["error"] == 0.0 and rows[0]["tolerance"] >= 0.0
    assert rows[2]["summary"]["passed"] == rows[2]["summary"]["count"] == 2


def test_wrong_values_exit_with_4_and_one_line_each(ldm, suite, work):
    wrong = {"tokenizers.clip.0": [[1] * 12], "guidance.cfg.1": {"guided.0": [1, 2]}}
    (work / "mine.json").write_text(json.dumps(wrong))
    ran = ldm("cases", "run", "suite", "--values", "mine.json")
    assert ran.code == 4
    first, second = ran.out.splitlines()
    assert first.startswith("FAILED guidance.cfg.1 (cfg): shape [2], expected [2, 4, 3, 3]")
    assert second.startswith("FAILED tokenizers.clip.0 (clip): error") and "got 1" in second
    assert "mine.json fails ldmref-cases 2.0, 0 of 2 (guidance, tokenizers)" in ran.err
    ran = ldm("cases", "run", "--values", "mine.json")  # the suite is made for the run
    assert ran.code == 4 and "note: makes the cases for this run" in ran.err


def test_a_program_without_results_fails(ldm, suite):
    program = f"{sys.executable} -c pass {{folder}}"
    ran = ldm("cases", "run", "suite", "--command", program, "--part", "guidance")
    assert ran.code == 4 and "no result" in ran.out and "0 of 28" in ran.err


def test_cases_are_listed(ldm, suite):
    ran = ldm("cases", "run", "suite", "--list")
    assert len(ran.out.split()) == 64 and "guidance.apg.7.5" in ran.out.split()
    ran = ldm("cases", "run", "suite", "--list", "--json", "--kind", "bert")
    assert {json.loads(line)["kind"] for line in ran.out.splitlines()} == {"bert"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("make", "-o", "suite"), 8, "holds a suite"),
        (("make", "-o", "x", "--family", "sd51"), 2, "did you mean"),
        (("run", "nowhere"), 3, "is not a folder"),
        (("run", "suite", "--match", "nothing"), 2, "no case matches 'nothing'"),
        (("run", "suite", "--kind", "bertt"), 2, "no case is of kind 'bertt'"),
        (("run", "suite", "--part", "layers"), 2, "no case matches layers"),
        (("run", "suite", "--runtime", "onnx-reference"), 2, "computes none of these cases"),
        (("run", "suite", "--runtime", "ldmref", "--values", "x"), 2, "exclude each other"),
        (("run", "suite", "--output", "x"), 2, "--output is for --command"),
        (("run", "suite", "--command", "./runner"), 2, "names neither {folder}"),
        (("run", "suite", "--values", "nowhere.json"), 3, "nowhere.json"),
        (("run", "suite", "--runtime", "openvino", "--dtype", "float64"), 2, "in float32"),
        (("run", "suite", "--runtime", "openvino", "--backend", "numpy"), 2, "--backend is for"),
    ],
)
def test_bad_input_is_one_line(ldm, suite, arguments, code, message):
    if "onnx-reference" in arguments:
        pytest.importorskip("onnx")
    ran = ldm("cases", *arguments)
    assert ran.code == code, ran.err
    assert message in ran.err, ran.err
