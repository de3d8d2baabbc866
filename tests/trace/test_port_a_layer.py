"""The how-to "port a layer": its outputs, and the examples that it runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ldmref.apps.cli.main import main
from ldmref.trace import load_trace

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "porting"
PAGE = (ROOT / "docs" / "port-a-layer.md").read_text("utf-8")
OUTPUTS = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the weights and the golden values of the page."""
    folder = tmp_path_factory.mktemp("port")
    golden = ["--seed", "1", "--steps", "1", "--calls", "unet.*", "-o", str(folder / "golden")]
    layers = ["--layers", "mid_block.resnets.0*"]
    assert main(["convert", "emoji", str(folder / "model")]) == 0
    assert main(["trace", "red heart", *golden, *layers]) == 0
    return folder


def run_port(folder, name, *arguments):
    port = runpy.run_path(str(EXAMPLES / "port_resnet.py"))["main"]
    return port(folder / "model", folder / "golden", folder / name, *arguments)


def diff(folder, name, capsys, *options):
    capsys.readouterr()
    command = ["diff", str(folder / "golden"), str(folder / name), "-m", str(folder / "model")]
    code = main([*command, "-q", *options])
    return code, capsys.readouterr().out


def numbers_removed(text):
    """Return the words of a table: its numbers differ in the last digit between processors."""
    return re.sub(r" +", " ", re.sub(r"\d[\d.e-]*", "#", text)).replace(" \n", "\n")


def test_the_port_agrees(folder, capsys):
    assert run_port(folder, "port") < 1e-4
    code, output = diff(folder, "port", capsys)
    assert (code, output) == (0, OUTPUTS[0])


def test_a_fault_is_found_and_named(folder, capsys):
    assert run_port(folder, "wrong", "1e-2") > 1e-4
    code, output = diff(folder, "wrong", capsys, "--all")
    assert code == 4
    beginning = numbers_removed(OUTPUTS[1])
    assert numbers_removed(output).startswith(beginning)
    assert output.count("differs: eps 0.01 instead of 1e-05") == 2


def test_every_kind_of_file_is_shown(folder, capsys):
    run_port(folder, "port")
    arrays = load_trace(folder / "port")
    np.savez(folder / "port.npz", **{name: arrays.tensors[name] for name in arrays.tensors})
    for name in ("port", "port.npz"):
        assert main(["trace", "show", str(folder / name), "--layers", "*"]) == 0
        assert "mid_block.resnets.0.conv1" in capsys.readouterr().out


def test_a_recorded_pipeline_agrees(tmp_path, capsys):
    pytest.importorskip("diffusers")
    model, port = str(tmp_path / "pipeline"), str(tmp_path / "port")
    runpy.run_path(str(EXAMPLES / "trace_diffusers.py"))["main"](model, port)
    capsys.readouterr()
    assert main(["diff", port, "-m", model, "-q"]) == 0
    assert "agree within the rounding of float32" in capsys.readouterr().out


def test_without_diffusers_the_example_says_what_it_needs():
    code = (
        "import runpy, sys; sys.modules['diffusers'] = None;"
        f"runpy.run_path({str(EXAMPLES / 'trace_diffusers.py')!r})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1
    assert "needs diffusers" in ran.stderr and "pip install" in ran.stderr
