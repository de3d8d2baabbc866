"""A reader who runs the first blocks of a page again, in the same folder, is not stopped."""

from __future__ import annotations

import contextlib
import io

import pytest
from blocks import blocks

TORCH = ("torch", "openvino", "onnx")


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_first_blocks_run_twice(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [block for block in blocks(page) if block.language == "python"]
    plain = [b for b in found if not any(word in b.text for word in TORCH)]
    assert plain
    for _ in range(2):
        names: dict[str, object] = {"__name__": "reader"}
        with contextlib.redirect_stdout(io.StringIO()):
            for block in plain[:3]:
                exec(compile(block.text, str(block), "exec"), names)
