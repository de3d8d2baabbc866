"""The page on porting a layer or a block: its example agrees, and faults show."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ldmref.apps.cli.main import main
from ldmref.cases import golden_model
from ldmref.io import save_folder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "porting"
PAGE = (ROOT / "docs" / "port-a-layer.md").read_text("utf-8")


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("port_transformer", None)
    return importlib.import_module("port_transformer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformer")
    model = golden_model("sd3-medium")
    save_folder(folder / "model", model.config, model.params, model.tokenizers, np.float32)
    options = ["--seed", "1", "--steps", "3", "-o", str(folder / "golden"), "-q"]
    layers = ["--layers", "transformer_blocks.0*", "-m", str(folder / "model")]
    assert main(["trace", "a red heart", *options, *layers]) == 0
    return folder


def run(example, folder):
    return example.main(folder / "model", folder / "golden")


def test_the_port_agrees_and_the_page_says_so(example, folder):
    """Numbers of about 1 and sums of at most 64 terms: errors of a few units of 2^-24 each."""
    block, step = run(example, folder)
    assert block < 64 * 2.0**-24 and step < 64 * 2.0**-24
    shown = re.search(r"of the block: (\S+), of a step: (\S+)", PAGE)
    assert shown and all(float(x) < 64 * 2.0**-24 for x in shown.groups())


def test_the_page_counts_the_lines(example):
    source = (EXAMPLES / "port_transformer.py").read_text("utf-8")
    part = source[source.index("def normalize") : source.index("def read_parameters")]
    lines = [line for line in part.splitlines() if line.strip()]
    assert f"{len(lines)} lines of plain NumPy" in PAGE and len(source.splitlines()) < 115


@pytest.mark.parametrize(
    ("name", "fault", "smallest"),
    [
        ("normalize", lambda x: x, 1e-2),
        ("gelu_tanh", lambda x: x / (1 + np.exp(-1.702 * x)), 1e-4),
        ("euler", lambda x, velocity, s, s_next: x - np.float32(s_next - s) * velocity, 1e-1),
        ("flow_times", lambda steps: np.linspace(1, 0, steps + 1), 1e-2),
    ],
)
def test_a_fault_shows(example, folder, monkeypatch, name, fault, smallest):
    monkeypatch.setattr(example, name, fault)
    assert max(run(example, folder)) > smallest


def test_the_streams_in_the_other_order_show(example, folder, monkeypatch):
    linear = example.linear
    other = {"attn.to_out.0": "attn.to_add_out", "attn.to_add_out": "attn.to_out.0"}
    monkeypatch.setattr(example, "linear", lambda p, name, x: linear(p, other.get(name, name), x))
    assert run(example, folder)[0] > 1e-2
