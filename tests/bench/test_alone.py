"""`python -m benchmarks.alone` as a user runs it; no test looks at how long anything took."""

from __future__ import annotations

import json
import sys
from collections import namedtuple

import pytest

from benchmarks.alone import main
from benchmarks.machine import OPENBLAS_OVERRIDES
from ldmref.models.presets import preset

Ran = namedtuple("Ran", "code out err")
TINY = ("--model", "tiny", "--rounds", "2")


@pytest.fixture
def alone(tmp_path, monkeypatch, capfd):
    """Run `python -m benchmarks.alone ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capfd.readouterr()
        return Ran(main([*argv]), *capfd.readouterr())

    return run


@pytest.fixture
def work(tmp_path):
    """The folder in which it runs."""
    return tmp_path


@pytest.fixture(autouse=True)
def quick_and_default_blas(monkeypatch):
    """Time one call per round, find the peak by small products, and warn of nothing."""
    monkeypatch.setattr("benchmarks.work.MIN_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.machine.GEMM_SIZES", (64,))
    for name in OPENBLAS_OVERRIDES:
        monkeypatch.delenv(name, raising=False)


def test_every_piece_of_work_is_measured(alone, work):
    ran = alone(*TINY, "--json", "a.json")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["encoding", "one", "decoding", "one"]
    for line in lines[1::2]:
        assert "2 rounds" in line and "GFLOP/s" in line and "of the peak" in line
    found = json.loads((work / "a.json").read_text())
    assert [row["work"] for row in found["work"]] == ["text", "unet", "vae", "image"]
    assert found["machine"]["cpu"] and found["schema"] == 2
    for row in found["work"]:
        assert row["size"] == preset("tiny").defaults.width and len(row["values"]) == 2
        assert row["min"] <= row["seconds"] <= row["max"] and row["flops"] > 1e5
        assert row["gflops"] == row["flops"] / row["seconds"] / 1e9
    text, unet, vae, image = (row["flops"] for row in found["work"])
    steps = preset("tiny").defaults.steps
    # the keys and values of the text are computed in the first step only
    assert (steps - 1) * unet + vae < image < 2 * text + steps * unet + vae


def test_named_work_at_another_size(alone, work):
    ran = alone("vae", *TINY, "--size", "32", "--json", "a.json")
    (row,) = json.loads((work / "a.json").read_text())["work"]
    assert ran.code == 0 and "decoding one image, 32x32, tiny, float32 on numpy" in ran.out
    assert row["work"] == "vae" and row["size"] == 32
    again = alone("vae", *TINY, "--json", "a.json")
    assert again.code == 8 and "exists" in again.err and "GFLOP/s" not in again.out


def test_without_a_model_it_is_the_embedded_one(alone):
    ran = alone("text", "--rounds", "1")
    assert ran.code == 0 and "encoding one prompt, emoji-128, float32 on numpy" in ran.out


def test_profile_and_grow(alone, work):
    ran = alone("--profile", "--model", "tiny", "--json", "p.json")
    assert ran.code == 0 and "conv2d" in ran.out and "other" in ran.out
    found = json.loads((work / "p.json").read_text())["profile"]
    assert "down_blocks.0.resnets.0.conv1" in {line["name"] for line in found["layers"]}
    assert ran.out.count("GFLOP/s  operation") == 2 and ran.out.count("GFLOP/s  layer") == 1
    assert found["backend"] == "numpy" and {line["name"] for line in found["kinds"]} > {"linear"}
    ran = alone("--grow", "batch", *TINY, "--json", "g.json")
    assert ran.code == 0 and "cost ~ batch^" in ran.out
    points = json.loads((work / "g.json").read_text())["grow"]
    assert [point["value"] for point in points] == [1, 2, 4]


@pytest.mark.parametrize("argv", [(), ("--profile",), ("--grow", "batch")])
def test_measurements_are_plotted(alone, work, argv):
    pytest.importorskip("matplotlib")
    ran = alone(*argv, *TINY, "--plot", "a.svg")
    assert ran.code == 0, ran.err
    assert "<svg" in (work / "a.svg").read_text()


@pytest.mark.parametrize("name", OPENBLAS_OVERRIDES)
def test_an_openblas_override_is_recorded_and_warned_of(alone, work, monkeypatch, name):
    ran = alone("text", *TINY, "--json", "a.json")
    assert ran.code == 0 and not ran.err
    assert name not in json.loads((work / "a.json").read_text())["machine"]["environment"]
    monkeypatch.setenv(name, "12345")
    for argv in (("text", "--json", "b.json"), ("--profile",), ("--grow", "batch")):
        ran = alone(*argv, *TINY)
        (line,) = ran.err.splitlines()
        assert ran.code == 0 and line.startswith(f"warning: {name}=12345 overrides OpenBLAS")
        assert "warning" not in ran.out
    machine = json.loads((work / "b.json").read_text())["machine"]
    assert machine["environment"][name] == "12345"


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (("unnet",), 2, "'unet'"),
        (("--backend", "nympy"), 2, "numpy"),
        (("--profile", "--grow", "batch"), 2, "exclude each other"),
        (("--profile", "unet", "vae"), 2, "one WORK"),
        (("text", "--grow", "batch", *TINY), 2, "does not grow"),
        (("--grow", "colour"), 2, "resolution"),
        (("--model", "tinny"), 2, "tiny"),
        (("--model", "sd3-tiny"), 2, "U-Net"),
        (("--rounds", "0"), 2, "--rounds"),
        (("unet", "--json", "no/such/a.json"), 8, "folder"),
        (("unet", "--plot", "a.txt"), 2, ".svg"),
    ],
)
def test_bad_input(alone, argv, code, word):
    ran = alone(*argv)
    assert ran.code == code and word in ran.err and "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 2


def test_plot_without_matplotlib(alone, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = alone("text", *TINY, "--plot", "a.png")
    assert ran.code == 5 and "matplotlib" in ran.err and not ran.out
