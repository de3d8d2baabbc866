"""Commands that need PyTorch say so where it is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

from PIL import Image

SCRIPT = """
import json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "transformers", "peft"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from ldmref.apps.cli.main import main
print(json.dumps([main(argv) for argv in json.loads(sys.argv[1])]))
"""
COMMANDS = [
    ["finetune", "--data", "images", "-o", "a", "--steps", "1"],
    ["finetune", "full", "--data", "images", "-o", "b", "--steps", "1"],
    ["finetune", "textual-inversion", "--data", "images", "-o", "c", "--steps", "1"],
    ["train", "--data", "images", "-o", "d", "--steps", "1"],
    ["txt2img", "cat", "--backend", "torch"],
    ["record", "cat", "--backend", "torch", "-o", "r.safetensors"],
    ["trace", "txt2img", "cat", "--backend", "torch", "-o", "t"],
    ["check", "--backend", "torch"],
    ["batch", "rows.jsonl", "--backend", "torch", "-o", "e"],
]


def test_every_command_that_needs_torch_has_exit_code_5(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        image = Image.new("RGB", (128, 128), (100 * i, 9, 9))
        image.save(tmp_path / "images" / f"red {i}.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "cat", "steps": 1}) + "\n")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(COMMANDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == [5] * len(COMMANDS), ran.stderr
    assert ran.stderr.count("E-BACKEND") == len(COMMANDS) == ran.stderr.count("hint: pip install")
