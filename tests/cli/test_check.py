"""`ldmref check`: the table, JSON, somebody else's functions, exit codes."""

from __future__ import annotations

import json
import re

import pytest


def test_table_has_law_oracle_cases_error_and_verdict(ldm):
    ran = ldm("check", "--only", "q_sample", "--cases", "3", "--formulas")
    assert ran.code == 0, ran.err
    assert "q_sample" in ran.out and "arXiv:2006.11239, eq. 4" in ran.out and r"\sqrt" in ran.out
    line = r"chain of single steps +moments .* 3 cases +worst +\S+ of \d+ +\(\w+\), ratio \S+ +ok"
    assert re.search(line, ran.out)
    assert re.search(r"all \d+ identities hold on <numpy backend, cpu, float64>, 3 cases", ran.out)


def test_json(ldm):
    ran = ldm("check", "--only", "kl_normal: integral", "--cases", "2", "--json")
    (row,) = [json.loads(line) for line in ran.out.splitlines()]
    assert row["verdict"] == "ok" and row["cases"] == 2 and row["worst"] <= row["allowed"]
    assert row["function"] == "kl_normal" and row["formula"] and row["source"] and row["oracle"]


def test_somebody_elses_functions_are_checked_by_name(ldm, work):
    (work / "mine.py").write_text(
        "def q_sample(x0, alpha_bar, eps):\n"
        "    return alpha_bar * x0 + (1 - alpha_bar) * eps  # the roots are missing\n"
    )
    ran = ldm("check", "--against", "mine", "--only", "q_sample", "--cases", "3")
    assert ran.code == 4
    assert re.search(r"FAILED\n +case \d.*: got \S+, the oracle has \S+, at \[", ran.out)
    assert "identities fail: q_sample: chain of single steps" in ran.err
    assert sum("error[" in line for line in ran.err.splitlines()) == 1


def test_errors_and_other_shapes_of_theirs_are_failures(ldm, work):
    (work / "broken.py").write_text(
        "def snr(alpha_bar):\n    raise RuntimeError('not\\nfinished')\n"
        "def reparameterize(mean, logvar, noise):\n    return mean[:1]\n"
    )
    ran = ldm("check", "--against", "broken", "--cases", "2", "--json")
    *rows, error = map(json.loads, ran.out.splitlines())
    assert ran.code == 4 and error["error"]["code"] == "E-CHECK"
    verdicts = {row["function"]: (row["verdict"], row["worst"]) for row in rows}
    assert verdicts["snr"] == ("ERROR: RuntimeError: not", 0.0)
    assert verdicts["reparameterize"] == ("FAILED", None)


def test_only_what_they_have_is_run(ldm, work):
    (work / "right.py").write_text("def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)\n")
    rows = ldm("check", "--against", "right", "--cases", "2", "--json").out.splitlines()
    assert rows and all("snr" in json.loads(row)["identity"] for row in rows)


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (("--against", "no.such.module"), 3, "no.such.module"),
        (("--against", "none.py"), 3, "none.py"),
        (("--against", "./"), 3, "folder"),
        (("--against", ""), 3, "''"),
        (("--only", "nothing like it"), 2, "nothing like it"),
        (("--against", "json"), 2, "json"),
        (("--cases", "0"), 2, "--cases"),
        (("--backend", "nump"), 2, "numpy"),
    ],
)
def test_bad_input(ldm, argv, code, word):
    ran = ldm("check", *argv)
    assert ran.code == code and word in ran.err and "Traceback" not in ran.err


def test_module_that_fails_to_import(ldm, work):
    (work / "wrecked.py").write_text("1 / 0\n")
    ran = ldm("check", "--against", "wrecked")
    assert ran.code == 3 and "ZeroDivisionError" in ran.err and "wrecked.py, line 1" in ran.err
    (work / "exits.py").write_text("import sys\nsys.exit(7)\n")
    assert ldm("check", "--against", "exits.py").code == 3
    (work / "syntax.py").write_text("def f(:\n")
    ran = ldm("check", "--against", "syntax.py")
    assert ran.code == 3 and "syntax.py, line 1" in ran.err


