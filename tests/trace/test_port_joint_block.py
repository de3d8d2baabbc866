"""The page on porting a layer or a block: its port of a joint block and of Euler's steps agrees."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from ldmref.apps.cli.main import main
from ldmref.cases import golden_model
from ldmref.io import save_folder
from ldmref.trace import load_trace

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "porting"
PAGE = (ROOT / "docs" / "port-a-layer.md").read_text("utf-8")
OUTPUTS = re.findall(r"```text\n(layer.*?transformer.*?)```", PAGE, re.DOTALL)[-2:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("port")
    model = golden_model("sd3-medium")
    save_folder(folder / "model", model.config, model.params, model.tokenizers, np.float32)
    options = ["--seed", "1", "--steps", "3", "-o", str(folder / "golden")]
    layers = ["--layers", "transformer_blocks.0*", "-m", str(folder / "model")]
    assert main(["trace", "a red heart", *options, *layers]) == 0
    return folder


def run_port(folder, name, *arguments):
    sys.path.insert(0, str(EXAMPLES))
    try:
        port = runpy.run_path(str(EXAMPLES / "port_joint_block.py"))["main"]
    finally:
        sys.path.remove(str(EXAMPLES))
    return port(folder / "model", folder / "golden", folder / name, *arguments)


def diff(folder, name, capsys):
    capsys.readouterr()
    golden, port = str(folder / "golden"), str(folder / name)
    code = main(["diff", golden, port, "-m", str(folder / "model"), "-q"])
    return code, capsys.readouterr().out


def first_columns(table):
    return re.findall(r"^(?:transformer|sampler)\S+", table, re.MULTILINE)


def test_the_port_agrees(folder, capsys):
    assert run_port(folder, "port") < 1e-5
    code, output = diff(folder, "port", capsys)
    assert code == 10 and "differs" not in output  # what it took from the golden trace is said
    assert first_columns(output) == first_columns(OUTPUTS[0])
    outputs = load_trace(folder / "port").find("transformer.000", "transformer_blocks.0.norm1")
    assert [*outputs.outputs] == ["0", "1", "2", "3", "4"]


def test_exchanged_shift_and_scale_are_found(folder, capsys):
    assert run_port(folder, "wrong", "exchanged") > 1e-2
    code, output = diff(folder, "wrong", capsys)
    assert code == 4
    found = [line for line in output.splitlines() if "differs" in line]
    assert first_columns("\n".join(found)) == first_columns(OUTPUTS[1])
    assert output.count("shift and scale are exchanged") == 2


def test_the_page_names_every_layer_of_the_block(folder):
    """The number of outputs of each layer is that of the table."""
    trace = load_trace(folder / "golden")
    start = "transformer_blocks.0"
    counts = {
        name: len(trace.find("transformer.000", f"{start}{name}").outputs)
        for name in ("", ".norm1", ".norm1_context", ".attn")
    }
    assert counts == {"": 2, ".norm1": 5, ".norm1_context": 5, ".attn": 2}
