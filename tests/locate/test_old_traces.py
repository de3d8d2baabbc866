"""Traces of earlier versions are read and judged: each was recorded once, and nobody edits it."""

from __future__ import annotations

import json
from pathlib import Path

from ldmref.apps.cli.main import main

# Commit 86e9e339: the small model sd15, 16 x 16, two steps, pag. Since then only the name of the
# model has been written as golden cases name it, by which `ldmref diff` opens it.
PERTURBED = Path(__file__).parent / "old_traces" / "perturbed-attention"


def test_a_trace_with_steering_of_the_first_version_is_equal(capsys):
    """What was predicted is named by a text there, `perturbed_mid`."""
    text = (PERTURBED / "trace.json").read_text("utf-8")
    assert '"perturbed_mid"' in text and json.loads(text)["program"]["version"] == "0.1.0"
    assert main(["diff", str(PERTURBED)]) == 0
    assert "332 layers and computations agree" in capsys.readouterr().out