@pytest.mark.parametrize("name", ["wrong.py", "./wrong.py", "folder/wrong.py", "wrong"])
def test_a_file_is_checked_by_its_path(ldm, work, name):
    text = "import beside\ndef snr(alpha_bar):\n    return beside.two * alpha_bar\n"
    (work / "folder").mkdir()
    for folder in (work, work / "folder"):
        (folder / "wrong.py").write_text(text)
        (folder / "beside.py").write_text("two = 2\n")
    ran = ldm("check", "--against", name, "--cases", "2")
    assert ran.code == 4 and "snr(alpha_bar=[" in ran.out


def test_a_file_hides_no_other_module(ldm, work):
    (work / "json.py").write_text("def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)\n")
    ran = ldm("check", "--against", "json.py", "--cases", "2", "--json")
    assert ran.code == 0 and json.loads(ran.out)["verdict"] == "ok"


def test_small_differences_are_shown(ldm, work):
    (work / "mine.py").write_text(
        "def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar) * (1 + 1e-13)\n"
    )
    ran = ldm("check", "--against", "mine.py", "--cases", "2")
    got, expected, *_ = re.findall(r"(?:got|oracle has) (-?[\d.]+)", ran.out)
    assert ran.code == 4 and got != expected


def test_arguments_of_a_failing_case_are_named(ldm, work):
    (work / "mine.py").write_text("def q_sample(a, b, c):\n    return a\n")
    ran = ldm("check", "--against", "mine.py", "--only", "q_sample", "--cases", "2", "--json")
    calls = json.loads(ran.out.splitlines()[0])["calls"]
    assert calls and all(
        re.fullmatch(r"q_sample\(x0=\[.*\] \(3, 4\), alpha_bar=0\.\d+, eps=\[.*\)", call)
        for call in calls
    )


def test_the_line_that_raised_is_named(ldm, work):
    (work / "mine.py").write_text("def snr(alpha_bar):\n    return 1 / 0\n")
    ran = ldm("check", "--against", "mine.py")
    assert ran.code == 4 and "ZeroDivisionError" in ran.out and "mine.py, line 2" in ran.out


def test_misspelt_and_unknown_functions_are_named(ldm, work):
    (work / "mine.py").write_text(
        "from math import sqrt\n"
        "def snr(alpha_bar):\n    return alpha_bar / (1 - alpha_bar)\n"
        "def q_smaple(x0):\n    return x0\ndef my_own(x):\n    return x\n_private = my_own\n"
    )
    ran = ldm("check", "--against", "mine.py", "--cases", "2")
    assert ran.code == 0
    assert "q_smaple" in ran.err and "did you mean q_sample" in ran.err and "my_own" in ran.err
    assert "sqrt" not in ran.err and "_private" not in ran.err and "snr" not in ran.err
    (work / "mine.py").write_text("def q_smaple(x0):\n    return x0\n")
    ran = ldm("check", "--against", "./mine.py")
    assert ran.code == 2 and "did you mean q_sample" in ran.err


def test_a_misspelt_only(ldm):
    ran = ldm("check", "--only", "q_smaple")
    assert ran.code == 2 and "q_sample" in ran.err.splitlines()[-1]


def test_worked_example_against_diffusers(ldm, monkeypatch):
    """diffusers' formulas hold to float32; its schedules are float32 whatever the dtype."""
    pytest.importorskip("diffusers")
    from pathlib import Path

    monkeypatch.chdir(Path(__file__).parents[2])
    common = ("check", "--against", "examples.check_diffusers", "--backend", "torch", "--json")
    single = ldm(*common, "--dtype", "float32", "--cases", "5")
    assert single.code == 0, single.out
    double = ldm(*common, "--dtype", "float64", "--cases", "5", "--only", "linear_betas: ")
    assert double.code == 4 and "FAILED" in double.out
